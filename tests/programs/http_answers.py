"""Ask a program over HTTP, and keep of each answer what must not depend on the run."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from program import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from program import Program


class Request(NamedTuple):
    """A request as a browser would make it."""

    path: str
    method: str = "GET"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """An answer without its date, uncompressed, and with its server's port written as `PORT`."""

    version: int
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return the value of the header `name`; there must be exactly one."""
        (value,) = (value for key, value in self.headers if key.lower() == name.lower())
        return value


def dial(program: Program) -> socket.socket:
    """Connect to the program's port."""
    return socket.create_connection(("127.0.0.1", program.port), timeout=DEADLINE)


def dial_tls(certificate: Path) -> Callable[[Program], socket.socket]:
    """Return what connects to the program's port and speaks TLS, believing in `certificate`."""
    context = ssl.create_default_context(cafile=certificate)

    def dial_it(program: Program) -> socket.socket:
        return context.wrap_socket(dial(program), server_hostname="127.0.0.1")

    return dial_it


def fetch(
    program: Program, *requests: Request | str, dial: Callable[[Program], socket.socket] = dial
) -> list[Answer]:
    """Make each request over a connection of its own."""
    return [fetch_on_one_connection(program, each, dial=dial)[0] for each in requests]


def fetch_at_once(program: Program, *requests: Request | str) -> list[Answer]:
    """Make all the requests at the same time, each over a connection of its own."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: fetch(program, request)[0], requests))


def fetch_on_one_connection(
    program: Program, *requests: Request | str, dial: Callable[[Program], socket.socket] = dial
) -> list[Answer]:
    """Make the requests one after the other on one connection, which the server must keep."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port)
    connection.auto_open = 0
    # The second file keeps the socket open where the server says that it will close.
    with dial(program) as line, line.makefile("rb", 0), contextlib.closing(connection):
        connection.sock = line
        answers = [_exchange(connection, request) for request in requests]
        connection.close()
        _hang_up(line)
    return answers


def exchange_bytes(program: Program, sent: bytes) -> bytes:
    """Send what may be no proper request; return all that comes back, but for the date."""
    with dial(program) as line, line.makefile("rb") as received:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        return b"".join(each for each in received if not each.startswith(b"Date: "))


def _exchange(connection: http.client.HTTPConnection, request: Request | str) -> Answer:
    path, method, body, headers = Request(request) if isinstance(request, str) else request
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    port = str(connection.port)
    kept = ((k, v.replace(port, "PORT")) for k, v in response.getheaders() if k != "Date")
    content = response.read()
    if response.getheader("Content-Encoding") == "gzip":
        content = gzip.decompress(content)
    content = content.replace(port.encode(), b"PORT")
    return Answer(response.version, response.status, response.reason, tuple(kept), content)


def _hang_up(line: socket.socket) -> None:
    """Say that nothing more will come, and wait for the server to be done with the connection.

    A program that is interrupted while it still handles a request may well catch that and go on.
    """
    with contextlib.suppress(OSError):  # the server may have closed, or even reset, it already
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass
