"""A TCP server that answers line by line in capitals, through files.

    python examples/tcp_readline.py [PORT]

Then, in another terminal: ``python examples/tcp_client.py PORT some words``.
Port 9999 unless given; with 0 the kernel chooses one. Ctrl-C stops the server.
"""

import contextlib
import sys

import fastsocketserver as socketserver


class Capitals(socketserver.StreamRequestHandler):
    """Handles one connection through `rfile`, which is read from, and `wfile`, which is written to.

    Unlike one `recv()`, reading a line waits for all of it, in however many pieces it arrives.
    """

    timeout = 60

    def handle(self) -> None:
        while line := self.rfile.readline(10_000):  # no line is longer than that to us
            print(f"{self.client_address[0]} sent {line.decode()!r}", flush=True)
            self.wfile.write(line.upper())


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
