"""One trial: a server program of its own on one core, the load generator on the other."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import idle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contenders import Contender
    from workloads import Workload

PATIENCE = 30.0
"""Seconds for a server to start or to end, and for the load generator to end after its time."""

MIB = 1 << 20

FIRST_REQUESTS = {
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"Hello, world!"),
    "up": (b"u" * MIB, b"."),
    "down": (b"?", b"d" * MIB),
}
"""What is asked first, and how the answer ends, where it is not a line."""


class TrialError(Exception):
    """A server or the load generator did not do what is owed to the caller."""


@dataclass(frozen=True)
class Machine:
    """Where trials run.

    Attributes:
        load: The load generator.
        server_core: The core for servers; `None` where processes cannot be kept on a core.
        client_core: The core for the load generator.
    """

    load: Path
    server_core: int | None
    client_core: int | None


@dataclass(frozen=True)
class Trial:
    """What came of one; the load generator's own words are in `load`.

    Attributes:
        figure: What the workload's unit counts: right answers in time, or the data in them, for
            each second, or memory.
        p50_us: Microseconds within which half of the answers came.
        p99_us: Microseconds within which 99 % of them came.
        cpu_us: Microseconds of processor time, user and system, for each right answer: the server's
            and that of its children, from after a first request to when it had ended.
        troubles: Connections refused, reset or ended early, datagrams sent again, and clients that
            never got an answer.
        wrong: Wrong answers.
        load: All that the load generator reported.
    """

    figure: float
    p50_us: float | None
    p99_us: float | None
    cpu_us: float | None
    troubles: int
    wrong: int
    load: dict[str, Any]


def run(contender: Contender, workload: Workload, machine: Machine, seconds: float) -> Trial:
    """Put `workload` on a new server of `contender` for so many seconds."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        address = f"{folder}/socket" if workload.family == "unix" else "127.0.0.1:0"
        command = [*contender.command, workload.service, workload.dispatch, address]
        with _running(command, machine.server_core, errors) as server:
            address = _read_line(server, errors)
            _ask(workload, address)
            with idle.connections(address, workload.idle) as others_report:
                before = _cpu_seconds_of(server.pid)
                if workload.mode == "idle":
                    report = idle.load(server.pid, address, workload.clients)
                else:
                    report = _load(machine, workload, address, seconds)
                until_now = _cpu_seconds_of(server.pid) - before
            for trouble in ("errors", "unanswered", "wrong"):
                report[trouble] += others_report[trouble]
            # What has been waited for until now is not the server.
            others = _cpu_seconds_of_children()
            server.terminate()
            _wait(server, errors)
            spent = _cpu_seconds_of_children() - others - before
            if workload.idle:
                # Ending the idle connections is not what is measured.
                spent = until_now
    requests = report["requests"]
    return Trial(
        figure=_figure(workload, report),
        p50_us=report.get("p50_us"),
        p99_us=report.get("p99_us"),
        cpu_us=spent * 1e6 / requests if requests and workload.mode != "idle" else None,
        troubles=report["errors"] + report.get("resent", 0) + report["unanswered"],
        wrong=report["wrong"],
        load=report,
    )


def _figure(workload: Workload, report: dict[str, Any]) -> float:
    if workload.mode == "idle":
        return float(report["kib_per_connection"])
    rate = float(report["requests_per_second"])
    return rate * MIB / 1e6 if workload.unit == "MB/s" else rate


def _ask(workload: Workload, address: str) -> None:
    """Make a first request, by which the server does what it puts off until then."""
    host, _, port = address.rpartition(":")
    family = socket.AF_UNIX if workload.family == "unix" else socket.AF_INET
    kind = socket.SOCK_DGRAM if workload.family == "udp" else socket.SOCK_STREAM
    question, end = FIRST_REQUESTS.get(workload.service, (b"hello\n", b"hello\n"))
    answer = b""
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address if workload.family == "unix" else (host, int(port)))
            sock.sendall(question)
            while not answer.endswith(end) and (data := sock.recv(MIB)):
                answer += data
    except OSError as error:
        raise TrialError(f"a first request got no answer: {error}") from error
    if not answer.endswith(end):
        raise TrialError(f"a first request got the answer {answer[:100]!r}")


def _load(machine: Machine, workload: Workload, address: str, seconds: float) -> dict[str, Any]:
    arguments = [workload.mode, address, str(workload.clients), str(seconds)]
    with (
        tempfile.TemporaryFile() as errors,
        _running([str(machine.load), *arguments], machine.client_core, errors) as client,
    ):
        line = _read_line(client, errors, seconds)
        _wait(client, errors)
    report: dict[str, Any] = json.loads(line)
    return report


@contextmanager
def _running(
    command: list[str], core: int | None, errors: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program on `core`; killed, at the latest, on leaving the `with` block."""
    with _staying_on(core):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def _staying_on(core: int | None) -> Iterator[None]:
    """Keep this process on `core`: what it starts meanwhile stays there for good."""
    if core is None:
        yield
        return
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


def _read_line(process: subprocess.Popen[bytes], errors: IO[bytes], extra: float = 0) -> str:
    """Return the line that a program prints, which it is expected to print in one piece."""
    assert process.stdout is not None
    # Not select(), which knows no descriptors from 1,024 on.
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(1000 * (PATIENCE + extra)):
        raise TrialError(f"{process.args!r} says nothing; errors: {_text(errors)}")
    line = process.stdout.readline().decode()
    if not line.endswith("\n"):
        raise TrialError(f"{process.args!r} has ended; errors: {_text(errors)}")
    return line.rstrip("\n")


def _wait(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """Wait for a program's end, which must be a good one."""
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise TrialError(f"{process.args!r} does not end; errors: {_text(errors)}") from None
    if status:
        raise TrialError(f"{process.args!r} ended with {status}; errors: {_text(errors)}")


def _text(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")


def _cpu_seconds_of_children() -> float:
    """Return the processor time of all children that were waited for, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_seconds_of(pid: int) -> float:
    """Return the processor time of a process's threads; 0 where nobody tells.

    `/proc/PID/stat` would tell of ended threads too, but counts in hundredths of a second.
    """
    seconds = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        # A thread that ends in between is left out, like those that have ended before.
        with suppress(FileNotFoundError, ProcessLookupError):
            seconds += int(task.read_text().split()[0]) / 1e9
    return seconds
