"""A TCP server that refuses clients by their address, before a handler is made for them.

    python examples/access_control.py [PORT [NETWORK ...]]

Then, in another terminal: ``python examples/tcp_client.py PORT some words``.
Its address is 127.0.0.1, which is served unless other networks are given (10.0.0.0/8, for one).
Port 9999 unless given; with 0 the kernel chooses one. Ctrl-C stops the server.
"""

import contextlib
import sys
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import fastsocketserver as socketserver


class Welcome(socketserver.StreamRequestHandler):
    """Answers whoever gets as far as this."""

    timeout = 60

    def handle(self) -> None:
        text = self.rfile.readline(10_000).decode().strip()
        self.wfile.write(f"welcome, you said: {text}\n".encode())


class Server(socketserver.TCPServer):
    """Serves clients of some networks only."""

    allow_reuse_address = True
    networks: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.1/32"),)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        # When this is false, the connection is closed, and that is all.
        allowed = any(ip_address(client_address[0]) in network for network in self.networks)
        print("serving" if allowed else "refusing", client_address[0], flush=True)
        return allowed


def main(port: str = "9999", *networks: str) -> None:
    """Serve until Ctrl-C."""
    if networks:
        Server.networks = tuple(map(ip_network, networks))
    with (
        Server(("127.0.0.1", int(port)), Welcome) as server,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print("listening on port", server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
