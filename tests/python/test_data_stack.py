"""The memory of the interpreter's frames, which short requests use again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from program import Program

if TYPE_CHECKING:
    from variants import Variant

REQUESTS = 1000

SOURCE = f"""
import resource, socket, threading

class Handler(ss.StreamRequestHandler):
    def handle(self):
        depth = int(self.rfile.readline())
        self.wfile.write(b"%d" % self.descend(depth))

    def descend(self, depth):
        return depth and 1 + self.descend(depth - 1)

class Server(ss.{{mixin}}, ss.TCPServer):
    pass

def ask(depth, count):
    for _ in range(count):
        with socket.create_connection(server.server_address, 20) as client:
            client.sendall(b"%d\\n" % depth)
            assert int(client.makefile().read()) == depth

def count_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with Server(("127.0.0.1", 0), Handler) as server:
    loop = threading.Thread(target=server.serve_forever)
    loop.start()
    # More than one chunk, and other sizes than the first.
    ask(700, 50)
    ask(0, 200)
    before = count_faults()
    ask(0, {REQUESTS})
    print(count_faults() - before, flush=True)
    server.shutdown()
    loop.join()
"""


@pytest.mark.parametrize("mixin", ["ThreadingMixIn", "GreenletMixIn"])
def test_short_requests_map_no_memory(mixin: str, ours: Variant) -> None:
    if mixin == "GreenletMixIn":
        pytest.importorskip("greenlet")
    if not Path("/proc/self").exists():
        pytest.skip("page faults are counted otherwise here")
    with Program(ours, SOURCE.format(mixin=mixin)) as program:
        faults = int(program.read_line())
        program.end()
    # With a chunk mapped for each there are as many as requests, or more.
    assert faults < REQUESTS / 2
