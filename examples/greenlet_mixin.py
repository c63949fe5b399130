"""A TCP server with a greenlet for each connection, and a thousand clients that stay connected.

    python examples/greenlet_mixin.py [PORT]

It ends by itself. The kernel chooses the port unless it is given. It needs the package `greenlet`:
``pip install 'fastsocketserver[greenlet]'``.
"""

import contextlib
import socket
import sys
import threading

import fastsocketserver

CLIENTS = 1000


class Answers(fastsocketserver.StreamRequestHandler):
    """Answers lines until there are no more: the handler of any other server."""

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"wait\n":
                # `time.sleep` would keep all others waiting.
                fastsocketserver.sleep(0.1)
            self.wfile.write(f"{threading.current_thread().name} has read ".encode() + line)


class Server(fastsocketserver.GreenletMixIn, fastsocketserver.TCPServer):
    """The mix-in comes first; `fastsocketserver.GreenletTCPServer` is the same, ready-made."""


def ask(connection: socket.socket, text: str) -> str:
    """Send a line over a connection, and return the line that is answered."""
    connection.sendall(f"{text}\n".encode())
    with connection.makefile(encoding="utf-8") as answers:
        return answers.readline().strip()


def main(port: int = 0) -> None:
    """Serve in a thread, and be the clients in this one."""
    with Server(("127.0.0.1", port), Answers) as server, contextlib.ExitStack() as clients:
        loop = threading.Thread(target=server.serve_forever, name="the loop")
        loop.start()
        connections = [
            clients.enter_context(socket.create_connection(server.server_address, timeout=10))
            for _ in range(CLIENTS)
        ]
        # All of them sleep at the same time.
        for connection in connections:
            connection.sendall(b"wait\n")
        for connection in connections:
            connection.recv(100)
        print(ask(connections[0], "good evening"))
        print(ask(connections[-1], "good morning"))
        clients.close()
        server.shutdown()
        loop.join()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
