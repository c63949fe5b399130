"""Clients that each send a byte in a second, for a process of their own: HOST PORT NUMBER.

It says "begun" when all are connected, and ends when its standard input does.
"""

from __future__ import annotations

import select
import socket
import sys

LINE = b"a slow line\n"
SECONDS = 1.0
"""How long a client waits between two bytes."""


def main(host: str, port: int, number: int) -> None:
    """Send, one client after the other, until there is nobody to do it for."""
    clients = [socket.create_connection((host, port)) for _ in range(number)]
    sent = [0] * number
    print("begun", flush=True)
    while True:
        for place, client in enumerate(clients):
            try:
                client.sendall(LINE[sent[place] : sent[place] + 1])
            except ConnectionError:
                sent[place] = len(LINE)
            sent[place] += 1
            if sent[place] >= len(LINE):
                client.close()
                clients[place], sent[place] = socket.create_connection((host, port)), 0
            if select.select([sys.stdin], [], [], SECONDS / number)[0]:
                return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
