"""Datagrams: too long ones, and more than anybody could answer."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import zlib
from typing import TYPE_CHECKING

import pytest
from lengths import count
from server_process import HERE, PATIENCE, ServerProcess, needs_proc, on_both

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Figures

LIMIT = 1024
PACKETS = count(short=2_000, long=50_000)
FLOOD = count(short=20_000, long=500_000)
WINDOW = 8
"""Packets that are under way: none is lost on the loopback."""

SOURCE = """
import zlib
class Handler(ss.DatagramRequestHandler):
    def handle(self):
        number, _, _ = self.packet.partition(b" ")
        if number != b"flood":
            self.wfile.write(b"%s %d %d" % (number, len(self.packet), zlib.crc32(self.packet)))
    def finish(self):
        if self.wfile.tell():
            super().finish()
def print_stats(*_):
    say_json(count_of_stats(server.stats()))
signal.signal(signal.SIGUSR1, print_stats)
server = server_class(KIND, max_packet_size=LIMIT)(ADDRESS, Handler)
serve(server)
"""


def answer_to(packet: bytes) -> bytes:
    """Return the right answer: the packet's number, and the length and sum of what fits."""
    packet = packet[:LIMIT]
    return b"%s %d %d" % (packet.partition(b" ")[0], len(packet), zlib.crc32(packet))


def open_client(address: object) -> socket.socket:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    client = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_UNIX:
        client.bind("")  # autobind: an abstract name, so that the answer has an address
    client.settimeout(PATIENCE)
    client.connect(address)  # type: ignore[arg-type]
    return client


@needs_proc
@pytest.mark.parametrize("kind", ["UDPServer", "UnixDatagramServer"])
@on_both("inline", "threads")
def test_floods_and_oversize_packets(
    module: str, dispatch: str, kind: str, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(7)
    where = ("127.0.0.1", 0) if kind == "UDPServer" else str(tmp_path / "socket")
    source = f"KIND, ADDRESS, LIMIT = {kind!r}, {where!r}, {LIMIT}\n" + SOURCE
    packets = PACKETS // (10 if (module, dispatch) != (HERE, "inline") else 1)
    oversize = 0
    with ServerProcess(source, module, dispatch) as server:
        address = server.read_address()
        with open_client(address) as client:
            for begin in range(0, packets, WINDOW):
                sent = {}
                for number in range(begin, begin + WINDOW):
                    length = chance.choice([0, 1, LIMIT - 10, LIMIT, 2 * LIMIT, 8 * LIMIT])
                    packet = b"%d " % number + os.urandom(length)
                    oversize += len(packet) > LIMIT
                    sent[number] = packet
                    client.send(packet)
                answers = [client.recv(100) for _ in sent]
                rights = [answer_to(packet) for packet in sent.values()]
                if dispatch == "inline":
                    assert answers == rights, "wrong, or not in order"
                else:
                    assert sorted(answers) == sorted(rights)
            if module == HERE:
                server.send_signal(signal.SIGUSR1)
                stats = json.loads(server.read_line())
                assert stats["truncated"] == oversize
                assert stats["received"] >= packets
        with open_client(address) as flood:
            flood.setblocking(False)
            passed = 0
            for number in range(FLOOD):
                try:
                    flood.send(b"flood " + bytes(2 * LIMIT if number % 16 == 0 else 50))
                    passed += 1
                except BlockingIOError:
                    pass
        with open_client(address) as client:
            answered = 0
            waited_for = set()
            client.settimeout(0.5)
            for number in range(1000):  # a full buffer drops packets
                packet = b"%d after the flood" % number
                waited_for.add(answer_to(packet))
                try:
                    client.send(packet)
                    waited_for.remove(client.recv(100))  # be it that of an earlier one, late
                    answered += 1
                except TimeoutError:
                    continue
                if answered == 10:
                    break
            assert answered == 10
        server.stop()
    figures.note_for(
        module,
        f"{kind}, {dispatch}: packets beyond max_packet_size counted; alive after a flood",
        f"{oversize if module == HERE else 0} of {oversize}; yes",
    )
