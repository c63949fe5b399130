"""Runs a suite in processes of its own, with or without the swap, and says what became of it."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from suite import Suite

# Longer than the slowest test (30 s, in test_pydoc of CPython 3.10), shorter than the alarm by
# which test_socketserver ends itself (60 s).
TEST_LIMIT = 50.0
# A last resort for what the limit within the process cannot end.
RUN_LIMIT = 600.0
# A suite is taken up again behind a test that hung or crashed, so that the others get their turn.
MAX_RESUMES = 2
# What a finished run's own children get for ending, in seconds.
GRACE = 2.0


class Kind(enum.Enum):
    """How a test came out; of several outcomes of one test, the last in this order counts."""

    MISSING = "did not run"
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"
    HUNG = "hung"
    CRASHED = "crashed"

    @property
    def is_fatal(self) -> bool:
        """Whether the process ended with the test."""
        return self in {Kind.HUNG, Kind.CRASHED}

    @property
    def severity(self) -> int:
        """The place in the order above."""
        return list(Kind).index(self)


@dataclass(frozen=True)
class Outcome:
    """How one test came out, and the reason or the traceback."""

    kind: Kind
    detail: str = ""


@dataclass
class Run:
    """What became of a suite in one mode.

    Attributes:
        tests: Outcome by test ID, of the suite's own tests.
        checks: Outcome by name, of what is looked at once per run (see `CHECKS`).
        users: The modules that were seen to use the expected `socketserver`.
        faults: Where something else stood in its place; not empty means that nothing is proved.
        output: What the processes wrote.
    """

    tests: dict[str, Outcome] = field(default_factory=dict)
    checks: dict[str, Outcome] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    output: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether regrtest came to its end; what the proof says is known only then."""
        return "exit" in self.checks

    def note(self, test: str, outcome: Outcome) -> None:
        """Adds an outcome; a milder one than the test already has changes nothing."""
        known = self.tests.get(test)
        if known is None or outcome.kind.severity >= known.kind.severity:
            self.tests[test] = outcome

    def count(self, kind: Kind) -> int:
        """How many of the tests came out that way."""
        return sum(outcome.kind is kind for outcome in self.tests.values())


CHECKS = {
    "run": "regrtest loads and ends the suite without an error outside of the tests",
    "environment": "global state and threads are as they were before",
    "processes": "no child process is left behind",
    "exit": "the interpreter ends with regrtest's status",
}


def run_suite(
    suite: Suite, *, swapped: bool, only: Collection[str] = (), without: Collection[str] = ()
) -> Run:
    """Runs a suite, or a part of it.

    Args:
        suite: What to run.
        swapped: With the replacement in place of `socketserver`, or on the standard library.
        only: IDs of tests to run; empty means all. Those that the suite has not are passed over.
        without: IDs of tests not to run.
    """
    run = Run()
    ignored = set(without)
    for _ in range(1 + MAX_RESUMES):
        with tempfile.TemporaryDirectory(prefix="conf-", ignore_cleanup_errors=True) as directory:
            process = _Process(Path(directory), suite, swapped=swapped)
            culprit = process.run(run, only, ignored)
        if culprit is None:
            break
        ignored |= run.tests.keys()
    return run


def end_all() -> None:
    """Kills what is still running, for a harness that ends early; no run starts after that."""
    _groups.end()


class _Process:
    """One process that runs regrtest, in a session and a directory of its own."""

    def __init__(self, directory: Path, suite: Suite, *, swapped: bool) -> None:
        self._directory = directory
        self._suite = suite
        self._swapped = swapped
        self._journal = directory / "journal"
        self._output = directory / "output"

    def run(self, run: Run, only: Collection[str], ignored: Collection[str]) -> str | None:
        """Adds what happens to `run`; returns the test in which the process died, if it did."""
        status, left_over = self._wait(self._command(only, ignored))
        output = self._output.read_text(encoding="utf-8", errors="replace")
        run.output += output
        end, running = self._read(run)
        if end is not None:
            self._conclude(run, end, status, output)
            run.checks["processes"] = _passed_if(not left_over, "\n".join(left_over))
            return None
        outcome = _death(status, output)
        if running is None:
            run.checks["run"] = outcome
        else:
            run.note(running, outcome)
        return running

    def _command(self, only: Collection[str], ignored: Collection[str]) -> list[str]:
        regrtest = ["--tempdir", str(self._directory)]
        if self._suite.network:
            regrtest += ["-u", "network"]
        if only:
            regrtest += ["--matchfile", self._list("only", only)]
        else:
            regrtest += [part for pattern in self._suite.match for part in ("-m", pattern)]
        if ignored:
            regrtest += ["--ignorefile", self._list("ignored", ignored)]
        child = [str(Path(__file__).with_name("child.py")), "--journal", str(self._journal)]
        if self._swapped:
            child.append("--swapped")
        child += ["--limit", str(TEST_LIMIT), "--", *regrtest, self._suite.module]
        return [sys.executable, "-bb", "-Wdefault", *child]

    def _list(self, name: str, tests: Collection[str]) -> str:
        path = self._directory / name
        path.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
        return str(path)

    def _wait(self, command: list[str]) -> tuple[int, list[str]]:
        """Returns the exit status, and the command lines of the processes that were left over."""
        temporary = self._directory / "tmp"
        temporary.mkdir()
        with self._output.open("wb") as output:
            process = _groups.start(command, self._directory, output, TMPDIR=str(temporary))
        try:
            status = process.wait(RUN_LIMIT)
            left_over = _left_over(process.pid)
        except subprocess.TimeoutExpired:
            status, left_over = -signal.SIGKILL, []
        _groups.stop(process)
        return status, left_over

    def _read(self, run: Run) -> tuple[dict[str, Any] | None, str | None]:
        """Returns the journal's last entry, if it has one, and the test that has not stopped."""
        running: str | None = None
        if not self._journal.exists():
            return None, None
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            event = entry["event"]
            if event == "start":
                running = entry["test"]
            elif event == "stop":
                running = None
            elif event == "outcome":
                run.note(entry["test"], Outcome(Kind(entry["outcome"]), entry["detail"]))
            else:
                return entry, None
        return None, running

    def _conclude(self, run: Run, end: dict[str, Any], status: int, output: str) -> None:
        run.users.update(end["proof"]["users"])
        run.faults += end["proof"]["faults"]
        # regrtest's status says only that something failed: here, whether it was more than tests.
        failed = any(it.kind.severity >= Kind.FAILED.severity for it in run.tests.values())
        explained = end["status"] == 0 or failed or not run.tests
        crashed = f"{self._suite.module} crashed" in output
        run.checks["run"] = _passed_if(explained and not crashed, output)
        warnings = [line for line in output.splitlines() if line.startswith("Warning -- ")]
        run.checks["environment"] = _passed_if(not end["altered"], "\n".join(warnings) or output)
        run.checks["exit"] = (
            Outcome(Kind.PASSED) if status == end["status"] else _death(status, output)
        )


class _Groups:
    """The process groups that are running now, each with its first process as the leader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaders: set[int] = set()
        self._ended = False

    def start(
        self, command: list[str], directory: Path, output: IO[bytes], **variables: str
    ) -> subprocess.Popen[bytes]:
        """Starts a process in a new session, and so in a group of its own."""
        with self._lock:
            if self._ended:
                raise InterruptedError(errno.EINTR, "the harness is ending")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **variables},
                start_new_session=True,
            )
            self._leaders.add(process.pid)
            return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Kills what is left of a group."""
        with self._lock:
            self._leaders.discard(process.pid)
            _kill(process.pid)
        process.wait()

    def end(self) -> None:
        """Kills all groups and starts no more."""
        with self._lock:
            self._ended = True
            for leader in self._leaders:
                _kill(leader)


_groups = _Groups()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _left_over(group: int) -> list[str]:
    """The command lines of a process group's members, when they do not end by themselves.

    Only `/proc` tells them from those that nobody has waited for yet; elsewhere none is found.
    """
    deadline = time.monotonic() + GRACE
    while members := list(_members(group)):
        if time.monotonic() > deadline:
            return members
        time.sleep(0.05)
    return []


def _members(group: int) -> Iterator[str]:
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The second field, the program's name in parentheses, may hold anything.
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
            state, its_group = fields[0], int(fields[2])
            if its_group == group and state not in "ZX":
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                yield f"process {directory.name}: {command.decode(errors='replace').strip()}"


def _passed_if(condition: bool, output: str) -> Outcome:
    return Outcome(Kind.PASSED) if condition else Outcome(Kind.FAILED, output)


def _death(status: int, output: str) -> Outcome:
    """Why a process died: by the time limit, its own or another's alarm, or otherwise."""
    stacks = output.rfind("Timeout (")
    if status == 1 and stacks >= 0:
        return Outcome(Kind.HUNG, output[stacks:])
    if status in {-signal.SIGALRM, -signal.SIGKILL}:
        return Outcome(Kind.HUNG, f"ended by {signal.Signals(-status).name}\n{output}")
    error = max(output.rfind("Fatal Python error"), 0)
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    return Outcome(Kind.CRASHED, f"the process ended with {how}\n{output[error:]}")
