"""`http.server`, the standard library's own program: files, listings, CGI, keep-alive."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from http_answers import Request, dial, exchange_bytes, fetch, fetch_on_one_connection
from program import DEADLINE, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from program import Both, Program

READY = r"Serving HTTP on 127\.0\.0\.1 port (\d+)"
BIG = b"0123456789abcdef" * 65536
"""A file that does not fit into a socket's buffers."""

CGI_SCRIPT = """#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'
printf '%s ' "$REQUEST_METHOD" "$QUERY_STRING"
head -c "${CONTENT_LENGTH:-0}"
"""


def has_ipv6() -> bool:
    """Say whether this machine has the address ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder of files to serve."""
    root = tmp_path / "site"
    (root / "folder").mkdir(parents=True)
    (root / "page.html").write_text("<p>a page</p>")
    (root / "folder" / "big.bin").write_bytes(BIG)
    return root


def test_files_listings_and_errors(both: Both, site: Path) -> None:
    """The module's command line: threads, HTTP/1.0."""
    both.start("-m", "http.server", "0", "--bind", "127.0.0.1", cwd=site, ready=READY)
    page, big, listing, moved, missing, head, post = both.ask(
        lambda program: fetch(
            program,
            "/page.html",
            "/folder/big.bin",
            "/folder/",
            "/folder",
            "/missing",
            Request("/page.html", "HEAD"),
            Request("/page.html", "POST", b"refused"),
        )
    )
    assert (page.version, page.status, page.body) == (10, 200, b"<p>a page</p>")
    assert big.body == BIG
    assert b"big.bin" in listing.body
    assert (moved.status, moved.header("Location")) == (301, "/folder/")
    assert missing.status == 404
    assert (head.status, head.header("Content-Length"), head.body) == (200, "13", b"")
    assert post.status == 501
    assert both.interrupt() == 0


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6(both: Both, site: Path) -> None:
    """The program chooses its address family by the address."""
    ready = r"Serving HTTP on ::1 port (\d+)"
    both.start("-m", "http.server", "0", "--bind", "::1", cwd=site, ready=ready)

    def dial_ipv6(program: Program) -> socket.socket:
        return socket.create_connection(("::1", program.port), timeout=DEADLINE)

    (page,) = both.ask(lambda program: fetch(program, "/page.html", dial=dial_ipv6))
    assert page.body == b"<p>a page</p>"
    assert both.interrupt() == 0


@pytest.mark.parametrize("server", ["HTTPServer", "ThreadingHTTPServer"])
def test_keep_alive(both: Both, site: Path, server: str) -> None:
    """HTTP/1.1: many requests on one connection."""
    both.start(SCRIPTS / "serve_files_with_keep_alive.py", server, cwd=site, ready=READY)
    paths = ["/page.html", "/folder/", "/page.html", "/folder/big.bin"]
    answers = both.ask(lambda program: fetch_on_one_connection(program, *paths))
    assert [answer.status for answer in answers] == [200] * 4
    assert {answer.version for answer in answers} == {11}
    assert both.interrupt() == 0


UNUSUAL = {
    "two at once": b"GET /page.html HTTP/1.1\r\n\r\nGET /missing HTTP/1.1\r\n\r\n",
    "HTTP/0.9": b"GET /page.html\r\n",
    "nothing": b"",
    "an empty line": b"\r\n",
    "no line end": b"GET /page.html HTTP/1.1",
    "no headers' end": b"GET /page.html HTTP/1.1\r\nHost: here\r\n",
    "bare newlines": b"GET /page.html HTTP/1.1\nConnection: close\n\n",
    "garbage": bytes(range(256)) * 4,
    "a wrong version": b"GET / HTTP/x.y\r\n\r\n",
    "a long line": b"GET /" + b"x" * 65532 + b" HTTP/1.1\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"x" * 65536 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    "100-continue": b"GET /page.html HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
}
"""What clients send that are no browsers."""


def test_unusual_requests(both: Both, site: Path) -> None:
    """Odd requests and no requests get the same bytes back."""
    both.start(SCRIPTS / "serve_files_with_keep_alive.py", "HTTPServer", cwd=site, ready=READY)
    answers = both.ask(
        lambda program: {name: exchange_bytes(program, sent) for name, sent in UNUSUAL.items()}
    )
    assert answers["two at once"].count(b"HTTP/1.1 ") == 2
    assert answers["HTTP/0.9"] == b"<p>a page</p>"
    assert answers["nothing"] == b""
    assert answers["a long line"].startswith(b"HTTP/1.1 414 ")
    assert answers["a long header"].startswith(b"HTTP/1.1 431 ")
    assert answers["100-continue"].startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert both.interrupt() == 0


@pytest.mark.parametrize("server", ["HTTPServer", "ThreadingHTTPServer"])
def test_ctrl_c_beside_an_idle_connection(both: Both, site: Path, server: str) -> None:
    """A client that keeps its connection, and says nothing, keeps no program from ending."""
    both.start(SCRIPTS / "serve_files_with_keep_alive.py", server, cwd=site, ready=READY)
    with contextlib.ExitStack() as idle:

        def ask_and_stay(program: Program) -> bytes:
            line = idle.enter_context(dial(program))
            line.sendall(b"GET /page.html HTTP/1.1\r\n\r\n")
            received = idle.enter_context(line.makefile("rb"))
            while received.readline().rstrip():
                pass
            return received.read(len(b"<p>a page</p>"))

        assert both.ask(ask_and_stay) == b"<p>a page</p>"
        assert both.interrupt() == 0


@pytest.fixture
def public_site() -> Iterator[Path]:
    """Return a folder that everybody may read: CGI scripts of root run as nobody."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        script = root / "cgi-bin" / "echo"
        script.parent.mkdir()
        script.write_text(CGI_SCRIPT)
        script.chmod(0o755)
        yield root


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="CGI is gone from Python 3.15")
@pytest.mark.needs_threads("Python 3.12 warns of a fork beside threads, which greenlets do without")
def test_cgi(both: Both, public_site: Path) -> None:
    """A CGI script runs in a forked child that has the connection as its standard output."""
    options = ("0", "--bind", "127.0.0.1", "--cgi")
    both.start("-m", "http.server", *options, cwd=public_site, ready=READY)
    got, posted, missing = both.ask(
        lambda program: fetch(
            program,
            "/cgi-bin/echo?name=value",
            Request("/cgi-bin/echo", "POST", b"the body"),
            "/cgi-bin/missing",
        )
    )
    assert (got.status, got.body) == (200, b"GET name=value ")
    assert (posted.status, posted.body) == (200, b"POST  the body")
    assert missing.status == 404
    assert both.interrupt() == 0
