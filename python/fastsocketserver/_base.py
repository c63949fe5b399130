"""The base of all servers, and the contract of their hooks."""

from __future__ import annotations

import select
import selectors
import sys
import threading
from time import monotonic as time

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    # For annotations alone: importing `typing` takes as long as everything else here.
    from collections.abc import Callable
    from ssl import SSLContext
    from typing import Any, TypeAlias

    from typing_extensions import Self

    from ._handlers import BaseRequestHandler
    from ._stats import Connection, Stats

    RequestType: TypeAlias = Any
    AddressType: TypeAlias = Any
    HandlerFactory: TypeAlias = Callable[[Any, Any, Any], BaseRequestHandler]

_ServerSelector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)
"""What programs replace to wait in another way; while it is this one, the core waits by itself."""

_ORIGINAL_SELECTOR = _ServerSelector


def _waits_natively() -> bool:
    """Whether the core may wait by itself, in place of `_ServerSelector`.

    Not when a program has replaced the class, and not where `select` has been made cooperative:
    then a native wait would stop everything that the program runs beside the server.
    """
    poll = getattr(select, "poll", None)
    return _ServerSelector is _ORIGINAL_SELECTOR and getattr(poll, "__module__", "") == "select"


class BaseServer:
    """What all servers have in common: the loop, and the hooks that it calls.

    A server takes requests from its socket and has an object of `RequestHandlerClass` handle each.
    This class knows no socket; `TCPServer` and its subclasses supply that.

    For callers:

    - `serve_forever(poll_interval=0.5)` until `shutdown()`, or `handle_request()` one by one;
    - `fileno()`, so that a server can be waited for with others;
    - `server_close()`, which leaving a `with` block calls.

    The way of one request, each step a method that may be overridden on the class or the instance::

        get_request()                           OSError: no request this time
        verify_request(request, address)        false: shutdown_request
        process_request(request, address)
            finish_request(request, address)    RequestHandlerClass(request, address, self)
            shutdown_request(request)
                close_request(request)
        handle_error(request, address)          when one of these raised an Exception

    Other hooks: `server_activate()`, `service_actions()`, `handle_timeout()`.

    What goes on is told by `stats()` and `connections()`. For limits, deadlines and TLS see the
    attributes of `TCPServer`; for `max_threads` and `parking`, those of the mix-ins.

    Attributes:
        timeout: Seconds that `handle_request()` waits, or `None` for no limit.
        server_address: Where the server listens.
        RequestHandlerClass: What is called, with three arguments, for each request.
        quiet_disconnects: Whether a client that goes away in the middle of its request, or is
            silent for too long, is told of in one line, and not by a traceback; false. Errors that
            say so are `ConnectionResetError`, `ConnectionAbortedError` and `BrokenPipeError`, the
            end of a TLS connection, and a `TimeoutError` of the request's own connection.
    """

    timeout: float | None = None
    quiet_disconnects: bool = False
    # What the core asks every server for, documented at the classes that make something of it: to
    # ask for what is not there takes an exception.
    max_threads: int | None = None
    max_connections: int | None = None
    max_connections_per_client: int | None = None
    parking: bool = False
    request_deadline: float | None = None
    idle_timeout: float | None = None
    ssl_context: SSLContext | None = None
    handshake_timeout: float | None = 10.0

    if TYPE_CHECKING:
        server_address: AddressType
        socket: Any

        def fileno(self) -> int: ...

    def __init__(self, server_address: AddressType, RequestHandlerClass: HandlerFactory) -> None:
        """Note the address and the handler class; subclasses may extend this."""
        self.server_address = server_address
        self.RequestHandlerClass = RequestHandlerClass
        self.__is_shut_down = threading.Event()
        self.__shutdown_request = False

    def server_activate(self) -> None:
        """Start to accept requests; called by the constructor. Does nothing here."""

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """Handle requests until `shutdown()`.

        Args:
            poll_interval: Seconds after which each wait ends at the latest, so that
                `service_actions()` is called and a stop request that came without a wake-up is
                seen; `None` for no limit. `shutdown()` and `server_close()` end a wait at once.

        Raises:
            ValueError: The server is closed.
        """
        engine = _core.Engine.of(self)
        try:
            # A signal's handler may call `shutdown()` at any point from here on.
            engine.enter_loop()
            self.__is_shut_down.clear()
            try:
                self._core_run_loop(poll_interval)
            finally:
                self.__shutdown_request = False
                self.__is_shut_down.set()
        finally:
            engine.leave_loop()

    def _core_run_loop(self, poll_interval: float | None) -> None:
        """Do all that `shutdown()` waits for."""
        engine = _core.Engine.of(self)
        if _waits_natively():
            engine.serve(self, poll_interval, None)
        else:
            with _ServerSelector() as selector:
                selector.register(self, selectors.EVENT_READ)
                engine.serve(self, poll_interval, selector.select)

    def shutdown(self, drain: float | None = None) -> int | None:
        """Have `serve_forever()` return, and wait until it has.

        Called before `serve_forever()`, this waits for it to be called; it then returns at once.
        Called from the thread that runs `serve_forever()`, as by a signal's handler, it is noted
        and does not wait; with `drain`, a thread sees to the rest.

        Args:
            drain: Seconds that the requests have, which are being handled, to end. Those that are
                left are ended then: their handlers see the end of the connection, child processes
                are terminated. Without it nobody waits for them here; `server_close()` may.

        Returns:
            With `drain`, how many requests were left; `None` otherwise, and where it does not wait.
        """
        engine = _core.Engine.of(self)
        end = None if drain is None else time() + min(drain, threading.TIMEOUT_MAX)
        is_here = engine.is_serving_thread()
        if end is not None:
            engine.draining = True
        self.__shutdown_request = True
        engine.wake()
        if end is not None:
            if not is_here:
                return self.__drain(end)
            threading.Thread(target=self.__drain, args=(end,)).start()
        elif not is_here:
            self.__is_shut_down.wait()
        return None

    def __drain(self, end: float) -> int:
        from ._drain import GRACE, drain

        engine = _core.Engine.of(self)
        try:
            # A loop that handles requests by itself ends after the one that it has.
            self.__is_shut_down.wait(end - time())
            left = drain(self, end - time())
        finally:
            engine.draining = False
        # It may be taking one more.
        return left or int(engine.is_serving() and not self.__is_shut_down.wait(GRACE))

    def _core_collect_ended(self) -> bool:
        """Look after child processes; whether there are any. Not here."""
        return False

    def _core_end_children(self) -> None:
        """Have child processes end. There are none here."""

    def pause(self) -> None:
        """Take no more requests until `resume()`: new ones wait in the kernel's queue.

        Those that were taken go on. `serve_forever()` and `handle_request()` go on waiting.
        """
        _core.Engine.of(self).pause()

    def resume(self) -> None:
        """Take requests again, after `pause()`."""
        _core.Engine.of(self).resume()

    def stats(self) -> Stats:
        """What the server has done so far in this process, all of it of one moment."""
        from ._stats import Stats

        return Stats.of(self)

    def connections(self) -> list[Connection]:
        """The connections that are not over, the oldest first."""
        from ._stats import list_connections

        return list_connections(self)

    def service_actions(self) -> None:
        """Called by the loop after each wait, also when nothing has arrived. Does nothing here."""

    def handle_request(self) -> Any:
        """Wait for one request and handle it.

        Waits as long as the socket's timeout and `self.timeout` both allow, `None` meaning no
        limit; then calls `handle_timeout()`.

        Returns:
            `None`, or what a hook that a program has put in place of the last step returned.
        """
        limits = [limit for limit in (self.socket.gettimeout(), self.timeout) if limit is not None]
        wait = _core.wait_readable if _waits_natively() else _wait_readable
        last_step = (
            self._handle_request_noblock
            if wait(self, min(limits, default=None))
            else self.handle_timeout
        )
        return last_step()

    def _handle_request_noblock(self) -> Any:
        """Handle one request that is known to be there."""
        _core.Engine.of(self).handle_request_noblock(self)

    def handle_timeout(self) -> None:
        """Called by `handle_request()` when no request has arrived in time. Does nothing here."""

    def verify_request(self, request: RequestType, client_address: AddressType) -> bool:
        """Whether to handle this request; one that is refused is closed. True here."""
        return True

    def process_request(self, request: RequestType, client_address: AddressType) -> None:
        """Have the request handled and closed; the mix-ins do so elsewhere."""
        _core.call_finish_request(self, request, client_address)
        self.shutdown_request(request)

    def server_close(self) -> None:
        """Close the server; ends a `serve_forever()` that is running in another thread."""
        _core.Engine.of(self).wake()

    def finish_request(self, request: RequestType, client_address: AddressType) -> None:
        """Handle the request: make a handler object, whose constructor does the work.

        A TLS handshake that is due comes first.
        """
        _core.finish_request(self, request, client_address)

    def shutdown_request(self, request: RequestType) -> None:
        """End a request in an orderly way, then close it."""
        self.close_request(request)

    def close_request(self, request: RequestType) -> None:
        """Close a request. Does nothing here."""

    def handle_error(self, request: RequestType, client_address: AddressType) -> None:
        """Called while an exception of this request is being handled; prints it to `sys.stderr`."""
        if self.quiet_disconnects and _is_disconnect(sys.exc_info()[1]):
            print(f"{client_address} went away: {sys.exc_info()[1]}", file=sys.stderr)
            return
        import traceback

        rule = "-" * 40
        print(rule, file=sys.stderr)
        print(
            "Exception occurred during processing of request from", client_address, file=sys.stderr
        )
        traceback.print_exc()
        print(rule, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.server_close()


def _is_disconnect(error: BaseException | None) -> bool:
    """Whether `error` says that the client is gone, or has been silent for too long."""
    # Their subclasses tell of other connections: `http.client.RemoteDisconnected`, say.
    if type(error) in (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return True
    if isinstance(error, TimeoutError):
        return hasattr(error, "_is_clients")
    ssl: Any = sys.modules.get("ssl")
    return ssl is not None and isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))


def _wait_readable(server: BaseServer, timeout: float | None) -> bool:
    """Wait with `_ServerSelector` until `server` is readable; false after `timeout` seconds."""
    deadline = None if timeout is None else time() + timeout
    with _ServerSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        engine = _core.Engine.of(server)
        if not engine.await_admission(server, 0):
            if not engine.await_admission(server, timeout):
                return False
            if deadline is not None:
                timeout = max(deadline - time(), 0)
        while not selector.select(timeout):
            if deadline is not None:
                timeout = deadline - time()
                if timeout < 0:
                    return False
    return True
