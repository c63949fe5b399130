"""What a handler may call that has to wait: it lets the other requests of a `GreenletMixIn` run.

Everywhere else, in threads, children, and where requests are handled one at a time, they wait as
anything does.
"""

from __future__ import annotations

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor
    from typing import ParamSpec, TypeVar

    Parameters = ParamSpec("Parameters")
    Result = TypeVar("Result")

_pool: ThreadPoolExecutor | None = None
"""Runs what blocks; made when first needed, and anew in a forked child."""


_forgets_pool = False
"""Whether a forked child will; children of children will then too."""


def sleep(seconds: float) -> None:
    """Wait for `seconds`, as `time.sleep()` does, and let other requests run meanwhile.

    Raises:
        ValueError: `seconds` is below zero.
    """
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    if not _core.sleep(seconds):
        import time

        time.sleep(seconds)


def to_thread(
    function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Return `function(*args, **kwargs)`, called so that it does not keep other requests waiting.

    From a request in a greenlet it is called in one of a few threads, with a copy of the caller's
    context variables; from anywhere else it is called directly. What it raises is raised here.
    """
    parking = _core.open_parking()
    if parking is None:
        return function(*args, **kwargs)
    import contextvars

    def call() -> Result:
        return function(*args, **kwargs)

    future = _find_pool().submit(contextvars.copy_context().run, call)
    future.add_done_callback(lambda _: parking.leave())
    try:
        parking.wait()
    except BaseException:
        future.cancel()
        raise
    return future.result()


def _find_pool() -> ThreadPoolExecutor:
    global _pool, _forgets_pool
    if _pool is None:
        import os
        from concurrent.futures import ThreadPoolExecutor

        # As many as asyncio's, for the same use.
        _pool = ThreadPoolExecutor(
            min(32, (os.cpu_count() or 1) + 4), thread_name_prefix="fastsocketserver to_thread"
        )
        if hasattr(os, "register_at_fork") and not _forgets_pool:
            os.register_at_fork(after_in_child=_forget_pool)
            _forgets_pool = True
    return _pool


def _forget_pool() -> None:
    """A forked child has none of the threads."""
    global _pool
    _pool = None
