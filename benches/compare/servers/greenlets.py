"""The services on gevent, a greenlet for each request: `greenlets.py ...`.

HTTP is the standard library's `http.server`, made cooperative: its threads are greenlets. For the
arguments and what is owed to the caller see `contenders.py`. The dispatch makes no difference.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from typing import Any

import gevent
import gevent.monkey
import gevent.server
import gevent.socket
from common import BACKLOG, DOWNLOAD, MIB, RECEIVED, announce, make_page_handler, parse


def main(service: str, _dispatch: str, address: str) -> None:
    """Serve until SIGTERM."""
    bind = parse(address)
    if service == "http":
        serve_http(bind)
    else:
        serve(service, bind)
    # At once: the interpreter's own end is none of the server's work.
    os._exit(0)


def serve(service: str, bind: Any) -> None:
    """Serve anything but HTTP."""
    server: Any
    if service == "datagram":
        server = gevent.server.DatagramServer(bind, lambda data, peer: server.sendto(data, peer))
    else:
        server = gevent.server.StreamServer(listen(bind), HANDLERS[service])
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.start()
    announce(server.socket)
    server.serve_forever()


def listen(bind: Any) -> Any:
    """Return a listening socket."""
    family = socket.AF_UNIX if isinstance(bind, str) else socket.AF_INET
    listener = gevent.socket.socket(family, socket.SOCK_STREAM)
    listener.bind(bind)
    listener.listen(BACKLOG)
    return listener


def serve_http(bind: Any) -> None:
    """Serve HTTP."""
    gevent.monkey.patch_all()
    http_server = importlib.import_module("http.server")
    server_class = http_server.ThreadingHTTPServer
    server_class.request_queue_size = BACKLOG
    with server_class(bind, make_page_handler(http_server)) as server:
        gevent.signal_handler(signal.SIGTERM, server.shutdown)
        announce(server.socket)
        server.serve_forever()


def line(sock: Any, _: object) -> None:
    """Answer one line."""
    with sock.makefile("rb") as file:
        sock.sendall(file.readline())


def lines(sock: Any, _: object) -> None:
    """Answer lines."""
    with sock.makefile("rb") as file:
        while line := file.readline():
            sock.sendall(line)


def up(sock: Any, _: object) -> None:
    """Answer each MiB with a byte."""
    with sock.makefile("rb") as file:
        while len(file.read(MIB)) == MIB:
            sock.sendall(RECEIVED)


def down(sock: Any, _: object) -> None:
    """Answer each byte with a MiB."""
    while sock.recv(1):
        sock.sendall(DOWNLOAD)


HANDLERS = {"line": line, "lines": lines, "up": up, "down": down}


if __name__ == "__main__":
    main(*sys.argv[1:])
