"""Children that are killed in the middle of their requests."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from clients import ask, connect, read_line
from lengths import count
from server_process import ServerProcess, needs_proc, on_both, wait_until

if TYPE_CHECKING:
    from conftest import Figures

AT_ONCE = 20
ROUNDS = count(short=2, long=50)

SOURCE = """
serve(server_class(request_queue_size=1000)(LOOPBACK, Upper))
"""


@needs_proc
@on_both("forks")
def test_a_killed_child_takes_only_its_own_request(
    module: str, dispatch: str, figures: Figures
) -> None:
    killed = spared = 0
    with ServerProcess(SOURCE, module, dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        for _ in range(ROUNDS):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(connect(address)) for _ in range(AT_ONCE)]
                children = []
                for client in clients:
                    client.sendall(b"pid\n")
                    children.append(int(read_line(client)))
                    client.sendall(b"half a li")
                assert set(children) <= set(server.children())
                for child in children[::2]:
                    os.kill(child, signal.SIGKILL)
                for client in clients[::2]:
                    with contextlib.suppress(ConnectionResetError):
                        assert client.recv(100) == b""
                    killed += 1
                for client in clients[1::2]:
                    client.sendall(b"ne\n")
                    assert read_line(client) == b"HALF A LINE\n"
                    spared += 1
                assert ask(address) == b"HELLO\n"
            wait_until(lambda: not server.children(), "all children to be waited for")
        server.wait_for_descriptors(before)
        server.stop()
    figures.note_for(
        module,
        "children killed in their requests: others answered, zombies left",
        f"{killed} killed, {spared} of {spared} answered, 0 left",
    )
