"""What is measured: one entry for each workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Workload:
    """A service to be offered, and the load that is put on it.

    Attributes:
        title: What the table says.
        service: "line" answers one line and ends the connection, "lines" answers lines until the
            client ends it, "datagram" answers datagrams; each answer repeats the question. "http"
            answers `GET` with "Hello, world!", "up" each MiB with ".", "down" each byte with a MiB
            of "d".
        dispatch: Who runs a handler: the loop itself, a thread or a child process of its own.
            Servers of another kind take part where they do the same work in their own way.
        family: What the service is reached by.
        mode: What the load generator's clients do (`load/src/main.rs`); "idle" is for connections
            that nothing comes on (`idle.py`).
        clients: How many there are.
        idle: How many other connections are open meanwhile, on which one line has been answered.
    """

    title: str
    service: Literal["line", "lines", "datagram", "http", "up", "down"]
    dispatch: Literal["inline", "threads", "fork"]
    family: Literal["tcp", "udp", "unix"]
    mode: Literal["short", "keepalive", "udp", "http", "http-short", "up", "down", "idle"]
    clients: int
    idle: int = 0

    @property
    def unit(self) -> str:
        """What the figures count."""
        if self.mode == "idle":
            return "KiB/connection"
        return "MB/s" if self.service in ("up", "down") else "requests/s"


WORKLOADS = (
    Workload("connect, line, close; threads; 32 clients", "line", "threads", "tcp", "short", 32),
    Workload("connect, line, close; inline; 32 clients", "line", "inline", "tcp", "short", 32),
    Workload("line echo; threads; 1 client", "lines", "threads", "tcp", "keepalive", 1),
    Workload("line echo; threads; 64 clients", "lines", "threads", "tcp", "keepalive", 64),
    Workload("line echo; threads; 500 clients", "lines", "threads", "tcp", "keepalive", 500),
    Workload(
        "line echo; threads; 64 clients, and 9,936 idle",
        "lines",
        "threads",
        "tcp",
        "keepalive",
        64,
        idle=9936,
    ),
    Workload("line echo, Unix; threads; 1 client", "lines", "threads", "unix", "keepalive", 1),
    Workload("line echo, Unix; threads; 64 clients", "lines", "threads", "unix", "keepalive", 64),
    Workload("UDP echo; inline; 64 in flight", "datagram", "inline", "udp", "udp", 64),
    Workload("UDP echo; threads; 64 in flight", "datagram", "threads", "udp", "udp", 64),
    Workload("http.server, keep-alive; threads; 64 clients", "http", "threads", "tcp", "http", 64),
    Workload(
        "http.server, connect, GET, close; threads; 32 clients",
        "http",
        "threads",
        "tcp",
        "http-short",
        32,
    ),
    Workload("upload by 1 MiB; threads; 4 clients", "up", "threads", "tcp", "up", 4),
    Workload("download by 1 MiB; threads; 4 clients", "down", "threads", "tcp", "down", 4),
    Workload("connect, line, close; fork; 8 clients", "line", "fork", "tcp", "short", 8),
    Workload("idle connections; threads; 4,000 clients", "lines", "threads", "tcp", "idle", 4000),
    Workload("idle connections; threads; 10,000 clients", "lines", "threads", "tcp", "idle", 10000),
)

RUST_WORKLOADS = (
    Workload("connect, line, close; threads; 32 clients", "line", "threads", "tcp", "short", 32),
    Workload("line echo; threads; 64 clients", "lines", "threads", "tcp", "keepalive", 64),
    Workload("UDP echo; inline; 64 in flight", "datagram", "inline", "udp", "udp", 64),
)
"""What is put on servers in Rust."""
