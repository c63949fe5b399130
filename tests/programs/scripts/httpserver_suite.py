"""Tests that use pytest-httpserver as its users do; they are run by `test_pytest_httpserver.py`."""

import socketserver
import urllib.error
import urllib.request

import pytest
from pytest_httpserver import BlockingHTTPServer, HTTPServer


def fetch(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body."""
    try:
        with urllib.request.urlopen(url, data, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_implementation(httpserver: HTTPServer) -> None:
    """Say whose server this is."""
    assert isinstance(httpserver.server, socketserver.BaseServer)


def test_expected_requests(httpserver: HTTPServer) -> None:
    """Each request gets the answer that was asked for."""
    httpserver.expect_request("/json").respond_with_json("text")
    httpserver.expect_request("/echo", method="POST", data="body").respond_with_data(b"x" * 99999)
    assert fetch(httpserver.url_for("/json")) == (200, b'"text"')
    assert fetch(httpserver.url_for("/echo"), b"body") == (200, b"x" * 99999)
    assert len(httpserver.log) == 2
    httpserver.check()


def test_order_and_once(httpserver: HTTPServer) -> None:
    """A request at the wrong time is refused, and found out."""
    httpserver.expect_ordered_request("/1").respond_with_data("one")
    httpserver.expect_oneshot_request("/2").respond_with_data("two")
    assert fetch(httpserver.url_for("/1"))[1] == b"one"
    assert fetch(httpserver.url_for("/2"))[1] == b"two"
    assert fetch(httpserver.url_for("/2"))[0] == 500
    with pytest.raises(AssertionError):
        httpserver.check_assertions()


@pytest.mark.parametrize("threaded", [False, True])
def test_start_and_stop(threaded: bool) -> None:
    """A server can be started and stopped again and again."""
    for _ in range(3):
        with HTTPServer(port=0, threaded=threaded) as server:
            server.expect_request("/").respond_with_data("here")
            assert fetch(server.url_for("/")) == (200, b"here")
            port = server.port
        with pytest.raises(urllib.error.URLError):
            fetch(f"http://127.0.0.1:{port}/")


def test_waiting(httpserver: HTTPServer) -> None:
    """A test can wait for all that it expects."""
    httpserver.expect_oneshot_request("/awaited").respond_with_data("came")
    with httpserver.wait(timeout=20) as waiting:
        fetch(httpserver.url_for("/awaited"))
    assert waiting.result


def test_blocking_server() -> None:
    """The server whose requests a test answers by hand can be started and stopped too."""
    with BlockingHTTPServer(port=0, timeout=1) as server, pytest.raises(AssertionError):
        server.assert_request("/never", timeout=0)
