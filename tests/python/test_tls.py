"""TLS: the server's own context, its handshakes, and what handlers see."""

from __future__ import annotations

import contextlib
import gc
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import fastsocketserver
import pytest
import trustme
from conftest import DEADLINE, serving, wait_until
from dispatching import (
    BESIDE,
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
    wait_for,
)
from probes import LOOPBACK, client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Connect = Callable[..., contextlib.AbstractContextManager[ssl.SSLSocket]]

pytestmark = pytest.mark.filterwarnings(MAY_FORK)

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def new_context(authority: trustme.CA, host: str = HOST) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    return new_context(authority)


@pytest.fixture(scope="module")
def connect(authority: trustme.CA) -> Connect:
    """Return what makes a TLS connection to a server."""
    default = ssl.create_default_context()
    authority.configure_trust(default)

    @contextlib.contextmanager
    def connect(server: Any, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
        with (
            client_of(server) as plain,
            (context or default).wrap_socket(plain, server_hostname=HOST) as client,
        ):
            yield client

    return connect


class Errors(list[Any]):
    """What has been given to `handle_error()`."""

    def hook(self) -> Callable[..., None]:
        def handle_error(server: Any, request: Any, client_address: Any) -> None:
            self.append(sys.exc_info()[1])

        return handle_error


def listening(
    dispatch: str, context: ssl.SSLContext, handler: Any = Lines, **attributes: Any
) -> Any:
    """Return a server whose own socket is an `SSLSocket`."""
    server = server_of(dispatch, handler, **attributes)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@pytest.fixture(params=["ssl_context", "listener"])
def make(request: pytest.FixtureRequest, context: ssl.SSLContext) -> Callable[..., Any]:
    """Return what makes a server that speaks TLS in one of two ways."""

    def make(dispatch: str, handler: Any = Lines, **attributes: Any) -> Any:
        if request.param == "listener":
            return listening(dispatch, context, handler, **attributes)
        return server_of(dispatch, handler, ssl_context=context, **attributes)

    return make


@pytest.mark.parametrize("dispatch", SERVERS)
def test_lines_and_their_answers(dispatch: str, make: Callable[..., Any], connect: Connect) -> None:
    with serving(server := make(dispatch)):
        for _ in range(3):
            with connect(server) as client:
                assert say(client) == b"HELLO\n"
                line = b"x" * 100_000 + b"\n"
                client.sendall(line)
                received = b""
                while len(received) < len(line):
                    received += client.recv(65536)
                assert received == line.upper()
                client.shutdown(socket.SHUT_RDWR)
        stats = settled(server)
        assert (stats.accepted, stats.finished) == (3, 3)


@pytest.mark.parametrize("dispatch", SERVERS)
def test_without_any_hook_left(dispatch: str, context: ssl.SSLContext, connect: Connect) -> None:
    """The hooks that call `super()` do the same."""

    class Server(SERVERS[dispatch]):  # type: ignore[misc, valid-type]
        ssl_context = context

        def get_request(self) -> Any:
            return super().get_request()

        def process_request(self, *args: Any) -> None:
            super().process_request(*args)

        def finish_request(self, *args: Any) -> None:
            super().finish_request(*args)

    with serving(server := Server(LOOPBACK, Lines)), connect(server) as client:
        assert say(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("dispatch", BESIDE)
def test_a_silent_client_keeps_nobody_waiting(
    dispatch: str, make: Callable[..., Any], connect: Connect
) -> None:
    server = make(dispatch, handle_error=lambda *_: None)
    with serving(server), client_of(server) as silent:
        with connect(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
        if dispatch != "forks":
            wait_until(
                lambda: [c.state for c in server.connections()] == ["handshake"], "the handshake"
            )
        # In the middle of a record.
        silent.sendall(b"\x16\x03\x01\x02\x00\x01")
        with connect(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
        silent.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("dispatch", HERE)
def test_handshake_timeout(dispatch: str, make: Callable[..., Any]) -> None:
    errors = Errors()
    server = make(dispatch, handshake_timeout=0.05, handle_error=errors.hook())
    with serving(server), client_of(server) as silent:
        assert hear_end(silent) == b""
        assert settled(server).failed == 1
    assert [type(error) for error in errors] == [TimeoutError]


@pytest.mark.parametrize("value", [None, 0, -1, float("inf"), "x"])
def test_no_handshake_timeout(value: Any, make: Callable[..., Any], connect: Connect) -> None:
    with serving(server := make("threads", handshake_timeout=value)), client_of(server) as silent:
        assert is_silent(silent)
        with connect(server) as client:
            assert say(client) == b"HELLO\n"


@pytest.mark.parametrize("dispatch", HERE)
def test_the_handshakes_timeout_is_not_the_handlers(
    dispatch: str, context: ssl.SSLContext, connect: Connect
) -> None:
    timeouts: list[Any] = []

    class Handler(Lines):
        def handle(self) -> None:
            timeouts.append(self.request.gettimeout())
            super().handle()

    server = server_of(dispatch, Handler, ssl_context=context, handshake_timeout=5.0)
    with serving(server), connect(server) as client:
        assert say(client) == b"HELLO\n"
    assert timeouts == [None]


@pytest.mark.parametrize("asked", [False, True], ids=["native", "hook"])
@pytest.mark.parametrize("dispatch", HERE)
def test_the_default_timeout_is_that_of_connections(
    dispatch: str, asked: bool, make: Callable[..., Any], connect: Connect
) -> None:
    timeouts: list[Any] = []

    class Handler(Lines):
        def handle(self) -> None:
            timeouts.append(self.request.gettimeout())
            super().handle()

    attributes: Any = {}
    if asked:
        attributes["get_request"] = lambda self: SERVERS[dispatch].get_request(self)
    server = make(dispatch, Handler, **attributes)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DEADLINE)
    try:
        with serving(server), connect(server) as client:
            assert say(client) == b"HELLO\n"
    finally:
        socket.setdefaulttimeout(before)
    assert timeouts == [DEADLINE]


@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
@pytest.mark.parametrize("dispatch", HERE)
def test_a_handshake_keeps_to_the_requests_deadlines(
    dispatch: str, name: str, context: ssl.SSLContext
) -> None:
    errors = Errors()
    attributes = {name: 0.05, "handshake_timeout": None, "handle_error": errors.hook()}
    server = server_of(dispatch, ssl_context=context, **attributes)
    with serving(server), client_of(server) as silent:
        assert hear_end(silent) == b""
        settled(server)
    assert [type(error) for error in errors] == [TimeoutError]


@pytest.mark.parametrize("dispatch", HERE)
def test_errors_of_a_handshake_go_to_handle_error(
    dispatch: str, make: Callable[..., Any], connect: Connect
) -> None:
    errors = Errors()
    with serving(server := make(dispatch, handle_error=errors.hook())):
        with client_of(server) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            hear_end(client)
        with client_of(server):
            pass  # gone before it has said anything
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            connect(server, ssl.create_default_context()),
        ):
            pass
        assert settled(server).failed == 3
        with connect(server) as client:
            assert say(client) == b"HELLO\n"
    assert len(errors) == 3
    assert isinstance(errors[0], ssl.SSLError)
    assert all(isinstance(error, OSError) for error in errors)


@pytest.mark.parametrize("dispatch", SERVERS)
def test_another_context_may_be_assigned_while_serving(
    dispatch: str, authority: trustme.CA, context: ssl.SSLContext, connect: Connect
) -> None:
    with serving(server := server_of(dispatch, ssl_context=context)):

        def certificate() -> Any:
            with connect(server) as client:
                assert say(client) == b"HELLO\n"
                found = client.getpeercert(binary_form=True)
                client.shutdown(socket.SHUT_RDWR)
                return found

        first = certificate()
        assert certificate() == first
        server.ssl_context = new_context(authority)
        second = certificate()
        assert second != first
        server.ssl_context = context
        assert certificate() == first


def test_connections_that_there_are_go_on_with_another_context(
    authority: trustme.CA, context: ssl.SSLContext, connect: Connect
) -> None:
    with serving(server := server_of("threads", ssl_context=context)), connect(server) as client:
        assert say(client) == b"HELLO\n"
        server.ssl_context = None
        assert say(client) == b"HELLO\n"
        with client_of(server) as plain:
            assert say(plain) == b"HELLO\n"


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("dispatch", SERVERS)
def test_clients_that_go_away(
    dispatch: str, quiet: bool, context: ssl.SSLContext, capfd: pytest.CaptureFixture[str]
) -> None:
    attributes = {"quiet_disconnects": quiet, "handshake_timeout": 0.05, "ssl_context": context}
    with serving(server := server_of(dispatch, **attributes)):
        with client_of(server):
            pass
        with client_of(server) as silent:
            hear_end(silent)
        assert settled(server).failed == 2
    errors = capfd.readouterr().err
    if quiet:
        assert errors.count(" went away: ") == len(errors.splitlines()) == 2
    else:
        assert errors.count("Traceback") >= 2


def test_other_errors_are_told_in_full(
    context: ssl.SSLContext, capfd: pytest.CaptureFixture[str]
) -> None:
    server = server_of("threads", ssl_context=context, quiet_disconnects=True)
    with serving(server), client_of(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        hear_end(client)
        settled(server)
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.skipif(
    not hasattr(http.server, "HTTPSServer"), reason="http.server has no HTTPSServer before 3.14"
)
def test_https_server_of_the_standard_library(
    authority: trustme.CA, tmp_path: Any, connect: Connect
) -> None:
    """Its way to make TLS, in a subclass on this package."""
    certificate = authority.issue_cert(HOST)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    original: Any = http.server.HTTPSServer  # type: ignore[attr-defined]

    class Server(fastsocketserver.ThreadingTCPServer):
        __init__ = original.__init__
        server_activate = original.server_activate
        _create_context = original._create_context

    # What `super()` in these methods says is the class that they were made in.
    namespace = {"__init__", "server_activate"}
    for name in namespace:
        function = getattr(original, name)
        copy = type(function)(
            function.__code__,
            function.__globals__,
            name,
            function.__defaults__,
            tuple(
                type(cell)(Server) if cell.cell_contents is original else cell
                for cell in function.__closure__ or ()
            ),
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        setattr(Server, name, copy)
    server = Server(LOOPBACK, Lines, certfile=str(chain), keyfile=str(key))  # type: ignore[call-arg]
    with serving(server), client_of(server), connect(server) as client:
        assert say(client) == b"HELLO\n"


@pytest.mark.parametrize("dispatch", SERVERS)
def test_verify_request_sees_the_request_before_the_handshake(
    dispatch: str, context: ssl.SSLContext, connect: Connect
) -> None:
    seen: list[Any] = []

    def verify_request(self: Any, request: Any, client_address: Any) -> bool:
        seen.append((isinstance(request, ssl.SSLSocket), request.version()))
        return len(seen) > 1

    server = server_of(dispatch, ssl_context=context, verify_request=verify_request)
    with serving(server):
        with client_of(server) as refused:
            assert hear_end(refused) == b""
        with connect(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
        assert settled(server).refused == 1
    assert seen == [(True, None)] * 2


def finish_request(self: Any, request: Any, client_address: Any) -> None:
    """Do without `super()`, as the server of `python -m http.server` does."""
    self.RequestHandlerClass(request, client_address, self)


def process_request(self: Any, request: Any, client_address: Any) -> None:
    finish_request(self, request, client_address)
    self.shutdown_request(request)


def process_in_thread(self: Any, request: Any, client_address: Any) -> None:
    def process() -> None:
        try:
            finish_request(self, request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)

    threading.Thread(target=process).start()


WITHOUT_SUPER: dict[str, tuple[str, Callable[..., None]]] = {
    **dict.fromkeys(SERVERS, ("finish_request", finish_request)),
    "process_request": ("process_request", process_request),
    "process_request_thread": ("process_request_thread", process_request),
    "a thread": ("process_request", process_in_thread),
}
"""Hooks that make the handler themselves."""


def without_super(case: str, make: Callable[..., Any], handler: Any, **attributes: Any) -> Any:
    dispatch = "threads" if case == "process_request_thread" else "inline"
    name, hook = WITHOUT_SUPER[case]
    return make(case if case in SERVERS else dispatch, handler, **{name: hook}, **attributes)


@pytest.mark.parametrize("case", WITHOUT_SUPER)
def test_hooks_that_make_the_handler_find_a_connection(
    case: str, make: Callable[..., Any], connect: Connect
) -> None:
    class Handler(fastsocketserver.StreamRequestHandler):
        def handle(self) -> None:
            peer = self.request.getpeercert()
            found = (self.request.version(), self.request.cipher(), self.request.session_reused)
            self.wfile.write(f"{peer} {None in found}\n".encode())

    server = without_super(case, make, Handler)
    with serving(server), connect(server) as client:
        assert hear(client) == b"None False\n"
        client.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("case", [case for case in WITHOUT_SUPER if case != "forks"])
def test_handshake_timeout_where_a_hook_makes_the_handler(
    case: str, make: Callable[..., Any]
) -> None:
    errors: list[Any] = []

    class Handler(Lines):
        def handle(self) -> None:
            try:
                super().handle()
            except Exception as error:
                errors.append(error)

    server = without_super(case, make, Handler, handshake_timeout=0.05)
    with serving(server), client_of(server) as silent:
        assert hear_end(silent) == b""
    assert [type(error) for error in errors] == [TimeoutError]


@pytest.mark.parametrize("dispatch", SERVERS)
def test_finish_request_may_wrap_the_connection_by_itself(
    dispatch: str, context: ssl.SSLContext, connect: Connect
) -> None:
    """It may have called its context so before there was such an attribute."""

    def finish_request(self: Any, request: Any, client_address: Any) -> None:
        with self.ssl_context.wrap_socket(request, server_side=True) as secured:
            SERVERS[dispatch].finish_request(self, secured, client_address)

    server = server_of(dispatch, ssl_context=context, finish_request=finish_request)
    with serving(server), connect(server) as client:
        assert say(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)


class Unwrapped(fastsocketserver.StreamRequestHandler):
    """Goes on without TLS, after one line."""

    def handle(self) -> None:
        self.rfile.readline()
        plain = self.request.unwrap()
        plain.sendall(f"{os.get_blocking(plain.fileno())}\n".encode())
        received = plain.recv(100)
        while not received.endswith(b"more\n"):
            received += self.rfile.readline()
        plain.send(received.upper())


@pytest.mark.parametrize("dispatch", SERVERS)
def test_a_connection_is_waited_for_when_tls_has_ended(
    dispatch: str, make: Callable[..., Any], connect: Connect
) -> None:
    server = make(dispatch, Unwrapped)

    @contextlib.contextmanager
    def unwrapped() -> Iterator[socket.socket]:
        with connect(server) as client:
            client.sendall(b"line\n")
            plain = client.unwrap()
            assert hear(plain) == b"True\n"
            yield plain

    with serving(server), contextlib.ExitStack() as stack:
        count = 1 if dispatch == "inline" else 2
        clients = [stack.enter_context(unwrapped()) for _ in range(count)]
        for plain in reversed(clients):
            assert say(plain, b"clear text\nand more\n") == b"CLEAR TEXT\n"
            assert hear(plain) == b"AND MORE\n"
        assert settled(server).failed == 0


@pytest.mark.parametrize("dispatch", HERE)
def test_deadlines_hold_when_tls_has_ended(
    dispatch: str, context: ssl.SSLContext, connect: Connect
) -> None:
    errors = Errors()
    server = server_of(dispatch, Unwrapped, ssl_context=context, handle_error=errors.hook())
    with serving(server):
        server.idle_timeout = 0.2
        with connect(server) as client:
            client.sendall(b"line\n")
            assert hear_end(client.unwrap()) == b"True\n"
        settled(server)
    assert [type(error) for error in errors] == [TimeoutError]


@pytest.mark.parametrize("dispatch", SERVERS)
def test_what_comes_after_the_last_word_is_waited_for(
    dispatch: str, make: Callable[..., Any], connect: Connect
) -> None:
    """Closing at once could reset the connection before the client has read all."""

    class Handler(fastsocketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"bye\n")
            self.request.shutdown(socket.SHUT_WR)
            assert os.get_blocking(self.request.fileno())
            while self.request.recv(100):
                pass

    server = make(dispatch, Handler)
    with serving(server):
        with connect(server) as client:
            assert hear_end(client) == b"bye\n"
            client.shutdown(socket.SHUT_RDWR)
        assert settled(server).failed == 0


@pytest.mark.parametrize("dispatch", HERE)
def test_a_detached_descriptor_blocks(
    dispatch: str, make: Callable[..., Any], connect: Connect
) -> None:
    block: list[bool] = []

    class Handler(fastsocketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(fileno=self.request.detach()) as own:
                block.append(os.get_blocking(own.fileno()))

    server = make(dispatch, Handler)
    with serving(server), connect(server) as client:
        hear_end(client)
    assert block == [True]


@pytest.mark.parametrize("dispatch", SERVERS)
def test_client_certificates(dispatch: str, authority: trustme.CA, connect: Connect) -> None:
    class Handler(fastsocketserver.StreamRequestHandler):
        def handle(self) -> None:
            names = self.request.getpeercert()["subjectAltName"]
            self.wfile.write(f"{names} {self.request.version()}\n".encode())

    context = new_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    clients = ssl.create_default_context()
    authority.configure_trust(clients)
    authority.issue_cert("someone@example.org").configure_cert(clients)
    server = server_of(dispatch, Handler, ssl_context=context, handle_error=lambda *_: None)
    with serving(server):
        with connect(server, clients) as client:
            assert hear(client).startswith(b"(('email', 'someone@example.org'),) TLSv1.")
        # In TLS 1.3 the client learns of it when it reads.
        with contextlib.suppress(ssl.SSLError, OSError), connect(server) as client:
            assert hear(client) == b""
        stats = settled(server)
        assert (stats.finished, stats.failed) == (1, 1)


class Chosen(ssl.SSLSocket):
    """A program's own class."""


@pytest.mark.parametrize("dispatch", SERVERS)
def test_a_context_with_a_class_of_its_own(
    dispatch: str, authority: trustme.CA, connect: Connect
) -> None:
    class Handler(Lines):
        def handle(self) -> None:
            self.wfile.write(f"{type(self.request).__name__}\n".encode())
            self.wfile.write(f"{self.request.gettimeout()}\n".encode())

    context = new_context(authority)
    context.sslsocket_class = Chosen
    with serving(server := server_of(dispatch, Handler, ssl_context=context)):
        with connect(server) as client:
            assert hear(client) == b"Chosen\n"
            assert hear(client) == b"None\n"
        assert settled(server).finished == 1


def test_handshake_timeout_of_a_class_of_its_own(authority: trustme.CA) -> None:
    errors = Errors()
    context = new_context(authority)
    context.sslsocket_class = Chosen
    attributes = {"handshake_timeout": 0.05, "handle_error": errors.hook()}
    with serving(server := server_of("threads", ssl_context=context, **attributes)):
        with client_of(server) as silent:
            assert hear_end(silent) == b""
        assert settled(server).failed == 1
    assert [type(error) for error in errors] == [TimeoutError]


@pytest.mark.parametrize("own_class", [False, True])
def test_nothing_is_kept_alive(own_class: bool, authority: trustme.CA, connect: Connect) -> None:
    alive: list[Any] = []

    class Handler(Lines):
        def handle(self) -> None:
            alive.append(weakref.ref(self.request))
            super().handle()

    context = new_context(authority)
    if own_class:
        context.sslsocket_class = Chosen
    with serving(server := server_of("threads", Handler, ssl_context=context)):
        gc.disable()
        try:
            with connect(server) as client:
                assert say(client) == b"HELLO\n"
            settled(server)
            wait_until(lambda: alive[0]() is None, "the request to go")
        finally:
            gc.enable()


@pytest.mark.parametrize("dispatch", SERVERS)
def test_handlers_find_an_ssl_socket(
    dispatch: str, make: Callable[..., Any], connect: Connect
) -> None:
    class Handler(fastsocketserver.StreamRequestHandler):
        def handle(self) -> None:
            is_tls = isinstance(self.request, ssl.SSLSocket)
            self.wfile.write(f"{is_tls} {self.request.cipher() is not None}\n".encode())

    server = make(dispatch, Handler)
    with serving(server), connect(server) as client:
        assert hear(client) == b"True True\n"


OWN_CONTEXTS: dict[str, Any] = {
    "for clients": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    "an object": object(),
    "files": ("cert.pem", "key.pem"),
    "a method": lambda self: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
}
"""What programs may have called `ssl_context`, and mean something else by."""


@pytest.mark.parametrize("name", OWN_CONTEXTS)
@pytest.mark.parametrize("asked", [False, True], ids=["native", "hook"])
@pytest.mark.parametrize("dispatch", SERVERS)
def test_what_is_no_context_of_a_server_is_left_alone(
    dispatch: str,
    asked: bool,
    name: str,
    context: ssl.SSLContext,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attributes: Any = {"ssl_context": OWN_CONTEXTS[name]}
    if asked:
        attributes["get_request"] = lambda self: SERVERS[dispatch].get_request(self)
    with serving(server := server_of(dispatch, **attributes)), client_of(server) as client:
        assert say(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)
    assert [record.getMessage() for record in caplog.records] == [
        "ssl_context is no ssl.SSLContext for servers, and is ignored: "
        "connections are not encrypted"
    ]
    with (
        serving(server := listening(dispatch, context, **attributes)),
        connect(server) as secured,
    ):
        assert say(secured) == b"HELLO\n"
        secured.shutdown(socket.SHUT_RDWR)


def test_an_attribute_of_that_name_does_not_import_ssl() -> None:
    program = """
import socket, sys, threading
import fastsocketserver

class Server(fastsocketserver.TCPServer):
    ssl_context = ("cert.pem", "key.pem")

class Handler(fastsocketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")

with Server(("127.0.0.1", 0), Handler) as server:
    for take in (server.handle_request, lambda: server.finish_request(*server.get_request())):
        with socket.create_connection(server.server_address) as client:
            take()
            assert client.recv(10) == b"hello"
assert "ssl" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)


class Broken(ssl.SSLSocket):
    """Cannot be made."""

    @classmethod
    def _create(cls, *args: Any, **options: Any) -> Any:
        raise ssl.SSLError("broken")


@pytest.mark.parametrize("asked", [False, True], ids=["native", "hook"])
@pytest.mark.parametrize("dispatch", HERE)
def test_a_context_that_fails_goes_to_handle_error(
    dispatch: str, asked: bool, authority: trustme.CA, context: ssl.SSLContext, connect: Connect
) -> None:
    errors = Errors()
    broken = new_context(authority)
    broken.sslsocket_class = Broken
    attributes: Any = {"handle_error": errors.hook(), "ssl_context": broken}
    if asked:
        attributes["get_request"] = lambda self: SERVERS[dispatch].get_request(self)
    with serving(server := server_of(dispatch, **attributes)) as thread:
        with client_of(server) as client:
            assert hear_end(client) == b""
        assert thread.is_alive()
        if not asked:
            wait_for(server, failed=1, active=0)
        server.ssl_context = context
        with connect(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
    assert len(errors) == 1


def test_silent_clients_are_parked_before_the_handshake(
    context: ssl.SSLContext, connect: Connect
) -> None:
    """They hold no thread, and whoever sees the handshake through is served."""
    attributes: dict[str, Any] = {"parking": True, "max_threads": 1}
    handler = type("Handler", (Lines,), {"reads_first": False})
    server = server_of("threads", handler, ssl_context=context, **attributes)
    with serving(server), client_of(server) as silent:
        wait_for(server, parked=1)
        for _ in range(2):
            with connect(server) as client:
                assert say(client) == b"HELLO\n"
        assert server.stats().parked == 1
        silent.close()


@pytest.mark.parametrize("name", ["handshake_timeout", "request_deadline", "idle_timeout"])
def test_deadlines_of_parked_clients(name: str, context: ssl.SSLContext) -> None:
    server = server_of("threads", ssl_context=context, parking=True, **{name: 0.05})
    with serving(server, None), client_of(server) as silent:  # type: ignore[arg-type]
        assert hear_end(silent) == b""
        assert settled(server).failed == 1


@pytest.mark.parametrize("dispatch", HERE)
def test_a_server_that_stops_during_a_handshake(dispatch: str, context: ssl.SSLContext) -> None:
    errors = Errors()
    server = server_of(dispatch, ssl_context=context, handle_error=errors.hook())
    with server, client_of(server) as silent:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        wait_until(lambda: [c.state for c in server.connections()] == ["handshake"], "a handshake")
        assert server.shutdown(drain=0.05) == 1
        assert hear_end(silent) == b""
        settled(server)
        thread.join(DEADLINE)
        assert not thread.is_alive()
