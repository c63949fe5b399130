"""`xmlrpc.server`: calls, faults, multicalls, and the documenting server's page."""

from __future__ import annotations

import xmlrpc.client
from typing import TYPE_CHECKING, Any

import pytest
from http_answers import fetch
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program


@pytest.mark.parametrize("server", ["SimpleXMLRPCServer", "DocXMLRPCServer"])
def test_calls(both: Both, server: str) -> None:
    """A large argument, a fault and a multicall come back alike."""
    both.start(SCRIPTS / "serve_xmlrpc.py", server, ready=r"port (\d+)")

    def call(program: Program) -> list[Any]:
        proxy: Any
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{program.port}/") as proxy:
            several: Any = xmlrpc.client.MultiCall(proxy)
            several.divide(6, 3)
            several.length([1, 2, 3])
            with pytest.raises(xmlrpc.client.Fault) as fault:
                proxy.divide(1, 0)
            return [
                proxy.system.listMethods(),
                proxy.length("x" * 300_000),
                list(several()),
                fault.value.faultString,
            ]

    methods, length, several, fault = both.ask(call)
    assert {"divide", "length", "system.multicall"} <= set(methods)
    assert length == 300_000
    assert several == [2.0, 3]
    assert "division by zero" in fault

    (page,) = both.ask(lambda program: fetch(program, "/"))
    assert (page.status, b"divide" in page.body) == (
        (200, True) if server == "DocXMLRPCServer" else (501, False)
    )
    assert both.interrupt() == 0
