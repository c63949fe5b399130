"""Runs a server on an event loop with asyncio's interface."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from typing import TYPE_CHECKING, Any

from common import announce, parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run(
    loop_module: str, service: str, address: str, listen: Callable[..., Awaitable[asyncio.Server]]
) -> None:
    """Serve until SIGTERM; `listen` takes the service and what to bind to."""
    loop = importlib.import_module(loop_module).new_event_loop()
    loop.run_until_complete(_serve(service, parse(address), listen))
    # At once: the interpreter's own end is none of the server's work.
    os._exit(0)


async def _serve(service: str, bind: Any, listen: Callable[..., Awaitable[asyncio.Server]]) -> None:
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    if service == "datagram":
        transport, _ = await loop.create_datagram_endpoint(_Datagram, bind)
        announce(transport.get_extra_info("socket"))
    else:
        server = await listen(service, bind)
        announce(server.sockets[0])
    await terminated.wait()


class _Datagram(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)
