"""A TCP server with a thread for each connection, and three clients that are served by it at once.

    python examples/threading_mixin.py [PORT]

It ends by itself. The kernel chooses the port unless it is given.
"""

import contextlib
import socket
import sys
import threading

import fastsocketserver as socketserver


class WhoAnswers(socketserver.StreamRequestHandler):
    """Answers a line with the name of the thread that handles it."""

    def handle(self) -> None:
        text = self.rfile.readline(10_000).decode().strip()
        self.wfile.write(f"{text}, says {threading.current_thread().name}\n".encode())


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The mix-in comes first; `socketserver.ThreadingTCPServer` is the same, ready-made."""

    allow_reuse_address = True


def ask(connection: socket.socket, text: str) -> str:
    """Send a line over a connection, and return the line that is answered."""
    connection.sendall(f"{text}\n".encode())
    with connection.makefile(encoding="utf-8") as answers:
        return answers.readline().strip()


def main(port: int = 0) -> None:
    """Serve in a thread, and be the clients in this one."""
    with Server(("127.0.0.1", port), WhoAnswers) as server, contextlib.ExitStack() as clients:
        loop = threading.Thread(target=server.serve_forever, name="the loop")
        loop.start()
        address = server.server_address
        first, second, third = (
            clients.enter_context(socket.create_connection(address, timeout=10)) for _ in range(3)
        )
        # The last to come need not wait for the others to be done.
        print(ask(third, "good evening"))
        print(ask(second, "good day"))
        print(ask(first, "good morning"))
        server.shutdown()
        loop.join()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
