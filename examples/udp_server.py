"""A UDP server that answers each packet in capitals.

    python examples/udp_server.py [PORT]

Then, in another terminal: ``python examples/udp_client.py PORT some words``.
Port 9999 unless given; with 0 the kernel chooses one. Ctrl-C stops the server.
"""

import contextlib
import sys

import fastsocketserver as socketserver


class Capitals(socketserver.BaseRequestHandler):
    """Handles one packet.

    There is no connection: a request is a pair, what has been received and the server's own socket,
    and whom to answer is said each time.
    """

    def handle(self) -> None:
        data, server_socket = self.request
        print(f"{self.client_address[0]} sent {data.decode()!r}", flush=True)
        server_socket.sendto(data.upper(), self.client_address)


def main(port: int = 9999) -> None:
    """Serve until Ctrl-C."""
    with (
        socketserver.UDPServer(("127.0.0.1", port), Capitals) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print("listening on port", server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
