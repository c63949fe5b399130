"""What `shutdown(drain=...)` does once no more requests are taken."""

from __future__ import annotations

from time import monotonic as time

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._base import BaseServer

GRACE = 1.0
"""Seconds that requests have which have been told to end."""


def drain(server: BaseServer, seconds: float) -> int:
    """Give requests so many seconds to end, then end them; returns how many were left."""
    if wait_for_requests(server, seconds):
        return 0
    left = _core.Engine.of(server).end_requests()
    server._core_end_children()
    wait_for_requests(server, GRACE)
    return left


def wait_for_requests(server: BaseServer, seconds: float) -> bool:
    """Wait until no request is left; false after so many seconds."""
    engine = _core.Engine.of(server)
    end = time() + seconds
    while True:
        # Nobody else looks after them when the loop has ended.
        has_children = server._core_collect_ended()
        if not engine.count_open():
            return True
        left = end - time()
        if left <= 0:
            return False
        engine.wait_for_end(min(left, 0.02) if has_children else left)
