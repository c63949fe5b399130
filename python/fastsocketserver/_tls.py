"""TLS connections of requests that run in greenlets.

Imported only when a program has imported `ssl`.
"""

from __future__ import annotations

import ssl
from time import monotonic

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

_programs_class = ssl.SSLContext.sslsocket_class
"""What `SSLContext.wrap_socket()` makes everywhere else."""


class GreenletSSLSocket(ssl.SSLSocket):
    """An `ssl.SSLSocket` that lets other requests run while it waits.

    The descriptor does not block, and the timeout is kept here: a TLS record may come in pieces, so
    being readable is not enough for the interpreter's own methods to return.
    """

    _timeout: float | None = None

    def settimeout(self, value: float | None, /) -> None:
        """Have operations raise `TimeoutError` after so many seconds; `None` for never."""
        super().settimeout(value)
        self._timeout = value
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
        timeout = None if block and self._timeout == 0 else self._timeout
        self._finish("handshake", timeout, lambda: self._sslobj.do_handshake())  # type: ignore[attr-defined]

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Receive up to `len` bytes."""
        return self._finish(
            "read", self._timeout, lambda: super(GreenletSSLSocket, self).read(len, buffer)
        )

    def write(self, data: Any) -> int:
        """Send from `data`; returns how many bytes were sent."""
        return self._finish(
            "write", self._timeout, lambda: super(GreenletSSLSocket, self).write(data)
        )

    def send(self, data: Any, flags: int = 0) -> int:
        """Send from `data`; returns how many bytes were sent."""
        return self._finish(
            "write", self._timeout, lambda: super(GreenletSSLSocket, self).send(data, flags)
        )

    def unwrap(self) -> Any:
        """End TLS, and return the socket for what comes after it."""
        return self._finish("shutdown", self._timeout, super().unwrap)

    def _finish(self, what: str, timeout: float | None, operate: Callable[[], Result]) -> Result:
        """Call `operate()` as often as the connection must be waited for."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            try:
                return operate()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if timeout == 0:
                    raise
                writable = isinstance(error, ssl.SSLWantWriteError)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not _core.wait_ready(self.fileno(), writable, left):
                raise TimeoutError(f"The {what} operation timed out")

    def _real_close(self) -> None:
        _core.forget_descriptor(self.fileno())
        super()._real_close()  # type: ignore[misc]


class _Chosen(ssl.SSLSocket):
    """In place of `ssl.SSLSocket` while requests run in greenlets: theirs are of our class."""

    @classmethod
    def _create(cls, sock: Any, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        chosen: Any = GreenletSSLSocket if _core.is_in_table() else _programs_class
        made: ssl.SSLSocket = chosen._create(sock, *args, **kwargs)
        return made


def begin() -> None:
    """Have `wrap_socket()`, called in a request's greenlet, make a `GreenletSSLSocket`.

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
