"""What the tests do to a server from outside, and what they ask of their own process."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from variants import Variant

LOOPBACK = ("127.0.0.1", 0)
"""The loopback interface, on a port of the kernel's choice."""

BRIEFLY = 0.1
"""Seconds for which a test looks on that something does not happen; longer never fails it."""


class Call(threading.Thread):
    """A call in a thread of its own, whose outcome is asked for with a deadline."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call: tuple[Any, ...] = (function, args)
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Make the call, and keep its outcome but not what was called."""
        (function, args), self._call = self._call, ()
        try:
            self._value = function(*args)
        except BaseException as error:
            self._error = error.with_traceback(None)

    def still_waits(self) -> bool:
        """Say whether the call has not returned, having looked on for a moment."""
        self.join(BRIEFLY)
        return self.is_alive()

    def outcome(self, what: str) -> Any:
        """Return what the call returned or raise what it raised; fail when it does not end."""
        self.join(DEADLINE)
        if self.is_alive():
            pytest.fail(f"waited {DEADLINE:.0f} s in vain for {what} to return")
        if self._error is not None:
            raise self._error
        return self._value


def connect(address: Any, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> Any:
    """Return a client's socket, with a deadline, that is connected to `address`."""
    client = socket.socket(family, kind)
    client.settimeout(DEADLINE)
    try:
        if family == getattr(socket, "AF_UNIX", None) and kind == socket.SOCK_DGRAM:
            client.bind("")  # autobind: an abstract name, so that the answer has an address
        client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def client_of(server: Any) -> Any:
    """Return a client's socket that is connected to `server`."""
    return connect(server.server_address, server.address_family, server.socket_type)


def read_all(client: socket.socket) -> bytes:
    """Return what arrives until the other end closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def ask(address: Any, line: bytes = b"hello\n") -> bytes:
    """Return all that the TCP server at `address` answers to one line."""
    with connect(address) as client:
        client.sendall(line)
        return read_all(client)


def ask_nothing(address: Any) -> bytes:
    """Return all that the TCP server at `address` says; for handlers that read nothing.

    Bytes that are unread when a connection is closed make a reset of it.
    """
    return ask(address, b"")


def echo_handler(ss: Variant, base: str = "StreamRequestHandler") -> type:
    """Return a handler class that answers one line with the same line in capitals."""

    class Echo(getattr(ss, base)):  # type: ignore[misc]
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline().upper())

    return Echo


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/dev/fd"))


def kernel_threads() -> set[int]:
    """Return the kernel's numbers of this process's threads."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("the kernel does not list the threads of a process")
    return {int(task.name) for task in tasks.iterdir()}
