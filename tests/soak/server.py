"""A server that repeats what it is sent, until SIGTERM: `server.py CLASS`; prints its port."""

from __future__ import annotations

import signal
import sys
from threading import Thread

import fastsocketserver


class LineHandler(fastsocketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class PacketHandler(fastsocketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.packet)


def main(name: str) -> None:
    server_class: type[fastsocketserver.TCPServer] = getattr(fastsocketserver, name)
    datagrams = issubclass(server_class, fastsocketserver.UDPServer)
    with server_class(("127.0.0.1", 0), PacketHandler if datagrams else LineHandler) as server:
        # shutdown() waits for serve_forever() to end, so it cannot be called by the same thread.
        signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
        print(server.server_address[1], flush=True)
        server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
