"""The interpreter ends with requests in the midst of reading and writing."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from clients import connect, read_exactly
from lengths import count
from server_process import ServerProcess, dispatches, needs_proc

if TYPE_CHECKING:
    from conftest import Figures

ENDS = count(short=10, long=200)
CLIENTS = 4

SOURCE = """
import random, time
server = server_class(daemon_threads=True)(LOOPBACK, Upper)
server.handle_error = lambda *_: None  # the interpreter may be half gone
threading.Thread(target=server.serve_forever, daemon=True).start()
say(server.server_address[1], WITHOUT_SERVER)
sys.stdin.readline()
time.sleep(random.Random(NUMBER).random() / 50)
"""


def talk(address: Any, writes: bool, began: threading.Event) -> None:
    """Send lines and read answers, or let big answers pile up, until the server is gone."""
    with contextlib.suppress(OSError), connect(address) as client:
        while True:
            client.sendall(b"big 3000000\n" if writes else b"hello\n" * 50)
            if not (client.recv(1000) if writes else read_exactly(client, 300)):
                return
            began.set()


@needs_proc
@dispatches("inline", "threads", "greenlets")
def test_the_interpreter_ends_as_if_nothing_were_under_way(dispatch: str, figures: Figures) -> None:
    for number in range(ENDS):
        source = f"NUMBER = {number}\n{SOURCE}"
        with ServerProcess(source, "fastsocketserver", dispatch) as server:
            address = server.read_address()
            began = [threading.Event() for _ in range(CLIENTS)]
            threads = [
                threading.Thread(target=talk, args=(address, place % 2 == 1, event), daemon=True)
                for place, event in enumerate(began)
            ]
            for thread in threads:
                thread.start()
            for event in began if dispatch != "inline" else []:
                assert event.wait(30)
            server.send_line()
            assert (server.wait(), server.errors) == (0, ""), f"end number {number}"
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    figures.note(
        f"ends of the interpreter with requests under way, {dispatch}: status 0",
        here=f"{ENDS} of {ENDS}",
    )
