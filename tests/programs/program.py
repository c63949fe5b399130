"""Run one program on each implementation, talk to both, and compare what they said."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Answer = TypeVar("Answer")

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
"""The programs that are only a few lines around a library."""

DEADLINE = 20.0
"""Seconds after which a wait is a failure; only ever reached by a broken build."""

COMMANDS = {
    "socketserver": (sys.executable,),
    "fastsocketserver": (sys.executable, "-m", "fastsocketserver", "run"),
}
"""What goes before `-m module` or `script.py` to run it on each implementation."""

FREE_PORT = "{port}"
"""Stands among a program's arguments for the number of a port that nobody uses."""

IMPLEMENTATION = "{implementation}"
"""Stands among a program's arguments for the name of what it runs on, where two must differ."""

ATTEMPTS = 5
"""How often a program may find that its free port has been taken in the meantime."""

_COMPLAINT = re.compile(r"\w*(?:Traceback|Warning|Error|Exception)\b.*")


def find_free_port() -> int:
    """Return the number of a port that was free, for TCP and UDP, a moment ago."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Program:
    """A program that runs in a process group of its own, and all that it prints."""

    def __init__(
        self,
        implementation: str,
        arguments: Sequence[str],
        report: Path,
        cwd: Path,
        port: int = 0,
        dispatch: str = "threads",
    ) -> None:
        self.implementation = implementation
        self.port = port
        self._report = report
        self._printed = ""
        self._all_printed = False
        self._news = threading.Condition()
        # The reference has threads alone.
        has_choice = implementation == "fastsocketserver" and dispatch != "threads"
        options = ["--dispatch", dispatch] if has_choice else []
        self._process = subprocess.Popen(
            [*COMMANDS[implementation], *options, *arguments],
            cwd=cwd,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "PATH") if key in os.environ}
        return kept | {
            "PYTHONPATH": str(HERE / "witness"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "default",
            "SOCKETSERVER_IMPLEMENTATION": self.implementation,
            "SOCKETSERVER_WITNESS": str(self._report),
        }

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._printed += line
                self._news.notify_all()
        with self._news:
            self._all_printed = True
            self._news.notify_all()

    @property
    def printed(self) -> str:
        """Everything printed so far, standard error included."""
        with self._news:
            return self._printed

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until the output has so many matches of `pattern`, and return the last of them."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = itertools.islice(re.finditer(pattern, self._printed), times)
            return len(found) == times or self._all_printed

        with self._news:
            self._news.wait_for(look, DEADLINE)
        if len(found) < times:
            self._fail(f"to print {pattern!r}, {times} times")
        return found[-1]

    def wait_until_listening(self) -> None:
        """Wait until a connection to the program's port succeeds, or the program has ended."""
        end = time.monotonic() + DEADLINE
        while not self.ended:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if time.monotonic() > end:
                self._fail(f"to listen on port {self.port}")
            time.sleep(0.01)

    def say(self, line: str) -> None:
        """Write a line to the program's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to the program and all its children.

        It is pressed when the program's main thread sleeps: the interpreter forgets, on either
        implementation, an interrupt that comes while it runs what a module registered to be run
        around forks, and a child may have answered before its parent is done with that.
        """
        stat = Path(f"/proc/{self._process.pid}/stat")
        end = time.monotonic() + DEADLINE
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "R":
            if time.monotonic() > end:
                self._fail("to sleep")
            time.sleep(0.005)
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Wait until the program has ended by itself, and return its exit status."""
        try:
            status = self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._fail("to end")
        self.kill()
        return status

    def kill(self) -> None:
        """End whatever still runs of the program, and collect the rest of its output."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def servers(self) -> list[tuple[str, str]]:
        """Return the implementation and the name of each server class that was used."""
        if not self._report.exists():
            return []
        lines = self._report.read_text().splitlines()
        return sorted((line.split()[0], line.split()[1]) for line in lines)

    def complaints(self) -> set[str]:
        """Return the warnings and errors among what was printed, numbers left out."""
        return {re.sub(r"\d+", "N", found) for found in _COMPLAINT.findall(self.printed)}

    def _fail(self, what: str) -> NoReturn:
        raise AssertionError(
            f"waited in vain for the program on {self.implementation} {what}; it printed:\n"
            f"{self.printed}"
        )


class Both:
    """The same program twice: on the reference, then on the replacement.

    There, requests that the program would have run in threads run in what `dispatch` says.
    """

    def __init__(self, folder: Path, dispatch: str) -> None:
        self._folder = folder
        self._dispatch = dispatch
        self._programs: list[Program] = []

    def start(self, *arguments: str | Path, ready: str = "", cwd: Path | None = None) -> None:
        """Start the program, and wait until both serve.

        They print their port, which is the group of the pattern `ready`, or they listen on the
        one that they find instead of `FREE_PORT` among their arguments.
        """
        words = [str(argument) for argument in arguments]
        where = cwd or self._folder
        self._programs = [self._launch(name, words, where) for name in COMMANDS]
        if ready:
            self.wait_for_port(ready)
        elif any(FREE_PORT in word for word in words):
            for index in range(len(COMMANDS)):
                self._wait_for_free_port(index, words, where)

    def wait_for_port(self, pattern: str, times: int = 1) -> None:
        """Wait until both have printed their port, in the pattern's group, so many times."""
        for program in self._programs:
            program.port = int(program.wait_for(pattern, times)[1])

    def _wait_for_free_port(self, index: int, words: list[str], where: Path) -> None:
        for _ in range(ATTEMPTS):
            program = self._programs[index]
            program.wait_until_listening()
            if not program.ended or "in use" not in program.printed:
                return
            program.kill()
            self._programs[index] = self._launch(program.implementation, words, where)

    def _launch(self, implementation: str, words: list[str], cwd: Path) -> Program:
        port = find_free_port() if any(FREE_PORT in word for word in words) else 0
        arguments = [
            word.replace(FREE_PORT, str(port)).replace(IMPLEMENTATION, implementation)
            for word in words
        ]
        report = self._folder / f"{implementation}.witness"
        return Program(implementation, arguments, report, cwd, port, self._dispatch)

    def ask(self, conversation: Callable[[Program], Answer]) -> Answer:
        """Hold the same conversation with each; return the answer, which must be the same."""
        reference, ours = (conversation(program) for program in self._programs)
        assert ours == reference
        return reference

    def say(self, line: str) -> None:
        """Write a line to the standard input of both."""
        for program in self._programs:
            program.say(line)

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status of both."""
        for program in self._programs:
            program.interrupt()
        return self.wait()

    def wait(self) -> int:
        """Wait until both have ended alike; return their exit status."""
        status = self.ask(Program.wait)
        self.ask(Program.complaints)
        servers = self.ask(lambda program: [name for _, name in program.servers()])
        assert servers, "no server object was seen"
        for program in self._programs:
            assert {home for home, _ in program.servers()} == {program.implementation}
        return status

    def kill(self) -> None:
        """End what a failed test left running, and show what was printed in its report."""
        for program in self._programs:
            program.kill()
            print(f"--- printed on {program.implementation} ---\n{program.printed}")
