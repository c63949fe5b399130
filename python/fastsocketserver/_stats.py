"""What a server tells of itself; imported when first asked for."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core

if TYPE_CHECKING:
    from ._base import AddressType, BaseServer

_BYTES_RECEIVED = 128
_BYTES_SENT = 200
_BYTES_SENT_AGAIN = 208
_TCP_INFO_SIZE = 216
"""Places in `struct tcp_info` of `linux/tcp.h`, and its size since Linux 4.19."""


class Stats(NamedTuple):
    """What a server has done so far in this process, and what it is doing now.

    All counts of requests are of one moment: at any time
    ``accepted + received == active + parked + finished + failed + refused``.

    Attributes:
        accepted: Connections that were accepted.
        received: Datagrams that were received.
        truncated: Datagrams that were longer than `max_packet_size`, and were cut.
        dropped: Datagrams that the kernel had no room for; known on Linux alone, 0 elsewhere.
        active: Requests that are being handled, or wait for a thread that could not be started.
        parked: Connections that wait for their client's first bytes; see `parking`.
        finished: Requests that were handled without an exception.
        failed: Requests whose handler raised an exception, or never got to run.
        refused: Requests that were not to be handled: `verify_request()` said so, their client had
            too many connections, or an idle one had to make room for another.
        accept_errors: How often no request could be taken, by errno.
        idle_threads: Threads that wait for the next request.
        queue_age: Seconds for which requests have been waiting in the kernel's queue because of a
            limit, `pause()`, or want of room; 0.0 when none is waiting.
    """

    accepted: int
    received: int
    truncated: int
    dropped: int
    active: int
    parked: int
    finished: int
    failed: int
    refused: int
    accept_errors: dict[int, int]
    idle_threads: int
    queue_age: float

    @classmethod
    def of(cls, server: BaseServer) -> Stats:
        """Those of `server`."""
        taken, done, errors, idle_threads, queue_age = _core.Engine.of(server).stats(server)
        return cls(*taken, *done, errors, idle_threads, queue_age)

    def __str__(self) -> str:
        """What is of interest in one line: counts that are 0 are left out."""
        parts = []
        for name, value in zip(self._fields, self, strict=True):
            if name == "accept_errors":
                value = sum(self.accept_errors.values())
            if value or name in ("active", "finished"):
                shown = f"{value:.1f} s" if name == "queue_age" else value
                parts.append(f"{name.replace('_', ' ')} {shown}")
        return ", ".join(parts)


class Connection(NamedTuple):
    """A connection that is not over.

    Attributes:
        client_address: Who it comes from.
        age: Seconds since it was accepted.
        state: ``"queued"`` (no thread can be started for it), ``"parked"`` (its client has sent
            nothing, and nothing runs for it), ``"handshake"`` (of TLS) or ``"handling"``.
        received: Bytes that have come from the client, those of TLS included; `None` where the
            system does not tell, which only Linux does, of TCP.
        sent: Bytes that have gone to the client; otherwise as `received`.
        handler: The name of the handler's class.
    """

    client_address: AddressType
    age: float
    state: str
    received: int | None
    sent: int | None
    handler: str


def list_connections(server: BaseServer) -> list[Connection]:
    """Those of `server` that are not over, the oldest first."""
    handler_class: Any = server.RequestHandlerClass
    handler = getattr(handler_class, "__qualname__", None) or repr(handler_class)
    return [
        Connection(address, age, state, *_count_bytes(request), handler)
        for address, age, state, request in _core.Engine.of(server).connections()
    ]


def _count_bytes(request: Any) -> tuple[int | None, int | None]:
    """How many bytes the system has received for `request`, and sent."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not isinstance(request, socket.socket):
        return None, None
    try:
        info = request.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO_SIZE)
    except OSError:
        return None, None  # Another protocol, or closed: a child process has it.
    if len(info) < _TCP_INFO_SIZE:
        return None, None

    def count(place: int) -> int:
        return int(struct.unpack_from("=Q", info, place)[0])

    return count(_BYTES_RECEIVED), count(_BYTES_SENT) - count(_BYTES_SENT_AGAIN)
