"""The other end of a connection: clients for the servers under test, each with a timeout."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import struct
import sys
import tempfile
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from conftest import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

TIMEOUT = 10.0
"""Seconds for which a client waits; only ever reached by a broken build."""


@contextlib.contextmanager
def client(server: Any) -> Iterator[socket.socket]:
    """Give a socket of the server's family and type, connected to it.

    A datagram client of the Unix family is bound to a name first, so that it can be answered.
    """
    with socket.socket(server.socket.family, server.socket.type) as sock:
        sock.settimeout(TIMEOUT)
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_DGRAM):
            sock.bind("")
        sock.connect(server.socket.getsockname())
        yield sock


def read_to_end(sock: socket.socket) -> bytes:
    """Return all that arrives before the end of the stream."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def _put(sock: socket.socket, question: bytes) -> None:
    if sock.type == socket.SOCK_DGRAM:
        sock.send(question)
    elif question:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
    else:
        with contextlib.suppress(OSError):  # the server may have ended the connection by now
            sock.shutdown(socket.SHUT_WR)


def _get(sock: socket.socket) -> bytes:
    return read_to_end(sock) if sock.type == socket.SOCK_STREAM else sock.recv(65536)


def ask(server: Any, question: bytes = b"") -> bytes:
    """Send `question` to a running server and return its answer: all of a stream, one datagram.

    A handler that reads nothing must be asked nothing over a stream: bytes that are unread when
    a connection is closed make a reset of it, which may overtake the answer.
    """
    with client(server) as sock:
        _put(sock, question)
        return _get(sock)


def ask_once(server: Any, question: bytes = b"") -> bytes:
    """Send `question`, answer it by `server.handle_request()` on this thread, return the answer."""
    with client(server) as sock:
        _put(sock, question)
        server.handle_request()
        return _get(sock)


def reset(sock: socket.socket) -> None:
    """Close a TCP connection in the way that gives the other side ECONNRESET."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def answer(request: Any, client_address: Any, data: bytes) -> None:
    """Send `data` back from a handler, over a stream or as a datagram."""
    if isinstance(request, tuple):
        request[1].sendto(data, client_address)
    else:
        request.sendall(data)


def question(request: Any) -> bytes:
    """Return what the client of a handler sent, by a stream or as a datagram."""
    return request[0] if isinstance(request, tuple) else request.recv(65536)


def wait_for_single_thread() -> None:
    """Wait until this process has one thread, as `os.fork()` wants it from Python 3.12 on."""
    if os.path.isdir("/proc/self/task"):
        wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, "earlier threads to end")


# --- the files of a stream handler -----------------------------------------------------------


def handled(
    ss: Variant,
    act: Callable[[Any], Any],
    family: int = socket.AF_UNIX,
    errors: list[BaseException] | None = None,
    **attributes: Any,
) -> Any:
    """Serve one connection whose handler runs `act`; return what that returns.

    `act` gets the handler, with the client's socket as its attribute `peer`. What goes to
    `handle_error()` is kept in `errors`, or raised. Over the Unix family, sent is arrived.
    """
    found: list[BaseException] = []
    results = []

    class Server(ss.TCPServer if family == socket.AF_INET else ss.UnixStreamServer):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            found.append(sys_exception())

    def handle(handler: Any) -> None:
        handler.peer = sock
        results.append(act(handler))

    handler = type("Handler", (ss.StreamRequestHandler,), {**attributes, "handle": handle})
    with tempfile.TemporaryDirectory() as folder:
        address = ("127.0.0.1", 0) if family == socket.AF_INET else os.path.join(folder, "s")
        with Server(address, handler) as server, client(server) as sock:
            server.handle_request()
    if errors is not None:
        errors += found
    elif found:
        raise found[0]
    return results[0] if results else None


def sys_exception() -> BaseException:
    """Return the exception that is being handled, as `sys.exception()` does from 3.11 on."""
    error = sys.exc_info()[1]
    assert error is not None
    return error


def _pair(family: int) -> tuple[socket.socket, socket.socket]:
    if family != socket.AF_INET:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), TIMEOUT)
        return listener.accept()[0], peer


def with_plain_files(
    act: Callable[[Any], Any],
    family: int = socket.AF_UNIX,
    rbufsize: int | None = -1,
    wbufsize: int = 0,
    timeout: float | None = None,
) -> Any:
    """Return what `act` returns on the standard library's own files over a pair of sockets."""
    here, peer = _pair(family)
    with here, peer:
        here.settimeout(timeout)
        peer.settimeout(TIMEOUT)
        plain = SimpleNamespace(request=here, connection=here, peer=peer)
        plain.rfile = here.makefile("rb", rbufsize)
        if wbufsize == 0:
            plain.wfile = socketserver._SocketWriter(here)  # type: ignore[attr-defined]
        else:
            plain.wfile = here.makefile("wb", wbufsize)
        try:
            return act(plain)
        finally:
            for file in (plain.wfile, plain.rfile):
                with contextlib.suppress(OSError, ValueError):
                    file.close()


END = object()
"""A step of `play()`: the client ends its direction of the stream."""


class Raised(NamedTuple):
    """The exception that a call ended with, in a form that compares."""

    kind: type[BaseException]
    args: Any = ()
    characters_written: int | None = None


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """Return what the call returns, or how it failed.

    The texts of a TypeError and an AttributeError name types, and do not take part.
    """
    try:
        return call(*args)
    except (TypeError, AttributeError) as error:
        return Raised(type(error))
    except Exception as error:
        return Raised(type(error), error.args, getattr(error, "characters_written", None))


class Feeder(threading.Thread):
    """A client that sends each segment when the server has taken all of the one before."""

    def __init__(self, request: socket.socket, peer: socket.socket, segments: list[Any]) -> None:
        super().__init__(daemon=True)
        self._probe = socket.socket(fileno=os.dup(request.fileno()))
        self._peer = peer
        self._segments = segments
        self._stopped = threading.Event()
        self.start()

    def _drained(self) -> bool:
        try:
            return not self._probe.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True

    def run(self) -> None:
        for segment in self._segments:
            while not self._drained():
                if self._stopped.wait(0.001):
                    return
            with contextlib.suppress(OSError):  # the act may end before it has read all
                if segment is END:
                    self._peer.shutdown(socket.SHUT_WR)
                elif callable(segment):
                    segment()
                else:
                    self._peer.sendall(segment)

    def stop(self) -> None:
        """End the thread, even where it waits for room."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._probe.shutdown(socket.SHUT_RD)
        self.join(DEADLINE)
        assert not self.is_alive(), "the client is still sending"
        self._probe.close()


@contextlib.contextmanager
def fed(handler: Any, segments: list[Any]) -> Iterator[None]:
    """Feed `segments` to the handler in the background, one by one; then the stream is over."""
    feeder = Feeder(handler.request, handler.peer, segments)
    try:
        yield
    finally:
        feeder.stop()


def play(name: str, *steps: Any) -> Callable[[Any], list[Any]]:
    """Return an act that takes the steps with the handler's file `name`, and lists the outcomes.

    A step is a method's name with its arguments in a tuple, a function of the handler, bytes
    that the client sends, `END`, or a list of segments that are fed while the next steps run.
    Functions and methods have an outcome.
    """

    def act(handler: Any) -> list[Any]:
        outcomes = []
        with contextlib.ExitStack() as stack:
            for step in steps:
                if isinstance(step, bytes):
                    handler.peer.sendall(step)
                elif isinstance(step, list):
                    stack.enter_context(fed(handler, step))
                elif step is END:
                    handler.peer.shutdown(socket.SHUT_WR)
                elif isinstance(step, tuple):
                    method, *args = step
                    file = getattr(handler, name)
                    outcomes.append(outcome(lambda f, m, a: getattr(f, m)(*a), file, method, args))
                else:
                    outcomes.append(outcome(step, handler))
        return outcomes

    return act


def _typed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value), [_typed(item) for item in value]
    return type(value), value


def assert_like_plain_files(ss: Variant, act: Callable[[Any], Any], **options: Any) -> None:
    """Assert that `act` returns the same, in value and type, as on the library's own files."""
    assert _typed(handled(ss, act, **options)) == _typed(with_plain_files(act, **options))
