"""A TCP server that forks a child for the requests that take long, and for no others.

    python examples/explicit_fork.py [PORT]

Then, in another terminal: ``python examples/tcp_client.py PORT 1234567``.
Port 9999 unless given; with 0 the kernel chooses one. Ctrl-C stops the server.
"""

import contextlib
import os
import signal
import sys
from typing import Any

import fastsocketserver as socketserver


def factors(number: int) -> list[int]:
    """Return the prime factors of `number`, in no hurry."""
    found = []
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor:
            divisor += 1
        else:
            found.append(divisor)
            number //= divisor
    return [*found, number]


class Factors(socketserver.StreamRequestHandler):
    """Answers a number with its prime factors."""

    timeout = 60

    def handle(self) -> None:
        word = self.rfile.readline(100).decode().strip()
        if not (word.isdecimal() and int(word) > 1):
            self.wfile.write(b"not a number above one\n")
        elif os.fork() == 0:
            # The child. It must not return to the loop, which is the parent's.
            try:
                answer = " ".join(map(str, factors(int(word))))
                self.wfile.write(f"{answer}\n".encode())
            finally:
                os._exit(0)
        # The parent goes on with the next request; its copy of the connection is closed.


class Server(socketserver.TCPServer):
    """Leaves it to the child to end the connection."""

    allow_reuse_address = True

    def shutdown_request(self, request: Any) -> None:
        # The inherited one says to the client that nothing more will come, also from the child.
        self.close_request(request)


def main(port: int = 9999) -> None:
    """Serve until Ctrl-C."""
    # Nobody waits for the children: have the kernel forget them when they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with Server(("127.0.0.1", port), Factors) as server, contextlib.suppress(KeyboardInterrupt):
        print("listening on port", server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
