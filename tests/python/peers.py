"""The other end of a connection: clients for the servers under test, each with a timeout."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

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
