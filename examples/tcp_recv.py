"""A TCP server that answers in capitals, reading from the socket itself.

    python examples/tcp_recv.py [PORT]

Then, in another terminal: ``python examples/tcp_client.py PORT some words``.
Port 9999 unless given; with 0 the kernel chooses one. Ctrl-C stops the server.
"""

import contextlib
import sys

import fastsocketserver as socketserver


class Capitals(socketserver.BaseRequestHandler):
    """Handles one connection: `handle()` is called once, and then the connection is closed."""

    def handle(self) -> None:
        # What has arrived by now: of a long text, perhaps not yet all.
        data: bytes = self.request.recv(1024)
        print(f"{self.client_address[0]} sent {data.decode()!r}", flush=True)
        self.request.sendall(data.upper())


class Server(socketserver.TCPServer):
    """Can be started again on the same port at once."""

    allow_reuse_address = True


def main(port: int = 9999) -> None:
    """Serve until Ctrl-C."""
    with Server(("127.0.0.1", port), Capitals) as server, contextlib.suppress(KeyboardInterrupt):
        print("listening on port", server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
