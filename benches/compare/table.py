"""Medians, as Markdown tables and as data for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from importing import Import
    from trial import Trial
    from workloads import Workload

MISSING = "-"
"""In place of a figure that there is none of."""


@dataclass
class Row:
    """The figures of one line of the table, for each contender by name.

    Attributes:
        title: What the line is about.
        unit: What the figures count.
        more_is_better: Whether a higher figure is the better one.
        figures: One for each round.
        p50: Microseconds within which half of the answers came, one for each round.
        p99: Microseconds within which 99 % of them came, one for each round.
        cpu: Microseconds of the server's processor time for each request, one for each round.
        troubles: How many there were.
    """

    title: str
    unit: str
    more_is_better: bool
    figures: dict[str, list[float]] = field(default_factory=dict)
    p50: dict[str, list[float]] = field(default_factory=dict)
    p99: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)

    def ratios(self, name: str, base: str) -> list[float]:
        """Say for each round how many times better `name` was than `base`."""
        ratios = _ratios(self.figures.get(name, ()), self.figures.get(base, ()))
        return ratios if self.more_is_better else [1 / ratio for ratio in ratios]

    def cpu_ratios(self, name: str, base: str) -> list[float]:
        """Say for each round how many times less processor time `name` took than `base`."""
        return _ratios(self.cpu.get(base, ()), self.cpu.get(name, ()))


def of_trials(workload: Workload, trials: dict[str, list[Trial]]) -> Row:
    """Return the line of a workload."""
    row = Row(workload.title, workload.unit, more_is_better=workload.mode != "idle")
    for name, rounds in trials.items():
        row.figures[name] = [trial.figure for trial in rounds]
        row.p50[name] = [trial.p50_us for trial in rounds if trial.p50_us is not None]
        row.p99[name] = [trial.p99_us for trial in rounds if trial.p99_us is not None]
        row.cpu[name] = [trial.cpu_us for trial in rounds if trial.cpu_us is not None]
        row.troubles[name] = sum(trial.troubles for trial in rounds)
    return row


def of_imports(imports: dict[str, list[Import]]) -> list[Row]:
    """Return the lines of importing."""
    statement = Row("`import`, the statement", "ms", more_is_better=False)
    process = Row("`import`, the process's CPU", "ms", more_is_better=False)
    for name, rounds in imports.items():
        statement.figures[name] = [it.statement_ms for it in rounds]
        process.figures[name] = [it.process_ms for it in rounds]
    return [statement, process]


def markdown(rows: Sequence[Row], names: Sequence[str], subject: str) -> str:
    """Return the tables: figures, processor time, and ratios of `subject` to each other one.

    The ratios are medians over the rounds, with the lowest and the highest, of the ratio within a
    round: above 1, `subject` was better.
    """
    with_cpu = [row for row in rows if any(row.cpu.values())]
    parts = [
        "Medians, with the milliseconds within which 50 % and 99 % of the answers came:",
        _table(rows, names, _figure_and_latency),
        "The server's processor time, µs a request (bulk: a MiB):",
        _table(with_cpu, names, lambda row, name: _figure(row.cpu.get(name))),
    ]
    others = [name for name in names if name != subject]
    if subject in names and others:
        parts += [
            f"How many times better {subject} was than each other one:",
            _table(rows, others, lambda row, name: _ratio(row.ratios(subject, name))),
            f"How many times less processor time {subject} took:",
            _table(with_cpu, others, lambda row, name: _ratio(row.cpu_ratios(subject, name))),
        ]
    if troubled := [row for row in rows if any(row.troubles.values())]:
        parts += [
            "Errors, datagrams sent again, clients without an answer:",
            _table(troubled, names, lambda row, name: str(row.troubles.get(name, MISSING))),
        ]
    else:
        parts.append("No errors, no datagrams sent again, no clients without an answer.")
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], names: Sequence[str], cell: Callable[[Row, str], str]) -> str:
    lines = [["workload", *names], ["---", *(["---:"] * len(names))]]
    lines += [[f"{row.title} ({row.unit})", *(cell(row, name) for name in names)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def data(rows: Iterable[Row], base: str, subject: str) -> list[dict[str, Any]]:
    """Return everything that the tables are made of, with the medians."""
    return [
        {
            **asdict(row),
            "median": _medians(row.figures),
            "median_p50": _medians(row.p50),
            "median_p99": _medians(row.p99),
            "median_cpu": _medians(row.cpu),
            "median_ratio": _medians({name: row.ratios(name, base) for name in row.figures}),
            "median_cpu_ratio": _medians({name: row.cpu_ratios(name, base) for name in row.cpu}),
            f"ratios_of_{subject}": {name: row.ratios(subject, name) for name in row.figures},
            f"cpu_ratios_of_{subject}": {name: row.cpu_ratios(subject, name) for name in row.cpu},
        }
        for row in rows
    ]


def _medians(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(each) for name, each in values.items() if each}


def _ratios(dividends: Iterable[float], divisors: Iterable[float]) -> list[float]:
    pairs = zip(dividends, divisors, strict=False)
    return [dividend / divisor for dividend, divisor in pairs if dividend and divisor]


def _figure(values: Sequence[float] | None) -> str:
    if not values:
        return MISSING
    value = median(values)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _figure_and_latency(row: Row, name: str) -> str:
    figure = _figure(row.figures.get(name))
    latencies = [median(each) / 1e3 for of in (row.p50, row.p99) if (each := of.get(name))]
    if not latencies:
        return figure
    return f"{figure} ({', '.join(f'{ms:.2g}' if ms < 10 else f'{ms:.0f}' for ms in latencies)})"


def _ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return MISSING
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
