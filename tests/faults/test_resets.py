"""Clients that reset their connection at any point of a request."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from clients import Honest, ask, connect, milliseconds, percentile, reset
from lengths import count
from server_process import ServerProcess, dispatches, needs_proc

if TYPE_CHECKING:
    import socket

    from conftest import Figures

RESETS = count(short=400, long=2000)

SOURCE = """
serve(server_class()(LOOPBACK, Upper))
"""


def reset_somewhere(client: socket.socket, chance: random.Random) -> None:
    """Get to a random point of a request, and reset the connection there."""
    match chance.randrange(6):
        case 0:
            pass  # before the line
        case 1:
            client.sendall(b"half a li")
        case 2:
            client.sendall(b"a whole line\n")
        case 3:
            client.sendall(b"a line\nand hal")
        case 4:  # while the answer, longer than all buffers, is being written
            client.sendall(b"big 20000000\n")
            client.recv(chance.randrange(1, 100_000))
        case _:  # after the answer
            client.sendall(b"hello\n")
            client.recv(100)
    reset(client)


@needs_proc
@dispatches()
def test_resets_harm_nobody_else(dispatch: str, figures: Figures) -> None:
    resets = RESETS // 4 if dispatch == "forks" else RESETS
    chance = random.Random(2)
    with ServerProcess(SOURCE, "fastsocketserver", dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        with Honest(address, "one") as one, Honest(address, "two") as two:
            for _ in range(resets):
                reset_somewhere(connect(address), chance)
        server.wait_for_descriptors(before)
        assert ask(address) == b"HELLO\n"
        server.stop()
    latencies = one.latencies + two.latencies
    figures.note(
        f"{resets:,} resets, {dispatch}: honest answers right, p99",
        here=f"{len(latencies):,}, {milliseconds(percentile(latencies, 0.99))}",
    )
