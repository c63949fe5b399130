"""Who takes part: one entry for each server program.

A program is run with three more arguments, `SERVICE DISPATCH ADDRESS`: the first two are those of
`workloads.Workload`, the address is `127.0.0.1:0` or a path for a Unix socket. When it is ready, it
writes the address that it then has as a line to its standard output. On SIGTERM it ends everything
that it has started and exits with status 0.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads import Workload

SERVERS = Path(__file__).parent / "servers"
BUILT = Path(__file__).resolve().parents[2] / "target" / "load" / "release"
"""Where the programs of `benches/load` are."""


@dataclass(frozen=True)
class Contender:
    """A server program.

    Attributes:
        name: What the table says.
        command: The program and its first arguments.
        module: The module without which there is no contender, if any.
        takes: Whether it takes part in a workload.
        imported: Whether the import of `module` is measured.
    """

    name: str
    command: tuple[str, ...]
    module: str | None = None
    takes: Callable[[Workload], bool] = lambda _: True
    imported: bool = False

    def is_installed(self) -> bool:
        """Say whether it can be run here."""
        found = self.module is None or importlib.util.find_spec(self.module) is not None
        return found and shutil.which(self.command[0]) is not None


def _python(program: str, *arguments: str) -> tuple[str, ...]:
    """Return the command for one of our programs, run by the interpreter that runs this."""
    return sys.executable, str(SERVERS / program), *arguments


def _is_http(workload: Workload) -> bool:
    return workload.service == "http"


def _is_not_fork(workload: Workload) -> bool:
    return workload.dispatch != "fork"


def _is_plain(workload: Workload) -> bool:
    """Neither HTTP, which would take a server of another kind, nor a process for each request."""
    return _is_not_fork(workload) and not _is_http(workload)


def _is_plain_stream(workload: Workload) -> bool:
    return _is_plain(workload) and workload.service != "datagram"


def _is_datagram(workload: Workload) -> bool:
    return workload.service == "datagram"


def _is_threads(workload: Workload) -> bool:
    """What a server with greenlets does in place of one with threads."""
    return _is_http(workload) or (workload.dispatch == "threads" and _is_plain_stream(workload))


def _has_few_connections(workload: Workload) -> bool:
    """Not more than a process may have threads in most places."""
    return workload.clients + workload.idle <= 4000


CONTENDERS = (
    # The first is what the others are compared with.
    Contender(
        "stdlib",
        _python("blocking.py", "socketserver"),
        "socketserver",
        _has_few_connections,
        imported=True,
    ),
    Contender("stdlib+nodelay", _python("blocking.py", "socketserver+nodelay"), takes=_is_http),
    Contender("gevent", _python("greenlets.py"), "gevent", _is_not_fork),
    Contender("asyncio", _python("streams.py", "asyncio"), takes=_is_plain),
    # With datagrams the same program as the next.
    Contender("uvloop-streams", _python("streams.py", "uvloop"), "uvloop", _is_plain_stream),
    Contender("uvloop-protocol", _python("protocols.py", "uvloop"), "uvloop", _is_plain),
    Contender("mio", (str(BUILT / "echo"),), takes=_is_plain),
    Contender(
        "fastsocketserver",
        _python("blocking.py", "fastsocketserver"),
        "fastsocketserver",
        _has_few_connections,
        imported=True,
    ),
    Contender(
        "fastsocketserver+greenlets",
        _python("blocking.py", "fastsocketserver+greenlets"),
        "greenlet",
        _is_threads,
    ),
)

RUST_CONTENDERS = (
    Contender("std-threads", (str(BUILT / "std_threads"),)),
    Contender("tokio", (str(BUILT / "tokio_tasks"),)),
    Contender("mio", (str(BUILT / "echo"),)),
    Contender("fastsocketserver", (str(BUILT / "subject"),)),
    Contender(
        "fastsocketserver+batches",
        (str(BUILT / "subject"), "--batch-size", "16"),
        takes=_is_datagram,
    ),
)
"""Servers in Rust; the first is what the others are compared with."""
