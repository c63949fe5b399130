"""A Python program under test, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import DEADLINE, wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from variants import Variant


class Program:
    """A program whose source finds the module under test as `ss`.

    It runs with every warning an error, talks in lines over its standard input and output, and is
    killed, at the latest, on leaving the `with` block.
    """

    def __init__(self, ss: Variant, source: str, *options: str) -> None:
        prelude = f"""
            from variants import Variant
            ss = Variant(
                {ss.name!r}, pass_through={ss.pass_through}, in_greenlets={ss.in_greenlets}
            )
        """
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed in __exit__
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-X", "faulthandler", *options),
                *("-c", textwrap.dedent(prelude) + textwrap.dedent(source)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._read = b""
        self._ended = False

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it wrote to its standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode()

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
        """Return the next line that it prints; "" once it has closed its output."""
        if not self.has_line(DEADLINE):
            pytest.fail(f"waited {DEADLINE:.0f} s in vain for a line; errors: {self.errors}")
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def read_port(self) -> tuple[str, int]:
        """Return the loopback address whose port the next line says."""
        line = self.read_line()
        if not line.isdigit():
            pytest.fail(f"no port but {line!r}; errors: {self.errors}")
        return "127.0.0.1", int(line)

    def send_line(self, line: str = "") -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait_asleep(self) -> None:
        """Wait until its main thread sleeps in the kernel, and stays so (where the kernel tells).

        It also sleeps now and then on its way: for the interpreter lock, or for a thread to start.
        """
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return
        former = None

        def sleeps_on() -> bool:
            nonlocal former
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            now = (fields["State"].split()[0], fields["voluntary_ctxt_switches"])
            is_same, former = now == former, now
            if now[0] == "S" and not is_same:
                time.sleep(0.05)
            return now[0] == "S" and is_same

        wait_until(sleeps_on, "the main thread to sleep in the kernel")

    def running(self) -> bool:
        """Say whether it has not ended yet."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end and return its exit status; negative for a signal."""
        try:
            return self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            pytest.fail(f"the program did not end within {DEADLINE:.0f} s: {self.errors}")

    def end(self) -> None:
        """Wait for its end, and require that it went well and had nothing to complain about."""
        status = self.wait()
        if status != 0 or self.errors:
            pytest.fail(f"the program ended with status {status}; errors: {self.errors}")

    def __enter__(self) -> Program:
        """Return the running program."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill what still runs and release everything."""
        if self.running():
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
