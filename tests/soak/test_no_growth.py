"""After many requests a server has no more of anything than after a few.

`FASTSOCKETSERVER_SOAK_REQUESTS` says how many requests each server gets, 50,000 if unset; a server
that forks gets a 25th of that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REQUESTS = int(os.environ.get("FASTSOCKETSERVER_SOAK_REQUESTS", "50000"))
AT_ONCE = 10
"""Requests that are under way at the same time."""

STEPS = 10
"""Parts of the run, the last of which, and the second, are compared with each other: by then the
allocator and the interpreter have what they need for this kind of work."""

GROWTH = 4 * 2**20
"""Bytes of memory that may be added between them, for all requests together."""

PATIENCE = 20.0
"""Seconds for an answer, and for a server to come to rest; only reached by a broken build."""

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
    pytest.mark.timeout(600),
]


class Belongings(NamedTuple):
    """What a process has."""

    descriptors: int
    threads: int
    children: int


def belongings(pid: int) -> Belongings:
    """Return what the process has now; children are counted until somebody waits for them."""
    return Belongings(
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        children=sum(1 for parent in parents() if parent == pid),
    )


def parents() -> Iterator[int]:
    """Return the parent's number of every process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # It may have ended meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])


def belongings_at_rest(pid: int) -> Belongings:
    """Return what the process has once that has stayed the same for a fifth of a second."""
    deadline = time.monotonic() + PATIENCE
    latest = belongings(pid)
    since = time.monotonic()
    while (now := time.monotonic()) - since < 0.2:
        if now > deadline:
            pytest.fail(f"waited {PATIENCE:.0f} s in vain for the server to rest: {latest}")
        time.sleep(0.01)
        if (current := belongings(pid)) != latest:
            latest, since = current, now
    return latest


def memory(pid: int) -> int:
    """Return the bytes of memory that the process occupies."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ask_connecting(port: int, number: int) -> None:
    """Ask `AT_ONCE` times, over a connection each, until the server has ended them all."""
    with contextlib.ExitStack() as stack:
        clients = []
        for place in range(AT_ONCE):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            sock.sendall(b"%d\n" % (number + place))
            clients.append(sock)
        for place, sock in enumerate(clients):
            answer = b"".join(iter(lambda sock=sock: sock.recv(100), b""))  # type: ignore[misc]
            assert answer == b"%d\n" % (number + place)


def ask_by_packets(port: int, number: int) -> None:
    """Ask `AT_ONCE` times by a packet each, from one socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        questions = {b"%d" % (number + place) for place in range(AT_ONCE)}
        for question in questions:
            sock.send(question)
        assert {sock.recv(100) for _ in questions} == questions


@contextlib.contextmanager
def serving(name: str) -> Iterator[tuple[int, int]]:
    """Run a server in a process of its own and give its number and port.

    On leaving it is told to end, which must go well and without a word.
    """
    program = Path(__file__).parent / "server.py"
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(program), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
            assert (process.returncode, errors.decode()) == (0, "")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "ask", "requests"),
    [
        ("TCPServer", ask_connecting, REQUESTS),
        ("ThreadingTCPServer", ask_connecting, REQUESTS),
        ("ForkingTCPServer", ask_connecting, REQUESTS // 25),
        ("UDPServer", ask_by_packets, REQUESTS),
    ],
)
def test_many_requests_leave_nothing_behind(
    name: str,
    ask: Callable[[int, int], None],
    requests: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(name) as (pid, port):
        ask(port, 0)
        at_first = belongings_at_rest(pid)
        occupied = []
        for step in range(STEPS):
            for number in range(step * requests // STEPS, (step + 1) * requests // STEPS, AT_ONCE):
                ask(port, number)
            occupied.append(memory(pid))
            with capsys.disabled():
                done = (step + 1) * requests // STEPS
                print(
                    f"\r{name}: {done:,} of {requests:,} requests, "
                    f"{occupied[-1] / 2**20:.1f} MiB, {belongings(pid)} ",
                    end="\n" if step == STEPS - 1 else "",
                    flush=True,
                )
        at_last = belongings_at_rest(pid)
    assert at_last.children == 0
    assert at_last.descriptors <= at_first.descriptors
    # A thread that has handled a request waits for another, for some seconds; while it ends one,
    # the next may have begun in another.
    assert at_last.threads <= max(at_first.threads, 1 + 2 * AT_ONCE)
    assert occupied[-1] - occupied[1] < GROWTH
