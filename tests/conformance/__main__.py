"""Runs CPython's own tests on the replacement: `python tests/conformance --help`.

The interpreter that runs this, with its own `test` package, is the one that is tested. Every suite
is run twice, on the standard library's `socketserver` and with `fastsocketserver.install()` called
before anything else is imported, and each time in a process and a directory of its own. Reported is
what fails, hangs, is skipped or is missing *only when swapped*. A run counts only if it proves that
the replacement was in place throughout (see `child.Proof`); nothing is swapped in processes that
the tests themselves start afresh, while those that they fork keep the swap.

The last line is `N passed, N failed`; the exit status is 1 if anything failed, else 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import signal
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from run import CHECKS, Kind, end_all
from suite import SUITES
from verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from suite import Suite
    from verdict import Finding, Verdict

HEAD_LINES = 20
TAIL_LINES = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parse(arguments)
    suites: list[Suite] = options.only or list(SUITES)
    if options.list:
        for suite in suites:
            print(suite.name if suite.is_installed() else f"{suite.name}  (missing here)")
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    replacement = importlib.util.find_spec("fastsocketserver")
    print(f"CPython {platform.python_version()}, fastsocketserver: ", end="")
    print(replacement.origin if replacement else "not installed", flush=True)
    if replacement is None:
        print("0 passed, 1 failed")
        return 1
    verdicts = []
    for verdict in _judge_all(suites, options.jobs):
        print(_line(verdict), flush=True)
        verdicts.append(verdict)
        if options.verbose:
            print(textwrap.indent(verdict.swapped.output, "    "), flush=True)
    for verdict in verdicts:
        _print_details(verdict, verbose=options.verbose)
    passed = sum(verdict.passed for verdict in verdicts)
    failed = sum(verdict.failed for verdict in verdicts)
    if passed + failed == 0:
        print("\nNothing was tested.")
        failed = 1
    print(f"\n{passed} passed, {failed} failed")
    return int(failed > 0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    by_name = {suite.name: suite for suite in SUITES}

    def suite_of(name: str) -> Suite:
        if name not in by_name:
            msg = f"no suite {name!r}; --list shows them all"
            raise argparse.ArgumentTypeError(msg)
        return by_name[name]

    parser = argparse.ArgumentParser(
        prog="python tests/conformance",
        description="Run CPython's own tests with fastsocketserver in the place of socketserver.",
    )
    parser.add_argument("--list", action="store_true", help="name the suites and run nothing")
    parser.add_argument(
        "--only", nargs="+", type=suite_of, metavar="NAME", help="run only these suites"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="suites at a time (default: 2)"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show all output, and every traceback in full"
    )
    return parser.parse_args(arguments)


def _terminate(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _judge_all(suites: Sequence[Suite], jobs: int) -> Iterator[Verdict]:
    """Yields each verdict when it is there; ending early leaves no process behind."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        verdicts = [pool.submit(judge, suite) for suite in suites]
        try:
            for verdict in as_completed(verdicts):
                yield verdict.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise


def _line(verdict: Verdict) -> str:
    name = f"{verdict.suite.name:<32}"
    if verdict.remark:
        return f"{name}{verdict.remark}"
    counts = [
        f"{verdict.ran} ran",
        f"{verdict.skipped} skipped",
        f"{len(verdict.only_swapped)} only when swapped",
    ]
    if verdict.faults:
        counts.append("SWAP NOT IN PLACE")
    if verdict.flaky:
        counts.append(f"{len(verdict.flaky)} flaky")
    if verdict.plain_too:
        counts.append(f"{len(verdict.plain_too)} on plain too")
    return f"{name}{', '.join(counts)}  ({verdict.seconds:.1f} s)"


def _print_details(verdict: Verdict, *, verbose: bool) -> None:
    if verdict.faults:
        print(f"\nFAILED {verdict.suite.name}: nothing proves that the swap was in place")
        _print_text("\n".join(verdict.faults), verbose=verbose)
    missing = [it.name for it in verdict.only_swapped if it.swapped.kind is Kind.MISSING]
    for finding in verdict.only_swapped:
        if finding.name not in missing:
            print(f"\nFAILED {_name(verdict, finding)}")
            print(f"    {finding.swapped.kind.value} when swapped, ", end="")
            print(f"{finding.plain.kind.value} when plain")
            _print_text(finding.swapped.detail, verbose=verbose)
    if missing:
        print(f"\nFAILED {verdict.suite.name}: tests that did not run when swapped: {len(missing)}")
        _print_text("\n".join(missing), verbose=verbose)
    for title, findings in (("flaky", verdict.flaky), ("fails on plain too", verdict.plain_too)):
        for finding in findings:
            print(f"\n{title}: {_name(verdict, finding)}")
            if verbose:
                _print_text(finding.swapped.detail, verbose=True)


def _name(verdict: Verdict, finding: Finding) -> str:
    if finding.name in CHECKS:
        return f"{verdict.suite.name}: {CHECKS[finding.name]}"
    return finding.name


def _print_text(text: str, *, verbose: bool) -> None:
    lines = text.splitlines()
    left_out = len(lines) - HEAD_LINES - TAIL_LINES
    if left_out > 1 and not verbose:
        remark = f"... {left_out} lines more: --verbose shows them ..."
        lines[HEAD_LINES:-TAIL_LINES] = [remark]
    print(textwrap.indent("\n".join(lines), "    "))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
