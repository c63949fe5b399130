"""python-osc's servers: UDP, inline, in threads and in children."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from program import DEADLINE, SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

udp_client = pytest.importorskip("pythonosc.udp_client", reason="python-osc is not installed")


@pytest.mark.parametrize(
    ("server", "process"),
    [
        ("BlockingOSCUDPServer", "main"),
        ("ThreadingOSCUDPServer", "main"),
        ("ForkingOSCUDPServer", "child"),
    ],
)
def test_messages(both: Both, server: str, process: str) -> None:
    """Messages are answered; what is no message is refused by `verify_request`."""
    both.start(SCRIPTS / "serve_osc.py", server, ready=r"port (\d+)")

    def talk(program: Program) -> list[Any]:
        with udp_client.SimpleUDPClient("127.0.0.1", program.port) as client:
            sums = []
            for numbers in ([1, 2, 3], list(range(500))):
                client._sock.sendto(b"no message", ("127.0.0.1", program.port))
                client.send_message("/add", numbers)
                sums.append(next(client.get_messages(DEADLINE)).params)
            return sums

    assert both.ask(talk) == [[6, process], [124750, process]]
    assert both.interrupt() == 0
