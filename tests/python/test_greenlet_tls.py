"""TLS on a server whose requests run in greenlets: nobody waits for a slow or silent client."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import fastsocketserver
import pytest
import trustme
from conftest import DEADLINE, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("greenlet", reason="greenlet is not installed")

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    return context


@pytest.fixture
def connect(authority: trustme.CA) -> Iterator[Callable[[Any], ssl.SSLSocket]]:
    """Return what makes a TLS connection to a server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with contextlib.ExitStack() as stack:

        def connect(server: Any) -> ssl.SSLSocket:
            plain = socket.create_connection(server.server_address, DEADLINE)
            return stack.enter_context(context.wrap_socket(plain, server_hostname=HOST))

        yield connect


FLOOD = b"y" * 20_000_000 + b"\n"


class Lines(fastsocketserver.StreamRequestHandler):
    """Answers each line in upper case, or with a flood, until there is no more."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(FLOOD if line == b"flood\n" else line.upper())


class WrappedInSetup(Lines):
    """Makes TLS of its connection in `setup()`."""

    context: ssl.SSLContext
    handshake_timeout: float | None = None

    def setup(self) -> None:
        self.request.settimeout(self.handshake_timeout)
        self.request = self.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()


class WrappedInGetRequest(fastsocketserver.GreenletTCPServer):
    """Makes TLS of each connection in `get_request()`."""

    context: ssl.SSLContext

    def get_request(self) -> Any:
        request, address = super().get_request()
        return self.context.wrap_socket(request, server_side=True), address


class Listener(fastsocketserver.GreenletTCPServer):
    """Has an `SSLSocket` that listens."""

    context: ssl.SSLContext

    def server_activate(self) -> None:
        super().server_activate()
        self.socket = self.context.wrap_socket(self.socket, server_side=True)


@pytest.fixture(params=["setup", "get_request", "listener"])
def server(request: pytest.FixtureRequest, server_context: ssl.SSLContext) -> Iterator[Any]:
    """Return a server, not serving yet, that makes TLS in one of three places."""
    classes: dict[str, tuple[type, type]] = {
        "setup": (fastsocketserver.GreenletTCPServer, WrappedInSetup),
        "get_request": (WrappedInGetRequest, Lines),
        "listener": (Listener, Lines),
    }
    server_class, handler_class = classes[request.param]
    attributes = {"context": server_context}
    handler = type("Handler", (handler_class,), attributes)
    with type("Server", (server_class,), attributes)((HOST, 0), handler) as server:
        yield server


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line)
    answer = b""
    while not answer.endswith(b"\n") and (data := client.recv(1 << 16)):
        answer += data
    return answer


def test_lines_and_their_answers(server: Any, connect: Callable[[Any], ssl.SSLSocket]) -> None:
    with serving(server):
        clients = [connect(server) for _ in range(5)]
        for number, client in enumerate(clients * 3):
            line = b"%d " % number + b"x" * 100_000 + b"\n"
            assert ask(client, line) == line.upper()
        for client in clients:
            client.close()


def test_others_are_served_while_a_client_is_silent(
    server: Any, connect: Callable[[Any], ssl.SSLSocket]
) -> None:
    with serving(server), socket.create_connection(server.server_address) as silent:
        with connect(server) as client:
            assert ask(client, b"hello\n") == b"HELLO\n"
        # In the middle of a record.
        silent.sendall(b"\x16\x03\x01\x02\x00\x01")
        with connect(server) as client:
            assert ask(client, b"hello\n") == b"HELLO\n"


def test_a_client_that_does_not_read_keeps_nobody_waiting(
    server: Any, connect: Callable[[Any], ssl.SSLSocket]
) -> None:
    with serving(server):
        greedy, client = connect(server), connect(server)
        greedy.sendall(b"flood\n")
        for _ in range(20):
            assert ask(client, b"hello\n") == b"HELLO\n"
        received = 0
        while received < len(FLOOD):
            received += len(greedy.recv(1 << 16))
        greedy.close()
        client.close()


def test_timeout_of_the_handshake(
    server_context: ssl.SSLContext, connect: Callable[[Any], ssl.SSLSocket]
) -> None:
    errors: list[BaseException | None] = []

    class Server(fastsocketserver.GreenletTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            import sys

            errors.append(sys.exc_info()[1])

    attributes = {"context": server_context, "handshake_timeout": 0.05}
    with Server((HOST, 0), type("Handler", (WrappedInSetup,), attributes)) as server:
        with (
            serving(server),
            socket.create_connection(server.server_address, DEADLINE) as silent,
        ):
            assert silent.recv(1) == b""
        assert [type(error) for error in errors] == [TimeoutError]


def test_the_class_of_other_connections_is_what_it_was(
    server: Any, connect: Callable[[Any], ssl.SSLSocket]
) -> None:
    with serving(server), connect(server) as client:
        assert ask(client, b"hello\n") == b"HELLO\n"
        assert type(client) is ssl.SSLSocket
    assert ssl.SSLContext.sslsocket_class is ssl.SSLSocket


def test_what_a_handler_sees(
    server_context: ssl.SSLContext, connect: Callable[[Any], ssl.SSLSocket]
) -> None:
    seen: list[Any] = []

    class Handler(WrappedInSetup):
        context = server_context

        def handle(self) -> None:
            request = self.request
            seen.append(isinstance(request, ssl.SSLSocket))
            seen.append((request.gettimeout(), request.getblocking(), request.timeout))
            request.settimeout(0.01)
            seen.append(request.gettimeout())
            try:
                request.recv(1)
            except TimeoutError as error:
                seen.append(type(error))
            request.setblocking(False)
            seen.append((request.gettimeout(), request.getblocking()))
            try:
                request.recv(1)
            except ssl.SSLWantReadError as error:
                seen.append(type(error))
            request.settimeout(None)
            self.wfile.write(b"done\n")
            seen.append(type(request.unwrap()))

    with (
        fastsocketserver.GreenletTCPServer((HOST, 0), Handler) as server,
        serving(server),
        connect(server) as client,
    ):
        assert client.recv(100) == b"done\n"
        client.unwrap().close()
    assert seen[0] is True
    assert seen[1:4] == [(None, True, None), 0.01, TimeoutError]
    assert seen[4:6] == [(0.0, False), ssl.SSLWantReadError]
    assert issubclass(seen[6], ssl.SSLSocket)
