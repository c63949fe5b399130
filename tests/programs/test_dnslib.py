"""dnslib's zone server, over UDP and TCP, asked with its own client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from program import DEADLINE, FREE_PORT

if TYPE_CHECKING:
    from pathlib import Path

    from program import Both, Program

dnslib = pytest.importorskip("dnslib", reason="dnslib is not installed")

ZONE = """
$TTL 300
example.org.       IN  SOA   ns1.example.org. admin.example.org. ( 1 3600 3600 3600 3600 )
example.org.       IN  MX    10 mail.example.org.
example.org.       IN  A     192.0.2.1
example.org.       IN  AAAA  2001:db8::1
mail.example.org.  IN  A     192.0.2.25
www.example.org.   IN  CNAME example.org.
""" + "\n".join(f'long.example.org. IN TXT "{number:0200}"' for number in range(20))

QUESTIONS = [
    ("example.org", "A"),
    ("example.org", "AAAA"),
    ("example.org", "MX"),
    ("www.example.org", "A"),
    ("mail.example.org", "ANY"),
    ("nowhere.example.org", "A"),
    ("long.example.org", "TXT"),
]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_zone(both: Both, tmp_path: Path, tcp: bool) -> None:
    """Every answer, its identity aside, is the same; long ones are cut over UDP."""
    zone = tmp_path / "zone"
    zone.write_text(ZONE)
    address = ("--address", "127.0.0.1", "--port", FREE_PORT, "--udplen", "512", "--tcp")
    both.start("-m", "dnslib.zoneresolver", "--zone", zone, *address)

    def ask(program: Program) -> list[str]:
        replies = []
        for name, kind in QUESTIONS:
            question = dnslib.DNSRecord.question(name, kind)
            packet = question.send("127.0.0.1", program.port, tcp=tcp, timeout=DEADLINE)
            reply = dnslib.DNSRecord.parse(packet)
            assert reply.header.id == question.header.id
            reply.header.id = 0
            replies.append(str(reply))
        return replies

    address_record, _, mail, alias, _, nowhere, long = both.ask(ask)
    assert "192.0.2.1" in address_record
    assert "192.0.2.25" in mail
    assert "CNAME" in alias
    assert "NXDOMAIN" in nowhere
    assert long.count("TXT") == (21 if tcp else 0)
    assert (" tc " in long) != tcp
    both.interrupt()
