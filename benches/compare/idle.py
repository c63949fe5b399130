"""What connections cost a server on which nothing comes."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 10.0
"""Seconds for an answer."""
SPARE = 100
"""Descriptors that server and client need for other things."""


def is_possible() -> bool:
    """Say whether a process's memory can be asked for here."""
    return Path("/proc/self/status").exists()


def allow_descriptors(wanted: int) -> None:
    """Let this process, and what it starts, have so many descriptors, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def load(pid: int, address: str, clients: int) -> dict[str, Any]:
    """Open connections to a line echo; ask one line on each; say what each takes.

    The report has the load generator's names, besides `connections`, which may be fewer than
    `clients` where descriptors are scarce, and `kib_per_connection`, by which the server's resident
    memory has grown. Clients without a connection are unanswered.
    """
    before = _resident_kib(pid)
    with connections(address, clients) as report:
        opened = report["connections"]
        growth = _resident_kib(pid) - before
        report["kib_per_connection"] = growth / opened if opened else 0.0
    return report


@contextmanager
def connections(address: str, clients: int) -> Iterator[dict[str, Any]]:
    """Keep connections open on which one line has been answered; give the report on that."""
    host, _, port = address.rpartition(":")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = clients if soft == resource.RLIM_INFINITY else min(clients, soft - SPARE)
    report: dict[str, Any] = {"requests": 0, "wrong": 0, "errors": 0, "unanswered": 0}
    with ExitStack() as stack:
        opened = 0
        for _ in range(allowed):
            try:
                connection = socket.create_connection((host, int(port)), PATIENCE)
            except OSError as error:
                report["errors"] += 1
                report.setdefault("first_error", str(error))
                break
            stack.enter_context(connection)
            opened += 1
            _ask(connection, report)
        report["connections"] = opened
        report["unanswered"] += clients - opened
        yield report


def _ask(connection: socket.socket, report: dict[str, Any]) -> None:
    try:
        connection.sendall(b"still there?\n")
        answer = connection.recv(100)
    except OSError as error:
        report["unanswered"] += 1
        report.setdefault("first_error", str(error))
        return
    report["requests"] += 1
    report["wrong"] += answer != b"still there?\n"


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{pid}/status does not tell the resident memory")
