"""pyModbusTCP's server, which sets attributes on `ThreadingTCPServer` itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from program import DEADLINE, SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

client_module = pytest.importorskip("pyModbusTCP.client", reason="pyModbusTCP is not installed")


def test_registers(both: Both) -> None:
    """Two clients read and write; the server is stopped while one of them is still connected."""
    both.start(SCRIPTS / "serve_modbus.py", ready=r"port (\d+)")
    clients = []

    def talk(program: Program) -> list[Any]:
        first, second = (
            client_module.ModbusClient("127.0.0.1", program.port, timeout=DEADLINE)
            for _ in range(2)
        )
        clients.append(second)
        try:
            return [
                first.read_holding_registers(0, 3),
                first.write_multiple_registers(10, list(range(100))),
                second.read_holding_registers(10, 100),
                second.write_single_coil(7, True),
                first.read_coils(6, 3),
                first.custom_request(b"\x7f"),
            ]
        finally:
            first.close()

    registers, written, read, _, coils, refused = both.ask(talk)
    assert registers == [1, 2, 3]
    assert written
    assert read == list(range(100))
    assert coils == [False, True, False]
    assert refused is None
    both.say("stop")
    both.ask(lambda program: program.wait_for(r"running (\w+)")[1])
    assert both.wait() == 0
    for client in clients:
        client.close()
