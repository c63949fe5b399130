"""A TCP server with a child process for each connection, and three clients that are served at once.

    python examples/forking_mixin.py [PORT]

It ends by itself. The kernel chooses the port unless it is given.
"""

import contextlib
import os
import socket
import sys

import fastsocketserver as socketserver


class WhoAnswers(socketserver.StreamRequestHandler):
    """Answers a line with the number of the process that handles it."""

    def handle(self) -> None:
        text = self.rfile.readline(10_000).decode().strip()
        self.wfile.write(f"{text}, says process {os.getpid()}\n".encode())


class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
    """The mix-in comes first; `socketserver.ForkingTCPServer` is the same, ready-made."""

    allow_reuse_address = True


def ask(connection: socket.socket, text: str) -> str:
    """Send a line over a connection, and return the line that is answered."""
    connection.sendall(f"{text}\n".encode())
    with connection.makefile(encoding="utf-8") as answers:
        return answers.readline().strip()


def main(port: int = 0) -> None:
    """Serve three connections, and be their clients."""
    print("this is process", os.getpid(), flush=True)
    with Server(("127.0.0.1", port), WhoAnswers) as server, contextlib.ExitStack() as clients:
        address = server.server_address
        first, second, third = (
            clients.enter_context(socket.create_connection(address, timeout=10)) for _ in range(3)
        )
        # One by one, and not in a thread: processes that fork do better without threads. Each of
        # these returns as soon as there is a child.
        for _ in range(3):
            server.handle_request()
        # The last to come need not wait for the others to be done.
        print(ask(third, "good evening"))
        print(ask(second, "good day"))
        print(ask(first, "good morning"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
