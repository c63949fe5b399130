"""Holds a suite's swapped runs against its plain ones."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from run import CHECKS, Kind, Outcome, Run, run_suite

if TYPE_CHECKING:
    from suite import Suite

MISSING = Outcome(Kind.MISSING)


@dataclass(frozen=True)
class Finding:
    """A test, or one of the checks on a whole run, that came out worse than it should."""

    name: str
    swapped: Outcome
    plain: Outcome


@dataclass
class Verdict:
    """What a suite says about the replacement.

    Attributes:
        suite: What was run.
        seconds: How long all its runs took.
        swapped: The first swapped run.
        remark: Why there is nothing to report, where the suite is missing or skipped as a whole.
        faults: Why the runs prove nothing. One failure, however many there are.
        only_swapped: Fails in both swapped runs, or hangs or crashes in one, and not when plain.
        flaky: Fails in one swapped run and passes in the other.
        late: Passes in the second swapped run; in the first, others crashed before its turn.
        plain_too: Fails in the swapped runs and in the plain ones.
    """

    suite: Suite
    seconds: float = 0.0
    swapped: Run = field(default_factory=Run)
    remark: str = ""
    faults: list[str] = field(default_factory=list)
    only_swapped: list[Finding] = field(default_factory=list)
    flaky: list[Finding] = field(default_factory=list)
    late: list[Finding] = field(default_factory=list)
    plain_too: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """Tests that passed, if only in the second run; none where the swap was not in place."""
        if self.faults:
            return 0
        recovered = sum(finding.name not in CHECKS for finding in (*self.flaky, *self.late))
        return self.swapped.count(Kind.PASSED) + recovered

    @property
    def failed(self) -> int:
        """What counts against the replacement."""
        return len(self.only_swapped) + bool(self.faults)

    @property
    def skipped(self) -> int:
        """Tests that were skipped when swapped."""
        return self.swapped.count(Kind.SKIPPED)

    @property
    def ran(self) -> int:
        """Tests that were run when swapped; skipped ones do not count."""
        return len(self.swapped.tests) - self.skipped


def judge(suite: Suite) -> Verdict:
    """Runs a suite plain and swapped, and what fails swapped once more in both ways."""
    if not suite.is_installed():
        return Verdict(suite, remark=f"missing: this interpreter has no module {suite.module}")
    started = time.monotonic()
    plain = run_suite(suite, swapped=False)
    swapped = run_suite(suite, swapped=True)
    verdict = Verdict(suite, swapped=swapped)
    verdict.faults = _faults(suite, plain, swapped)
    if not verdict.faults:
        _settle(verdict, plain)
    if not plain.tests and not swapped.tests and not verdict.failed:
        verdict.remark = _why_empty(swapped)
    verdict.seconds = time.monotonic() - started
    return verdict


def _faults(suite: Suite, plain: Run, swapped: Run) -> list[str]:
    faults = [f"plain run: {fault}" for fault in plain.faults] + swapped.faults
    if not swapped.tests and not swapped.is_complete:
        faults.append(f"the run did not come as far as its tests\n{swapped.output}")
    if swapped.tests and swapped.is_complete:
        unused = [module for module in suite.through if module not in swapped.users]
        faults += [f"{module} was never seen to use the replacement" for module in unused]
    return faults


def _outcomes(run: Run) -> dict[str, Outcome]:
    return {**run.checks, **run.tests}


def _is_good(swapped: Outcome, plain: Outcome) -> bool:
    """Skipping is good only where the plain test is skipped as well."""
    if swapped.kind is Kind.SKIPPED:
        return plain.kind is Kind.SKIPPED
    return swapped.kind is Kind.PASSED


def _suspects(plain: Run, swapped: Run) -> list[str]:
    before, after = _outcomes(plain), _outcomes(swapped)
    return [
        name
        for name in {**before, **after}
        if not _is_good(after.get(name, MISSING), before.get(name, MISSING))
    ]


def _settle(verdict: Verdict, plain: Run) -> None:
    """Sorts what failed when swapped, after one more run of it in both ways.

    What hung or crashed gets no second chance: it counts unless it fails when plain.
    """
    first_plain, first_swapped = _outcomes(plain), _outcomes(verdict.swapped)
    suspects = _suspects(plain, verdict.swapped)
    doubtful = [name for name in suspects if not first_swapped.get(name, MISSING).kind.is_fatal]
    # A check is about the whole run, and so is the set-up of a class or a module.
    whole = any(name in CHECKS or " " in name for name in doubtful)
    only = () if whole else doubtful
    without = set(suspects) - set(doubtful)
    second_plain: dict[str, Outcome] = {}
    second_swapped: dict[str, Outcome] = {}
    if doubtful:
        again = run_suite(verdict.suite, swapped=False, only=only, without=without)
        second_plain = _outcomes(again)
        again = run_suite(verdict.suite, swapped=True, only=only, without=without)
        second_swapped = _outcomes(again)
        verdict.faults += again.faults
    for name in suspects:
        plain_outcomes = [run[name] for run in (first_plain, second_plain) if name in run]
        reference = min(plain_outcomes, key=lambda it: it.kind.severity, default=MISSING)
        finding = Finding(name, swapped=first_swapped.get(name, MISSING), plain=reference)
        if name in doubtful and _is_good(second_swapped.get(name, MISSING), reference):
            had_its_turn = verdict.swapped.is_complete or name in first_swapped
            (verdict.flaky if had_its_turn else verdict.late).append(finding)
        elif reference.kind.severity < Kind.FAILED.severity:
            verdict.only_swapped.append(finding)
        else:
            verdict.plain_too.append(finding)


def _why_empty(run: Run) -> str:
    skipped = re.search(r"^test\S* skipped -- (.+)$", run.output, re.MULTILINE)
    return f"skipped as a whole: {skipped[1]}" if skipped else "ran no tests"
