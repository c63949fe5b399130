"""What the servers under test are made of. Imported by the program that each of them runs in."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE, DISPATCH = sys.argv[1:3]

if sys.platform == "linux":
    # PR_SET_PDEATHSIG: whoever kills the tests kills their servers, which have their own session.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)

ss = importlib.import_module(MODULE)
"""The module under test."""

WITHOUT_SERVER = len(os.listdir("/dev/fd"))
"""Descriptors that this process has open before it makes a server."""

LOOPBACK = ("127.0.0.1", 0)

PREFIXES = {"inline": "", "threads": "Threading", "forks": "Forking", "greenlets": "Greenlet"}


def say(*words: object) -> None:
    """Print a line, whole and at once: from signal handlers and other processes too."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def say_json(value: object) -> None:
    """Print a line that holds a value."""
    say(json.dumps(value))


def server_class(kind: str = "TCPServer", **attributes: Any) -> Any:
    """Return a class of the dispatch in question that keeps quiet about clients that go away."""
    base = getattr(ss, PREFIXES[DISPATCH] + kind)

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            base.handle_error(self, request, client_address)

    return type("Server", (base,), {"handle_error": handle_error, **attributes})


class Upper(ss.StreamRequestHandler):  # type: ignore[misc, name-defined]
    """Answers lines in capitals; `big N` by N bytes, `pid` by the process's number."""

    def handle(self) -> None:
        for line in self.rfile:
            word, _, rest = line.strip().partition(b" ")
            if word == b"big":
                self.wfile.write(b"x" * int(rest))
            elif word == b"pid":
                self.wfile.write(b"%d\n" % os.getpid())
            else:
                self.wfile.write(line.upper())


def count_of_stats(stats: Any) -> dict[str, Any]:
    """Return what `stats()` says, as a value that can be printed."""
    names = (
        *("accepted", "active", "parked", "finished", "failed", "refused", "received"),
        *("truncated", "dropped", "accept_errors", "idle_threads", "queue_age"),
    )
    return {name: getattr(stats, name) for name in names}


def serve(server: Any, poll_interval: float = 0.05, **on_line: Callable[[], Any]) -> None:
    """Serve on this thread until SIGTERM, close, and stay until a line comes.

    Prints the port, or path, and how many descriptors there were without the server. With
    `on_line`, another thread calls what the lines of the standard input name; not where
    requests are forked, for a fork beside a thread is warned of.
    """

    def stop(*_: object) -> None:
        # Not shutdown(): the reference would wait for itself.
        server._BaseServer__shutdown_request = True

    signal.signal(signal.SIGTERM, stop)
    if on_line:
        threading.Thread(target=call_on_line, args=(on_line,), daemon=True).start()
    address = server.server_address
    say(address[1] if isinstance(address, tuple) else address, WITHOUT_SERVER)
    server.serve_forever(poll_interval)
    server.server_close()
    say("closed")
    if not on_line:
        sys.stdin.readline()
    else:
        threading.Event().wait(60)


def call_on_line(functions: dict[str, Callable[[], Any]]) -> None:
    for line in sys.stdin:
        if line == "end\n":
            os._exit(0)
        functions[line.strip()]()
