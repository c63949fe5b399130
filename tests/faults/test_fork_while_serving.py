"""`os.fork()` while the server serves: by a handler, and by another thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from clients import Honest, ask, connect, read_all
from lengths import count
from server_process import ServerProcess, needs_proc, on_both

if TYPE_CHECKING:
    from conftest import Figures

REQUESTS = count(short=40, long=1000)

# A fork beside a thread is warned of from CPython 3.12 on; here it is what is tested.
QUIET = """
import warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
"""

IN_HANDLER = (
    QUIET
    + """
class Forking(Upper):
    def handle(self):
        line = self.rfile.readline()
        if line != b"fork\\n":
            self.wfile.write(line.upper())
            return
        pid = os.fork()
        if pid == 0:
            self.wfile.write(b"child ")
            if ENDS == "exits":
                os._exit(0)
            return
        assert os.waitpid(pid, 0)[1] == 0
        self.wfile.write(b"parent")
serve(server_class()(LOOPBACK, Forking))
"""
)

IN_THREAD = (
    QUIET
    + """
def fork_again_and_again():
    while not over.wait(0.002):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        forks.append(os.waitpid(pid, 0)[1])
over = threading.Event()
forks = []
server = server_class()(LOOPBACK, Upper)
thread = threading.Thread(target=fork_again_and_again)
thread.start()
closing = server.server_close
def close():
    over.set()
    thread.join()
    assert forks and not any(forks)
    closing()
server.server_close = close
serve(server)
"""
)


@needs_proc
@pytest.mark.parametrize("ends", ["exits", "returns"])
@on_both("inline", "threads", "greenlets")
def test_a_child_of_a_handler_has_that_request_alone(
    module: str, dispatch: str, ends: str, figures: Figures
) -> None:
    if ends == "returns" and dispatch == "inline":
        pytest.skip("such a child goes on serving, in both modules")
    with ServerProcess(f"ENDS = {ends!r}\n{IN_HANDLER}", module, dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        with Honest(address) as honest:
            for _ in range(REQUESTS):
                with connect(address) as client:
                    client.sendall(b"fork\n")
                    answer = read_all(client)
                # A child that returns also ends the connection, as far as it is its own to end.
                if ends == "exits" or answer != b"child ":
                    assert answer == b"child parent"
        server.wait_for_descriptors(before)
        server.stop()
    figures.note_for(
        module,
        f"os.fork() in a handler that {ends}, {dispatch}: forks, others answered",
        f"{REQUESTS}, {len(honest.latencies):,} of {len(honest.latencies):,}",
    )


@needs_proc
@on_both("inline", "threads", "greenlets")
def test_forks_of_another_thread_disturb_nobody(
    module: str, dispatch: str, figures: Figures
) -> None:
    with ServerProcess(IN_THREAD, module, dispatch) as server:
        address = server.read_address()
        with Honest(address) as honest:
            while len(honest.latencies) < 5 * REQUESTS and honest.is_alive():
                honest.join(0.01)
        server.stop()
    figures.note_for(
        module,
        f"os.fork() in another thread, {dispatch}: answered",
        f"{len(honest.latencies):,} of {len(honest.latencies):,}",
    )
