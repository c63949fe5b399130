"""Servers for TCP, UDP and Unix sockets, one request at a time."""

from __future__ import annotations

import os
import socket
import sys

from . import _core
from ._base import BaseServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket as _Socket
    from typing import Any

    from ._base import AddressType, HandlerFactory, RequestType


class TCPServer(BaseServer):
    """A server for TCP connections, or other stream sockets.

    The constructor opens the socket and, unless `bind_and_activate` is false, calls
    `server_bind()` and `server_activate()`; if one of them fails, the socket is closed.

    Attributes:
        socket: The listening socket. It may be replaced at any time.
        address_family: `socket.AF_INET`; set it on the class, before the constructor runs.
        socket_type: `socket.SOCK_STREAM`.
        request_queue_size: Connections that the kernel holds until they are accepted (`listen(2)`);
            `socket.SOMAXCONN`, which it is in the standard library from 3.15 on.
        allow_reuse_address: Set `SO_REUSEADDR` before binding; false.
        allow_reuse_port: Set `SO_REUSEPORT` before binding, where the family has it; false.
        disable_nagle_algorithm: Set `TCP_NODELAY` on accepted connections; true, as asyncio does:
            an answer in two small writes waits 40 ms otherwise.
        unlink_on_close: Whether `server_close()` removes the file of a Unix socket, unless another
            has taken its place, or another process than the one that has bound it closes; false.
        max_connections: How many connections may be open at once; further ones wait in the kernel's
            queue. `None`, the default of all limits, is no limit; nor is what is not above zero, or
            infinite. What is no number is left to the program, with a line in the log.
        max_connections_per_client: How many of them may come from one IP address; a further one is
            closed at once, for those behind it in the queue are others'.
        request_deadline: Seconds that a whole request may take. A read or write of its handler that
            would go on for longer raises `TimeoutError`, and `finish()` is called.
        idle_timeout: Seconds that a handler may wait for its client: for a whole line where
            `rfile` reads one, otherwise for the next bytes, or until the client takes some of what
            is written. Then `TimeoutError` as above.
        ssl_context: An `ssl.SSLContext` with which connections are wrapped, or `None`. The
            handshake is done where the request is handled. Another context may be assigned at any
            time; new connections have it. Anything else, and a context for clients
            (`ssl.PROTOCOL_TLS_CLIENT`), is taken for an attribute of the program's own: it is
            ignored, with a line in the log, and connections are not encrypted.
        handshake_timeout: Seconds that a TLS handshake may take, also where `socket` is an
            `ssl.SSLSocket`; 10, `None` for no limit.
    """

    address_family: int = socket.AF_INET
    socket_type: int = socket.SOCK_STREAM
    request_queue_size: int = socket.SOMAXCONN
    allow_reuse_address: bool = False
    allow_reuse_port: bool = False
    disable_nagle_algorithm: bool = True
    unlink_on_close: bool = False

    if TYPE_CHECKING:
        socket: _Socket

    def __init__(
        self,
        server_address: AddressType,
        RequestHandlerClass: HandlerFactory,
        bind_and_activate: bool = True,
    ) -> None:
        """Open the socket; see the class."""
        # Not super(): a class that a program puts between need not take arguments.
        BaseServer.__init__(self, server_address, RequestHandlerClass)
        self.socket = socket.socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                self.server_bind()
                self.server_activate()
            except BaseException:
                self.server_close()
                raise

    def server_bind(self) -> None:
        """Bind the socket, and note the address that it then has in `server_address`."""
        if self.allow_reuse_address and hasattr(socket, "SO_REUSEADDR"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if (
            self.allow_reuse_port
            and hasattr(socket, "SO_REUSEPORT")
            and self.address_family in (socket.AF_INET, socket.AF_INET6)
        ):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        if self.unlink_on_close and (path := _path_of(self.server_address)):
            # A program may change its folder, and `server_address`.
            path = os.path.abspath(path)
            self.__own_file = path, _identify(path), os.getpid()

    def server_activate(self) -> None:
        """Listen."""
        self.socket.listen(self.request_queue_size)

    def server_close(self) -> None:
        """Close the socket; ends a `serve_forever()` that is running in another thread."""
        self.socket.close()
        _core.Engine.of(self).wake()
        path, identity, pid = self.__dict__.pop("_TCPServer__own_file", (None, None, None))
        # A forked child is not the one that has bound it.
        if pid == os.getpid() and _identify(path) == identity:
            try:
                os.unlink(path)
            except OSError:
                pass  # It is no longer this process's to remove.

    def fileno(self) -> int:
        """Return the socket's descriptor, for `select` and its kind; -1 when closed."""
        return self.socket.fileno()

    def get_request(self) -> tuple[RequestType, AddressType]:
        """Accept a connection.

        Returns:
            The new socket and the client's address.

        Raises:
            OSError: There is none after all; the loop goes on.
        """
        listener = self.socket
        tls = _find_tls(self)
        request, client_address = (tls.accept if tls else _accept)(listener)
        if self.disable_nagle_algorithm:
            _disable_nagle(request)
        if tls is None:
            return request, client_address
        try:
            return tls.secure(self, listener, request), client_address
        except Exception as error:
            self.handle_error(request, client_address)
            self.shutdown_request(request)
            raise OSError(f"no TLS over this connection: {error}") from error

    def shutdown_request(self, request: RequestType) -> None:
        """Tell the client that nothing more will come, then close the connection."""
        _core.forget_client(self, request)
        try:
            # Closing alone would reset a connection whose socket lives on elsewhere.
            request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The client may be gone already.
        self.close_request(request)

    def close_request(self, request: RequestType) -> None:
        """Close the connection."""
        request.close()


class UDPServer(TCPServer):
    """A server for UDP packets, or other datagrams.

    A request is a pair: the bytes of one packet, and the server's socket to answer with.

    Attributes:
        max_packet_size: Bytes of a packet that are received at most, 8192; the rest of a longer one
            is lost.
    """

    socket_type: int = socket.SOCK_DGRAM
    allow_reuse_address: bool = False
    allow_reuse_port: bool = False
    max_packet_size: int = 8192

    def get_request(self) -> tuple[tuple[bytes, _Socket], AddressType]:
        """Receive a packet: `(data, socket)` and the client's address."""
        data, client_address = self.socket.recvfrom(self.max_packet_size)
        return (data, self.socket), client_address

    def server_activate(self) -> None:
        """Do nothing: datagram sockets do not listen."""

    def shutdown_request(self, request: RequestType) -> None:
        """End the request: there is no connection, so only `close_request()` is called."""
        self.close_request(request)

    def close_request(self, request: RequestType) -> None:
        """Do nothing: the socket is the server's."""


if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer):
        """A server for connections to a Unix socket."""

        address_family: int = socket.AF_UNIX

    class UnixDatagramServer(UDPServer):
        """A server for datagrams to a Unix socket."""

        address_family: int = socket.AF_UNIX


def _path_of(address: Any) -> Any:
    """The path that a Unix socket is bound to; `None` for any other address."""
    is_path = isinstance(address, (str, bytes)) and address and address[0] not in ("\0", 0)
    return address if is_path else None


def _identify(path: Any) -> tuple[int, int]:
    """What tells the file at `path` from another that takes its place."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _accept(listener: _Socket) -> tuple[Any, Any]:
    return listener.accept()


_NO_TLS = (
    "ssl_context is no ssl.SSLContext for servers, and is ignored: connections are not encrypted"
)


def _find_tls(server: TCPServer) -> Any:
    """The module that deals with TLS, if `server` speaks it: few programs import `ssl`."""
    ssl: Any = sys.modules.get("ssl")
    is_listener = (
        ssl is not None
        and isinstance(server.socket, ssl.SSLSocket)
        and type(server.socket).accept is ssl.SSLSocket.accept
    )
    if server.ssl_context is None and not is_listener:
        return None
    if ssl is not None:
        from . import _tls

        if is_listener or _tls.context_of(server) is not None:
            return _tls
    _core.Engine.of(server).report("ssl_context", _NO_TLS)
    return None


def _disable_nagle(request: Any) -> None:
    """Set `TCP_NODELAY` on what is a socket of a family that has it."""
    if getattr(request, "family", None) in (socket.AF_INET, socket.AF_INET6):
        try:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # The client may be gone already; other protocols of the family do not have it.
