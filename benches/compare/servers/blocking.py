"""The services on a module with the interface of `socketserver`: `blocking.py MODULE ...`.

For the other arguments and what is owed to the caller see `contenders.py`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from threading import Thread
from typing import Any

PREFIXES = {"inline": "", "threads": "Threading", "fork": "Forking"}
BACKLOG = 1024
"""For all alike: with 5, the standard library's number before 3.15, clients wait a second or more
for the kernel to connect them, which measures the number alone."""


def main(module_name: str, service: str, dispatch: str, address: str) -> None:
    """Serve until SIGTERM."""
    module = importlib.import_module(module_name)
    handlers = make_handlers(module)
    host, colon, port = address.rpartition(":")
    bind: Any = (host, int(port)) if colon else address
    base = "UDPServer" if service == "datagram" else "TCPServer" if colon else "UnixStreamServer"
    server_class: Any = getattr(module, PREFIXES[dispatch] + base)
    server_class.request_queue_size = BACKLOG
    with server_class(bind, handlers[service]) as server:
        # shutdown() waits for serve_forever() to end, so it cannot be called by the same thread.
        signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
        name = server.socket.getsockname()
        print(":".join(map(str, name)) if colon else name, flush=True)
        server.serve_forever()
    # At once: the interpreter's own end is none of the server's work.
    os._exit(0)


def make_handlers(module: Any) -> dict[str, type]:
    """Return a handler class for each service."""

    class Line(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    class Lines(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            while line := self.rfile.readline():
                self.wfile.write(line)

    class Datagram(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            data, socket = self.request
            socket.sendto(data, self.client_address)

    return {"line": Line, "lines": Lines, "datagram": Datagram}


if __name__ == "__main__":
    main(*sys.argv[1:])
