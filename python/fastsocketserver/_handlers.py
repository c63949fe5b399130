"""Request handlers."""

from __future__ import annotations

import socket
from io import BufferedIOBase, BytesIO

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from ._base import AddressType, BaseServer, RequestType


class BaseRequestHandler:
    """Handles one request: the constructor calls `setup()`, `handle()` and `finish()`.

    Subclasses override `handle()`; `finish()` is called also when that raised, but not when
    `setup()` did.

    Attributes:
        request: A connection's socket, or for datagrams a pair of bytes and the server's socket.
        client_address: Where it came from.
        server: The server.
        reads_first: Whether nothing happens before the client has sent something; see `parking` of
            `ThreadingMixIn`; false.
    """

    reads_first: bool = False

    if TYPE_CHECKING:
        request: Any
        client_address: Any
        server: BaseServer

    def __init__(
        self, request: RequestType, client_address: AddressType, server: BaseServer
    ) -> None:
        """Handle the request."""
        self.request = request
        self.client_address = client_address
        self.server = server
        self.setup()
        try:
            self.handle()
        finally:
            self.finish()

    def setup(self) -> None:
        """Prepare for `handle()`. Does nothing here."""

    def handle(self) -> None:
        """Do the work. Does nothing here."""

    def finish(self) -> None:
        """Clean up after `handle()`. Does nothing here."""


# For isinstance(): native classes cannot inherit from it.
BufferedIOBase.register(_core.SocketFile)


class StreamRequestHandler(BaseRequestHandler):
    """Handles one connection, through `rfile` and `wfile`.

    Attributes:
        connection: The socket; the same as `request`.
        rfile: Reads from the connection.
        wfile: Writes to it.
        rbufsize: Buffer size of `rfile`: -1 for the default, 0 for none.
        wbufsize: Buffer size of `wfile`: 0 for none, and then each `write()` sends all it is given.
        timeout: Seconds after which reading or writing raises `TimeoutError`, or `None`.
        disable_nagle_algorithm: Whether to set `TCP_NODELAY` here as well; false, for the server
            has done so.
    """

    rbufsize: int = -1
    wbufsize: int = 0
    timeout: float | None = None
    disable_nagle_algorithm: bool = False

    if TYPE_CHECKING:
        connection: Any
        rfile: BufferedIOBase | IO[bytes]
        wfile: BufferedIOBase | IO[bytes]

    def setup(self) -> None:
        """Make `connection`, `rfile` and `wfile` of the request."""
        self.connection = self.request
        if self.timeout is not None:
            self.connection.settimeout(self.timeout)
        if self.disable_nagle_algorithm:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.rfile = _core.open_reader(self.connection, self.rbufsize)
        if self.wbufsize == 0:
            self.wfile = _SocketWriter(self.connection)
        else:
            self.wfile = _core.open_writer(self.connection, self.wbufsize)

    def finish(self) -> None:
        """Flush `wfile`, and close both files."""
        if not self.wfile.closed:
            try:
                self.wfile.flush()
            except OSError:
                pass  # The client may be gone already.
        self.wfile.close()
        self.rfile.close()


class _SocketWriter(BufferedIOBase):
    """A file over a socket whose `write()` sends all that it is given, without a buffer."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def writable(self) -> bool:
        return True

    write = _core.method(_core.write_all)

    def fileno(self) -> int:
        fileno: int = self._sock.fileno()
        return fileno


class DatagramRequestHandler(BaseRequestHandler):
    """Handles one datagram: `rfile` reads it, and what was written to `wfile` is the answer.

    Attributes:
        packet: The bytes received.
        socket: The server's socket.
        rfile: Reads the packet.
        wfile: Collects the answer, which is sent by `finish()`, also when it is empty.
    """

    if TYPE_CHECKING:
        packet: bytes
        socket: Any
        rfile: BytesIO
        wfile: BytesIO

    def setup(self) -> None:
        """Make `packet`, `socket`, `rfile` and `wfile` of the request."""
        self.packet, self.socket = self.request
        self.rfile = BytesIO(self.packet)
        self.wfile = BytesIO()

    def finish(self) -> None:
        """Send the answer."""
        self.socket.sendto(self.wfile.getvalue(), self.client_address)
