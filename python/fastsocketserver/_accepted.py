"""The sockets of accepted connections."""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
_FULL_LISTENER_RETRY = 0.01
"""Seconds."""


def _in_greenlets(wait: Any) -> Any:
    """Make a method that does what `wait` does in a request that runs in a greenlet.

    Everywhere else it is the inherited one of the same name.
    """
    inherited = getattr(socket.socket, wait.__name__)

    @functools.wraps(inherited)
    def method(self: AcceptedSocket, *args: Any, **kwargs: Any) -> Any:
        return (wait if _core.is_in_table() else inherited)(self, *args, **kwargs)

    return method


def _receiving(name: str, flags_at: int) -> Any:
    """Make a method that waits until there is something to receive.

    Its argument at `flags_at` is the flags, which may forbid that.
    """
    inherited = getattr(socket.socket, name)

    def wait(self: AcceptedSocket, *args: Any, **kwargs: Any) -> Any:
        flags = args[flags_at] if len(args) > flags_at else kwargs.get("flags", 0)
        if not flags & _DONTWAIT:
            _await(self, writable=False)
        return inherited(self, *args, **kwargs)

    wait.__name__ = name
    return _in_greenlets(wait)


def _await(sock: socket.socket, *, writable: bool) -> None:
    """Let other requests run until `sock` can be read or written to.

    Raises:
        TimeoutError: The socket's timeout is over.
    """
    timeout = sock.gettimeout()
    if timeout != 0 and not _core.wait_ready(sock.fileno(), writable, timeout):
        raise _core.client_timeout("timed out")


class AcceptedSocket(socket.socket):
    """A `socket.socket` that tries before it lets other threads run.

    The interpreter's own methods release the lock for each call, which costs more than most calls
    take, and hands the lock to another thread in the middle of a request. These release it only to
    wait, and to copy 64 KiB or more.

    In a request that runs in a greenlet, each method that has to wait lets other requests run.
    """

    __slots__ = ()

    close = _core.method(_core.close)
    recv = _core.method(_core.recv)
    recv_into = _core.method(_core.recv_into)
    send = _core.method(_core.send)
    sendall = _core.method(_core.sendall)

    recvfrom = _receiving("recvfrom", 1)
    recvfrom_into = _receiving("recvfrom_into", 2)
    if hasattr(socket.socket, "recvmsg"):
        recvmsg = _receiving("recvmsg", 2)
        recvmsg_into = _receiving("recvmsg_into", 2)

        @_in_greenlets
        def sendmsg(
            self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
        ) -> int:
            def send(flags: int) -> int:
                return socket.socket.sendmsg(self, buffers, ancdata, flags, address)

            return self.__send(send, flags)

    @_in_greenlets
    def sendto(self, data: Any, flags_or_address: Any, *address: Any) -> int:
        flags, to = (flags_or_address, address) if address else (0, (flags_or_address,))

        def send(flags: int) -> int:
            return socket.socket.sendto(self, data, flags, *to)

        return self.__send(send, flags)

    def __send(self, send: Callable[[int], int], flags: int) -> int:
        """Call `send(flags)` until it finds room, unless `flags` say not to wait."""
        if flags & _DONTWAIT:
            return send(flags)
        while True:
            _await(self, writable=True)
            try:
                return send(flags | _DONTWAIT)
            except BlockingIOError:
                if self.gettimeout() == 0:
                    raise

    @_in_greenlets
    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        # The system's call of this name would wait for the connection.
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined,no-any-return]

    @_in_greenlets
    def accept(self) -> tuple[socket.socket, Any]:
        _await(self, writable=False)
        accepted, address = socket.socket.accept(self)
        _core.make_cooperative(accepted)
        return accepted, address

    @_in_greenlets
    def connect(self, address: Any) -> None:
        if error := self.__connect(address):
            raise OSError(error, os.strerror(error))

    @_in_greenlets
    def connect_ex(self, address: Any) -> int:
        return self.__connect(address)

    def __connect(self, address: Any) -> int:
        timeout = self.gettimeout()
        error = self.__begin_to_connect(address, timeout)
        # The listener of a Unix socket is full; nothing tells when it is not.
        while error == errno.EAGAIN and timeout is None:
            _core.sleep(_FULL_LISTENER_RETRY)
            error = self.__begin_to_connect(address, timeout)
        if error == errno.EINPROGRESS and timeout != 0:
            _await(self, writable=True)
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return error

    def __begin_to_connect(self, address: Any, timeout: float | None) -> int:
        self.settimeout(0)
        try:
            return socket.socket.connect_ex(self, address)
        finally:
            self.settimeout(timeout)

    def detach(self) -> int:
        """Close the object, but not its descriptor, which is returned."""
        fd = super().detach()
        # As true as before; `stats()` and the limits go by it: the connection is not over yet.
        self._closed = "detached"
        _core.forget_descriptor(fd)
        return fd

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be sent to another process where a `socket.socket` would be."""
        reduction = sys.modules.get("multiprocessing.reduction")
        if reduction is None:
            return super().__reduce_ex__(protocol)
        return reduction._reduce_socket(self)


# To programs it is what they would have got, and it prints as one.
AcceptedSocket.__module__ = socket.socket.__module__
AcceptedSocket.__name__ = AcceptedSocket.__qualname__ = socket.socket.__name__
