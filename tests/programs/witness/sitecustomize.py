"""Write down which server classes a program makes, and whose `socketserver` they derive from.

Python imports this module at start-up because its folder stands in PYTHONPATH; a program's child
processes therefore do so too. Every server makes or binds a socket, which raises an audit event
while one of its methods runs: this needs neither a change to the program nor a wrapper around a
class, so the program runs exactly as it would without it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

REPORT = Path(os.environ["SOCKETSERVER_WITNESS"])
_seen: set[type] = set()


def _implementation(server: type) -> str | None:
    """Name the package that the `BaseServer` among the bases of `server` was written in."""
    for base in server.__mro__:
        if base.__name__ == "BaseServer":
            if base is not sys.modules["socketserver"].BaseServer:
                return "not-the-imported-one"
            home: str = base.__init__.__globals__["__name__"]
            return home.partition(".")[0]
    return None


def _watch(event: str, _: tuple[object, ...]) -> None:
    if event not in {"socket.__new__", "socket.bind"} or "socketserver" not in sys.modules:
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if "self" in frame.f_code.co_varnames:
            made = type(frame.f_locals.get("self"))
            implementation = None if made in _seen else _implementation(made)
            if implementation is not None:
                _seen.add(made)
                with REPORT.open("a") as report:
                    report.write(f"{implementation} {made.__qualname__}\n")
        frame = frame.f_back


sys.addaudithook(_watch)
