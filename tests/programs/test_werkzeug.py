"""Werkzeug's `run_simple`: threads, processes, the reloader, TLS, a Unix socket."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from http_answers import Request, dial_tls, fetch, fetch_at_once
from program import DEADLINE, IMPLEMENTATION, SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from program import Both, Program

pytest.importorskip("werkzeug", reason="Werkzeug is not installed")

READY = r"Running on https?://127\.0\.0\.1:(\d+)"
PROGRAM = SCRIPTS / "serve_werkzeug.py"


@pytest.mark.parametrize(
    ("options", "version", "process"),
    [
        ([], 10, b"main"),
        (["--threaded"], 11, b"main"),
        (["--processes=2"], 11, b"child"),
        (["--use-reloader"], 10, b"main"),
    ],
    ids=["single", "threaded", "processes", "reloader"],
)
def test_run_simple(both: Both, options: list[str], version: int, process: bytes) -> None:
    """Each way of running gives the same answers, also to many clients at a time."""
    both.start(PROGRAM, *options, ready=READY)
    hello, echo, stream, failed, where = both.ask(
        lambda program: fetch(
            program,
            "/?a=b",
            Request("/echo", "POST", b"the body" * 200_000),
            "/stream",
            "/fail",
            "/process",
        )
    )
    assert (hello.status, hello.body, hello.header("X-Query")) == (200, b"hello", "a=b")
    assert hello.version == version
    assert (echo.status, echo.body) == (201, b"POST " + b"the body" * 200_000)
    assert stream.body.count(b"piece") == 1000
    assert failed.status == 500
    both.ask(lambda program: bool(program.wait_for("RuntimeError: this application fails")))
    assert where.body == process
    queries = [f"/?{number}" for number in range(8)]
    crowd = both.ask(lambda program: fetch_at_once(program, *queries))
    assert [answer.header("X-Query") for answer in crowd] == [str(number) for number in range(8)]
    assert both.interrupt() == 0


@pytest.mark.needs_threads("requests meet at a barrier")
def test_requests_at_the_same_time(both: Both) -> None:
    """Three requests that wait for each other are in three threads at once."""
    both.start(PROGRAM, "--threaded", ready=READY)
    answers = both.ask(lambda program: fetch_at_once(program, "/meet", "/meet", "/meet"))
    assert [answer.body for answer in answers] == [b"three requests met"] * 3
    assert both.interrupt() == 0


def test_tls(both: Both, certificate: Path) -> None:
    """The listener is replaced by one that makes TLS connections."""
    both.start(PROGRAM, "--threaded", "--certificate", certificate, ready=READY)
    post = Request("/echo", "POST", b"the body" * 200_000)
    connect = dial_tls(certificate)
    hello, echo = both.ask(lambda program: fetch(program, "/", post, dial=connect))
    assert hello.body == b"hello"
    assert echo.body == b"POST " + b"the body" * 200_000
    assert both.interrupt() == 0


def test_unix_socket(both: Both, tmp_path: Path) -> None:
    """The address is the path of a Unix socket."""
    both.start(PROGRAM, "--host", f"unix://{IMPLEMENTATION}.sock")
    both.ask(lambda program: bool(program.wait_for("Running on unix://")))

    def dial_unix(program: Program) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(DEADLINE)
        line.connect(str(tmp_path / f"{program.implementation}.sock"))
        return line

    (hello,) = both.ask(lambda program: fetch(program, "/?a=b", dial=dial_unix))
    assert (hello.status, hello.body, hello.header("X-Query")) == (200, b"hello", "a=b")
    assert both.interrupt() == 0
