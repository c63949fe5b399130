"""Serving one handler class from the command line."""

from __future__ import annotations

import contextlib
import errno
import importlib
import mmap
import os
import shlex
import signal
import socket
import stat
import sys
import time
from typing import Any, NamedTuple

from . import _core, _handlers, _mixins, _servers
from ._drain import drain
from ._install import install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ._base import AddressType, BaseServer

    # Stands before a server among the bases: what it extends is a server's.
    _Server = BaseServer
else:
    _Server = object

DISPATCHES = ("sync", "threads", "forks", "greenlets")
"""One request at a time, a thread for each, a child process for each, or a greenlet for each."""

PATIENCE = 0.2
"""Seconds before somebody who has stopped the server is told what it still waits for."""


class UpperCaseStream(_handlers.StreamRequestHandler):
    """Answers one line with the same line in upper case; what is served by default."""

    timeout = 60
    reads_first = True

    def handle(self) -> None:
        self.wfile.write(self.rfile.readline(10_000).upper())


class UpperCaseDatagram(_handlers.DatagramRequestHandler):
    """Answers a datagram with the same in upper case; what is served by default with ``--udp``."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


class Served(_Server):
    """A server that signals stop, and that tells from time to time what it has done.

    The first signal has it take no more requests; those that it has may end, within some seconds.
    The second ends everything at once.
    """

    drain: float = 10.0
    """Seconds that requests have to end."""
    stats_interval: float | None = None
    """Seconds between two lines about what has been done."""

    _stopping = False
    # Shared with the children: whether their time is over.
    _ends_children = mmap.mmap(-1, 1)
    _cut_short = 0
    _next_stats = 0.0

    def stop_on(self, *numbers: int) -> None:
        """Stop when one of these signals comes."""
        self._pid = os.getpid()
        for number in numbers:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._look)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        is_child = os.getpid() != self._pid
        if is_child and not self._ends_children[0] and os.getppid() == self._pid:
            return  # A terminal or supervisor tells all; the parent says when their time is over.
        engine = _core.Engine.of(self)
        if is_child or self._stopping:
            engine.draining = False
            raise KeyboardInterrupt
        engine.draining = self._stopping = self._BaseServer__shutdown_request = True
        self._end = time.monotonic() + self.drain
        # A handler on the main thread keeps everything else there from running.
        signal.setitimer(signal.ITIMER_REAL, max(min(self.drain, PATIENCE), 0.001))
        engine.wake()

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Say that there are requests left, or end them when their time is over."""
        engine = _core.Engine.of(self)
        self._core_collect_ended()
        left = self._end - time.monotonic()
        if left <= 0:
            self._cut_short += engine.end_requests()
            return
        signal.setitimer(signal.ITIMER_REAL, left)
        if count := engine.count_open():
            requests = "1 request" if count == 1 else f"{count} requests"
            _say(f"finishing {requests}, in {self.drain:g} s at most; Ctrl-C ends them at once")

    def _core_end_children(self) -> None:
        self._ends_children[0] = 1
        super()._core_end_children()

    def finish_requests(self) -> int:
        """Wait for the requests, after the loop; returns how many had to be ended."""
        if self._stopping:
            left = drain(self, self._end - time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._cut_short = max(self._cut_short, left)
        return self._cut_short

    def service_actions(self) -> None:
        """Tell what has been done, when it is time to."""
        super().service_actions()
        if self.stats_interval is None or (now := time.monotonic()) < self._next_stats:
            return
        if self._next_stats:
            _say(str(self.stats()))
        self._next_stats = now + self.stats_interval


def _say(line: str) -> None:
    """Print a line, also from within a signal's handler, which may have interrupted `print()`.

    Where nobody reads it, that is no reason not to serve.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # No number: without a standard output, descriptor 1 is some socket.
        os.write(sys.stdout.fileno(), os.fsencode(f"{line}\n"))


class UsageError(Exception):
    """A command line that cannot be served; its text says why, in one line."""


class ServingError(Exception):
    """The system does not let the server serve; the text says why, in one line."""


class Options(NamedTuple):
    """What the command line says of a server.

    Attributes:
        handler: ``package.module:Class``, or `None` for the upper-casing example.
        bind: ``HOST:PORT``, ``[V6]:PORT``, ``unix:PATH`` or ``unix:@NAME``.
        udp: Whether to take datagrams rather than connections.
        dispatch: One of `DISPATCHES`.
        certificate: A file with a certificate, for TLS.
        key: One with its key, if that is another file.
        drain: Seconds that requests have to end when the server stops.
        stats: Seconds between two lines about what has been done; `None` for none.
        attributes: Attributes of the server that the command line names.
    """

    handler: str | None
    bind: str
    udp: bool
    dispatch: str
    certificate: str | None
    key: str | None
    drain: float
    stats: float | None
    attributes: dict[str, Any]


def serve(options: Options) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UsageError: Something that `options` name cannot be had.
        ServingError: The address cannot be listened on, or the loop cannot go on.
    """
    handler, udp, dispatch = options.handler, options.udp, options.dispatch
    family, address = parse_bind(options.bind)
    # The handler's module may import `socketserver`, and must find this package.
    install()
    if handler is None:
        handler_class: Any = UpperCaseDatagram if udp else UpperCaseStream
        name = "the upper-casing example"
    else:
        handler_class = find_handler(handler)
        check_kind(handler, handler_class, udp=udp)
        name = handler
    check_attributes(options, family, reads_first=getattr(handler_class, "reads_first", False))
    with (
        contextlib.suppress(KeyboardInterrupt),
        telling_of_errors(),
        make_server(family, address, handler_class, options) as server,
        own_children(server),
    ):
        server.stop_on(signal.SIGINT, signal.SIGTERM)
        _say(f"serving {name} on {describe(server)} ({dispatch})")
        if command := client_command(server, udp=udp):
            _say(f"try it:  echo hello | {command}")
        _say("Ctrl-C stops it")
        server.serve_forever(min(0.5, options.stats or 0.5))
        if cut_short := server.finish_requests():
            _say(f"{cut_short} cut short")
    _say("stopped")


@contextlib.contextmanager
def telling_of_errors() -> Iterator[None]:
    """Have each `OSError` be a `ServingError`."""
    try:
        yield
    except OSError as error:
        raise ServingError(str(error)) from error


def parse_bind(bind: str) -> tuple[int, AddressType]:
    """Return the address family and the address that `bind` names.

    Raises:
        UsageError: It names none.
    """
    if bind.startswith("unix:") and bind not in ("unix:", "unix:@"):
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


def check_kind(name: str, handler_class: Any, *, udp: bool) -> None:
    """See to it that a handler of datagrams is given datagrams, and one of connections those.

    Raises:
        UsageError: It would get the other.
    """
    if not isinstance(handler_class, type):
        return
    if udp and issubclass(handler_class, _handlers.StreamRequestHandler):
        raise UsageError(f"{name} handles connections: leave out --udp")
    if not udp and issubclass(handler_class, _handlers.DatagramRequestHandler):
        raise UsageError(f"{name} handles datagrams: add --udp")


def check_attributes(options: Options, family: int, *, reads_first: bool) -> None:
    """See to it that each attribute of the server has an effect.

    Raises:
        UsageError: One has none.
    """
    dispatch = options.dispatch
    numbers = ("max_threads", "max_connections", "max_connections_per_client")
    for name in options.attributes:
        if options.udp and name in ("idle_timeout", "request_deadline", "parking"):
            why = "with --udp"
        elif dispatch == "sync" and name in numbers:
            why = "with --dispatch sync"
        elif family not in (socket.AF_INET, socket.AF_INET6) and name == numbers[-1]:
            why = "with unix:"
        elif options.certificate is None and name == "handshake_timeout":
            why = "without --certificate"
        elif dispatch != "threads" and name == "parking":
            raise UsageError("--parking needs --dispatch threads")
        elif options.certificate is None and not reads_first and name == "parking":
            why = f"without --certificate, unless {options.handler} says `reads_first = True`"
        else:
            continue
        raise UsageError(f"--{name.replace('_', '-')} is of no use {why}")


def make_server(family: int, address: AddressType, handler_class: Any, options: Options) -> Any:
    """Open a server with these properties.

    Raises:
        UsageError: What `options` ask for cannot be had.
        ServingError: The address cannot be listened on.
    """
    udp, dispatch = options.udp, options.dispatch
    mixins: dict[str, tuple[type, ...]] = {
        "sync": (),
        "threads": (_mixins.ThreadingMixIn,),
        "greenlets": (_mixins.GreenletMixIn,),
    }
    if hasattr(_mixins, "ForkingMixIn"):
        mixins["forks"] = (_mixins.ForkingMixIn,)
    if dispatch not in mixins:
        raise UsageError(f"this platform cannot fork: --dispatch {dispatch}")
    bases = (Served, *mixins[dispatch], _servers.UDPServer if udp else _servers.TCPServer)
    attributes = {
        "__module__": __name__,
        "address_family": family,
        # With datagrams it would let a second server take them from the first.
        "allow_reuse_address": not udp and family != getattr(socket, "AF_UNIX", None),
        "unlink_on_close": True,
        "quiet_disconnects": True,
        "drain": options.drain,
        "stats_interval": options.stats,
        "ssl_context": load_certificate(options),
        # Stopping does not wait for clients that stay.
        "daemon_threads": True,
        "block_on_close": False,
        **options.attributes,
    }
    try:
        return type("Server", bases, attributes)(address, handler_class)
    except ImportError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        hint = "; if no server uses it, remove the file" if _is_in_the_way(error, address) else ""
        raise ServingError(f"cannot listen on {options.bind}: {error}{hint}") from error


def _is_in_the_way(error: OSError, address: AddressType) -> bool:
    """Whether `error` is due to a Unix socket's file, maybe that of a server that is gone."""
    try:
        return error.errno == errno.EADDRINUSE and stat.S_ISSOCK(os.stat(address).st_mode)
    except (OSError, TypeError, ValueError):
        return False  # No file, but an address of the network, or an abstract name.


def describe(server: BaseServer) -> str:
    """Where `server` listens, as ``--bind`` takes it."""
    address = server.server_address
    if isinstance(address, bytes):
        return f"unix:@{os.fsdecode(address[1:])}"
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def client_command(server: BaseServer, *, udp: bool) -> str | None:
    """The command that reaches `server` from a shell; `None` where none is known."""
    address = server.server_address
    is_unix = isinstance(address, (str, bytes))
    if server.ssl_context is not None:
        # It takes no name of the abstract namespace.
        if isinstance(address, bytes):
            return None
        target = ["-unix", address] if is_unix else ["-connect", describe(server)]
        return shlex.join(["openssl", "s_client", "-quiet", *target])
    options = ["-u", "-w", "1"] if udp else []
    target = (
        ["-U", os.fsdecode(address).replace(chr(0), "@")]
        if is_unix
        else [address[0], str(address[1])]
    )
    return shlex.join(["nc", *options, *target])


def load_certificate(options: Options) -> Any:
    """Make the TLS context that `options` ask for; `None` for none.

    Raises:
        UsageError: The files cannot be used.
    """
    if options.certificate is None:
        if options.key is not None:
            raise UsageError("--key is of no use without --certificate")
        return None
    if options.udp:
        raise UsageError("there is no TLS over datagrams: --certificate with --udp")
    import ssl

    key_file = options.key or options.certificate

    def refuse() -> str:
        raise UsageError(f"the key in {key_file} has a pass phrase, which is not supported")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.certificate, options.key, refuse)
    except OSError as error:
        raise UsageError(find_fault(error, options.certificate, options.key)) from None
    return context


def find_fault(error: OSError, certificate: str, key: str | None) -> str:
    """Say what is wrong with files for which loading them only gives `error`."""
    import ssl

    for file in (certificate, key or certificate):
        try:
            with open(file, "rb"):
                pass
        except OSError as unreadable:
            return f"cannot read {file}: {unreadable.strerror}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        return f"{certificate} is no certificate in PEM"
    reason = getattr(error, "reason", None)
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"the key {key or certificate} is not that of the certificate {certificate}"
    # OpenSSL has no name for what it says where there is none.
    if reason in (None, "NO_START_LINE"):
        return (
            f"{key} holds no private key in PEM"
            if key
            else f"{certificate} holds no private key: give it by --key"
        )
    return f"cannot use the certificate {certificate}: {error}"


@contextlib.contextmanager
def own_children(server: BaseServer) -> Iterator[None]:
    """End the children that still handle requests: nothing of the server stays.

    One that has just been forked does not hear SIGTERM: the interpreter forgets, after a fork, what
    signals have come. Hence the second round.
    """
    try:
        yield
    finally:
        server._core_end_children()


def main(options: Options) -> int:
    """`serve()`, with its errors as one line on standard error; returns the exit status."""
    try:
        serve(options)
    except UsageError as error:
        print(f"fastsocketserver serve: {error}", file=sys.stderr)
        return 2
    except ServingError as error:
        print(f"fastsocketserver serve: {error}", file=sys.stderr)
        return 1
    return 0
