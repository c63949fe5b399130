"""The sockets of accepted connections."""

from __future__ import annotations

import socket
import sys

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class AcceptedSocket(socket.socket):
    """A `socket.socket` that tries before it lets other threads run.

    The interpreter's own methods release the lock for each call, which costs more than most calls
    take, and hands the lock to another thread in the middle of a request. These release it only to
    wait, and to copy 64 KiB or more.
    """

    __slots__ = ()

    close = _core.method(_core.close)
    recv = _core.method(_core.recv)
    recv_into = _core.method(_core.recv_into)
    send = _core.method(_core.send)
    sendall = _core.method(_core.sendall)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be sent to another process where a `socket.socket` would be."""
        reduction = sys.modules.get("multiprocessing.reduction")
        if reduction is None:
            return super().__reduce_ex__(protocol)
        return reduction._reduce_socket(self)


# To programs it is what they would have got, and it prints as one.
AcceptedSocket.__module__ = socket.socket.__module__
AcceptedSocket.__name__ = AcceptedSocket.__qualname__ = socket.socket.__name__
