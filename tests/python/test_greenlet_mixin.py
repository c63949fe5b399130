"""Requests that share one thread: how they wait, what is their own, and how they end."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import gc
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import weakref
from typing import TYPE_CHECKING, Any

import greenlet
import pytest
from conftest import DEADLINE, serving, wait_until
from peers import reset
from probes import LOOPBACK, Call, ask, ask_nothing, client_of, connect, read_all
from program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

    Act = Callable[[Any], Any]

LARGE = bytes(range(256)) * (1 << 16)
"""More than the buffers of a connection take."""


def greenlet_server(ours: Variant, *acts: Act, **attributes: Any) -> Any:
    """Return a server whose requests call one of `acts` with their handler, the last for good.

    What goes to `handle_error()` is in its `errors`.
    """
    left = list(acts)

    def handle(handler: Any) -> None:
        act = left.pop(0) if len(left) > 1 else left[0]
        act(handler)

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        server.errors.append(sys.exc_info()[1])

    handler = attributes.pop("handler", "StreamRequestHandler")
    handler_class = type("Handler", (getattr(ours, handler),), {"handle": handle})
    attributes = {"handle_error": handle_error, **attributes}
    server = type("Server", (ours.GreenletTCPServer,), attributes)(LOOPBACK, handler_class)
    server.errors = []
    return server


@contextlib.contextmanager
def served(ours: Variant, *acts: Act, **attributes: Any) -> Iterator[Any]:
    """Run the server that `greenlet_server()` returns; none of its requests may fail."""
    server = greenlet_server(ours, *acts, **attributes)
    with serving(server):
        yield server
    assert server.errors == []


class Waiting:
    """An act that notes when its call begins, and what it returns."""

    def __init__(self, call: Act) -> None:
        self.notes: list[Any] = []
        self._call = call

    def __call__(self, handler: Any) -> None:
        self.notes.append("begun")
        self.notes.append(self._call(handler))

    def tell(self, handler: Any) -> None:
        """Answer, in another request, what has been noted."""
        handler.request.sendall(repr(self.notes).encode())

    def assert_waits(self, server: Any) -> None:
        """Assert that another request is answered while the call has begun and not returned."""
        assert ask_nothing(server.server_address) == b"['begun']"


def say(data: bytes) -> Act:
    """Return an act that sends `data`."""
    return lambda handler: handler.wfile.write(data)


def echo(handler: Any) -> None:
    """Answer one line with the same line in capitals."""
    handler.wfile.write(handler.rfile.readline().upper())


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[Any]:
    """Give a file that contains `data`."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


# --- waits -----------------------------------------------------------------------------------


def filled(call: Callable[[Any], Any]) -> bytes:
    """Return what `call` puts into a buffer."""
    buffer = bytearray(3)
    call(buffer)
    return bytes(buffer)


RECEIVING: dict[str, Act] = {
    "rfile.readline": lambda h: h.rfile.readline(),
    "rfile.readlines": lambda h: h.rfile.readlines(1)[0],
    "rfile.read": lambda h: h.rfile.read(3),
    "rfile.read1": lambda h: h.rfile.read1(100),
    "rfile.readinto": lambda h: filled(h.rfile.readinto),
    "rfile.readinto1": lambda h: filled(h.rfile.readinto1),
    "rfile.peek": lambda h: h.rfile.peek(3),
    "rfile.__next__": lambda h: next(h.rfile),
    "recv": lambda h: h.request.recv(100),
    "recv-large": lambda h: h.request.recv(1 << 20),
    "recv-peek": lambda h: h.request.recv(100, socket.MSG_PEEK),
    "recv_into": lambda h: filled(h.request.recv_into),
    "recv_into-peek": lambda h: filled(lambda b: h.request.recv_into(b, 3, socket.MSG_PEEK)),
    "recvfrom": lambda h: h.request.recvfrom(100)[0],
    "recvfrom_into": lambda h: filled(h.request.recvfrom_into),
    "recvmsg": lambda h: h.request.recvmsg(100)[0],
    "recvmsg_into": lambda h: filled(lambda b: h.request.recvmsg_into([b])),
    "makefile": lambda h: h.request.makefile("rb").readline(),
    "makefile-raw": lambda h: h.request.makefile("rb", 0).readline(),
    "makefile-text": lambda h: h.request.makefile().readline().encode(),
}


@pytest.mark.parametrize("timeout", [None, DEADLINE], ids=["no-timeout", "timeout"])
@pytest.mark.parametrize("name", RECEIVING)
def test_receiving_lets_others_run(ours: Variant, name: str, timeout: float | None) -> None:
    def receive(handler: Any) -> Any:
        handler.request.settimeout(timeout)
        return RECEIVING[name](handler)

    waiting = Waiting(receive)
    with served(ours, waiting, waiting.tell) as server, client_of(server) as client:
        waiting.assert_waits(server)
        client.sendall(b"go\n")
        assert read_all(client) == b""
    assert waiting.notes == ["begun", b"go\n"]


@pytest.mark.parametrize("name", ["recv", "recv_into"])
def test_receiving_the_whole_lets_others_run(ours: Variant, name: str) -> None:
    whole: dict[str, Act] = {
        "recv": lambda h: h.request.recv(3, socket.MSG_WAITALL),
        "recv_into": lambda h: filled(lambda b: h.request.recv_into(b, 3, socket.MSG_WAITALL)),
    }
    waiting = Waiting(whole[name])
    with served(ours, waiting, waiting.tell) as server, client_of(server) as client:
        client.sendall(b"g")
        waiting.assert_waits(server)
        client.sendall(b"o\n")
        assert read_all(client) == b""
    assert waiting.notes == ["begun", b"go\n"]


def test_the_whole_is_what_comes_before_the_end(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.request.recv(100, socket.MSG_WAITALL))
    with served(ours, waiting, waiting.tell) as server, client_of(server) as client:
        client.sendall(b"go")
        waiting.assert_waits(server)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert waiting.notes == ["begun", b"go"]


def send_on(send: Callable[[Any], int]) -> None:
    """Send all of `LARGE` by a call that says how much of it has been sent."""
    rest = memoryview(LARGE)
    while rest:
        rest = rest[send(rest) :]


def send_file(handler: Any) -> None:
    with file_of(LARGE) as file:
        assert handler.request.sendfile(file) == len(LARGE)


def write_buffered(handler: Any) -> None:
    with handler.request.makefile("wb") as file:
        file.write(LARGE)


SENDING: dict[str, Act] = {
    "wfile.write": lambda h: h.wfile.write(LARGE),
    "sendall": lambda h: h.request.sendall(LARGE),
    "sendall-flags": lambda h: h.request.sendall(LARGE, socket.MSG_NOSIGNAL),
    "send": lambda h: send_on(h.request.send),
    "send-flags": lambda h: send_on(lambda rest: h.request.send(rest, socket.MSG_NOSIGNAL)),
    "sendto": lambda h: send_on(lambda rest: h.request.sendto(rest, h.client_address)),
    "sendmsg": lambda h: send_on(lambda rest: h.request.sendmsg([rest])),
    "sendfile": send_file,
    "makefile": write_buffered,
}


@pytest.mark.parametrize("timeout", [None, DEADLINE], ids=["no-timeout", "timeout"])
@pytest.mark.parametrize("name", SENDING)
def test_sending_lets_others_run(ours: Variant, name: str, timeout: float | None) -> None:
    def send(handler: Any) -> None:
        handler.request.settimeout(timeout)
        SENDING[name](handler)

    waiting = Waiting(send)
    with served(ours, waiting, waiting.tell) as server, client_of(server) as client:
        waiting.assert_waits(server)
        assert read_all(client) == LARGE


def test_a_buffered_wfile_lets_others_run(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.wfile.write(LARGE) and handler.wfile.flush())
    with served(ours, waiting, waiting.tell) as server:
        server.RequestHandlerClass.wbufsize = -1
        with client_of(server) as client:
            waiting.assert_waits(server)
            assert read_all(client) == LARGE


def serving_request(ours: Variant, request: socket.socket, *acts: Act) -> Any:
    """Run a server whose first request is `request` itself, whoever connects."""
    first = [request]

    def get_request(server: Any) -> Any:
        accepted, address = server.socket.accept()
        if first:
            accepted.close()
            accepted = first.pop()
        return accepted, address

    return served(ours, *acts, get_request=get_request)


def test_accept_lets_others_run(ours: Variant) -> None:
    listener = socket.create_server(LOOPBACK)

    def accept(handler: Any) -> bytes:
        accepted, address = handler.request.accept()
        with accepted:
            accepted.sendall(b"hello\n")
            assert address == accepted.getpeername()
            return accepted.recv(100)  # type: ignore[no-any-return]

    waiting = Waiting(accept)
    with serving_request(ours, listener, waiting, waiting.tell) as server:
        client_of(server).close()
        waiting.assert_waits(server)
        with connect(listener.getsockname()) as client:
            assert client.recv(100) == b"hello\n"
            assert waiting.notes == ["begun"]
            client.sendall(b"answer\n")
            assert client.recv(100) == b""
    assert waiting.notes == ["begun", b"answer\n"]


@pytest.fixture
def full() -> Iterator[Any]:
    """Return the address of a listener that has no room for a further connection."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(LOOPBACK, backlog=0))
        while True:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            if not select.select([], [client], [], 0.2)[1]:
                yield listener
                return


def test_connect_lets_others_run(ours: Variant, full: Any) -> None:
    def connect_to_it(handler: Any) -> bytes:
        handler.request.connect(full.getsockname())
        return b"connected"

    waiting = Waiting(connect_to_it)
    with serving_request(ours, socket.socket(), waiting, waiting.tell) as server:
        client_of(server).close()
        waiting.assert_waits(server)
        # Room for it, which the kernel tries for once more after a second.
        wait_until(lambda: accept_one(full) and len(waiting.notes) == 2, "the connection")
    assert waiting.notes == ["begun", b"connected"]


def accept_one(listener: socket.socket) -> bool:
    """Take one connection, if there is one, and end it; return true."""
    if select.select([listener], [], [], 0)[0]:
        listener.accept()[0].close()
    return True


def test_connect_reports_what_the_system_does(ours: Variant) -> None:
    with socket.create_server(LOOPBACK) as listener:
        address = listener.getsockname()
    waiting = Waiting(lambda handler: handler.request.connect_ex(address))
    with serving_request(ours, socket.socket(), waiting, waiting.tell) as server:
        client_of(server).close()
        wait_until(lambda: len(waiting.notes) == 2, "the call's return")
    assert waiting.notes == ["begun", errno.ECONNREFUSED]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full listener refuses")
def test_connect_waits_for_room_at_a_unix_listener(ours: Variant) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind("")
        listener.listen(0)
        first.connect(listener.getsockname())

        def connect_to_it(handler: Any) -> bytes:
            handler.request.connect(listener.getsockname())
            return handler.request.getpeername()  # type: ignore[no-any-return]

        waiting = Waiting(connect_to_it)
        request = socket.socket(socket.AF_UNIX)
        with serving_request(ours, request, waiting, waiting.tell) as server:
            client_of(server).close()
            waiting.assert_waits(server)
            listener.accept()[0].close()
            wait_until(lambda: len(waiting.notes) == 2, "the connection")
        assert waiting.notes == ["begun", listener.getsockname()]


# --- not waiting -----------------------------------------------------------------------------


def fails_with(error: type[BaseException], call: Act) -> Act:
    """Return an act that says whether `call` raises exactly `error`."""

    def act(handler: Any) -> bool:
        with pytest.raises(error) as raised:
            call(handler)
        return raised.type is error

    return act


def in_request(ours: Variant, act: Act, **attributes: Any) -> Any:
    """Return what `act` returns in a request whose client sends nothing and reads nothing."""
    results: list[Any] = []

    def note(handler: Any) -> None:
        results.append(act(handler))

    with served(ours, note, **attributes) as server, client_of(server):
        wait_until(lambda: results or server.errors, "the request")
    return results[0]


@pytest.mark.parametrize("name", RECEIVING)
def test_receiving_ends_with_the_timeout(ours: Variant, name: str) -> None:
    def act(handler: Any) -> Any:
        handler.request.settimeout(0.001)
        return fails_with(TimeoutError, RECEIVING[name])(handler)

    assert in_request(ours, act)


@pytest.mark.parametrize("name", SENDING)
def test_sending_ends_with_the_timeout(ours: Variant, name: str) -> None:
    def act(handler: Any) -> Any:
        handler.request.settimeout(0.001)
        with contextlib.suppress(TimeoutError):
            handler.request.sendall(LARGE)
        return fails_with(TimeoutError, SENDING[name])(handler)

    assert in_request(ours, act)


def test_accept_ends_with_the_timeout(ours: Variant) -> None:
    def accept(handler: Any) -> Any:
        handler.request.settimeout(0.001)
        return fails_with(TimeoutError, lambda handler: handler.request.accept())(handler)

    waiting = Waiting(accept)
    with serving_request(ours, socket.create_server(LOOPBACK), waiting, echo) as server:
        client_of(server).close()
        wait_until(lambda: len(waiting.notes) == 2, "the call's return")
    assert waiting.notes == ["begun", True]


def test_connect_ends_with_the_timeout(ours: Variant, full: Any) -> None:
    def connect_to_it(handler: Any) -> Any:
        handler.request.settimeout(0.001)
        call = fails_with(TimeoutError, lambda handler: handler.request.connect(full.getsockname()))
        return call(handler)

    waiting = Waiting(connect_to_it)
    with serving_request(ours, socket.socket(), waiting, echo) as server:
        client_of(server).close()
        wait_until(lambda: len(waiting.notes) == 2, "the call's return")
    assert waiting.notes == ["begun", True]


@pytest.fixture
def default_timeout() -> Iterator[float]:
    """Have sockets time out at once, unless told otherwise."""
    socket.setdefaulttimeout(0.001)
    yield 0.001
    socket.setdefaulttimeout(None)


def test_the_default_timeout_is_that_of_requests(ours: Variant, default_timeout: float) -> None:
    def act(handler: Any) -> Any:
        timed_out = fails_with(TimeoutError, lambda handler: handler.rfile.readline())(handler)
        return handler.request.gettimeout(), timed_out

    assert in_request(ours, act) == (default_timeout, True)


def test_the_timeout_of_a_handler_is_that_of_its_request(ours: Variant) -> None:
    errors: list[Any] = []

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        errors.append(sys.exc_info()[0])

    with served(ours, echo, handle_error=handle_error) as server:
        server.RequestHandlerClass.timeout = 0.001
        assert ask_nothing(server.server_address) == b""
    assert errors == [TimeoutError]


DONTWAIT = socket.MSG_DONTWAIT
NOT_WAITING: dict[str, Act] = {
    "recv": lambda h: h.request.recv(1, DONTWAIT),
    "recv_into": lambda h: h.request.recv_into(bytearray(1), 1, DONTWAIT),
    "recvfrom": lambda h: h.request.recvfrom(1, DONTWAIT),
    "recvfrom_into": lambda h: h.request.recvfrom_into(bytearray(1), flags=DONTWAIT),
    "recvmsg": lambda h: h.request.recvmsg(1, 0, DONTWAIT),
    "recvmsg_into": lambda h: h.request.recvmsg_into([bytearray(1)], 0, DONTWAIT),
    "send": lambda h: send_on(lambda rest: h.request.send(rest, DONTWAIT)),
    "sendall": lambda h: h.request.sendall(LARGE, DONTWAIT),
    "sendto": lambda h: send_on(lambda rest: h.request.sendto(rest, DONTWAIT, h.client_address)),
    "sendmsg": lambda h: send_on(lambda rest: h.request.sendmsg([rest], (), DONTWAIT)),
}


@pytest.mark.parametrize("name", NOT_WAITING)
def test_a_call_that_shall_not_wait_does_not(ours: Variant, name: str) -> None:
    assert in_request(ours, fails_with(BlockingIOError, NOT_WAITING[name]))


@pytest.mark.parametrize(
    "name", ["recv", "recv-peek", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg"]
)
def test_a_socket_that_does_not_block_does_not_wait(ours: Variant, name: str) -> None:
    def act(handler: Any) -> Any:
        handler.request.setblocking(False)
        return fails_with(BlockingIOError, {**RECEIVING, **SENDING}[name])(handler)

    assert in_request(ours, act)


def test_a_request_is_a_socket(ours: Variant) -> None:
    def look(handler: Any) -> Any:
        return isinstance(handler.request, socket.socket), type(handler.request).__name__

    assert in_request(ours, look) == (True, "socket")


# --- the connection ends ---------------------------------------------------------------------


def with_request_of_another(ours: Variant, wait: Act, end: Act) -> Any:
    """Return how `wait` ends in one request when another calls `end` with its handler."""
    handlers: list[Any] = []
    outcomes: list[Any] = []

    def first(handler: Any) -> None:
        handlers.append(handler)
        try:
            outcomes.append(wait(handler))
        except OSError as error:
            outcomes.append(error.errno)

    def second(handler: Any) -> None:
        end(handlers[0])
        handler.request.sendall(b"done")

    with (
        served(ours, first, second, handler="BaseRequestHandler") as server,
        client_of(server),
    ):
        assert ask_nothing(server.server_address) == b"done"
        wait_until(lambda: outcomes, "the wait's end")
    return outcomes[0]


@pytest.mark.parametrize("name", ["recv", "recv-peek", "recv_into", "recvfrom", "recvmsg"])
def test_closing_a_request_ends_a_wait_to_receive(ours: Variant, name: str) -> None:
    end = with_request_of_another(ours, RECEIVING[name], lambda handler: handler.request.close())
    assert end == errno.EBADF


@pytest.mark.parametrize("name", ["send", "sendall", "sendall-flags", "sendmsg"])
def test_closing_a_request_ends_a_wait_to_send(ours: Variant, name: str) -> None:
    end = with_request_of_another(ours, SENDING[name], lambda handler: handler.request.close())
    assert end == errno.EBADF


def test_shutting_down_a_request_ends_a_wait_to_receive(ours: Variant) -> None:
    def shut(handler: Any) -> None:
        handler.request.shutdown(socket.SHUT_RD)

    assert with_request_of_another(ours, RECEIVING["recv"], shut) == b""


def test_shutting_down_a_request_ends_a_wait_to_send(ours: Variant) -> None:
    def shut(handler: Any) -> None:
        handler.request.shutdown(socket.SHUT_WR)

    assert with_request_of_another(ours, SENDING["sendall"], shut) == errno.EPIPE


@pytest.mark.parametrize("call", ["recv", "sendall", "rfile", "wfile"])
def test_a_request_that_never_has_to_wait_lets_others_have_their_turn(
    ours: Variant, call: str
) -> None:
    """Two clients have sent all that they will before the first is taken."""
    seen: list[Any] = []

    class Handler(ours.StreamRequestHandler):
        rbufsize = 1

        def handle(self) -> None:
            calls: dict[str, Callable[[], Any]] = {
                "recv": lambda: self.request.recv(1),
                "sendall": lambda: self.request.sendall(b"x"),
                "rfile": lambda: self.rfile.read(1),
                "wfile": lambda: self.wfile.write(b"x"),
            }
            for _ in range(300):
                calls[call]()
                seen.append(self.client_address)

    with (
        ours.GreenletTCPServer(LOOPBACK, Handler) as server,
        connect(server.server_address) as first,
        connect(server.server_address) as second,
    ):
        first.sendall(b"x" * 300)
        second.sendall(b"x" * 300)
        with serving(server):
            wait_until(lambda: len(seen) == 600, "both to be handled")
        assert seen.index(second.getsockname()) < 300


def test_a_client_that_ends_its_direction_is_answered(ours: Variant) -> None:
    def act(handler: Any) -> None:
        lines = [handler.rfile.readline(), handler.rfile.read(), handler.rfile.readline()]
        handler.wfile.write(repr(lines).encode())

    with served(ours, act) as server, client_of(server) as client:
        client.sendall(b"one\ntwo")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"[b'one\\n', b'two', b'']"


@pytest.mark.parametrize("name", ["rfile.readline", "recv", "sendall"])
def test_a_reset_is_that_of_its_request_alone(ours: Variant, name: str) -> None:
    ended: list[Any] = []
    waiting = Waiting({**RECEIVING, **SENDING}[name])

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        ended.append(sys.exc_info()[1])

    with served(ours, waiting, waiting.tell, handle_error=handle_error) as server:
        with client_of(server) as client:
            waiting.assert_waits(server)
            reset(client)
        wait_until(lambda: ended, "the error")
        waiting.assert_waits(server)
    assert isinstance(ended[0], ConnectionResetError)
    assert ended[0].errno == errno.ECONNRESET


def test_a_descriptors_number_is_another_connections_at_once(ours: Variant) -> None:
    handlers: list[Any] = []
    errors: list[int] = []
    clients: list[socket.socket] = []

    def wait(handler: Any) -> None:
        handlers.append(handler)
        with pytest.raises(OSError, match="descriptor") as raised:
            handler.request.recv(100)
        errors.append(raised.value.errno)

    def replace(handler: Any) -> None:
        number = handlers[0].request.fileno()
        handlers[0].request.close()
        request, client = socket.socketpair()
        assert request.fileno() == number, "not the lowest number that is free"
        clients.append(client)
        handler.server.process_request(request, "another")

    def answer(handler: Any) -> None:
        handler.request.sendall(handler.request.recv(100).upper())

    acts = (wait, replace, answer)
    with served(ours, *acts, handler="BaseRequestHandler") as server, client_of(server):
        ask_nothing(server.server_address)
        wait_until(lambda: errors, "the first wait's end")
        with clients[0] as client:
            client.settimeout(DEADLINE)
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
    assert errors == [errno.EBADF]


# --- traffic ---------------------------------------------------------------------------------


def test_who_speaks_first_is_heard_at_once(ours: Variant) -> None:
    def greet(handler: Any) -> None:
        handler.wfile.write(b"hello\n")
        echo(handler)

    with served(ours, greet) as server, client_of(server) as client:
        assert client.recv(100) == b"hello\n"
        client.sendall(b"bye\n")
        assert read_all(client) == b"BYE\n"


def test_hundreds_of_clients_that_send_byte_by_byte(ours: Variant) -> None:
    def echo_twice(handler: Any) -> None:
        echo(handler)
        echo(handler)

    with served(ours, echo_twice) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(server)) for _ in range(200)]
        lines = [b"%d one\n%d two\n" % (number, number) for number in range(100, 300)]
        for bytes_ in zip(*lines, strict=True):
            for client, byte in zip(clients, bytes_, strict=True):
                client.sendall(bytes([byte]))
        for client, line in zip(clients, lines, strict=True):
            assert read_all(client) == line.upper()


def test_slow_readers_keep_nobody_waiting(ours: Variant) -> None:
    slow = [say(LARGE)] * 5
    with served(ours, *slow, echo) as server, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(client_of(server)) for _ in slow]
        for number in range(50):
            assert ask(server.server_address, b"line %d\n" % number) == b"LINE %d\n" % number
        for reader in readers:
            assert read_all(reader) == LARGE


def test_lines_and_what_is_received_past_the_file(ours: Variant) -> None:
    def act(handler: Any) -> None:
        parts = []
        for _ in range(3):
            parts.append(handler.rfile.readline())
            handler.wfile.write(b"more")
            parts.append(handler.request.recv(1))
            parts.append(os.read(handler.request.fileno(), 100))
            handler.wfile.write(b"more")
        handler.wfile.write(b"".join(parts).upper())

    with served(ours, act) as server, client_of(server) as client:
        for data in (b"line\n", b"xyz") * 3:
            client.sendall(data)
            assert client.recv(4) == b"more"
        assert read_all(client) == b"LINE\nXYZ" * 3


def test_a_line_comes_in_any_segments(ours: Variant) -> None:
    line = b"a line\n"
    with served(ours, echo) as server:
        for cut in range(1, len(line)):
            with client_of(server) as client:
                client.sendall(line[:cut])
                ask(server.server_address)  # by now the first segment has been read
                client.sendall(line[cut:])
                assert read_all(client) == line.upper()


# --- other greenlets -------------------------------------------------------------------------


def test_two_requests_read_the_same_file(ours: Variant) -> None:
    handlers: list[Any] = []
    lines: list[bytes] = []

    def first(handler: Any) -> None:
        handlers.append(handler)
        lines.append(handler.rfile.readline())
        handler.request.recv(1)  # until the client leaves: the file is closed after that

    def second(handler: Any) -> None:
        handler.wfile.write(b"reading\n")
        lines.append(handlers[0].rfile.readline())

    with (
        served(ours, first, second) as server,
        client_of(server) as client,
        client_of(server) as other,
    ):
        assert other.recv(100) == b"reading\n"
        client.sendall(b"one\ntwo\n")
        wait_until(lambda: len(lines) == 2, "both lines")
    assert sorted(lines) == [b"one\n", b"two\n"]


def test_a_file_is_closed_when_the_other_request_has_read(ours: Variant) -> None:
    handlers: list[Any] = []
    waiting = Waiting(lambda handler: handlers.append(handler) or handler.rfile.readline())

    def close(handler: Any) -> None:
        handler.wfile.write(b"closing\n")
        handlers[0].rfile.close()
        waiting.tell(handler)

    with (
        served(ours, waiting, close) as server,
        client_of(server) as client,
        client_of(server) as other,
    ):
        assert other.recv(100) == b"closing\n"
        client.sendall(b"line\n")
        assert read_all(other) == b"['begun', b'line\\n']"


def test_a_request_and_a_thread_of_its_own_read_the_same_file(ours: Variant) -> None:
    lines: list[bytes] = []
    handlers: list[Any] = []

    def read_in_thread(handler: Any) -> None:
        handlers.append(handler)
        thread = Call(handler.rfile.readline)
        wait_until(thread.still_waits, "the thread to read")
        lines.append(handler.rfile.readline())
        lines.append(thread.outcome("readline()"))

    with served(ours, read_in_thread, echo) as server, client_of(server) as client:
        assert ask(server.server_address) == b"HELLO\n"
        client.sendall(b"one\ntwo\n")
        assert read_all(client) == b""
    assert sorted(lines) == [b"one\n", b"two\n"]


def test_a_greenlet_of_a_handlers_own_lets_others_run(ours: Variant) -> None:
    waiting = Waiting(lambda handler: greenlet.greenlet(handler.rfile.readline).switch())
    with served(ours, waiting, waiting.tell) as server, client_of(server) as client:
        waiting.assert_waits(server)
        client.sendall(b"line\n")
        assert read_all(client) == b""
    assert waiting.notes == ["begun", b"line\n"]


def test_a_handler_switches_between_greenlets_of_its_own(ours: Variant) -> None:
    def act(handler: Any) -> None:
        def lines() -> None:
            for line in handler.rfile:
                handled.switch(line)

        handled = greenlet.getcurrent()
        reader = greenlet.greenlet(lines)
        while line := reader.switch():
            handler.wfile.write(line.upper())

    with served(ours, act) as server, client_of(server) as client:
        for number in range(3):
            client.sendall(b"line %d\n" % number)
            assert client.recv(100) == b"LINE %d\n" % number
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


# --- what is a request's own -----------------------------------------------------------------


def test_context_variables_are_a_requests_own(ours: Variant) -> None:
    variable = contextvars.ContextVar("variable", default="default")

    def act(handler: Any) -> None:
        name = handler.rfile.readline().strip()
        before = variable.get()
        variable.set(name)
        handler.wfile.write(b"set\n")
        handler.rfile.readline()
        handler.wfile.write(repr((before, variable.get())).encode())

    with served(ours, act) as server, client_of(server) as one, client_of(server) as other:
        for client, name in ((one, b"one\n"), (other, b"other\n")):
            client.sendall(name)
            assert client.recv(100) == b"set\n"
        for client, name in ((one, b"one"), (other, b"other")):
            client.sendall(b"tell\n")
            assert read_all(client) == repr(("default", name)).encode()
    assert variable.get() == "default"


def test_the_exception_that_is_handled_is_a_requests_own(ours: Variant) -> None:
    def act(handler: Any) -> None:
        before = sys.exc_info()[0]
        kind = {b"key\n": KeyError, b"index\n": IndexError}[handler.rfile.readline()]
        try:
            raise kind
        except LookupError:
            handler.wfile.write(b"raised\n")
            handler.rfile.readline()
            handler.wfile.write(repr((before, sys.exc_info()[0])).encode())

    with served(ours, act) as server, client_of(server) as one, client_of(server) as other:
        for client, name in ((one, b"key\n"), (other, b"index\n")):
            client.sendall(name)
            assert client.recv(100) == b"raised\n"
        for client, kind in ((one, KeyError), (other, IndexError)):
            client.sendall(b"tell\n")
            assert read_all(client) == repr((None, kind)).encode()


def test_handle_error_may_wait(ours: Variant) -> None:
    def fail(handler: Any) -> None:
        raise LookupError(handler.rfile.readline())

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        request.sendall(b"failed\n")
        line = request.recv(100)
        request.sendall(line + repr(sys.exc_info()[1]).encode())

    with (
        served(ours, fail, handle_error=handle_error) as server,
        client_of(server) as one,
        client_of(server) as other,
    ):
        for client, name in ((one, b"one"), (other, b"other")):
            client.sendall(name + b"\n")
            assert client.recv(100) == b"failed\n"
        for client, name in ((one, b"one"), (other, b"other")):
            client.sendall(b"tell ")
            assert read_all(client) == b"tell LookupError(b'%s\\n')" % name


def test_all_requests_run_on_the_thread_that_serves(ours: Variant) -> None:
    idents: list[int] = []

    def act(handler: Any) -> None:
        idents.append(threading.get_ident())
        handler.rfile.readline()
        idents.append(threading.get_ident())

    server = greenlet_server(ours, act)
    with serving(server) as thread:
        ident = thread.ident
        ask(server.server_address)
        ask(server.server_address)
    assert idents == [ident] * 4


def test_each_request_has_a_greenlet_of_its_own(ours: Variant) -> None:
    greenlets: list[Any] = []

    def act(handler: Any) -> None:
        greenlets.append(greenlet.getcurrent())
        echo(handler)

    with served(ours, act) as server:
        ask(server.server_address)
        ask(server.server_address)
    first, second = greenlets
    assert first is not second
    assert first.dead
    assert second.dead


# --- hooks -----------------------------------------------------------------------------------

HOOKS = (
    *("get_request", "verify_request", "process_request", "process_request_greenlet"),
    *("finish_request", "shutdown_request", "close_request"),
)


def noting(notes: list[str], *names: str) -> dict[str, Any]:
    """Return methods of these names that note their call, then call `super()`."""

    def hook(name: str) -> Any:
        def method(self: Any, *args: Any) -> Any:
            notes.append(name)
            return getattr(super(type(self), self), name)(*args)

        return method

    return {name: hook(name) for name in names}


@pytest.mark.parametrize("names", [*[(name,) for name in HOOKS], HOOKS], ids=lambda n: "-".join(n))
def test_each_hook_is_called_once_in_order(ours: Variant, names: tuple[str, ...]) -> None:
    notes: list[str] = []
    with served(ours, echo, **noting(notes, *names)) as server:
        assert ask(server.server_address) == b"HELLO\n"
        assert ask(server.server_address) == b"HELLO\n"
    assert notes == [*names, *names]


def test_hooks_are_called_around_the_wait(ours: Variant) -> None:
    notes: list[str] = []
    waiting = Waiting(lambda handler: handler.rfile.readline())
    with served(ours, waiting, **noting(notes, *HOOKS)) as server, client_of(server) as client:
        wait_until(lambda: waiting.notes, "the handler")
        assert notes == list(HOOKS[:5])
        client.sendall(b"line\n")
        assert read_all(client) == b""
    assert notes == list(HOOKS)


def test_a_request_that_is_refused_is_closed(ours: Variant) -> None:
    notes: list[str] = []

    def verify_request(server: Any, request: Any, client_address: Any) -> bool:
        return False

    hooks = {**noting(notes, *HOOKS), "verify_request": verify_request}
    with served(ours, echo, **hooks) as server:
        assert ask_nothing(server.server_address) == b""
    assert notes == ["get_request", "shutdown_request", "close_request"]


def test_an_error_goes_to_handle_error_once(ours: Variant) -> None:
    def fail(handler: Any) -> None:
        handler.rfile.readline()
        raise LookupError

    notes: list[str] = []
    server = greenlet_server(ours, fail, **noting(notes, "shutdown_request", "close_request"))
    with serving(server):
        assert ask(server.server_address) == b""
    assert [type(error) for error in server.errors] == [LookupError]
    assert notes == ["shutdown_request", "close_request"]


def test_service_actions_are_called_while_requests_wait(ours: Variant) -> None:
    called = threading.Semaphore(0)
    waiting = Waiting(lambda handler: handler.rfile.readline())

    def service_actions(server: Any) -> None:
        called.release()

    with served(ours, waiting, service_actions=service_actions) as server, client_of(server):
        wait_until(lambda: waiting.notes, "the handler")
        for _ in range(3):
            assert called.acquire(timeout=DEADLINE)


def test_hooks_on_the_instance_are_called(ours: Variant) -> None:
    notes: list[str] = []
    server = greenlet_server(ours, echo)

    def process_request_greenlet(request: Any, client_address: Any) -> None:
        notes.append("process_request_greenlet")
        type(server).process_request_greenlet(server, request, client_address)

    server.process_request_greenlet = process_request_greenlet
    with serving(server):
        assert ask(server.server_address) == b"HELLO\n"
    assert notes == ["process_request_greenlet"]


def test_get_request_may_wait(ours: Variant) -> None:
    def get_request(server: Any) -> Any:
        request, _ = super(type(server), server).get_request()
        ours._core.make_cooperative(request)
        return request, request.recv(100)

    def tell(handler: Any) -> None:
        handler.wfile.write(handler.client_address)

    with (
        served(ours, tell, get_request=get_request) as server,
        client_of(server) as one,
        client_of(server) as other,
    ):
        other.sendall(b"other")
        assert read_all(other) == b"other"
        one.sendall(b"one")
        assert read_all(one) == b"one"


# --- loops -----------------------------------------------------------------------------------


def test_handle_request_runs_one_request_to_its_end(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.rfile.readline())
    with greenlet_server(ours, waiting) as server, client_of(server) as first, client_of(server):
        handling = Call(server.handle_request)
        wait_until(lambda: waiting.notes, "the handler")
        assert handling.still_waits()
        assert waiting.notes == ["begun"], "the second request was begun too"
        first.sendall(b"line\n")
        handling.outcome("handle_request()")
        assert waiting.notes == ["begun", b"line\n"]


def test_requests_that_have_begun_go_on_during_handle_request(ours: Variant) -> None:
    notes: list[Any] = []

    def begun(handler: Any) -> None:
        notes.append(handler.rfile.readline())
        handler.rfile.readline()
        notes.append("ended")

    def wait(handler: Any) -> None:
        handler.wfile.write(b"go on\n")
        while not notes:
            ours.sleep(0)

    request, other = socket.socketpair()
    with greenlet_server(ours, begun, wait) as server, other, client_of(server):
        server.process_request(request, "other")
        other.sendall(b"line\n")
        server.handle_request()
        assert notes == [b"line\n"]
        other.sendall(b"end\n")
    assert notes == [b"line\n", "ended"]
    assert server.errors == []


def test_handle_request_in_a_loop_of_the_programs_own(ours: Variant) -> None:
    with greenlet_server(ours, echo) as server:
        for number in range(3):
            with client_of(server) as client:
                client.sendall(b"line %d\n" % number)
                assert select.select([server], [], [], DEADLINE)[0] == [server]
                server.handle_request()
                assert read_all(client) == b"LINE %d\n" % number


def test_handle_request_waits_no_longer_than_the_timeout(ours: Variant) -> None:
    calls: list[str] = []

    def handle_timeout(server: Any) -> None:
        calls.append("handle_timeout")

    attributes = {"timeout": 0.001, "handle_timeout": handle_timeout}
    with greenlet_server(ours, echo, **attributes) as server:
        server.handle_request()
    assert calls == ["handle_timeout"]


def test_a_handler_handles_another_request(ours: Variant) -> None:
    def outer(handler: Any) -> None:
        handler.server.handle_request()
        echo(handler)

    server = greenlet_server(ours, outer, echo)
    with server, client_of(server) as client, client_of(server) as other:
        other.sendall(b"other\n")
        client.sendall(b"client\n")
        handling = Call(server.handle_request)
        assert read_all(other) == b"OTHER\n"
        assert read_all(client) == b"CLIENT\n"
        handling.outcome("handle_request()")
    assert server.errors == []


def test_a_server_serves_again_after_shutdown(ours: Variant) -> None:
    with greenlet_server(ours, echo) as server:
        for _ in range(3):
            loop = Call(server.serve_forever, 0.01)
            assert ask(server.server_address) == b"HELLO\n"
            server.shutdown()
            loop.outcome("serve_forever()")


def test_two_servers_in_two_threads(ours: Variant) -> None:
    idents: list[int] = []

    def act(handler: Any) -> None:
        idents.append(threading.get_ident())
        echo(handler)
        idents.append(threading.get_ident())

    one, other = greenlet_server(ours, act), greenlet_server(ours, act)
    with serving(one) as first, serving(other) as second:
        with client_of(one) as client, client_of(other) as peer:
            wait_until(lambda: len(idents) == 2, "both requests")
            client.sendall(b"one\n")
            assert read_all(client) == b"ONE\n"
            peer.sendall(b"other\n")
            assert read_all(peer) == b"OTHER\n"
        assert sorted(idents) == sorted([first.ident, second.ident] * 2)
    assert one.errors == other.errors == []


def test_a_server_in_a_request_of_another(ours: Variant) -> None:
    inner = greenlet_server(ours, echo)

    def act(handler: Any) -> None:
        with client_of(inner) as client, inner:
            client.sendall(handler.rfile.readline())
            inner.handle_request()
            handler.wfile.write(read_all(client))

    with served(ours, act) as server:
        assert ask(server.server_address) == b"HELLO\n"
    assert inner.fileno() == -1


def test_a_handler_starts_threads_and_joins_them(ours: Variant) -> None:
    def act(handler: Any) -> None:
        line = Call(handler.rfile.readline).outcome("readline()")
        Call(handler.wfile.write, line.upper()).outcome("write()")

    with served(ours, act) as server:
        assert ask(server.server_address) == b"HELLO\n"


# --- endings ---------------------------------------------------------------------------------


def started(ours: Variant, *acts: Act, **attributes: Any) -> tuple[Any, Call]:
    """Return a server, and the call of `serve_forever()` that runs in a thread."""
    server = greenlet_server(ours, *acts, **attributes)
    return server, Call(server.serve_forever, 0.01)


def test_shutdown_does_not_wait_for_requests_but_close_does(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.rfile.readline())
    server, loop = started(ours, waiting)
    with client_of(server) as client:
        wait_until(lambda: waiting.notes, "the handler")
        Call(server.shutdown).outcome("shutdown()")
        closing = Call(server.server_close)
        assert closing.still_waits()
        assert loop.is_alive()
        client.sendall(b"line\n")
        closing.outcome("server_close()")
        assert waiting.notes == ["begun", b"line\n"]
        loop.outcome("serve_forever()")
        assert read_all(client) == b""


def test_no_request_is_begun_after_shutdown(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.rfile.readline())
    server, loop = started(ours, waiting)
    with client_of(server) as client:
        wait_until(lambda: waiting.notes, "the handler")
        server.shutdown()
        with client_of(server):
            client.sendall(b"line\n")
            loop.outcome("serve_forever()")
            server.server_close()
    assert waiting.notes == ["begun", b"line\n"]


ENDLESS: dict[str, Act] = {
    **{name: RECEIVING[name] for name in ("rfile.readline", "recv", "recvfrom", "makefile")},
    **{name: SENDING[name] for name in ("wfile.write", "sendmsg")},
}


@pytest.mark.parametrize(
    "attribute", [{"block_on_close": False}, {"daemon_threads": True}], ids=str
)
@pytest.mark.parametrize("name", ENDLESS)
def test_requests_are_ended_where_nobody_waits_for_them(
    ours: Variant, name: str, attribute: dict[str, Any]
) -> None:
    notes: list[Any] = []

    def act(handler: Any) -> None:
        handler.finish = lambda: notes.append("finish")
        notes.append("begun")
        try:
            ENDLESS[name](handler)
        except greenlet.GreenletExit:
            notes.append("GreenletExit")
            raise

    server, loop = started(ours, act, **attribute)
    with client_of(server) as client:
        wait_until(lambda: notes, "the handler")
        server.shutdown()
        loop.outcome("serve_forever()")
        assert notes == ["begun", "GreenletExit", "finish"]
        read_all(client)
        server.server_close()
    assert server.errors == []


def test_each_wait_of_a_request_that_is_to_end_says_so(ours: Variant) -> None:
    notes: list[str] = []

    def act(handler: Any) -> None:
        for _ in range(3):
            notes.append("begun")
            try:
                handler.rfile.readline()
            except greenlet.GreenletExit:
                notes.append("GreenletExit")

    server, loop = started(ours, act, block_on_close=False)
    with client_of(server):
        wait_until(lambda: notes, "the handler")
        server.shutdown()
        loop.outcome("serve_forever()")
        server.server_close()
    assert notes == ["begun", "GreenletExit"] * 3


def test_closing_while_serving_ends_requests_too(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.rfile.readline())
    server, loop = started(ours, waiting, block_on_close=False)
    with client_of(server) as client:
        wait_until(lambda: waiting.notes, "the handler")
        Call(server.server_close).outcome("server_close()")
        loop.outcome("serve_forever()")
        assert read_all(client) == b""
    assert waiting.notes == ["begun"]


def test_requests_are_ended_on_the_thread_that_serves(ours: Variant) -> None:
    idents: list[int] = []

    def act(handler: Any) -> None:
        idents.append(threading.get_ident())
        try:
            handler.rfile.readline()
        finally:
            idents.append(threading.get_ident())

    server, loop = started(ours, act, block_on_close=False)
    with client_of(server):
        wait_until(lambda: idents, "the handler")
        server.server_close()
        loop.outcome("serve_forever()")
    assert idents == [loop.ident, loop.ident]
    assert loop.ident != threading.get_ident()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_handler_leaves_the_loop(ours: Variant, error: type[BaseException]) -> None:
    waiting = Waiting(lambda handler: handler.rfile.readline())
    notes: list[str] = []

    def leave(handler: Any) -> None:
        handler.rfile.readline()
        handler.finish = lambda: notes.append("finish")
        raise error

    server, loop = started(ours, waiting, leave)
    with client_of(server) as other, client_of(server) as client:
        wait_until(lambda: waiting.notes, "the first handler")
        client.sendall(b"line\n")
        with pytest.raises(error):
            loop.outcome("serve_forever()")
        assert notes == ["finish"]
        assert read_all(client) == b""
        assert read_all(other) == b"", "the thread that serves has left a request"
        server.server_close()
    assert server.errors == []
    assert waiting.notes == ["begun"]


def test_requests_that_an_exit_has_left_are_finished_by_close(ours: Variant) -> None:
    waiting = Waiting(lambda handler: handler.rfile.readline())

    def leave(handler: Any) -> None:
        raise KeyboardInterrupt

    server = greenlet_server(ours, waiting, leave)
    with client_of(server) as client, client_of(server):
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever(0.01)
        assert waiting.notes == ["begun"]
        client.sendall(b"line\n")
        server.server_close()
        assert waiting.notes == ["begun", b"line\n"]
        assert read_all(client) == b""


def test_a_server_serves_again_after_an_exit(ours: Variant) -> None:
    def leave(handler: Any) -> None:
        raise KeyboardInterrupt

    with greenlet_server(ours, leave, echo) as server:
        with client_of(server), pytest.raises(KeyboardInterrupt):
            server.serve_forever(0.01)
        loop = Call(server.serve_forever, 0.01)
        assert ask(server.server_address) == b"HELLO\n"
        server.shutdown()
        loop.outcome("serve_forever()")


def test_an_exit_leaves_handle_request(ours: Variant) -> None:
    def leave(handler: Any) -> None:
        handler.rfile.readline()
        raise SystemExit(3)

    with greenlet_server(ours, leave) as server, client_of(server) as client:
        client.sendall(b"line\n")
        with pytest.raises(SystemExit, match="3"):
            server.handle_request()
        assert read_all(client) == b""


@pytest.mark.parametrize("block_on_close", [True, False])
def test_no_greenlet_is_left(ours: Variant, block_on_close: bool) -> None:
    references: list[Any] = []

    def act(handler: Any) -> None:
        references.append(weakref.ref(greenlet.getcurrent()))
        references.append(weakref.ref(handler))
        echo(handler)

    gc.disable()
    try:
        server, loop = started(ours, act, block_on_close=block_on_close)
        for _ in range(3):
            assert ask(server.server_address) == b"HELLO\n"
        with client_of(server) as client:
            wait_until(lambda: len(references) == 8, "the handler")
            server.shutdown()
            if block_on_close:
                client.sendall(b"line\n")
            loop.outcome("serve_forever()")
            server.server_close()
        assert [reference() for reference in references] == [None] * 8
    finally:
        gc.enable()


def test_a_server_is_freed_with_what_it_has_begun(ours: Variant) -> None:
    def act(handler: Any) -> None:
        echo(handler)

    gc.disable()
    try:
        server = greenlet_server(ours, act)
        with client_of(server) as client:
            client.sendall(b"line\n")
            server.handle_request()
        server.server_close()
        reference = weakref.ref(server)
        del server
        assert reference() is None
    finally:
        gc.enable()


# --- processes -------------------------------------------------------------------------------

SERVE = """
    import os, sys
    class Handler(ss.StreamRequestHandler):
        def handle(self):
            handle(self)
    class Server(ss.GreenletTCPServer):
        stall_threshold = None
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        {loop}
"""

FORK = """
    import os
    def handle(handler):
        line = handler.rfile.readline()
        if line != b"fork\\n":
            handler.wfile.write(line.upper())
            return
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        {child}
"""


@contextlib.contextmanager
def forking(ours: Variant, child: str) -> Iterator[Any]:
    """Run a program that serves; told to fork, its handlers do `child` in a child of theirs."""
    source = FORK.format(child=child) + SERVE.format(loop="server.serve_forever()")
    with Program(ours, source) as program:
        yield program, program.read_port()


def test_a_child_carries_on_with_the_request_that_forked(ours: Variant) -> None:
    child = """
        handler.wfile.write(b"child\\n")
        handler.wfile.write(handler.rfile.readline().upper())
    """
    with forking(ours, child.strip()) as (_, address), connect(address) as other:
        with connect(address) as client:
            client.sendall(b"fork\n")
            assert client.recv(100) == b"child\n"
            client.sendall(b"on\n")
            assert read_all(client) == b"ON\n"
        other.sendall(b"other\n")
        assert read_all(other) == b"OTHER\n"
        assert ask(address) == b"HELLO\n"


@pytest.mark.parametrize(
    "child", ["return", "raise SystemExit(0)", "os._exit(0)", "raise LookupError", "raise OSError"]
)
def test_other_clients_see_nothing_of_a_child(ours: Variant, child: str) -> None:
    with forking(ours, child) as (_, address), connect(address) as other:
        with connect(address) as client:
            client.sendall(b"fork\n")
            assert read_all(client) == b""
        assert select.select([other], [], [], 0)[0] == []
        other.sendall(b"other\n")
        assert read_all(other) == b"OTHER\n"
        assert ask(address) == b"HELLO\n"


def test_the_child_of_a_handler_ends_with_its_request(ours: Variant) -> None:
    child = "handler.wfile.write(b'%d' % os.getpid())"
    with forking(ours, child) as (program, address):
        numbers = [ask(address, b"fork\n") for _ in range(3)]
        assert len({*numbers, b"%d" % program.pid}) == 4
        assert ask(address) == b"HELLO\n"


def test_a_signal_that_raises_leaves_the_loop(ours: Variant) -> None:
    handle = """
    def handle(handler):
        handler.wfile.write(b"reading\\n")
        handler.rfile.readline()
    """
    loop = """
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        server.block_on_close = False
    """
    with Program(ours, handle + SERVE.format(loop=loop.strip())) as program:
        with connect(program.read_port()) as client:
            assert client.recv(100) == b"reading\n"
            program.wait_asleep()
            program.send_signal(signal.SIGINT)
            assert program.read_line() == "interrupted"
            assert read_all(client) == b""
        program.end()


def test_without_the_package_a_server_says_what_to_install(ours: Variant) -> None:
    source = """
        import sys
        sys.modules["greenlet"] = None
        class Server(ss.GreenletMixIn, ss.TCPServer):
            pass
        for server_class in (Server, ss.GreenletTCPServer, ss.GreenletUnixStreamServer):
            try:
                server_class(("127.0.0.1", 0), ss.BaseRequestHandler)
            except ImportError as error:
                print(error, flush=True)
    """
    with Program(ours, source) as program:
        for _ in range(3):
            assert program.read_line().endswith("pip install 'fastsocketserver[greenlet]'")
        program.end()


def test_only_who_makes_a_server_imports_the_package(ours: Variant) -> None:
    source = """
        import sys
        print("greenlet" in sys.modules, flush=True)
        ss.GreenletTCPServer(("127.0.0.1", 0), ss.BaseRequestHandler).server_close()
        print("greenlet" in sys.modules, flush=True)
    """
    with Program(ours, source) as program:
        assert [program.read_line(), program.read_line()] == ["False", "True"]
        program.end()


def test_over_the_unix_family(ours: Variant) -> None:
    class Handler(ours.StreamRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            echo(self)

    server = ours.GreenletUnixStreamServer("", Handler)
    with serving(server), client_of(server) as first, client_of(server) as client:
        client.sendall(b"line\n")
        assert read_all(client) == b"LINE\n"
        first.sendall(b"first\n")
        assert read_all(first) == b"FIRST\n"
