"""websocket-server: long-lived connections in threads; it closes before it shuts down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from program import DEADLINE, SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

pytest.importorskip("websocket_server", reason="websocket-server is not installed")
websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")


def test_chat(both: Both) -> None:
    """Two clients hear each other, one leaves, and the server says good-bye to the other."""
    both.start(SCRIPTS / "serve_websockets.py", ready=r"port (\d+)")
    staying = {}

    def chat(program: Program) -> list[str]:
        url = f"ws://127.0.0.1:{program.port}/"
        first = staying[program] = websocket.create_connection(url, timeout=DEADLINE)
        heard = [first.recv()]
        # It goes through its clients meanwhile: one that joins now would be told as well.
        program.wait_for("client 1 was announced")
        second = websocket.create_connection(url, timeout=DEADLINE)
        heard += [first.recv(), second.recv()]
        second.send("long " * 20_000)
        heard += [first.recv(), second.recv()]
        second.ping("still there?")
        heard.append(second.recv_frame().data.decode())
        second.close()
        program.wait_for("client 2 left")
        return heard

    heard = both.ask(chat)
    assert heard[:3] == ["client 1 joined", "client 2 joined", "client 2 joined"]
    assert heard[3] == heard[4] == "client 2: " + "long " * 20_000
    assert heard[5] == "still there?"

    both.say("stop")
    opcode = both.ask(lambda program: staying[program].recv_frame().opcode)
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    both.ask(lambda program: bool(program.wait_for("shut down")))
    assert both.wait() == 0
    for client in staying.values():
        client.close()
