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
            client ends it, "datagram" answers datagrams; each answer repeats the question.
        dispatch: Who runs a handler: the loop itself, a thread or a child process of its own.
            Servers of another kind take part where they do the same work in their own way.
        family: What the service is reached by.
        mode: What the load generator's clients do (`load/src/main.rs`).
        clients: How many there are.
    """

    title: str
    service: Literal["line", "lines", "datagram"]
    dispatch: Literal["inline", "threads", "fork"]
    family: Literal["tcp", "udp", "unix"]
    mode: Literal["short", "keepalive", "udp"]
    clients: int


WORKLOADS = (
    Workload("connect, line, close; threads; 32 clients", "line", "threads", "tcp", "short", 32),
    Workload("connect, line, close; inline; 32 clients", "line", "inline", "tcp", "short", 32),
    Workload("line echo; threads; 1 client", "lines", "threads", "tcp", "keepalive", 1),
    Workload("line echo; threads; 64 clients", "lines", "threads", "tcp", "keepalive", 64),
    Workload("line echo, Unix; threads; 1 client", "lines", "threads", "unix", "keepalive", 1),
    Workload("line echo, Unix; threads; 64 clients", "lines", "threads", "unix", "keepalive", 64),
    Workload("UDP echo; inline; 64 in flight", "datagram", "inline", "udp", "udp", 64),
    Workload("connect, line, close; fork; 8 clients", "line", "fork", "tcp", "short", 8),
)
