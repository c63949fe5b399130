"""Mix-ins that have requests handled concurrently, and the combinations with each server."""

from __future__ import annotations

import errno
import os
import socket
import threading

from . import _core
from ._servers import TCPServer, UDPServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._base import AddressType, BaseServer, RequestType

    # The mix-ins stand before a server among the bases: what they extend is a server's.
    _Server = BaseServer
else:
    _Server = object


class _Threads(list[threading.Thread]):
    """The request threads that `server_close()` waits for: not the daemons, and not the ended."""

    def append(self, thread: threading.Thread) -> None:
        """Take in `thread`, and let go of those that have ended."""
        self.reap()
        if not thread.daemon:
            super().append(thread)

    def pop_all(self) -> list[threading.Thread]:
        """Return all threads and forget them."""
        threads = self[:]
        self.clear()
        return threads

    def join(self) -> None:
        """Wait for all of them."""
        for thread in self.pop_all():
            thread.join()

    def reap(self) -> None:
        """Let go of the threads that have ended."""
        self[:] = [thread for thread in self if thread.is_alive()]


class _NoThreads:
    """In place of `_Threads` where nobody waits."""

    def append(self, thread: threading.Thread) -> None:
        """Do nothing."""

    def join(self) -> None:
        """Do nothing."""


_RETRY_INTERVAL = 0.02
"""Seconds after which a thread or child that could not be started is tried again."""

_NO_THREAD = "cannot start a thread for a request; trying again until it works"
_NO_CHILD = "cannot fork for a request: %s; trying again until it works"
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM)
"""How `fork(2)` fails where it may work later."""


class ThreadingMixIn(_Server):
    """Handle each request in a thread of its own.

    Stands before the server class: `class Server(ThreadingMixIn, TCPServer)`.

    Attributes:
        daemon_threads: Whether the threads are daemons: they do not keep the interpreter from
            ending, and `server_close()` does not wait for them; false.
        block_on_close: Whether `server_close()` waits for the threads that are not daemons; true.
        max_threads: How many requests may be handled at once; further ones wait in the kernel's
            queue. `None`, the default, is any number. Where the system starts no more threads, that
            is as if the limit had been reached.
        parking: Whether a connection whose client has sent nothing yet waits without a thread;
            false. Only with handlers that say so by `reads_first`, and over TLS. It is closed when
            a deadline is over; where `max_connections` is reached, the one that has been silent for
            longest makes room for the next.
    """

    daemon_threads: bool = False
    block_on_close: bool = True
    # Replaced on the instance by the first request.
    _threads: _Threads | _NoThreads = _NoThreads()

    def process_request_thread(self, request: RequestType, client_address: AddressType) -> None:
        """Handle the request, and close it; this runs in the request's thread."""
        try:
            _core.call_finish_request(self, request, client_address)
        except Exception:
            _core.Engine.of(self).note_failure(request)
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)

    def process_request(self, request: RequestType, client_address: AddressType) -> None:
        """Start a thread that runs `process_request_thread()`."""
        if _core.start_request_thread(self, request, client_address):
            return
        if self.block_on_close:
            self.__dict__.setdefault("_threads", _Threads())
        while True:
            # A new one for each try: from 3.13 on, one that could not be started never can be.
            thread = threading.Thread(
                target=self.process_request_thread, args=(request, client_address)
            )
            thread.daemon = self.daemon_threads
            self._threads.append(thread)
            try:
                thread.start()
                return
            except BaseException as error:
                # Nobody can wait for what has not been started.
                if isinstance(self._threads, _Threads):
                    self._threads.reap()
                is_want = isinstance(error, RuntimeError) and "can't start" in str(error)
                if not is_want or self._BaseServer__shutdown_request:  # type: ignore[attr-defined]
                    raise
            _core.Engine.of(self).report("threads", _NO_THREAD)
            _core.Engine.of(self).wait_for_end(_RETRY_INTERVAL)

    def server_close(self) -> None:
        """Close the server, then wait for the request threads if `block_on_close` is true."""
        super().server_close()
        self._threads.join()
        _core.Engine.of(self).close_threads()


if hasattr(os, "fork"):

    class ForkingMixIn(_Server):
        """Handle each request in a child process of its own.

        Stands before the server class: `class Server(ForkingMixIn, TCPServer)`. The children are
        started by `os.fork()` from the thread that serves, and nothing else is started: no thread.

        Attributes:
            max_children: How many children there are at most, 40; a further request waits.
            active_children: The process ids of the children that have not been waited for; `None`
                before the first.
            timeout: Seconds after which `handle_request()` looks after ended children; 300.
            block_on_close: Whether `server_close()` waits for the children; true.
        """

        timeout: float | None = 300
        active_children: set[int] | None = None
        max_children: int = 40
        block_on_close: bool = True

        def collect_children(self, *, blocking: bool = False) -> None:
            """Wait for children that have ended; with `blocking`, for all of them.

            Only own children are waited for, except that with `max_children` of them any child that
            ends makes room to look again.
            """
            if self.active_children is None:
                return
            while len(self.active_children) >= self.max_children:
                try:
                    pid, status = os.waitpid(-1, 0)
                except ChildProcessError:
                    # Somebody else has waited for all of them.
                    for pid in self.active_children.copy():
                        self.__forget_child(pid)
                except OSError:
                    break
                else:
                    self.__forget_child(pid, status)
            self.__collect(0 if blocking else os.WNOHANG)

        def __collect(self, options: int) -> None:
            for pid in (self.active_children or set()).copy():
                try:
                    ended, status = os.waitpid(pid, options)
                except ChildProcessError:
                    ended, status = pid, 0
                except OSError:
                    ended = 0
                if ended:
                    self.__forget_child(ended, status)

        def __forget_child(self, pid: int, status: int = 0) -> None:
            if self.active_children is not None:
                self.active_children.discard(pid)
            _core.Engine.of(self).child_ended(pid, status != 0)

        def _core_collect_ended(self) -> bool:
            # collect_children() would wait where there are max_children.
            self.__collect(os.WNOHANG)
            return bool(self.active_children)

        def _core_end_children(self) -> None:
            import signal

            from ._drain import GRACE, wait_for_requests

            for number in (signal.SIGTERM, signal.SIGKILL):
                children = (self.active_children or set()).copy()
                for pid in children:
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        pass  # Somebody else has waited for it.
                if not children or wait_for_requests(self, GRACE):
                    break

        def handle_timeout(self) -> None:
            """Look after ended children, when no request has arrived for `timeout` seconds."""
            self.collect_children()

        def service_actions(self) -> None:
            """Look after ended children, after each wait of the loop."""
            self.collect_children()

        def process_request(self, request: RequestType, client_address: AddressType) -> None:
            """Fork a child that handles the request, and close the parent's copy of it."""
            pid = self.__fork()
            if pid:
                if self.active_children is None:
                    self.active_children = set()
                self.active_children.add(pid)
                _core.Engine.of(self).follow_child(request, client_address, pid)
                self.close_request(request)
            else:
                self.__run_child(request, client_address)

        def __fork(self) -> int:
            """Fork; where there is no room for another process, wait until there is."""
            while True:
                try:
                    return os.fork()
                except OSError as error:
                    if error.errno not in _NO_ROOM or self._BaseServer__shutdown_request:  # type: ignore[attr-defined]
                        raise
                    engine = _core.Engine.of(self)
                    engine.report("children", _NO_CHILD % error)
                    engine.wait_for_end(_RETRY_INTERVAL)
                    self.collect_children()

        def __run_child(self, request: RequestType, client_address: AddressType) -> None:
            """Handle the request, and end this process: nothing may return into the parent's code.

            The status is 0, or 1 if the handler raised.
            """
            status = 1
            try:
                _core.call_finish_request(self, request, client_address)
                status = 0
            except Exception:
                self.handle_error(request, client_address)
            finally:
                try:
                    self.shutdown_request(request)
                finally:
                    os._exit(status)

        def server_close(self) -> None:
            """Close the server, then wait for the children if `block_on_close` is true."""
            super().server_close()
            self.collect_children(blocking=self.block_on_close)

    class ForkingTCPServer(ForkingMixIn, TCPServer):
        """A TCP server with a child process for each connection."""

    class ForkingUDPServer(ForkingMixIn, UDPServer):
        """A UDP server with a child process for each packet."""


class GreenletMixIn(_Server):
    """Handle each request in a greenlet, all of them on the thread that serves.

    Stands before the server class: `class Server(GreenletMixIn, TCPServer)`. Needs the package
    `greenlet`: ``pip install 'fastsocketserver[greenlet]'``.

    Handlers are those of any other server. Where one would block on its request, be it through
    `rfile`, `wfile` or a method of `request`, the others go on. What else blocks, blocks them all:
    use `sleep()` and `to_thread()` of this package for that.

    Once the loop has ended, `serve_forever()` goes on with the requests that it has begun, until
    they are finished; `shutdown()` does not wait for that, `server_close()` does.
    `process_request()` called by a program's own loop begins a request, and `handle_request()`
    runs it to its end.

    Attributes:
        block_on_close: Whether requests are finished when the server stops; true. Otherwise their
            next wait raises `greenlet.GreenletExit`: `finish()` is called.
        daemon_threads: True has the same effect as a false `block_on_close`, as with threads.
        max_threads: How many requests may be handled at once, as with threads; `None` is any
            number.
        stall_threshold: Seconds that a request may run without a wait before that is logged, with
            the line that it is at; 0.1, `None` for never.
    """

    block_on_close: bool = True
    daemon_threads: bool = False
    stall_threshold: float | None = 0.1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make sure that there are greenlets; otherwise as the server class does."""
        _core.check_greenlets()
        super().__init__(*args, **kwargs)

    def serve_forever(self, poll_interval: float | None = 0.5) -> None:
        """Handle requests until `shutdown()`, then finish those that have begun.

        An exception that a handler raises, `KeyboardInterrupt` or `SystemExit`, leaves at once; the
        other requests are ended then, or on the main thread by `server_close()`.
        """
        from ._greenlets import waiting_tls

        engine = _core.Engine.of(self)
        engine.enter_table()
        try:
            with waiting_tls():
                super().serve_forever(poll_interval)
                engine.finish_requests(self.__ends_requests())
        except BaseException:
            if threading.current_thread() is not threading.main_thread():
                engine.finish_requests(True)
            raise
        finally:
            engine.leave_table()

    def _core_run_loop(self, poll_interval: float | None) -> None:
        from ._stalls import watch_stalls

        with watch_stalls(self, self.stall_threshold):
            super()._core_run_loop(poll_interval)
            if self.__ends_requests():
                _core.Engine.of(self).finish_requests(True)

    def handle_request(self) -> Any:
        """Wait for one request and handle it to its end.

        Other requests that have begun go on meanwhile.
        """
        from ._greenlets import waiting_tls

        with waiting_tls():
            return super().handle_request()

    def process_request_greenlet(self, request: RequestType, client_address: AddressType) -> None:
        """Handle the request, and close it; this runs in the request's greenlet."""
        try:
            _core.call_finish_request(self, request, client_address)
            self.shutdown_request(request)
        except BaseException as error:
            _core.Engine.of(self).note_failure(request)
            try:
                if not isinstance(error, Exception):
                    raise
                self.handle_error(request, client_address)
            finally:
                self.shutdown_request(request)

    def process_request(self, request: RequestType, client_address: AddressType) -> None:
        """Begin a greenlet that runs `process_request_greenlet()`."""
        _core.start_request_greenlet(self, request, client_address)

    def server_close(self) -> None:
        """Close the server, then finish the requests, or end them if `block_on_close` is false."""
        super().server_close()
        _core.Engine.of(self).close_requests(self.__ends_requests())

    def __ends_requests(self) -> bool:
        return not _core.Engine.of(self).draining and (
            self.daemon_threads or not self.block_on_close
        )


class GreenletTCPServer(GreenletMixIn, TCPServer):
    """A TCP server with a greenlet for each connection."""


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """A TCP server with a thread for each connection."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """A UDP server with a thread for each packet."""


if hasattr(socket, "AF_UNIX"):
    from ._servers import UnixDatagramServer, UnixStreamServer

    class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
        """A Unix stream server with a thread for each connection."""

    class GreenletUnixStreamServer(GreenletMixIn, UnixStreamServer):
        """A Unix stream server with a greenlet for each connection."""

    class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
        """A Unix datagram server with a thread for each datagram."""

    if hasattr(os, "fork"):

        class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
            """A Unix stream server with a child process for each connection."""

        class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
            """A Unix datagram server with a child process for each datagram."""
