"""Paste's HTTP server, which overrides most of a server's hooks, with and without its pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from http_answers import Request, fetch, fetch_on_one_connection
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both

pytest.importorskip("paste.httpserver", reason="Paste is not installed")


@pytest.mark.parametrize("threads", ["pool", "thread-each"])
def test_application(both: Both, threads: str) -> None:
    """Bodies of both kinds of length, an error, keep-alive."""
    ready = r"serving on http://127\.0\.0\.1:(\d+)"
    both.start(SCRIPTS / "serve_paste.py", threads, ready=ready)
    got, posted, failed = both.ask(
        lambda program: fetch(
            program, "/path", Request("/post", "POST", b"the body" * 10000), "/fail"
        )
    )
    assert (got.status, got.body, got.header("X-Served-By")) == (200, b"GET /path ", "Paste")
    assert posted.body == b"POST /post " + b"the body" * 10000
    assert failed.status == 500
    kept = both.ask(lambda program: fetch_on_one_connection(program, "/1", "/2", "/3"))
    assert [answer.body for answer in kept] == [b"GET /1 ", b"GET /2 ", b"GET /3 "]
    assert both.interrupt() == 0
