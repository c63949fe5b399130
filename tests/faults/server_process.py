"""A server in a process of its own, and what the kernel says of that process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

PATIENCE = float(os.environ.get("FAULTS_PATIENCE", "40"))
"""Seconds after which a wait is a failure; only reached by a server that hangs."""

REFERENCE = "socketserver"
HERE = "fastsocketserver"

HAS_PROC = Path("/proc/self/task").exists()
needs_proc = pytest.mark.skipif(not HAS_PROC, reason="the kernel does not show processes in /proc")


def dispatches(*names: str) -> pytest.MarkDecorator:
    """Run a test for each of these dispatches, here only; all of them if none is named."""
    return pytest.mark.parametrize(
        "dispatch", [_param(name) for name in names or ("inline", "threads", "forks", "greenlets")]
    )


def on_both(*names: str, reference: Iterable[str] | None = None) -> pytest.MarkDecorator:
    """Run a test for each of these dispatches, on the standard library's module as well."""
    names = names or ("inline", "threads", "forks", "greenlets")
    cases: list[Any] = []
    for name in names:
        if name in (names if reference is None else reference) and name != "greenlets":
            cases.append(pytest.param(REFERENCE, name, id=f"reference-{name}"))
        marks = _param(name).marks
        cases.append(pytest.param(HERE, name, id=f"here-{name}", marks=marks))
    return pytest.mark.parametrize(("module", "dispatch"), cases)


def _param(name: str) -> Any:
    missing = name == "greenlets" and importlib.util.find_spec("greenlet") is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason="no greenlets here"))


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`; fail, naming `what`, when that takes too long."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.005)
    return value


class Belongings(NamedTuple):
    """What a process has."""

    descriptors: int
    threads: int
    children: int


class ServerProcess:
    """A program that finds what is in `inside.py`, and the module and dispatch that it says.

    It talks in lines over its standard input and output. On leaving the `with` block its process
    group is killed.
    """

    def __init__(self, source: str, module: str, dispatch: str, *options: str) -> None:
        self.module, self.dispatch = module, dispatch
        here = str(Path(__file__).parent)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-X", "faulthandler", *options, "-c"),
                *("from inside import *\n" + textwrap.dedent(source), module, dispatch),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
            },
        )
        self._read = b""
        self._ended = False
        self._without_server = 0

    # Talking

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it wrote to its standard error so far."""
        return os.pread(self._stderr.fileno(), 10**6, 0).decode(errors="replace")

    def has_line(self, seconds: float) -> bool:
        """Say whether a line, or the end of the output, can be read within `seconds`."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._read and not self._ended:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return False
            data = os.read(self._process.stdout.fileno(), 65536)
            self._read += data
            self._ended = not data
        return True

    def read_line(self) -> str:
        """Return the next line that it prints; fail if there is none."""
        if not self.has_line(PATIENCE):
            self._process.send_signal(signal.SIGABRT)  # faulthandler says where it hangs
            self._process.wait()
            pytest.fail(f"waited {PATIENCE:.0f} s in vain for a line; errors: {self.errors}")
        line, end, self._read = self._read.partition(b"\n")
        if not end:
            status = self._process.wait(PATIENCE)
            pytest.fail(f"the server has ended with status {status}; errors: {self.errors}")
        return line.decode()

    def read_address(self) -> Any:
        """Return where the server listens: the line that `inside.serve()` prints first."""
        where, without = self.read_line().split()
        self._without_server = int(without)
        return ("127.0.0.1", int(where)) if where.isdigit() else where

    def send_line(self, line: str = "") -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    # Counting

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """How many threads the kernel runs of it."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def children(self) -> list[int]:
        """Its children, those included that nobody has waited for."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            # It may have ended meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = stat.read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == self.pid:
                    found.append(int(stat.parent.name))
        return found

    def belongings(self) -> Belongings:
        """What it has at this moment."""
        return Belongings(self.descriptors(), self.threads(), len(self.children()))

    def rss(self) -> int:
        """The bytes of memory that it occupies."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """The processor time that it has used, its children not counted."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors_at_rest(self) -> int:
        """How many descriptors it has open once that has stayed the same for a moment."""
        number, since = self.descriptors(), time.monotonic()
        end = since + PATIENCE
        while (now := time.monotonic()) - since < 0.2:
            assert now < end, "the server does not come to rest"
            time.sleep(0.005)
            if (current := self.descriptors()) != number or self.children():
                number, since = current, now
        return number

    def wait_for_descriptors(self, number: int) -> None:
        """Wait until it has so many descriptors open, and no child; for a while no more is said."""
        wait_until(
            lambda: self.descriptors() <= number and not self.children(),
            f"no more than {number} descriptors and no children: {self.belongings()}",
        )

    # Ending

    def running(self) -> bool:
        """Say whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end and return its exit status; negative for a signal."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            pytest.fail(f"the program did not end within {PATIENCE:.0f} s: {self.errors}")

    def stop(self, last_word: str = "") -> None:
        """Stop the server; require that it has left nothing and had nothing to complain about.

        The program must have called `inside.serve()`.
        """
        self.send_signal(signal.SIGTERM)
        while (line := self.read_line()) != "closed":
            assert line, "the server printed an empty line"
        if HAS_PROC:
            # A thread that has been joined may be seen for a moment yet.
            threads = 2 if last_word else 1
            expected = Belongings(self._without_server - 1, threads, 0)
            wait_until(
                lambda: self.belongings() <= expected,
                f"{self.belongings()} to become {expected}",
            )
        self.send_line(last_word)
        status = self.wait()
        assert (status, self.errors) == (0, "")

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The group is its own: it was started with a new session.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
