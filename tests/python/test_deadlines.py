"""How long a handler waits for its client, and how long a request may take."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import fastsocketserver
import pytest
import trustme
from conftest import DEADLINE, serving, wait_until
from dispatching import (
    HERE,
    MAY_FORK,
    SERVERS,
    Lines,
    hear,
    hear_end,
    is_silent,
    say,
    server_of,
    settled,
)
from probes import LOOPBACK, Call, client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings(MAY_FORK)

SHORT = 0.05
"""Seconds after which a wait ends in vain."""
LONG = 600.0
"""Seconds that never are over."""

HOST = "127.0.0.1"


class HeldUp(Exception):
    """Load has kept a client from its next step for as long as its server waits."""


class Pace:
    """Sees to it that a client takes each step in time.

    Its server may have begun to wait with the step before the last.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last_but_one = self._last = time.monotonic()

    def keep(self) -> None:
        """Note a step that the client is about to take."""
        now = time.monotonic()
        if now - self._last_but_one >= self._limit:
            raise HeldUp
        self._last_but_one, self._last = self._last, now


def in_time(limit: float, attempt: Callable[[Pace], None]) -> None:
    """Make an attempt whose client is to be silent for less than `limit` seconds.

    Where it was held up its server may have been right to cut it: then it is made again.
    """
    for _ in range(5):
        pace = Pace(limit)
        try:
            return attempt(pace)
        except HeldUp:
            continue
        except Exception:
            with contextlib.suppress(HeldUp):
                pace.keep()
                raise
    pytest.fail(f"each time the client was held up for {limit} s")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def clients_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Plain:
    """How clients reach a server."""

    def __call__(self, server: Any) -> Any:
        return server

    def client_of(self, server: Any) -> Any:
        return client_of(server)

    def secured(self, plain: socket.socket) -> socket.socket:
        return plain


class OverTLS(Plain):
    """The same over TLS."""

    def __init__(self, context: ssl.SSLContext, clients_context: ssl.SSLContext) -> None:
        self._context = context
        self._clients_context = clients_context

    def __call__(self, server: Any) -> Any:
        server.ssl_context = self._context
        return server

    @contextlib.contextmanager
    def client_of(self, server: Any) -> Iterator[socket.socket]:
        with client_of(server) as plain, self.secured(plain) as client:
            yield client

    def secured(self, plain: socket.socket) -> ssl.SSLSocket:
        return self._clients_context.wrap_socket(plain, server_hostname=HOST)


@pytest.fixture
def over_tls(context: ssl.SSLContext, clients_context: ssl.SSLContext) -> OverTLS:
    return OverTLS(context, clients_context)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Any:
    """Return `Plain()` or, if the parameter says so, `OverTLS()`."""
    return request.getfixturevalue("over_tls") if request.param == "TLS" else Plain()


def everywhere(*over_tls: str, plain: Any = tuple(SERVERS)) -> Any:
    """Run a test in these dispatches, and over TLS in those."""
    cases = [(dispatch, "plain") for dispatch in plain] + [(name, "TLS") for name in over_tls]
    return pytest.mark.parametrize(
        ("dispatch", "way"), cases, indirect=["way"], ids=["-".join(case) for case in cases]
    )


class Report:
    """What has become of the requests, by a pipe: also of those of child processes."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._text = b""

    def add(self, word: str) -> None:
        os.write(self._write, f"{word}\n".encode())

    def words(self, count: int) -> list[str]:
        """Wait for so many words."""

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                self._text += os.read(self._read, 4096)
            return self._text.count(b"\n") >= count

        wait_until(look, f"{count} words")
        return self._text.decode().split()

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def report() -> Iterator[Report]:
    report = Report()
    yield report
    report.close()


def handler_of(report: Report, act: Callable[[Any], Any]) -> type:
    """Return a handler class that runs `act`, and says how that and the request have ended."""

    class Handler(fastsocketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                act(self)
            except BaseException as error:
                report.add(type(error).__name__)
                raise
            else:
                report.add("returned")

        def finish(self) -> None:
            report.add("finish")
            super().finish()

    return Handler


def quiet(*args: Any) -> None:
    pass


def read_all_lines(handler: Any) -> None:
    for _ in handler.rfile:
        pass


def write_for_ever(handler: Any) -> None:
    while True:
        handler.wfile.write(bytes(1 << 20))


def send_for_ever(handler: Any) -> None:
    while True:
        handler.request.send(bytes(1 << 20))


WAITS: dict[str, Callable[[Any], Any]] = {
    "readline": lambda handler: handler.rfile.readline(),
    "read": lambda handler: handler.rfile.read(10),
    "read to the end": lambda handler: handler.rfile.read(),
    "read1": lambda handler: handler.rfile.read1(10),
    "readinto": lambda handler: handler.rfile.readinto(bytearray(10)),
    "peek": lambda handler: handler.rfile.peek(),
    "lines": read_all_lines,
    "recv": lambda handler: handler.request.recv(10),
    "recv_into": lambda handler: handler.request.recv_into(bytearray(10)),
    "write": write_for_ever,
    "sendall": lambda handler: handler.request.sendall(bytes(1 << 26)),
    "send": send_for_ever,
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
@pytest.mark.parametrize("dispatch", SERVERS)
def test_a_wait_for_a_silent_client_ends(
    dispatch: str, name: str, wait: str, report: Report
) -> None:
    attributes = {name: SHORT, "handle_error": quiet}
    server = server_of(dispatch, handler_of(report, WAITS[wait]), **attributes)
    with serving(server), client_of(server) as client:
        assert report.words(2) == ["TimeoutError", "finish"]
        assert settled(server).failed == 1
        hear_end(client)


@pytest.mark.parametrize("wait", ["readline", "read", "recv", "lines", "write"])
@pytest.mark.parametrize("dispatch", SERVERS)
def test_a_wait_over_tls_ends(dispatch: str, wait: str, over_tls: OverTLS) -> None:
    name = "idle_timeout" if wait != "recv" else "request_deadline"

    def attempt(pace: Pace) -> None:
        with contextlib.closing(Report()) as report:
            attributes = {"idle_timeout": LONG, "handle_error": quiet, name: 0.3}
            server = over_tls(server_of(dispatch, handler_of(report, WAITS[wait]), **attributes))
            with serving(server), over_tls.client_of(server) as client:
                pace.keep()
                assert report.words(2) == ["TimeoutError", "finish"]
                assert settled(server).failed == 1
                hear_end(client)

    # The handshake is part of the request.
    in_time(0.3, attempt)


@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
@everywhere(*SERVERS)
def test_a_wait_ends_where_finish_request_makes_the_handler(
    dispatch: str, way: Any, name: str, report: Report
) -> None:
    def finish_request(self: Any, request: Any, client_address: Any) -> None:
        self.RequestHandlerClass(request, client_address, self)

    attributes = {"finish_request": finish_request, "handle_error": quiet, name: 0.2}
    server = way(server_of(dispatch, handler_of(report, WAITS["readline"]), **attributes))
    with serving(server), client_of(server) as silent:
        assert report.words(2) == ["TimeoutError", "finish"]
        hear_end(silent)


class Waits(fastsocketserver.BaseRequestHandler):
    """Waits by its own file or by a method that the package does not replace."""

    how = "recvfrom"

    def handle(self) -> None:
        if self.how == "recvfrom":
            self.request.recvfrom(10)
        elif self.how == "recvmsg":
            self.request.recvmsg(10)
        else:
            with self.request.makefile("rb") as file:
                file.readline()


@pytest.mark.parametrize("how", ["makefile"])
@pytest.mark.parametrize("dispatch", HERE)
def test_other_ways_to_read(dispatch: str, how: str) -> None:
    errors: list[Any] = []
    attributes = {
        "idle_timeout": SHORT,
        "handle_error": lambda *_: errors.append(sys.exc_info()[1]),
    }
    server = server_of(dispatch, type("Handler", (Waits,), {"how": how}), **attributes)
    with serving(server), client_of(server) as client:
        assert hear_end(client) == b""
    assert [type(error) for error in errors] == [TimeoutError]


# --- what counts as idle ---------------------------------------------------------------------


@everywhere(*SERVERS)
def test_a_client_that_sends_a_byte_now_and_then_does_not_extend_a_lines_time(
    dispatch: str, way: Any
) -> None:
    def attempt(pace: Pace) -> None:
        with contextlib.closing(Report()) as report:
            attributes = {"idle_timeout": 0.3, "handle_error": quiet}
            server = way(server_of(dispatch, handler_of(report, WAITS["readline"]), **attributes))
            with serving(server), way.client_of(server) as client:
                pace.keep()

                def drip() -> None:
                    with contextlib.suppress(OSError):
                        while True:
                            client.sendall(b"x")
                            time.sleep(0.02)

                dripping = Call(drip)
                assert report.words(2) == ["TimeoutError", "finish"]
                settled(server)
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                dripping.outcome("the client")

    # A handshake has as much.
    in_time(0.3, attempt)


@everywhere("greenlets")
def test_a_client_that_goes_on_is_not_cut(dispatch: str, way: Any) -> None:
    """Each line has its own time."""

    def attempt(pace: Pace) -> None:
        with (
            serving(server := way(server_of(dispatch, idle_timeout=1.0))),
            way.client_of(server) as client,
        ):
            for _ in range(5):
                time.sleep(0.25)
                pace.keep()
                assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)

    in_time(1.0, attempt)


@everywhere("threads", plain=["threads", "greenlets"])
def test_a_body_that_goes_on_is_not_cut(dispatch: str, way: Any) -> None:
    def attempt(pace: Pace) -> None:
        with contextlib.closing(Report()) as report:
            handler = handler_of(report, WAITS["read to the end"])
            server = way(server_of(dispatch, handler, idle_timeout=1.0, handle_error=quiet))
            with serving(server), way.client_of(server) as client:
                for _ in range(6):
                    pace.keep()
                    client.sendall(b"some")
                    time.sleep(0.2)
                pace.keep()
                client.shutdown(socket.SHUT_WR)
                assert report.words(2) == ["returned", "finish"]

    in_time(1.0, attempt)


@everywhere("threads", plain=["threads", "greenlets"])
def test_a_long_write_to_a_slow_client_is_not_cut(dispatch: str, way: Any) -> None:
    size = 1 << 24

    def write(handler: Any) -> None:
        handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        handler.wfile.write(bytes(size))

    def attempt(pace: Pace) -> None:
        with contextlib.closing(Report()) as report:
            handler = handler_of(report, write)
            server = way(server_of(dispatch, handler, idle_timeout=1.0, handle_error=quiet))
            with serving(server), way.client_of(server) as client:
                received = 0
                end = time.monotonic() + 1.2
                while received < size:
                    pace.keep()
                    data = client.recv(1 << 19)
                    assert data
                    received += len(data)
                    if time.monotonic() < end:
                        time.sleep(0.1)
                assert report.words(2) == ["returned", "finish"]

    in_time(1.0, attempt)


@pytest.mark.parametrize("dispatch", SERVERS)
def test_a_busy_client_does_not_outlast_the_deadline(dispatch: str, report: Report) -> None:
    """It never lets its handler wait, and is ended all the same."""
    attributes = {"request_deadline": 0.3, "handle_error": quiet}
    server = server_of(dispatch, handler_of(report, read_all_lines), **attributes)
    with serving(server), client_of(server) as client:

        def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client.sendall(b"x\n" * 1000)

        flooding = Call(flood)
        assert report.words(2) == ["TimeoutError", "finish"]
        settled(server)
        client.close()
        flooding.outcome("the client")


@everywhere(*SERVERS)
def test_the_sockets_own_timeout_still_counts(dispatch: str, way: Any, report: Report) -> None:
    def act(handler: Any) -> None:
        handler.request.settimeout(SHORT)
        handler.rfile.readline()

    attributes = {"idle_timeout": LONG, "request_deadline": LONG, "handle_error": quiet}
    server = way(server_of(dispatch, handler_of(report, act), **attributes))
    with serving(server), way.client_of(server):
        assert report.words(2) == ["TimeoutError", "finish"]


@pytest.mark.parametrize("dispatch", HERE)
def test_a_socket_that_does_not_block_does_not_wait(dispatch: str, report: Report) -> None:
    def act(handler: Any) -> None:
        handler.request.setblocking(False)
        handler.request.recv(1)

    attributes = {"idle_timeout": LONG, "request_deadline": LONG, "handle_error": quiet}
    server = server_of(dispatch, handler_of(report, act), **attributes)
    with serving(server), client_of(server):
        assert report.words(2) == ["BlockingIOError", "finish"]


def test_gettimeout_says_what_the_handler_has_set(report: Report) -> None:
    seen: list[Any] = []

    def act(handler: Any) -> None:
        seen.append(handler.request.gettimeout())
        handler.request.settimeout(5)
        seen.append(handler.request.gettimeout())

    server = server_of("threads", handler_of(report, act), idle_timeout=LONG)
    with serving(server), client_of(server):
        report.words(2)
    assert seen == [None, 5.0]


def test_what_has_come_before_is_not_lost(report: Report) -> None:
    seen: list[Any] = []

    sent = threading.Event()

    def act(handler: Any) -> None:
        assert sent.wait(DEADLINE)
        with contextlib.suppress(TimeoutError):
            handler.rfile.readline()
        seen.append(handler.rfile.read1(100))

    server = server_of("threads", handler_of(report, act), idle_timeout=0.2)
    with serving(server), client_of(server) as client:
        client.sendall(b"no end")
        sent.set()
        report.words(2)
    assert seen == [b"no end"]


# --- one request's deadline is not the next's ------------------------------------------------


@pytest.mark.parametrize("dispatch", HERE)
def test_the_next_request_begins_anew(dispatch: str) -> None:
    """It has the same descriptor number, and no deadline."""
    numbers: list[int] = []

    class Handler(Lines):
        def handle(self) -> None:
            numbers.append(self.request.fileno())
            if len(numbers) == 2:
                self.server.request_deadline = None  # type: ignore[attr-defined]
            if self.rfile.readline() != b"last\n":
                self.wfile.write(self.rfile.readline())

    server = server_of(dispatch, Handler, request_deadline=0.3, handle_error=quiet)
    with serving(server):
        with client_of(server) as client:
            assert hear_end(client) == b""
        with client_of(server) as client:
            client.sendall(b"last\n")
            assert hear_end(client) == b""
        settled(server)
        with client_of(server) as client:
            time.sleep(0.5)
            client.sendall(b"first\nsecond\n")
            assert hear(client) == b"second\n"


@everywhere("threads", plain=("threads", "greenlets"))
def test_a_handler_that_has_closed_its_connection_leaves_others_their_deadlines(
    dispatch: str, way: Plain
) -> None:
    """The next request may have the descriptor's number while the former handler still runs."""
    numbers: list[int] = []
    go_on, ended = threading.Event(), threading.Event()
    errors: list[Any] = []

    class Handler(fastsocketserver.BaseRequestHandler):
        def handle(self) -> None:
            numbers.append(self.request.fileno())
            if len(numbers) == 1:
                self.request.close()
                fastsocketserver.to_thread(go_on.wait, DEADLINE)
            else:
                fastsocketserver.to_thread(ended.wait, DEADLINE)
                self.request.recv(1)

        def finish(self) -> None:
            pass

    attributes = {
        # A handshake takes longer.
        "idle_timeout": 1.0 if isinstance(way, OverTLS) else 0.2,
        "handle_error": lambda *_: errors.append(sys.exc_info()[1]),
    }
    server = way(server_of(dispatch, Handler, **attributes))
    # Of the descriptors of this process, that of the second client is taken before.
    with socket.socket() as second, serving(server), way.client_of(server) as first:
        try:
            assert hear_end(first) == b""
            second.settimeout(DEADLINE)
            second.connect(server.server_address)
            with way.secured(second) as client:
                wait_until(lambda: len(numbers) == 2, "the second request")
                # The numbers are the same, unless another thread has opened something meanwhile.
                go_on.set()
                wait_until(lambda: server.stats().active == 1, "the end of the first")
                ended.set()
                assert hear_end(client) == b""
        finally:
            go_on.set()
            ended.set()
    assert [type(error) for error in errors] == [TimeoutError]


def test_a_detached_descriptor_has_no_deadline() -> None:
    """What a handler does with it is its own affair."""
    outcome: list[Any] = []

    class Handler(fastsocketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(fileno=self.request.detach()) as own:
                time.sleep(0.2)
                outcome.append(own.recv(10))

    server = server_of("threads", Handler, request_deadline=SHORT)
    with serving(server), client_of(server) as client:
        time.sleep(0.3)
        client.sendall(b"late")
        assert hear_end(client) == b""
    assert outcome == [b"late"]


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
def test_what_is_no_number_of_seconds_is_the_programs_own(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = server_of("threads", **{name: "30"})
    with caplog.at_level(logging.WARNING, "fastsocketserver"), serving(server):
        for _ in range(3):
            with client_of(server) as client:
                assert say(client) == b"HELLO\n"
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} is of type str, not a number, and is ignored"
    ]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
def test_what_is_no_deadline(name: str, value: Any) -> None:
    with serving(server := server_of("threads", **{name: value})), client_of(server) as client:
        assert is_silent(client)
        assert say(client) == b"HELLO\n"


@pytest.mark.parametrize("value", [1e18, 2**40])
@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
def test_a_huge_number_is_no_deadline(name: str, value: Any) -> None:
    with serving(server := server_of("threads", **{name: value})), client_of(server) as client:
        assert say(client) == b"HELLO\n"


def test_attributes_of_the_instance_count() -> None:
    with fastsocketserver.ThreadingTCPServer(LOOPBACK, Lines) as server:
        server.idle_timeout = SHORT
        server.handle_error = quiet  # type: ignore[method-assign]
        with serving(server), client_of(server) as client:
            assert hear_end(client) == b""
