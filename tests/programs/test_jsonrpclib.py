"""jsonrpclib-pelix: a plain server, and one that overrides `process_request` with its own pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

jsonrpclib = pytest.importorskip("jsonrpclib", reason="jsonrpclib-pelix is not installed")


@pytest.mark.parametrize("server", ["SimpleJSONRPCServer", "PooledJSONRPCServer"])
def test_calls(both: Both, server: str) -> None:
    """A large argument, a fault and a batch come back alike."""
    both.start(SCRIPTS / "serve_json_rpc.py", server, ready=r"port (\d+)")

    def call(program: Program) -> list[Any]:
        proxy = jsonrpclib.ServerProxy(f"http://127.0.0.1:{program.port}/")
        batch = jsonrpclib.MultiCall(proxy)
        batch.divide(6, 3)
        batch.length([1, 2, 3])
        with pytest.raises(jsonrpclib.ProtocolError) as fault:
            proxy.divide(1, 0)
        answers = [proxy.length("x" * 300_000), list(batch()), fault.value.args[0][0]]
        proxy("close")()
        return answers

    length, batch, fault = both.ask(call)
    assert length == 300_000
    assert batch == [2.0, 3]
    assert fault == -32603
    assert both.interrupt() == 0
