"""`wsgiref.simple_server` with its demo application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http_answers import Answer, Request, fetch
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

CHANGING = (b"wsgi.input =", b"SOCKETSERVER_")
"""Begin the lines of the demo's answer that name an object or come from this test itself."""


def test_demo(both: Both) -> None:
    """The environment of a request, as the application sees it, is the same."""
    both.start(SCRIPTS / "serve_wsgi_demo.py", ready=r"port (\d+)")

    def ask(program: Program) -> list[Answer]:
        post = Request("/path/to?a=b", "POST", b"ignored", (("X-Header", "value"),))
        answers = fetch(program, "/", post, Request("/", "HEAD"))
        return [without_changes(answer) for answer in answers]

    got, posted, head = both.ask(ask)
    assert got.body.startswith(b"Hello world!")
    assert b"REQUEST_METHOD = 'POST'" in posted.body
    assert b"HTTP_X_HEADER = 'value'" in posted.body
    assert (head.status, head.body) == (200, b"")
    assert both.interrupt() == 0


def without_changes(answer: Answer) -> Answer:
    """Drop the lines that begin with one of `CHANGING`, and the length that they add to."""
    lines = answer.body.splitlines(keepends=True)
    return answer._replace(
        headers=tuple(header for header in answer.headers if header[0] != "Content-Length"),
        body=b"".join(line for line in lines if not line.startswith(CHANGING)),
    )
