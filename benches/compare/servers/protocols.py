"""The services on asyncio's protocols: `protocols.py asyncio|uvloop ...`.

For the other arguments and what is owed to the caller see `contenders.py`. The dispatch makes no
difference: the loop calls the protocols.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import loops
from common import BACKLOG, DOWNLOAD, MIB, RECEIVED


def main(loop_module: str, service: str, _dispatch: str, address: str) -> None:
    """Serve until SIGTERM."""
    loops.run(loop_module, service, address, listen)


async def listen(service: str, bind: Any) -> asyncio.Server:
    """Start a server for connections."""
    loop = asyncio.get_running_loop()
    protocol = PROTOCOLS[service]
    if isinstance(bind, str):
        return await loop.create_unix_server(protocol, bind, backlog=BACKLOG)
    return await loop.create_server(protocol, *bind, backlog=BACKLOG)


class Lines(asyncio.Protocol):
    """Answers lines."""

    begun = b""
    """The beginning of a line whose end has not come."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        whole, newline, self.begun = (self.begun + data).rpartition(b"\n")
        if newline:
            self.transport.write(whole + newline)
            self.answered()

    def answered(self) -> None:
        """Called after each write."""


class Line(Lines):
    """Answers one line."""

    def answered(self) -> None:
        self.transport.close()


class Up(asyncio.Protocol):
    """Answers each MiB with a byte."""

    received = 0
    """Bytes of a MiB that is not whole."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        whole, self.received = divmod(self.received + len(data), MIB)
        if whole:
            self.transport.write(RECEIVED * whole)


class Down(asyncio.Protocol):
    """Answers each byte with a MiB."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in data:
            self.transport.write(DOWNLOAD)


PROTOCOLS = {"line": Line, "lines": Lines, "up": Up, "down": Down}


if __name__ == "__main__":
    main(*sys.argv[1:])
