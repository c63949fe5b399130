"""Many clients at once, some of them at fault: `soak_clients.py PORT REQUESTS AT_ONCE SEED`.

Prints a line of JSON every two seconds, and in the end: what was asked, answered, lost, wrong.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import struct
import sys
import time
from typing import Any

OVERSIZE = b"o" * 20_000 + b"\n"
"""Longer than what the server reads of a line."""

FAULTS = ("reset", "aborted", "half-closed", "slow", "oversize", "idle")
PATIENCE = 60.0
"""Seconds after which an answer that has not come is lost."""


class Client:
    """One connection: sends some lines, checks the answers to them, and goes its way."""

    __slots__ = ("asked", "expected", "is_slow", "kind", "pending", "since", "sock", "start_at")

    def __init__(self, sock: socket.socket, kind: str, number: int, chance: random.Random) -> None:
        self.sock = sock
        self.kind = kind
        self.since = time.monotonic()
        self.asked = chance.randrange(1, 20) if kind != "slow" else 1
        lines = b"".join(b"line %d\n" % (number + step) for step in range(self.asked))
        self.expected = lines.upper()
        self.pending = lines
        self.start_at = self.since + 1.0 if kind == "idle" else 0.0


def main(port: int, requests: int, at_once: int, seed: int) -> None:
    chance = random.Random(seed)
    selector = selectors.DefaultSelector()
    counts = dict.fromkeys(("asked", "answered", "lost", "wrong", *FAULTS), 0)
    clients: set[Client] = set()
    waiting: set[Client] = set()  # those that have something to say later
    next_report = time.monotonic() + 2

    def end(client: Client) -> None:
        selector.unregister(client.sock)
        client.sock.close()
        clients.discard(client)
        waiting.discard(client)

    def begin() -> None:
        kind = chance.choice(FAULTS) if chance.random() < 0.1 else "honest"
        sock = socket.socket()
        if kind == "aborted":
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            reset(sock)
            counts["aborted"] += 1
            return
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        if kind in FAULTS:
            counts[kind] += 1
        if kind == "reset":
            sock.send(b"a line\nanother\nand half of a li"[: chance.randrange(30)])
            reset(sock)
            return
        client = Client(sock, kind, counts["asked"], chance)
        if kind == "oversize":
            client.asked, client.pending, client.expected = 0, OVERSIZE, b"TOO LONG\n"
        counts["asked"] += client.asked
        clients.add(client)
        selector.register(sock, selectors.EVENT_READ, client)
        if kind in ("slow", "idle"):
            waiting.add(client)
        else:
            say(client, client.pending)

    def say(client: Client, data: bytes) -> None:
        try:
            client.sock.send(data)
            client.pending = client.pending[len(data) :]
            if client.kind == "half-closed" and not client.pending:
                client.sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            fail(client, "lost")

    def fail(client: Client, how: str) -> None:
        if client.kind != "oversize":  # unread bytes may make a reset of the server's answer
            counts[how] += max(client.asked, 1)
            print(json.dumps({"fault": [client.kind, how, str(client.expected)]}), flush=True)
        end(client)

    def hear(client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except ConnectionError:
            return fail(client, "lost")
        if not data:
            return fail(client, "lost")
        if not client.expected.startswith(data):
            return fail(client, "wrong")
        client.expected = client.expected[len(data) :]
        if not client.expected:
            counts["answered"] += client.asked
            end(client)
        return None

    while counts["asked"] < requests or clients:
        while counts["asked"] < requests and len(clients) < at_once:
            begin()
        now = time.monotonic()
        for client in list(waiting):
            if client.start_at <= now:
                say(client, client.pending[:1] if client.kind == "slow" else client.pending)
                client.start_at = now + 0.02
                if not client.pending:
                    waiting.discard(client)
        for key, _ in selector.select(0.02):
            hear(key.data)
        if now > next_report:
            next_report = now + 2
            print(json.dumps(counts), flush=True)
            for client in [client for client in clients if now - client.since > PATIENCE]:
                fail(client, "lost")
    print(json.dumps({**counts, "end": True}), flush=True)


def reset(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
