"""The services on asyncio's streams: `streams.py asyncio|uvloop ...`.

For the other arguments and what is owed to the caller see `contenders.py`. The dispatch makes no
difference: the loop runs a task for each connection.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import loops
from common import BACKLOG, DOWNLOAD, MIB, RECEIVED

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter


def main(loop_module: str, service: str, _dispatch: str, address: str) -> None:
    """Serve until SIGTERM."""
    loops.run(loop_module, service, address, listen)


async def listen(service: str, bind: Any) -> asyncio.Server:
    """Start a server for connections."""
    handler = HANDLERS[service]
    if isinstance(bind, str):
        return await asyncio.start_unix_server(handler, bind, backlog=BACKLOG)
    return await asyncio.start_server(handler, *bind, backlog=BACKLOG)


async def line(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer one line."""
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def lines(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer lines."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def up(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer each MiB with a byte."""
    received = 0
    while data := await reader.read(MIB):
        received += len(data)
        while received >= MIB:
            received -= MIB
            writer.write(RECEIVED)
            await writer.drain()
    writer.close()


async def down(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer each byte with a MiB."""
    while await reader.read(1):
        writer.write(DOWNLOAD)
        await writer.drain()
    writer.close()


HANDLERS = {"line": line, "lines": lines, "up": up, "down": down}


if __name__ == "__main__":
    main(*sys.argv[1:])
