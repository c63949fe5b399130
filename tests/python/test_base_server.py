"""`BaseServer`: a server without a socket, its loop, its one-request call and its error report."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from peers import TIMEOUT, ask, ask_once, client, read_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from variants import Variant


def greet(request: Any, client_address: Any, server: Any) -> None:
    """Answer a stream request."""
    request.sendall(b"hello")


@pytest.fixture
def server(ss: Variant) -> Iterator[Any]:
    """Return a bound TCP server of the module under test."""
    with ss.TCPServer(("127.0.0.1", 0), greet) as server:
        yield server


# --- a server without a socket ---------------------------------------------------------------


def test_finish_request_needs_the_handler_class_alone(ss: Variant) -> None:
    class Duck:
        RequestHandlerClass = staticmethod(lambda *args: handled.append(args))

    handled: list[Any] = []
    duck, request = Duck(), object()
    ss.module.BaseServer.finish_request(duck, request, "address")
    assert handled == [(request, "address", duck)]


@pytest.fixture
def pipe_server(ss: Variant) -> Iterator[Any]:
    """Return a server whose requests are the bytes that arrive in a pipe."""

    class PipeServer(ss.BaseServer):
        def __init__(self) -> None:
            super().__init__("pipe", self.handled_by)
            self.readable, self.writable = os.pipe()
            self.requests: list[Any] = []
            self.closed: list[Any] = []

        def handled_by(self, *args: Any) -> None:
            self.requests.append(args)

        def fileno(self) -> int:
            return self.readable

        def get_request(self) -> tuple[Any, Any]:
            return os.read(self.readable, 1), ["no", "address"]

        def close_request(self, request: Any) -> None:
            self.closed.append(request)
            super().close_request(request)

        def server_close(self) -> None:
            super().server_close()
            for descriptor in (self.readable, self.writable):
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    with PipeServer() as server:
        yield server


def test_base_server_without_a_socket_serves(pipe_server: Any) -> None:
    with serving(pipe_server, 0.01):
        os.write(pipe_server.writable, b"abc")
        wait_until(lambda: len(pipe_server.closed) == 3, "three requests to be closed")
    assert pipe_server.requests == [
        (b"a", ["no", "address"], pipe_server),
        (b"b", ["no", "address"], pipe_server),
        (b"c", ["no", "address"], pipe_server),
    ]
    assert pipe_server.closed == [b"a", b"b", b"c"]


def test_base_server_without_a_socket_handles_a_request_by_hand(pipe_server: Any) -> None:
    os.write(pipe_server.writable, b"ab")
    pipe_server._handle_request_noblock()
    assert [request for request, _, _ in pipe_server.requests] == [b"a"]
    assert pipe_server.closed == [b"a"]


def test_handle_request_needs_the_socket_for_its_timeout(pipe_server: Any) -> None:
    with pytest.raises(AttributeError, match="socket"):
        pipe_server.handle_request()


def test_threading_mixin_over_a_base_server_without_a_socket(ss: Variant) -> None:
    class Server(ss.ThreadingMixIn, ss.BaseServer):
        pass

    requests: list[Any] = []
    with Server(None, lambda *args: requests.append((args, threading.current_thread()))) as server:
        server.process_request("request", "address")
    [(args, thread)] = requests
    assert args == ("request", "address", server)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_base_server_has_neither_fileno_nor_get_request(ss: Variant) -> None:
    assert not hasattr(ss.module.BaseServer, "fileno")
    assert not hasattr(ss.module.BaseServer, "get_request")
    server = ss.BaseServer(None, None)
    with pytest.raises((AttributeError, ValueError)):
        server.serve_forever()


def test_base_methods_do_nothing(ss: Variant) -> None:
    server = ss.BaseServer("address", None)
    request = object()
    assert server.verify_request(request, "address") is True
    assert server.server_activate() is None
    assert server.server_close() is None
    assert server.service_actions() is None
    assert server.handle_timeout() is None
    assert server.shutdown_request(request) is None
    assert server.close_request(request) is None
    assert server.server_address == "address"


def test_timeout_is_none(ss: Variant) -> None:
    assert ss.BaseServer.timeout is None
    assert ss.TCPServer.timeout is None


# --- handle_request --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server_timeout", "socket_timeout"),
    [
        (0.01, None),
        (None, 0.01),
        (0.01, 3600),
        (3600, 0.01),
        (0, None),
        (None, 0),
        (0, 3600),
        (-1, None),
        (-1, 3600),
    ],
)
def test_handle_request_waits_for_the_shorter_timeout(
    server: Any, server_timeout: float | None, socket_timeout: float | None
) -> None:
    calls: list[str] = []
    server.timeout = server_timeout
    server.socket.settimeout(socket_timeout)
    server.handle_timeout = lambda: calls.append("handle_timeout")
    server.handle_request()
    assert calls == ["handle_timeout"]


def test_handle_request_without_timeouts_waits_for_a_client(server: Any) -> None:
    ended = threading.Event()

    def handle_one() -> None:
        server.handle_request()
        ended.set()

    server.handle_timeout = lambda: pytest.fail("there was no timeout")
    thread = threading.Thread(target=handle_one)
    thread.start()
    assert not ended.wait(0.02)
    assert ask(server) == b"hello"
    assert ended.wait(DEADLINE)
    thread.join(DEADLINE)


def test_handle_request_with_a_pending_client_does_not_time_out(server: Any) -> None:
    server.timeout = 0
    server.handle_timeout = lambda: pytest.fail("a client was waiting")
    assert ask_once(server) == b"hello"


def test_handle_request_handles_exactly_one(server: Any) -> None:
    server.timeout = 0
    with client(server) as first, client(server) as second:
        server.handle_request()
        assert read_to_end(first) == b"hello"
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.recv(10)
        second.settimeout(TIMEOUT)
        server.handle_request()
        assert read_to_end(second) == b"hello"


def test_handle_request_returns_what_its_last_step_returns(server: Any) -> None:
    server.timeout = 0
    server.handle_timeout = lambda: "from handle_timeout"
    assert server.handle_request() == "from handle_timeout"
    with client(server):
        server._handle_request_noblock = lambda: "from _handle_request_noblock"
        assert server.handle_request() == "from _handle_request_noblock"


def test_handle_request_ignores_an_earlier_shutdown_request(server: Any) -> None:
    server._BaseServer__shutdown_request = True
    assert ask_once(server) == b"hello"
    assert server._BaseServer__shutdown_request is True


def test_handle_request_leaves_the_shutdown_event_alone(server: Any) -> None:
    assert ask_once(server) == b"hello"
    assert not server._BaseServer__is_shut_down.is_set()


def test_handle_request_uses_the_timeout_of_the_class(ss: Variant) -> None:
    class Server(ss.TCPServer):
        timeout = 0.01

        def handle_timeout(self) -> None:
            calls.append(self)

    calls: list[Any] = []
    with Server(("127.0.0.1", 0), greet) as server:
        server.handle_request()
    assert calls == [server]


def test_get_request_that_finds_nothing_ends_handle_request(server: Any) -> None:
    def get_request() -> Any:
        raise BlockingIOError("the client went away")

    server.get_request = get_request
    server.handle_timeout = lambda: pytest.fail("the wait was over")
    server.process_request = lambda *args: pytest.fail("there was no request")
    with client(server):
        assert server.handle_request() is None


# --- serve_forever ---------------------------------------------------------------------------


def test_serve_forever_ignores_timeout(server: Any) -> None:
    server.timeout = 0
    server.socket.settimeout(0)
    server.handle_timeout = lambda: pytest.fail("serve_forever() has no timeout")
    rounds = threading.Event()
    server.service_actions = rounds.set
    with serving(server, 0.01):
        assert rounds.wait(DEADLINE)
        assert ask(server) == b"hello"


@pytest.mark.parametrize("args", [((0.01,), {}), ((), {"poll_interval": 0.01}), ((), {})])
def test_poll_interval_by_position_by_name_and_by_default(
    server: Any, args: tuple[tuple[float, ...], dict[str, float]]
) -> None:
    thread = threading.Thread(target=server.serve_forever, args=args[0], kwargs=args[1])
    thread.start()
    assert ask(server) == b"hello"
    server.shutdown()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.parametrize("poll_interval", [0, 1, None, -1], ids=str)
def test_unusual_poll_intervals(server: Any, poll_interval: float | None) -> None:
    def stop(request: Any, client_address: Any, server: Any) -> None:
        request.sendall(b"stopping")
        server._BaseServer__shutdown_request = True

    server.RequestHandlerClass = stop
    thread = threading.Thread(target=server.serve_forever, args=(poll_interval,))
    thread.start()
    assert ask(server) == b"stopping"
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_serve_forever_may_run_again_after_a_shutdown(server: Any) -> None:
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        assert ask(server) == b"hello"
        server.shutdown()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_client_that_comes_between_two_runs_is_served_by_the_second(server: Any) -> None:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    assert ask(server) == b"hello"
    server.shutdown()
    thread.join(DEADLINE)
    with client(server) as sock, serving(server, 0.01):
        assert read_to_end(sock) == b"hello"


def test_loop_looks_at_the_shutdown_request_before_it_accepts(server: Any) -> None:
    """A client that arrives after the request is left in the accept queue."""
    entered = threading.Event()
    calls: list[str] = []
    server.service_actions = lambda: (calls.append("service_actions"), entered.set())
    server.get_request = lambda: pytest.fail("accepted after the shutdown request")
    thread = threading.Thread(target=server.serve_forever, args=(0.2,))
    thread.start()
    assert entered.wait(DEADLINE)
    server._BaseServer__shutdown_request = True
    rounds = len(calls)
    with client(server) as sock:
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert len(calls) == rounds, "service_actions() ran on the round of the shutdown"
        del server.get_request
        server.handle_request()
        assert read_to_end(sock) == b"hello"


def test_shutdown_request_that_comes_with_a_client_wins(
    ss: Variant, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Selector(ss.module._ServerSelector):
        def select(self, timeout: float | None = None) -> Any:
            ready = super().select(timeout)
            server._BaseServer__shutdown_request = True
            return ready

    monkeypatch.setattr(ss.module, "_ServerSelector", Selector)
    server.get_request = lambda: pytest.fail("accepted after the shutdown request")
    server.service_actions = lambda: pytest.fail("ran on the round of the shutdown")
    with client(server):
        server.serve_forever(5)
    assert server._BaseServer__shutdown_request is False


# --- the error report ------------------------------------------------------------------------


def boom(request: Any, client_address: Any, server: Any) -> None:
    """Fail as a handler would."""
    raise ArithmeticError("from the handler")


REPORT = re.compile(
    r"-{40}\n"
    r"Exception occurred during processing of request from (?P<address>.*)\n"
    r"Traceback \(most recent call last\):\n"
    r"(?:.*\n)+"
    r"ArithmeticError: from the handler\n"
    r"-{40}\n"
)


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer", "UDPServer"])
def test_handle_error_reports_on_standard_error(
    ss: Variant, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = getattr(ss, family)(("127.0.0.1", 0), boom)
    with server, client(server) as sock:
        sock.send(b"")
        server.handle_request()
        address = sock.getsockname()
    captured = capsys.readouterr()
    report = REPORT.fullmatch(captured.err)
    assert report, captured.err
    assert report["address"] == str(address)
    assert captured.out == ""


def test_server_goes_on_after_an_error(ss: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    server = ss.TCPServer(("127.0.0.1", 0), boom)
    with serving(server, 0.01):
        assert ask(server) == b""
        server.RequestHandlerClass = greet
        assert ask(server) == b"hello"
    assert len(REPORT.findall(capsys.readouterr().err)) == 1


def test_handle_error_by_hand_reports_the_exception_being_handled(
    ss: Variant, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ss.BaseServer(None, None)
    try:
        boom(None, None, None)
    except ArithmeticError:
        server.handle_error(None, ("somewhere", 1))
    report = REPORT.fullmatch(capsys.readouterr().err)
    assert report
    assert report["address"] == "('somewhere', 1)"


# --- with ------------------------------------------------------------------------------------


def test_with_gives_the_server_and_closes_it(ss: Variant) -> None:
    calls: list[Any] = []

    class Server(ss.BaseServer):
        def server_close(self) -> None:
            calls.append(self)

    server = Server(None, None)
    with server as entered:
        assert entered is server
        assert calls == []
    assert calls == [server]


def test_with_closes_the_socket_and_lets_an_exception_through(ss: Variant) -> None:
    server = ss.TCPServer(("127.0.0.1", 0), greet)
    with pytest.raises(ArithmeticError), server:
        boom(None, None, None)
    assert server.fileno() == -1
    assert isinstance(server.socket, socket.socket)
