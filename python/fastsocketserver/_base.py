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
    from typing import Any, TypeAlias

    from typing_extensions import Self

    from ._handlers import BaseRequestHandler

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

    Attributes:
        timeout: Seconds that `handle_request()` waits, or `None` for no limit.
        server_address: Where the server listens.
        RequestHandlerClass: What is called, with three arguments, for each request.
    """

    timeout: float | None = None

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
        self.__is_shut_down.clear()
        try:
            self._run_loop(poll_interval)
        finally:
            self.__shutdown_request = False
            self.__is_shut_down.set()

    def _run_loop(self, poll_interval: float | None) -> None:
        """Do all that `shutdown()` waits for."""
        engine = self._find_engine()
        if _waits_natively():
            engine.serve(self, poll_interval, None)
        else:
            with _ServerSelector() as selector:
                selector.register(self, selectors.EVENT_READ)
                engine.serve(self, poll_interval, selector.select)

    def shutdown(self) -> None:
        """Have `serve_forever()` return, and wait until it has.

        Called before `serve_forever()`, this waits for it to be called; it then returns at once.
        Called from the thread that runs `serve_forever()`, it is noted and does not wait.
        """
        self.__shutdown_request = True
        engine = self.__dict__.get("_engine")
        if engine is not None:
            engine.wake()
            if engine.is_serving_thread():
                return
        self.__is_shut_down.wait()

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
        self._find_engine().handle_request_noblock(self)

    def handle_timeout(self) -> None:
        """Called by `handle_request()` when no request has arrived in time. Does nothing here."""

    def verify_request(self, request: RequestType, client_address: AddressType) -> bool:
        """Whether to handle this request; one that is refused is closed. True here."""
        return True

    def process_request(self, request: RequestType, client_address: AddressType) -> None:
        """Have the request handled and closed; the mix-ins do so elsewhere."""
        self.finish_request(request, client_address)
        self.shutdown_request(request)

    def server_close(self) -> None:
        """Close the server; ends a `serve_forever()` that is running in another thread."""
        self._wake()

    def finish_request(self, request: RequestType, client_address: AddressType) -> None:
        """Handle the request: make a handler object, whose constructor does the work."""
        self.RequestHandlerClass(request, client_address, self)

    def shutdown_request(self, request: RequestType) -> None:
        """End a request in an orderly way, then close it."""
        self.close_request(request)

    def close_request(self, request: RequestType) -> None:
        """Close a request. Does nothing here."""

    def handle_error(self, request: RequestType, client_address: AddressType) -> None:
        """Called while an exception of this request is being handled; prints it to `sys.stderr`."""
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

    def _find_engine(self) -> _core.Engine:
        """The engine, made when first needed: a server need not have run `__init__`."""
        # setdefault is atomic: two threads get the same one.
        engine: _core.Engine = self.__dict__.get("_engine") or self.__dict__.setdefault(
            "_engine", _core.Engine()
        )
        return engine

    def _wake(self) -> None:
        """Have a running loop look at the server again."""
        engine = self.__dict__.get("_engine")
        if engine is not None:
            engine.wake()


def _wait_readable(server: BaseServer, timeout: float | None) -> bool:
    """Wait with `_ServerSelector` until `server` is readable; false after `timeout` seconds."""
    deadline = None if timeout is None else time() + timeout
    with _ServerSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while not selector.select(timeout):
            if deadline is not None:
                timeout = deadline - time()
                if timeout < 0:
                    return False
    return True
