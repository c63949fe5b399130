"""The process under test: runs one of the interpreter's own test modules and keeps a journal.

Started by `run.py`, once for each run of a suite, and never imported by it. The regression test
runner (regrtest) does the work, with all that it watches for: threads left over, exceptions in
threads, changed global state. The journal is written here and not taken from regrtest's JUnit file,
which says nothing when a test hangs or kills the process, and leaves out failed subtests and
whatever a class's set-up does. It is a file of one JSON object to a line:

    {"event": "start", "test": ID}
    {"event": "outcome", "test": ID, "outcome": "passed" | "failed" | "skipped", "detail": TEXT}
    {"event": "stop", "test": ID}
    {"event": "end", "status": N, "altered": BOOL, "proof": PROOF}

A journal without its end was left by a process that died in the test that started last.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import importlib
import json
import os
import sys
import unittest
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REPLACEMENT = "fastsocketserver"
ROOT_CLASSES = ("BaseServer", "BaseRequestHandler")


class Proof:
    """Watches that the module which stands for `socketserver` is the intended one throughout.

    Args:
        swapped: Whether the replacement is to stand there, or the standard library's own module.
    """

    def __init__(self, *, swapped: bool) -> None:
        self._expected = _install() if swapped else importlib.import_module("socketserver")
        self._roots: set[object] = {getattr(self._expected, name) for name in ROOT_CLASSES}
        self._swapped = swapped
        self._seen: set[str] = set()
        self._users: set[str] = set()
        self._faults: dict[str, str] = {}

    def look(self, when: str) -> None:
        """Checks what stands in `sys.modules` now, and every module that is new there."""
        if sys.modules.get("socketserver") is not self._expected:
            self._faults.setdefault("sys.modules['socketserver'] is another module", when)
        if (REPLACEMENT in sys.modules) is not self._swapped:
            self._faults.setdefault(f"{REPLACEMENT} was loaded or unloaded meanwhile", when)
        for name in sys.modules.keys() - self._seen:
            self._seen.add(name)
            if name.partition(".")[0] not in {REPLACEMENT, "socketserver", "__main__"}:
                self._examine(name, sys.modules[name], when)

    def report(self) -> dict[str, list[str]]:
        """What the parent process needs for judging: who used the module, and what was wrong."""
        return {
            "users": sorted(self._users),
            "faults": [f"{fault}, first {when}" for fault, when in self._faults.items()],
        }

    def _examine(self, name: str, module: ModuleType, when: str) -> None:
        for value in list(getattr(module, "__dict__", {}).values()):
            if isinstance(value, type):
                used: set[object] = {base for base in value.__mro__ if _is_root(base)}
                is_right = used <= self._roots
            else:
                used = {value} if _is_socketserver(value) else set()
                is_right = value is self._expected
            if used and is_right:
                self._users.add(name)
            elif used:
                self._faults.setdefault(f"{name} uses another socketserver: {value!r}", when)


def _install() -> ModuleType:
    """Puts the replacement in place; its warning that it came too late counts as an error."""
    replacement = importlib.import_module(REPLACEMENT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        replacement.install()
    if sys.modules["socketserver"].__name__ != REPLACEMENT:
        msg = f"install() left {sys.modules['socketserver']!r} in sys.modules"
        raise RuntimeError(msg)
    return replacement


def _is_root(cls: type) -> bool:
    if cls.__name__ not in ROOT_CLASSES:
        return False
    return cls.__module__.partition(".")[0] in {REPLACEMENT, "socketserver"}


def _is_socketserver(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__ in {REPLACEMENT, "socketserver"}


class Journal:
    """Writes down what happens to each test, and ends the process when one takes too long.

    Args:
        path: The file to write; it is written at once, so that it survives a crash.
        limit: Seconds that a test, or the time between two tests, may take. Then the stacks of all
            threads go to standard error, and the process ends with status 1.
        proof: Is asked to look before and after each test.
    """

    def __init__(self, path: str, limit: float, proof: Proof) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._owner = os.getpid()
        self._limit = limit
        self._proof = proof

    def attach(self) -> None:
        """Has every `unittest.TestResult`, regrtest's own included, report to this journal."""
        _follow("startTest", self._start)
        _follow("stopTest", self._stop)
        _follow("addSuccess", self._success)
        _follow("addExpectedFailure", self._success)
        _follow("addUnexpectedSuccess", self._unexpected_success)
        _follow("addSkip", self._skip)
        _follow("addError", self._error)
        _follow("addFailure", self._failure)
        _follow("addSubTest", self._subtest)
        self.rearm()

    def rearm(self) -> None:
        """Starts the time limit anew."""
        faulthandler.dump_traceback_later(self._limit, exit=True, file=2)

    def write(self, event: str, **fields: object) -> None:
        """Adds one line, except in a child that a test has forked."""
        if os.getpid() == self._owner:
            line = json.dumps({"event": event, **fields}) + "\n"
            os.write(self._descriptor, line.encode())

    def _start(self, _: unittest.TestResult, test: unittest.TestCase) -> None:
        self.rearm()
        self.write("start", test=test.id())
        self._proof.look(f"before {test.id()}")

    def _stop(self, _: unittest.TestResult, test: unittest.TestCase) -> None:
        self._proof.look(f"after {test.id()}")
        self.write("stop", test=test.id())
        self.rearm()

    def _success(self, _: unittest.TestResult, test: unittest.TestCase, *__: object) -> None:
        self._outcome(test, "passed")

    def _unexpected_success(self, _: unittest.TestResult, test: unittest.TestCase) -> None:
        self._outcome(test, "failed", "succeeded unexpectedly")

    def _skip(self, _: unittest.TestResult, test: unittest.TestCase, reason: str) -> None:
        self._outcome(test, "skipped", reason)

    def _error(self, result: unittest.TestResult, test: unittest.TestCase, _: object) -> None:
        self._outcome(test, "failed", result.errors[-1][1])

    def _failure(self, result: unittest.TestResult, test: unittest.TestCase, _: object) -> None:
        self._outcome(test, "failed", result.failures[-1][1])

    def _subtest(
        self,
        result: unittest.TestResult,
        test: unittest.TestCase,
        _: object,
        error: tuple[type[BaseException], object, object] | None,
    ) -> None:
        if error is not None:
            is_failure = issubclass(error[0], test.failureException)
            (self._failure if is_failure else self._error)(result, test, error)

    def _outcome(self, test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        self.write("outcome", test=test.id(), outcome=outcome, detail=detail)


def _follow(name: str, observer: Callable[..., None]) -> None:
    """Has `observer` called with the same arguments after each call of a `TestResult` method."""
    method = getattr(unittest.TestResult, name)

    @functools.wraps(method)
    def followed(*args: object) -> None:
        method(*args)
        observer(*args)

    setattr(unittest.TestResult, name, followed)


def _run_regrtest(arguments: list[str]) -> int:
    sys.argv = ["regrtest", *arguments]
    try:
        importlib.import_module("test.libregrtest.main").main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def main() -> int:
    """Runs regrtest with the arguments after `--` and returns its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--swapped", action="store_true")
    parser.add_argument("--journal", required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("regrtest", nargs="*")
    options = parser.parse_args()

    proof = Proof(swapped=options.swapped)
    journal = Journal(options.journal, options.limit, proof)
    journal.attach()
    status = _run_regrtest(options.regrtest) if options.regrtest else 0
    journal.rearm()
    proof.look("at the end")
    altered = getattr(sys.modules.get("test.support"), "environment_altered", False)
    journal.write("end", status=status, altered=bool(altered), proof=proof.report())
    return status


if __name__ == "__main__":
    # Neither this directory nor its modules may be visible to the tests.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    sys.exit(main())
