"""Clients, well-behaved and not."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from server_process import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


def connect(address: Any) -> socket.socket:
    """Return a socket, with a deadline, that is connected to a stream server."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    try:
        client.connect(address)
        if family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    except BaseException:
        client.close()
        raise
    return client


def read_all(client: socket.socket) -> bytes:
    """Return what arrives until the other end closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def read_exactly(client: socket.socket, count: int) -> bytes:
    """Return the next `count` bytes, or what there is before the end."""
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def read_line(client: socket.socket) -> bytes:
    """Return the next line; for clients that are answered one line at a time."""
    data = b""
    while not data.endswith(b"\n") and (more := client.recv(65536)):
        data += more
    return data


def ask(address: Any, line: bytes = b"hello\n") -> bytes:
    """Return what is answered to one line over a connection of its own."""
    with connect(address) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def reset(client: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(seconds: float) -> str:
    """Return a figure for the table."""
    return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"


class Honest(threading.Thread):
    """Asks for a line over a connection of its own, again and again, until it is told to stop.

    A wrong answer, or none, is raised by `stop()`.
    """

    def __init__(self, address: Any, name: str = "honest") -> None:
        super().__init__(daemon=True)
        self.latencies: list[float] = []
        self._address = address
        self._word = name
        self._is_over = threading.Event()
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self._is_over.is_set():
                line = f"{self._word} {len(self.latencies)}\n".encode()
                begin = time.perf_counter()
                answer = ask(self._address, line)
                self.latencies.append(time.perf_counter() - begin)
                if answer != line.upper():
                    raise AssertionError(f"{line!r} was answered by {answer!r}")
        except BaseException as error:
            self._error = error

    def stop(self) -> list[float]:
        """Stop, and return how long each answer took."""
        self._is_over.set()
        self.join(2 * PATIENCE)
        if self._error is not None:
            raise self._error
        assert not self.is_alive(), "an honest client hangs"
        assert self.latencies
        return self.latencies

    def __enter__(self) -> Honest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if kind is None:
            self.stop()
