"""What the server programs have in common; what is owed to the caller is in `contenders.py`."""

from __future__ import annotations

from typing import Any

BACKLOG = 1024
"""For all alike: with 5, the standard library's number before 3.15, clients wait a second or more
for the kernel to connect them, which measures the number alone."""

MIB = 1 << 20
DOWNLOAD = b"d" * MIB
"""What "down" answers each byte with."""
RECEIVED = b"."
"""What "up" answers each MiB with."""
PAGE = b"Hello, world!"
"""What "http" answers `GET` with."""


def parse(address: str) -> Any:
    """Return what sockets bind to: a host and a port, or a path."""
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon else address


def announce(socket: Any) -> None:
    """Tell the caller the address that a server has."""
    name = socket.getsockname()
    print(name if isinstance(name, str) else ":".join(map(str, name)), flush=True)


def make_page_handler(server: Any) -> Any:
    """Return a handler class of the module `http.server`."""

    class Page(server.BaseHTTPRequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    return Page
