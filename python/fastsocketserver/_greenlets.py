"""What a server needs while it handles requests in greenlets; imported only then."""

from __future__ import annotations

import contextlib
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_lock = threading.Lock()
_greenlet_servers = 0
"""How many servers handle requests in greenlets just now."""


@contextlib.contextmanager
def waiting_tls() -> Iterator[None]:
    """Have the TLS connections of requests in greenlets wait as they do, for a `with` block."""
    global _greenlet_servers
    with _lock:
        _greenlet_servers += 1
        if "ssl" in sys.modules:
            from . import _tls

            _tls.begin()
    try:
        yield
    finally:
        with _lock:
            _greenlet_servers -= 1
            tls: Any = sys.modules.get(f"{__package__}._tls")
            if tls is not None and not _greenlet_servers:
                tls.end()
