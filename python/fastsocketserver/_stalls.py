"""Telling who keeps all other requests of a thread waiting."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ._base import BaseServer

_watches: set[_Watch] = set()
"""Those whose threads run."""


class _Watch:
    """A thread that looks, now and then, whether one request holds a server's thread."""

    def __init__(self, server: BaseServer, threshold: float) -> None:
        self._server = server
        self._threshold = threshold
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._ended.clear()
        self._thread = threading.Thread(
            target=self._run, name="fastsocketserver stalls", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            # Who logs may fork.
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        engine = self._server._find_engine()
        told: dict[int, float] = {}
        while not self._ended.wait(self._threshold / 2):
            held = dict(engine.held())
            for ident, seconds in held.items():
                # One that goes on is told of again when it has taken ten times as long.
                if seconds >= max(self._threshold, told.get(ident, 0)):
                    told[ident] = 10 * seconds
                    self._tell(seconds, sys._current_frames().get(ident))
                elif seconds < self._threshold:
                    told.pop(ident, None)

    def _tell(self, seconds: float, frame: FrameType | None) -> None:
        import logging

        handler = getattr(self._server.RequestHandlerClass, "__qualname__", None)
        place = "an unknown place"
        if frame is not None:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"
        logging.getLogger("fastsocketserver").warning(
            "%s has kept all other requests waiting for %d ms, now at %s",
            handler or repr(self._server.RequestHandlerClass),
            1000 * seconds,
            place,
        )


@functools.cache
def _pause_in_forks() -> None:
    """Have no thread run while a handler forks: a child has it not, and Python warns of threads."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_watches.clear)


def _pause() -> None:
    for watch in tuple(_watches):
        watch.stop()


def _go_on() -> None:
    for watch in tuple(_watches):
        watch.start()


@contextlib.contextmanager
def watch_stalls(server: BaseServer, threshold: float | None) -> Iterator[None]:
    """Log each time that a request of `server` runs for `threshold` seconds without a wait."""
    if threshold is None:
        yield
        return
    _pause_in_forks()
    watch = _Watch(server, threshold)
    watch.start()
    _watches.add(watch)
    try:
        yield
    finally:
        _watches.discard(watch)
        watch.stop()
