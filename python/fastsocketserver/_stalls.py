"""Telling who keeps all other requests of a thread waiting."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

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
        # Another thread may fork meanwhile, which pauses this.
        self._lock = threading.Lock()
        self._is_over = False

    def start(self) -> None:
        with self._lock:
            if self._is_over or self._thread is not None:
                return
            self._ended.clear()
            thread = threading.Thread(target=self._run, name="fastsocketserver stalls", daemon=True)
            thread.start()
            self._thread = thread

    def end(self) -> None:
        self._is_over = True
        self.stop()

    def stop(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._ended.set()
        # Who logs may fork.
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        engine = _core.Engine.of(self._server)
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

        handler_class: Any = self._server.RequestHandlerClass
        logging.getLogger("fastsocketserver").warning(
            "%s has kept all other requests waiting for %d ms, now at %s",
            getattr(handler_class, "__qualname__", None) or repr(handler_class),
            1000 * seconds,
            _describe(frame, handler_class),
        )


def _describe(frame: FrameType | None, handler_class: Any) -> str:
    """Name the line of the handler's file that runs, and where in a library that is."""
    if frame is None:
        return "an unknown place"
    code = getattr(getattr(handler_class, "handle", None), "__code__", None)
    own: FrameType | None = frame
    while own is not None and own.f_code.co_filename != getattr(code, "co_filename", None):
        own = own.f_back
    if own is None or own is frame:
        return _line(frame)
    return f"{_line(own)}, in {_line(frame)}"


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"


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
        watch.end()
