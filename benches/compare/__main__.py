"""Compares servers under load: `python benches/compare --help`.

The interpreter that runs this, with what is installed for it, is what is compared. In each round
every workload is put on each contender in turn, on a server of its own that runs on one core while
the load generator (`benches/load`, built with cargo when needed) runs on another. What is printed
are medians over the rounds, and ratios within a round: absolute figures say little on a machine
that does other things too. Timing never fails a run; the exit status is 1 after a wrong answer, or
when a server did not start, or did not end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import idle
import importing
import picture
import table
import trial
from contenders import CONTENDERS, RUST_CONTENDERS
from workloads import RUST_WORKLOADS, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contenders import Contender
    from importing import Import
    from trial import Machine, Trial
    from workloads import Workload

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    options = _parse(arguments)
    machine = _machine(options.load or _build_load(with_peers=options.rust))
    all_workloads = RUST_WORKLOADS if options.rust else WORKLOADS
    most = max(workload.clients + workload.idle for workload in all_workloads)
    idle.allow_descriptors(most + 2 * idle.SPARE)
    contenders = _choose(options.contenders, RUST_CONTENDERS if options.rust else CONTENDERS)
    workloads = [
        workload
        for workload in all_workloads
        if (not options.only or options.only in workload.title)
        and (workload.mode != "idle" or idle.is_possible())
    ]
    print(f"{_about()}; {options.rounds} rounds of {options.seconds} s", end="; ")
    if machine.server_core is None:
        print("servers and clients share the cores")
    else:
        print(f"servers on core {machine.server_core}, clients on core {machine.client_core}")
    trials, failures = _measure(contenders, workloads, machine, options.rounds, options.seconds)
    rows = [
        table.of_trials(workload, trials[workload]) for workload in workloads if trials[workload]
    ]
    if options.imports and (imports := _measure_imports(contenders, options.imports)):
        rows += table.of_imports(imports)
    names = [contender.name for contender in contenders]
    print("", table.markdown(rows, names, options.subject), "", sep="\n")
    for failure in failures:
        print(failure, file=sys.stderr)
    document = {
        "about": _about(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "failures": failures,
        "rows": table.data(rows, names[0], options.subject),
        "load": {
            workload.title: {
                name: [each.load for each in rounds] for name, rounds in by_name.items()
            }
            for workload, by_name in trials.items()
        },
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"All figures: {options.json}")
    if options.picture and picture.is_possible():
        picture.draw(rows, names, _about(), options.picture)
        print(f"Picture: {options.picture}")
    elif options.picture:
        print("No picture: matplotlib is not installed")
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benches/compare", description="Compare servers under load."
    )
    version = f"{platform.python_implementation()}-{platform.python_version()}".lower()
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds (5)")
    add("--seconds", type=float, default=2.0, help="seconds of each load (2)")
    add("--imports", type=int, default=30, help="times that each module is imported (30)")
    add("--only", metavar="TEXT", help="only workloads whose title contains this")
    add("--contenders", metavar="A,B", help="only these; the first is what is compared with")
    subject = "fastsocketserver"
    add("--subject", default=subject, help=f"what is compared with each other one ({subject})")
    add("--quick", action="store_true", help="1 round of 0.3 s, 5 imports: does it work at all?")
    add("--rust", action="store_true", help="servers in Rust alone")
    folder = ROOT / "target" / "compare"
    add("--json", type=Path, help=f"where to write all figures ({folder}/...)")
    add("--picture", metavar="FILE", type=Path, help="where to draw the ratios (SVG)")
    add("--load", type=Path, help="a load generator that is built already")
    options = parser.parse_args(arguments)
    if options.json is None:
        options.json = folder / f"{'rust' if options.rust else version}.json"
    if options.quick:
        options.rounds, options.seconds, options.imports = 1, 0.3, 5
    return options


def _choose(names: str | None, contenders: Sequence[Contender]) -> list[Contender]:
    """Return the contenders that can be run here, of those asked for; name the others."""
    by_name = {contender.name: contender for contender in contenders}
    asked = names.split(",") if names else list(by_name)
    if unknown := [name for name in asked if name not in by_name]:
        sys.exit(f"no such contender: {', '.join(unknown)}; there are {', '.join(by_name)}")
    if absent := [name for name in asked if not by_name[name].is_installed()]:
        print(f"Not installed, and left out: {', '.join(absent)}")
    chosen = [by_name[name] for name in asked if name not in absent]
    if not chosen:
        sys.exit("no contender is installed")
    return chosen


def _about() -> str:
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{implementation}, {platform.system()} {platform.machine()}"


def _build_load(*, with_peers: bool) -> Path:
    """Return the load generator, built anew if it has changed, with the servers beside it."""
    target = ROOT / "target" / "load"
    manifest = ROOT / "benches" / "load" / "Cargo.toml"
    command = ["cargo", "build", "--release", "--locked", "--quiet"]
    if with_peers:
        command += ["--features", "peers"]
    subprocess.run(
        [*command, "--manifest-path", str(manifest), "--target-dir", str(target)], check=True
    )
    return target / "release" / "load"


def _machine(load: Path) -> Machine:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return trial.Machine(load, server_core=None, client_core=None)
    return trial.Machine(load, server_core=cores[1], client_core=cores[0])


def _measure(
    contenders: Sequence[Contender],
    workloads: Sequence[Workload],
    machine: Machine,
    rounds: int,
    seconds: float,
) -> tuple[dict[Workload, dict[str, list[Trial]]], list[str]]:
    """Run all trials; return them, and what failed."""
    trials: dict[Workload, dict[str, list[Trial]]] = {workload: {} for workload in workloads}
    failures = []
    for number in range(rounds):
        for workload in workloads:
            if workload.mode == "idle" and number:
                continue  # memory does not drift as time does
            said = []
            for contender in filter(lambda contender: contender.takes(workload), contenders):
                name = contender.name
                try:
                    result = trial.run(contender, workload, machine, seconds)
                except trial.TrialError as error:
                    failures.append(f"{workload.title}: {name}: {error}")
                    continue
                if result.wrong:
                    failures.append(f"{workload.title}: {name}: {result.wrong} wrong answers")
                trials[workload].setdefault(name, []).append(result)
                said.append(f"{name} {result.figure:,.0f}")
            print(f"{number + 1}: {workload.title}: {', '.join(said)}", flush=True)
    return trials, failures


def _measure_imports(contenders: Sequence[Contender], times: int) -> dict[str, list[Import]]:
    """Import so many times, in turn, the modules whose import is measured."""
    modules = {it.name: it.module for it in contenders if it.imported and it.module}
    # The first import may have to compile.
    for module in modules.values():
        importing.measure(module)
    imports: dict[str, list[Import]] = {name: [] for name in modules}
    for _ in range(times):
        for name, module in modules.items():
            imports[name].append(importing.measure(module))
    return imports


if __name__ == "__main__":
    sys.exit(main())
