"""Serving one handler class from the command line."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import signal
import socket
import sys
import threading
import time

from . import _handlers, _mixins, _servers
from ._install import install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

    from ._base import AddressType, BaseServer, RequestType

    # Stands before a server among the bases: what it extends is a server's.
    _Server = BaseServer
else:
    _Server = object

DISPATCHES = ("sync", "threads", "forks", "greenlets")
"""One request at a time, a thread for each, a child process for each, or a greenlet for each."""

CHILDRENS_GRACE = 1.0
"""Seconds that a child process has to end by itself."""


class UpperCaseStream(_handlers.StreamRequestHandler):
    """Answers one line with the same line in upper case; what is served by default."""

    timeout = 60

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline(10_000).upper())


class UpperCaseDatagram(_handlers.DatagramRequestHandler):
    """Answers a datagram with the same in upper case; what is served by default with ``--udp``."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


class StoppedBySignals(_Server):
    """A server that signals stop, without an exception in the midst of its own work.

    Only a handler that runs on the main thread, be it a child's, is interrupted.
    """

    _stopping = False
    _handling = False

    def stop_on(self, *numbers: int) -> None:
        """Stop when one of these signals comes; a further one is a `KeyboardInterrupt`."""
        for number in numbers:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        interrupt = self._stopping or self._handling
        self._stopping = self._BaseServer__shutdown_request = True
        self._wake()
        if interrupt:
            raise KeyboardInterrupt

    def finish_request(self, request: RequestType, client_address: AddressType) -> None:
        """Handle the request; on the main thread, let a signal end that."""
        if threading.current_thread() is not threading.main_thread():
            super().finish_request(request, client_address)
            return
        self._handling = True
        try:
            # One that came to a child before it got here.
            if self._stopping:
                raise KeyboardInterrupt
            super().finish_request(request, client_address)
        finally:
            self._handling = False


class UsageError(Exception):
    """A command line that cannot be served; its text says why, in one line."""


def serve(handler: str | None, bind: str, *, udp: bool, dispatch: str) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        handler: ``package.module:Class``, or `None` for the upper-casing example.
        bind: ``HOST:PORT``, ``[V6]:PORT``, ``unix:PATH`` or ``unix:@NAME``.
        udp: Whether to take datagrams rather than connections.
        dispatch: One of `DISPATCHES`.

    Raises:
        UsageError: The handler cannot be found, or `bind` is no address.
        OSError: The address cannot be listened on.
    """
    family, address = parse_bind(bind)
    # The handler's module may import `socketserver`, and must find this package.
    install()
    if handler is None:
        handler_class: Any = UpperCaseDatagram if udp else UpperCaseStream
        name = "the upper-casing example"
    else:
        handler_class = find_handler(handler)
        name = handler
    with (
        contextlib.suppress(KeyboardInterrupt),
        make_server(family, address, handler_class, udp=udp, dispatch=dispatch) as server,
        own_socket_file(server),
        own_children(server),
    ):
        server.stop_on(signal.SIGINT, signal.SIGTERM)
        print(f"serving {name} on {describe(server)} ({dispatch})")
        print(f"try it:  echo hello | {client_command(server, udp=udp)}")
        print("Ctrl-C stops it", flush=True)
        server.serve_forever()
    print("stopped", flush=True)


def parse_bind(bind: str) -> tuple[int, AddressType]:
    """Return the address family and the address that `bind` names.

    Raises:
        UsageError: It names none.
    """
    if bind.startswith("unix:") and len(bind) > len("unix:"):
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError(f"no Unix sockets on this platform: {bind}")
        path = bind.removeprefix("unix:")
        return socket.AF_UNIX, "\0" + path[1:] if path.startswith("@") else path
    host, colon, port = bind.rpartition(":")
    family = socket.AF_INET
    if host.startswith("[") and host.endswith("]"):
        host, family = host[1:-1], socket.AF_INET6
    elif ":" in host:
        colon = ""
    try:
        host.encode("idna")
    except UnicodeError:
        colon = ""
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise UsageError(
            f"not an address to listen on: {bind!r} (HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME)"
        )
    return family, (host, int(port))


def find_handler(name: str) -> Any:
    """Import what ``package.module:Class`` names.

    Raises:
        UsageError: There is no such module, or nothing in it of that name that can be called.
    """
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute) or module_name.startswith("."):
        raise UsageError(f"not a handler: {name!r} (package.module:Class)")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # One that the handler's own module misses is its affair, and comes with a traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"no module named {error.name!r}: {name}") from None
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"{error}: {name}") from None
    if not callable(found):
        raise UsageError(f"not a request handler class: {name}")
    return found


def make_server(
    family: int, address: AddressType, handler_class: Any, *, udp: bool, dispatch: str
) -> Any:
    """Open a server with these properties."""
    mixins: dict[str, tuple[type, ...]] = {
        "sync": (),
        "threads": (_mixins.ThreadingMixIn,),
        "greenlets": (_mixins.GreenletMixIn,),
    }
    if hasattr(_mixins, "ForkingMixIn"):
        mixins["forks"] = (_mixins.ForkingMixIn,)
    if dispatch not in mixins:
        raise UsageError(f"this platform cannot fork: --dispatch {dispatch}")
    bases = (StoppedBySignals, *mixins[dispatch], _servers.UDPServer if udp else _servers.TCPServer)
    attributes = {
        "__module__": __name__,
        "address_family": family,
        # With datagrams it would let a second server take them from the first.
        "allow_reuse_address": not udp and family != getattr(socket, "AF_UNIX", None),
        # Stopping does not wait for clients that stay.
        "daemon_threads": True,
        "block_on_close": False,
    }
    try:
        return type("Server", bases, attributes)(address, handler_class)
    except ImportError as error:
        raise UsageError(str(error)) from None


def describe(server: BaseServer) -> str:
    """Where `server` listens, as ``--bind`` takes it."""
    address = server.server_address
    if isinstance(address, bytes):
        return f"unix:@{os.fsdecode(address[1:])}"
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def client_command(server: BaseServer, *, udp: bool) -> str:
    """The netcat command that reaches `server`."""
    address = server.server_address
    options = " -u -w 1" if udp else ""
    if isinstance(address, (str, bytes)):
        return f"nc{options} -U {shlex.quote(os.fsdecode(address).replace(chr(0), '@'))}"
    return f"nc{options} {address[0]} {address[1]}"


@contextlib.contextmanager
def own_socket_file(server: BaseServer) -> Iterator[None]:
    """Remove the server's Unix socket file in the end, unless another has taken its place."""
    path = server.server_address
    if not (isinstance(path, str) and path):
        yield
        return
    made = os.stat(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(made, os.stat(path)):
                os.unlink(path)


@contextlib.contextmanager
def own_children(server: BaseServer) -> Iterator[None]:
    """End the children that still handle requests: nothing of the server stays.

    One that has just been forked does not hear SIGTERM: the interpreter forgets, after a fork, what
    signals have come. Hence the second round.
    """
    try:
        yield
    finally:
        children: set[int] = getattr(server, "active_children", None) or set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in children:
                os.kill(pid, number)
            deadline = time.monotonic() + CHILDRENS_GRACE
            while children and time.monotonic() < deadline:
                server.service_actions()
                time.sleep(0.005)


def main(handler: str | None, bind: str, *, udp: bool, dispatch: str) -> int:
    """`serve()`, with its errors as one line on standard error; returns the exit status."""
    try:
        serve(handler, bind, udp=udp, dispatch=dispatch)
    except UsageError as error:
        print(f"fastsocketserver serve: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"fastsocketserver serve: cannot listen on {bind}: {error}", file=sys.stderr)
        return 1
    return 0
