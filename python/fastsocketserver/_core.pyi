"""What the package's classes stand on."""

from collections.abc import Callable
from typing import Any, final

__all__ = ["Engine", "call_program", "declare_defaults", "run_file", "wait_readable"]

@final
class Engine:
    """What of a server must outlive one call: the way to wake its loop.

    A server makes one when it is first needed. It holds no reference to the server.
    """

    def __new__(cls) -> Engine: ...
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

    def handle_request_noblock(self, server: Any) -> None:
        """Handle one request that is known to be there.

        Where there is none after all, this waits as long as the server's socket does.
        """

    def wake(self) -> None:
        """End the wait of every loop that runs for this server; from any thread."""

    def is_serving_thread(self) -> bool:
        """Whether the calling thread is inside `serve()`."""

def call_program(callable: Callable[..., object], args: tuple[Any, ...]) -> bool:
    """Call `callable(*args)` as the interpreter calls a program; false when it raised.

    What it raises is printed by `sys.excepthook`, without the frames of the caller; `SystemExit`
    ends the process.
    """

def declare_defaults(base: type, tcp: type, udp: type) -> None:
    """Tell which methods are the package's own; called once, when its classes are defined."""

def run_file(path: str) -> bool:
    """Run a source or compiled file in `__main__`, as the interpreter does; false when it raised.

    What it raises is dealt with as by `call_program()`.

    Raises:
        OSError: The file cannot be opened.
    """

def wait_readable(server: Any, timeout: float | None) -> bool:
    """Wait until `server.fileno()` is readable; false after `timeout` seconds.

    The interpreter lock is released meanwhile, and Python's signal handlers run.

    Raises:
        ValueError: `server.fileno()` is no descriptor.
    """
