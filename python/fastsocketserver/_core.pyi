"""What the package's classes stand on."""

from collections.abc import Callable, Iterable
from socket import SocketIO, socket
from typing import Any, final

from typing_extensions import Buffer, Self, disjoint_base

__all__ = [
    "Engine",
    "Parking",
    "Reader",
    "RequestHandle",
    "SocketFile",
    "Writer",
    "begin_line",
    "call_finish_request",
    "call_program",
    "check_greenlets",
    "client_timeout",
    "close",
    "declare_accepted_socket",
    "declare_defaults",
    "end_line",
    "finish_request",
    "forget_client",
    "forget_closed",
    "forget_descriptor",
    "forget_threads",
    "is_in_table",
    "make_cooperative",
    "method",
    "open_parking",
    "open_reader",
    "open_writer",
    "recv",
    "recv_into",
    "retire_idle_threads",
    "run_file",
    "send",
    "sendall",
    "sleep",
    "start_request_greenlet",
    "start_request_thread",
    "stop_caching_threads",
    "wait_readable",
    "wait_ready",
    "write_all",
]

@final
class Engine:
    """What of a server must outlive one call: the way to wake its loop.

    A server makes one when it is first needed. It holds no reference to the server.
    """

    draining: bool
    """Whether the requests that are left when a loop ends have time to end by themselves."""

    @staticmethod
    def of(server: Any) -> Engine:
        """Return the engine of `server`, made when first needed."""

    def serve(
        self,
        server: Any,
        poll_interval: float | None,
        select: Callable[[float | None], object] | None,
    ) -> None:
        """Run the loop for `server` until `_BaseServer__shutdown_request` is true or it is closed.

        The interpreter lock is released while it waits. `select`, if not `None`, waits in place of
        the core: `select(timeout)` returns something true when the server is readable.

        Raises:
            ValueError: `server.fileno()` is no descriptor, or `poll_interval` is not a number.
            OverflowError: `poll_interval` is infinite.
        """

    def note_failure(self, request: Any) -> None:
        """Say that the handler of a request has raised."""

    def follow_child(self, request: Any, client_address: Any, pid: int) -> None:
        """Say that a child process handles a request, until `child_ended()`."""

    def child_ended(self, pid: int, has_failed: bool) -> None:
        """Say that a child has ended, and whether its request has failed."""

    def pause(self) -> None:
        """Take no requests until `resume()`."""

    def resume(self) -> None:
        """Take requests again."""

    def count_open(self) -> int:
        """Say how many requests are not over."""

    def wait_for_end(self, seconds: float) -> None:
        """Wait until a request is over, for so many seconds or 0.1 at most."""

    def end_requests(self) -> int:
        """Have each handler see the end of its connection; say how many requests there are.

        Those in greenlets end at their next wait.
        """

    def stats(
        self, server: Any
    ) -> tuple[
        tuple[int, int, int, int], tuple[int, int, int, int, int], dict[int, int], int, float
    ]:
        """Say what the server has done so far: the fields of `Stats`, in order."""

    def connections(self) -> list[tuple[Any, float, str, Any]]:
        """Say of each request that is not over: client, age, state, and the request itself."""

    def report(self, kind: str, message: str) -> bool:
        """Log a warning, unless one of its kind has been logged just now.

        Returns:
            False where `logging` cannot be had, for want of descriptors or memory.
        """

    def handle_request_noblock(self, server: Any) -> None:
        """Handle one request that is known to be there.

        Where there is none after all, this waits as long as the server's socket does.
        """

    def wake(self) -> None:
        """End the wait of every loop that runs for this server; from any thread."""

    def close_threads(self) -> None:
        """End the cached threads that no request runs in, and wait until they are gone."""

    def await_admission(self, server: Any, timeout: float | None) -> bool:
        """Wait until another request may be taken; false after `timeout` seconds."""

    def enter_loop(self) -> None:
        """Say that the calling thread is inside `serve_forever()`."""

    def leave_loop(self) -> None:
        """Say that it is about to leave it."""

    def is_serving_thread(self) -> bool:
        """Whether the calling thread is inside `serve_forever()`."""

    def is_serving(self) -> bool:
        """Whether any thread of this process is."""

    def enter_table(self) -> None:
        """Say that the calling thread will finish the requests that it begins in greenlets."""

    def finish_requests(self, end: bool) -> None:
        """Go on with the requests that the calling thread has begun in greenlets, to their end.

        With `end`, each of their waits raises `greenlet.GreenletExit`. Where a loop of this thread
        goes on with them already, this returns at once.
        """

    def leave_table(self) -> None:
        """Say that the calling thread goes on with no requests any more; after `enter_table()`."""

    def close_requests(self, end: bool) -> None:
        """Do what `finish_requests()` does, and wait for other threads that do the same."""

    def held(self) -> list[tuple[int, float]]:
        """Say which threads' requests have run without a wait until now.

        Returns:
            For each the thread's `ident`, and the seconds.
        """

@final
class Parking:
    """A place where a request in a greenlet waits until somebody, in any thread, ends that."""

    def wait(self) -> None:
        """Let other requests run until `leave()` has been called.

        Raises:
            greenlet.GreenletExit: The request is to end.
        """

    def leave(self) -> None:
        """End the wait, be it one that has not begun."""

@disjoint_base
class SocketFile:
    """A file over a plain socket: what `Reader` and `Writer` have in common.

    Counts in the socket's `_io_refs` while it is open, as the files of `makefile()` do, so that the
    descriptor stays open when the socket is closed. Methods behave as those of `io.BufferedReader`
    and `io.BufferedWriter` over `socket.SocketIO`, of which it is a virtual subclass.
    """

    @property
    def closed(self) -> bool: ...
    @property
    def mode(self) -> str: ...
    @property
    def name(self) -> int: ...
    @property
    def raw(self) -> SocketIO | None:
        """The unbuffered file under this one, made when asked for; `None` once detached."""

    def readable(self) -> bool: ...
    def writable(self) -> bool: ...
    def seekable(self) -> bool: ...
    def isatty(self) -> bool: ...
    def fileno(self) -> int: ...
    def seek(self, target: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def truncate(self, size: int | None = None, /) -> int: ...
    def __iter__(self) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...

@final
class Reader(SocketFile):
    """Reads from a plain socket as `io.BufferedReader` over `socket.SocketIO` does.

    It tries with the interpreter lock held, and releases the lock only to wait. What was received
    before an error stays unread; the standard library's file loses it.
    """

    def read(self, size: int | None = None, /) -> bytes | None: ...
    def read1(self, size: int = ..., /) -> bytes: ...
    def readinto(self, buffer: Buffer, /) -> int | None: ...
    def readinto1(self, buffer: Buffer, /) -> int | None: ...
    def readline(self, size: int | None = None, /) -> bytes: ...
    def readlines(self, hint: int | None = None, /) -> list[bytes]: ...
    def peek(self, size: int = 0, /) -> bytes: ...
    def __next__(self) -> bytes: ...
    def write(self, data: Buffer, /) -> int: ...
    def writelines(self, lines: Iterable[Buffer], /) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def detach(self) -> SocketIO: ...

@final
class Writer(SocketFile):
    """Writes to a plain socket as `io.BufferedWriter` over `socket.SocketIO` does.

    It tries with the interpreter lock held, and releases the lock only to wait and for 64 KiB or
    more.
    """

    def write(self, data: Buffer, /) -> int: ...
    def writelines(self, lines: Iterable[Buffer], /) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def detach(self) -> SocketIO: ...
    def read(self, *args: object) -> bytes: ...
    def read1(self, *args: object) -> bytes: ...
    def readinto(self, buffer: Buffer, /) -> int: ...
    def readinto1(self, buffer: Buffer, /) -> int: ...
    def readline(self, size: int | None = None, /) -> bytes: ...
    def readlines(self, hint: int | None = None, /) -> list[bytes]: ...
    def __next__(self) -> bytes: ...

@final
class RequestHandle:
    """What stands for the system's thread in a `threading.Thread`, from 3.13 on."""

    @property
    def ident(self) -> int:
        """The thread's number, 0 before it has one."""

    def is_done(self) -> bool:
        """Whether the request is over."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until the request is over, or for `timeout` seconds."""

    def _set_done(self) -> None: ...

def begin_line(fd: int) -> None:
    """Count the time of a line that is read from a descriptor, until `end_line()`."""

def call_program(callable: Callable[..., object], args: tuple[Any, ...]) -> bool:
    """Call `callable(*args)` as the interpreter calls a program; false when it raised.

    What it raises is printed by `sys.excepthook`, without the frames of the caller; `SystemExit`
    ends the process.
    """

def check_greenlets() -> None:
    """Make sure that the package `greenlet` is there.

    Raises:
        ImportError: It is not; the error says what to install.
    """

def call_finish_request(server: Any, request: Any, client_address: Any) -> None:
    """Call `server.finish_request()`; whatever that does, the request's deadlines hold in it."""

def client_timeout(message: str) -> TimeoutError:
    """Make an error of a request's own connection, which `_is_clients` tells from any other."""

def close(socket: socket, /) -> None:
    """`socket.close`, for accepted sockets."""

def declare_accepted_socket(class_: type[socket]) -> None:
    """Tell which class accepted sockets have; called once, when it is defined."""

def declare_defaults(base: type, tcp: type, udp: type, threading: type, greenlet: type) -> None:
    """Tell which methods are the package's own; called once, when its classes are defined."""

def end_line(fd: int) -> None:
    """End what `begin_line()` has begun."""

def finish_request(server: Any, request: Any, client_address: Any) -> None:
    """Do what `BaseServer.finish_request()` does: a TLS handshake that is due, and the handler."""

def forget_closed(fd: int) -> None:
    """Say that the descriptor of a request is about to be closed, and has no deadline any more."""

def forget_client(server: Any, request: Any) -> None:
    """Say that the client of a request is about to see its end, and may come again."""

def forget_descriptor(fd: int) -> None:
    """Say that a descriptor that requests in greenlets have waited for is somebody else's now."""

def forget_threads() -> None:
    """Say that this process was forked, and has none of the threads that there were."""

def is_in_table() -> bool:
    """Whether the caller runs in a request's greenlet, and may let others run while it waits."""

def make_cooperative(request: Any) -> None:
    """Have an object that is exactly a `socket.socket` let other requests run where it waits."""

def method(function: Callable[..., Any]) -> Any:
    """Make a method of `function`: as an attribute of a class it is given the object first."""

def open_parking() -> Parking | None:
    """Return a place for the calling request to wait at; `None` where it is not in a greenlet."""

def open_reader(socket: Any, buffer_size: int) -> Any:
    """Open the file that a stream handler reads from.

    Returns:
        A `Reader` for a plain socket, what its `makefile()` returns for any other.
    """

def open_writer(socket: Any, buffer_size: int) -> Any:
    """Open the file that a stream handler writes to; otherwise as `open_reader()`."""

def recv(socket: socket, bufsize: int, flags: int = 0, /) -> bytes:
    """`socket.recv`, which tries before it releases the interpreter lock."""

def recv_into(socket: socket, buffer: Buffer, nbytes: int = 0, flags: int = 0, /) -> int:
    """`socket.recv_into`, which tries before it releases the interpreter lock."""

def retire_idle_threads() -> None:
    """End the cached threads of all servers that no request runs in; wait until they are gone."""

def run_file(path: str) -> bool:
    """Run a source or compiled file in `__main__`, as the interpreter does; false when it raised.

    What it raises is dealt with as by `call_program()`.

    Raises:
        OSError: The file cannot be opened.
    """

def send(socket: socket, data: Buffer, flags: int = 0, /) -> int:
    """`socket.send`, which tries before it releases the interpreter lock."""

def sendall(socket: socket, data: Buffer, flags: int = 0, /) -> None:
    """`socket.sendall`, which tries before it releases the interpreter lock."""

def sleep(seconds: float) -> bool:
    """Let other requests run for so long; return false, at once, outside of a greenlet.

    Raises:
        greenlet.GreenletExit: The request is to end.
    """

def start_request_greenlet(server: Any, request: Any, client_address: Any) -> None:
    """Have a request handled in a greenlet, when the loop of this thread goes on."""

def start_request_thread(server: Any, request: Any, client_address: Any) -> bool:
    """Have `server.process_request_thread(request, client_address)` run in a cached thread.

    Where no thread can be started, the request waits until one can.

    Returns:
        False where only a new `threading.Thread` will do: a program has changed `threading`, wants
        threads traced, or ends.
    """

def stop_caching_threads() -> None:
    """Have each request from now on run in a new `threading.Thread`."""

def wait_readable(server: Any, timeout: float | None) -> bool:
    """Wait until `server.fileno()` is readable; false after `timeout` seconds.

    The interpreter lock is released meanwhile, and Python's signal handlers run.

    Raises:
        ValueError: `server.fileno()` is no descriptor.
    """

def wait_ready(fd: int, writable: bool, timeout: float | None) -> bool:
    """Wait until a descriptor can be read, or written to; false after `timeout` seconds.

    A request in a greenlet lets others run meanwhile.
    """

def write_all(self: Any, b: Buffer) -> int:
    """Send all of `b` by `self._sock`; return how many bytes that were."""
