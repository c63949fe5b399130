"""Servers in each dispatch, and handlers that wait until a test lets them go on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import fastsocketserver
from conftest import DEADLINE, serving, wait_until
from probes import LOOPBACK, client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS: dict[str, Any] = {
    "inline": fastsocketserver.TCPServer,
    "threads": fastsocketserver.ThreadingTCPServer,
    "greenlets": fastsocketserver.GreenletTCPServer,
}
if hasattr(os, "fork"):
    SERVERS["forks"] = fastsocketserver.ForkingTCPServer

BESIDE = [dispatch for dispatch in SERVERS if dispatch != "inline"]
"""Those that handle several requests at once."""

HERE = [dispatch for dispatch in SERVERS if dispatch != "forks"]
"""Those whose handlers run in this process."""

MAY_FORK = "ignore:.*multi-threaded:DeprecationWarning"
"""The server under test forks on a thread of the test runner."""


class Lines(fastsocketserver.StreamRequestHandler):
    """Answers each line in upper case."""

    reads_first = True

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


def server_of(dispatch: str, handler: Any = Lines, **attributes: Any) -> Any:
    """Return a TCP server on the loopback interface, with these attributes."""
    return type("Server", (SERVERS[dispatch],), attributes)(LOOPBACK, handler)


def say(client: socket.socket, line: bytes = b"hello\n") -> bytes:
    """Return what the server answers to one line: a line, or less at the end."""
    client.sendall(line)
    return hear(client)


def hear(client: socket.socket) -> bytes:
    """Return the next line, or less at the end."""
    heard = b""
    while not heard.endswith(b"\n") and (data := client.recv(1)):
        heard += data
    return heard


def hear_end(client: socket.socket) -> bytes:
    """Return what comes before the end, be it a reset."""
    heard = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            heard += data
    return heard


def is_silent(client: socket.socket, seconds: float = 0.1) -> bool:
    """Say whether nothing arrives, not even an end, for a moment."""
    client.settimeout(seconds)
    try:
        client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        client.settimeout(DEADLINE)
    return False


@contextlib.contextmanager
def clients_of(server: Any, count: int) -> Iterator[list[socket.socket]]:
    """Give so many clients that are connected to `server`."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(client_of(server)) for _ in range(count)]


def settled(server: Any) -> Any:
    """Wait until no request is being handled; return what the server has done."""
    return wait_until(
        lambda: (stats := server.stats()).active + stats.parked == 0 and stats,
        "all requests to end",
    )


def wait_for(server: Any, **values: Any) -> Any:
    """Wait until the server's stats say so; return them."""

    def look() -> Any:
        stats = server.stats()
        return all(getattr(stats, name) == value for name, value in values.items()) and stats

    return wait_until(look, f"stats to say {values}")


class Gate:
    """Counts who has come, at most at once, and holds them until it is opened."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.most = 0
        self.passed = 0
        self.opened = threading.Event()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Count a request from here to the end of the block."""
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                self.passed += 1


@contextlib.contextmanager
def served(dispatch: str, handler: Any = Lines, **attributes: Any) -> Iterator[Any]:
    """Give a server that serves in a thread."""
    server = server_of(dispatch, handler, **attributes)
    with serving(server):
        yield server
