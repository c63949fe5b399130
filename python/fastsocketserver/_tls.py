"""TLS connections of requests.

Imported only when a program has imported `ssl`.
"""

from __future__ import annotations

import functools
import io
import socket
import ssl
import weakref
from _ssl import _SSLContext
from time import monotonic

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ._servers import TCPServer

    Result = TypeVar("Result")

_programs_class = ssl.SSLContext.sslsocket_class
"""What `SSLContext.wrap_socket()` makes everywhere else."""


class _LineFile(io.BufferedReader):
    """A file to read from whose lines each have the request's time but once."""

    def readline(self, size: int | None = -1, /) -> bytes:
        fd = self.fileno()
        _core.begin_line(fd)
        try:
            return super().readline(size)
        finally:
            _core.end_line(fd)

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line


def _after_handshake(inherited: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that does what `inherited` does, after a handshake that is expected."""

    @functools.wraps(inherited)
    def method(self: RequestSSLSocket, *args: Any, **kwargs: Any) -> Any:
        self._complete_expected()
        return inherited(self, *args, **kwargs)

    return method


class RequestSSLSocket(ssl.SSLSocket):
    """An `ssl.SSLSocket` that keeps to its request's deadlines, and to the way in which it waits.

    In a greenlet, other requests run while it waits. The descriptor does not block, and the timeout
    is kept here: a TLS record may come in pieces, so being readable is not enough for the
    interpreter's own methods to return. When TLS has ended, it is as any other connection's.
    """

    handshake_due: bool = False
    """Whether the handshake is to be done when the request is handled."""
    _expected: tuple[float | None] | None = None
    _timeout: float | None = None
    _has_ended: bool = False

    def complete_handshake(self, timeout: float | None) -> None:
        """Do the handshake that is due, within so many seconds."""
        self.handshake_due = False
        self._expected = None
        self._finish("handshake", timeout, lambda: self._sslobj.do_handshake())  # type: ignore[attr-defined]

    def expect_handshake(self, timeout: float | None) -> None:
        """Have whatever needs the handshake that is due do it first, within so many seconds."""
        self._expected = (timeout,)

    def _complete_expected(self) -> None:
        if self._expected is not None:
            self.complete_handshake(*self._expected)

    def makefile(self, mode: str = "r", buffering: int | None = None, **options: Any) -> Any:
        """Return a file over the connection, as `socket.socket.makefile()` does."""
        if mode != "rb" or buffering == 0:
            return super().makefile(mode, buffering, **options)  # type: ignore[call-overload]
        raw: Any = super().makefile("rb", 0)
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        return _LineFile(raw, size)

    def settimeout(self, value: float | None, /) -> None:
        """Have operations raise `TimeoutError` after so many seconds; `None` for never."""
        super().settimeout(value)
        self._timeout = value
        if not self._has_ended:
            super().settimeout(0)

    def setblocking(self, flag: bool, /) -> None:
        """Wait in each operation, or in none."""
        self.settimeout(None if flag else 0.0)

    def gettimeout(self) -> float | None:
        """Return the seconds after which operations raise `TimeoutError`."""
        return self._timeout

    def getblocking(self) -> bool:
        """Whether operations wait."""
        return self._timeout != 0

    @property
    def timeout(self) -> float | None:
        """The seconds after which operations raise `TimeoutError`."""
        return self._timeout

    def do_handshake(self, block: bool = False) -> None:
        """Do the TLS handshake; with `block`, also where operations do not wait."""
        self._check_connected()  # type: ignore[attr-defined]
        self.complete_handshake(None if block and self._timeout == 0 else self._timeout)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Receive up to `len` bytes."""
        return self._finish(
            "read", self._timeout, lambda: super(RequestSSLSocket, self).read(len, buffer)
        )

    def write(self, data: Any) -> int:
        """Send from `data`; returns how many bytes were sent."""
        return self._finish(
            "write", self._timeout, lambda: super(RequestSSLSocket, self).write(data)
        )

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive up to `buflen` bytes."""
        if self._has_ended:
            return _core.recv(self, buflen, flags)
        return super().recv(buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive into `buffer`, up to `nbytes` bytes; returns how many were received."""
        if self._has_ended:
            return _core.recv_into(self, buffer, nbytes or 0, flags)
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send from `data`; returns how many bytes were sent."""
        if self._has_ended:
            return _core.send(self, data, flags)
        return self._finish(
            "write", self._timeout, lambda: super(RequestSSLSocket, self).send(data, flags)
        )

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of `data`."""
        if self._has_ended:
            return _core.sendall(self, data, flags)
        return super().sendall(data, flags)

    def unwrap(self) -> Any:
        """End TLS, and return the socket for what comes after it."""
        unwrapped = self._finish("shutdown", self._timeout, super().unwrap)
        self._end()
        return unwrapped

    def shutdown(self, how: int) -> None:
        """Shut the connection down in one direction or both. TLS has ended then."""
        try:
            super().shutdown(how)
        finally:
            self._end()

    def detach(self) -> int:
        """Close the object, but not its descriptor, which is returned."""
        self._end()
        fd = super().detach()
        _core.forget_descriptor(fd)
        return fd

    def _end(self) -> None:
        """Have the descriptor block again as the timeout says, for what comes after TLS."""
        self._has_ended = True
        if self.fileno() != -1:
            super().settimeout(self._timeout)

    def _finish(self, what: str, timeout: float | None, operate: Callable[[], Result]) -> Result:
        """Call `operate()` as often as the connection must be waited for."""
        self._complete_expected()
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            try:
                return operate()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if timeout == 0:
                    raise
                writable = isinstance(error, ssl.SSLWantWriteError)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            # This knows the request's own deadlines.
            if not _core.wait_ready(self.fileno(), writable, left):
                message = f"The {what} operation timed out"
                # In a greenlet, a handler's connections to others are of this class too.
                raise _core.client_timeout(message) if self.server_side else TimeoutError(message)

    def _real_close(self) -> None:
        _core.forget_closed(self.fileno())
        super()._real_close()  # type: ignore[misc]


for _name in (
    *("cipher", "compression", "get_channel_binding", "get_unverified_chain"),
    *("get_verified_chain", "getpeercert", "selected_alpn_protocol", "selected_npn_protocol"),
    *("shared_ciphers", "verify_client_post_handshake", "version"),
):
    if hasattr(ssl.SSLSocket, _name):  # Not every Python has all of them.
        setattr(RequestSSLSocket, _name, _after_handshake(getattr(ssl.SSLSocket, _name)))
_reused: Any = ssl.SSLSocket.session_reused
RequestSSLSocket.session_reused = property(_after_handshake(_reused.fget))  # type: ignore[assignment]


def accept(listener: Any) -> tuple[Any, Any]:
    """Accept a connection, without TLS yet."""
    is_tls = isinstance(listener, ssl.SSLSocket)
    return socket.socket.accept(listener) if is_tls else listener.accept()


def context_of(server: TCPServer) -> ssl.SSLContext | None:
    """`server.ssl_context`; `None` where that is none for a server, but the program's affair."""
    context: Any = server.ssl_context
    # `ssl.SSLContext` may be another class by now: gevent has one.
    is_context = isinstance(context, _SSLContext)
    return context if is_context and context.protocol != ssl.PROTOCOL_TLS_CLIENT else None


def secure(server: TCPServer, listener: Any, request: socket.socket) -> ssl.SSLSocket:
    """Wrap an accepted connection; the handshake is done where the request is handled.

    By `server.ssl_context`, or as a listener does that is an `ssl.SSLSocket` itself.
    """
    context: Any = context_of(server)
    is_own = context is not None
    if not is_own:
        context = listener.context
    options: Any = {
        "server_side": True,
        "do_handshake_on_connect": False,
        "suppress_ragged_eofs": is_own or listener.suppress_ragged_eofs,
    }
    wrapped: Any
    if context.sslsocket_class in (ssl.SSLSocket, _Chosen):
        wrapped = RequestSSLSocket._create(request, context=context, **options)  # type: ignore[attr-defined]
    else:
        wrapped = context.wrap_socket(request, **options)
        wrapped.complete_handshake = functools.partial(_complete_handshake, weakref.ref(wrapped))
    wrapped.handshake_due = is_own or listener.do_handshake_on_connect
    return wrapped  # type: ignore[no-any-return]


def _complete_handshake(found: Callable[[], Any], timeout: float | None) -> None:
    """Do what `RequestSSLSocket` does, for a class that a program has chosen."""
    request = found()
    request.handshake_due = False
    own = request.gettimeout()
    request.settimeout(timeout)
    try:
        request.do_handshake()
    except TimeoutError as error:
        raise _core.client_timeout(str(error)) from error
    request.settimeout(own)


class _Chosen(ssl.SSLSocket):
    """In place of `ssl.SSLSocket` while requests run in greenlets: theirs are of our class."""

    @classmethod
    def _create(cls, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        chosen: Any = RequestSSLSocket if _core.is_in_table() else _programs_class
        made: ssl.SSLSocket = chosen._create(sock, *args, **kwargs)
        return made


def begin() -> None:
    """Have `wrap_socket()`, called in a request's greenlet, make a `RequestSSLSocket`.

    `SSLContext.sslsocket_class` is what `ssl` has for that; a context that a program has given
    another one keeps it.
    """
    global _programs_class
    if ssl.SSLContext.sslsocket_class is not _Chosen:
        _programs_class = ssl.SSLContext.sslsocket_class
        ssl.SSLContext.sslsocket_class = _Chosen


def end() -> None:
    """Undo `begin()`."""
    if ssl.SSLContext.sslsocket_class is _Chosen:
        ssl.SSLContext.sslsocket_class = _programs_class
