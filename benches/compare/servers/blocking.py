"""The services on a module with the interface of `socketserver`: `blocking.py MODULE ...`.

With `MODULE+nodelay` the handlers have the kernel send small writes at once; with
`MODULE+greenlets` requests that would run in threads run in greenlets. For the other arguments and
what is owed to the caller see `contenders.py`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from threading import Thread
from typing import Any

from common import BACKLOG, DOWNLOAD, MIB, RECEIVED, announce, make_page_handler, parse

PREFIXES = {"inline": "", "threads": "Threading", "fork": "Forking", "greenlets": "Greenlet"}


def main(module_name: str, service: str, dispatch: str, address: str) -> None:
    """Serve until SIGTERM."""
    module_name, _, option = module_name.partition("+")
    if option == "greenlets":
        dispatch = option
    module = importlib.import_module(module_name)
    bind = parse(address)
    server_class: Any
    handler: Any
    if service == "http":
        server_class, handler = make_http(module, dispatch)
    else:
        tcp_or_unix = "UnixStreamServer" if isinstance(bind, str) else "TCPServer"
        base = "UDPServer" if service == "datagram" else tcp_or_unix
        server_class = getattr(module, PREFIXES[dispatch] + base)
        handler = make_handlers(module)[service]
    if option == "nodelay":
        handler.disable_nagle_algorithm = True
    server_class.request_queue_size = BACKLOG
    with server_class(bind, handler) as server:
        # shutdown() waits for serve_forever() to end, so it cannot be called by the same thread.
        signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
        announce(server.socket)
        server.serve_forever()
    # At once: the interpreter's own end is none of the server's work.
    os._exit(0)


def make_handlers(module: Any) -> dict[str, type]:
    """Return a handler class for each service but HTTP."""

    class Line(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    class Lines(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            while line := self.rfile.readline():
                self.wfile.write(line)

    class Up(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            while len(self.rfile.read(MIB)) == MIB:
                self.wfile.write(RECEIVED)

    class Down(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            while self.rfile.read(1):
                self.wfile.write(DOWNLOAD)

    class Datagram(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            data, socket = self.request
            socket.sendto(data, self.client_address)

    return {"line": Line, "lines": Lines, "up": Up, "down": Down, "datagram": Datagram}


def make_http(module: Any, dispatch: str) -> tuple[Any, Any]:
    """Return the class of a server, and of a handler, of `http.server` on `module`."""
    if hasattr(module, "install"):
        module.install()
    server = importlib.import_module("http.server")
    server_class = server.HTTPServer
    if dispatch == "threads":
        server_class = server.ThreadingHTTPServer
    elif dispatch == "greenlets":
        server_class = type("Server", (module.GreenletMixIn, server.HTTPServer), {})
    if not issubclass(server_class, module.TCPServer):
        raise RuntimeError(f"http.server does not run on {module.__name__}")
    return server_class, make_page_handler(server)


if __name__ == "__main__":
    main(*sys.argv[1:])
