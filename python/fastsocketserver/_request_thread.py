"""What the interpreter's end and its forks do about the threads that requests run in."""

from __future__ import annotations

import os
import threading

from . import _core

running: set[threading.Thread] = set()
"""The threads of unfinished requests that are no daemons; the core adds them and takes them out."""


def prepare() -> None:
    """Take care of the threads from now on; called by the core, once."""
    threading._register_atexit(_wait)  # type: ignore[attr-defined]
    if hasattr(os, "register_at_fork"):
        # From 3.12 on a fork warns of every thread that there is, and an idle one is none to the
        # program. The child gets none of them.
        os.register_at_fork(before=_core.retire_idle_threads, after_in_child=_forget)


def _wait() -> None:
    """Wait for all requests whose threads are no daemons, as the interpreter does for others."""
    _core.stop_caching_threads()
    while running:
        for thread in running.copy():
            thread.join()
    _core.retire_idle_threads()


def _forget() -> None:
    running.clear()
    _core.forget_threads()
