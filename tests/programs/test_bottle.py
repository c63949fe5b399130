"""bottle's command line, which serves with `wsgiref`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from http_answers import Request, fetch
from program import FREE_PORT, SCRIPTS

if TYPE_CHECKING:
    from program import Both

pytest.importorskip("bottle", reason="bottle is not installed")


def test_application(both: Both) -> None:
    """Two routes and a path without one; Ctrl-C."""
    options = ("--bind", f"127.0.0.1:{FREE_PORT}", "bottle_application:application")
    both.start("-m", "bottle", *options, cwd=SCRIPTS)
    hello, echo, missing = both.ask(
        lambda program: fetch(
            program, "/hello/you", Request("/echo", "POST", b"the body" * 10000), "/missing"
        )
    )
    assert (hello.status, hello.body) == (200, b"hello you")
    assert (echo.status, echo.body) == (201, b"the body" * 10000)
    assert echo.header("X-Length") == "80000"
    assert missing.status == 404
    assert both.interrupt() == 0
