"""Medians, as a Markdown table and as data for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from importing import Import
    from trial import Trial

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
        cpu: Microseconds of the server's processor time for each request, one for each round.
        troubles: How many there were.
    """

    title: str
    unit: str
    more_is_better: bool
    figures: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)

    def ratios(self, name: str, base: str) -> list[float]:
        """Say for each round how many times better `name` was than `base`."""
        ratios = _ratios(self.figures.get(name, ()), self.figures.get(base, ()))
        return ratios if self.more_is_better else [1 / ratio for ratio in ratios]

    def cpu_ratios(self, name: str, base: str) -> list[float]:
        """Say for each round how many times less processor time `name` took than `base`."""
        return _ratios(self.cpu.get(base, ()), self.cpu.get(name, ()))


def of_trials(title: str, trials: dict[str, list[Trial]]) -> Row:
    """Return the line of a workload."""
    row = Row(title, "requests/s", more_is_better=True)
    for name, rounds in trials.items():
        row.figures[name] = [trial.requests_per_second for trial in rounds]
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


def markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the table; the first of `names` is what the others are compared with.

    The ratios are medians over the rounds, with the lowest and the highest, of the ratio within a
    round: above 1, the contender was better.
    """
    base, *others = names
    head = [
        "workload",
        *names,
        *(f"{name}: ratio" for name in others),
        *(f"{name}: CPU µs" for name in names),
        *(f"{name}: CPU ratio" for name in others),
        "errors",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [
        [
            f"{row.title} ({row.unit})",
            *(_figure(row.figures.get(name)) for name in names),
            *(_ratio(row.ratios(name, base)) for name in others),
            *(_figure(row.cpu.get(name)) for name in names),
            *(_ratio(row.cpu_ratios(name, base)) for name in others),
            " / ".join(str(row.troubles.get(name, MISSING)) for name in names),
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def data(rows: Iterable[Row], base: str) -> list[dict[str, Any]]:
    """Return everything that the table is made of, with the medians."""
    return [
        {
            **asdict(row),
            "median": {name: median(values) for name, values in row.figures.items() if values},
            "median_cpu": {name: median(values) for name, values in row.cpu.items() if values},
            "median_ratio": {
                name: median(ratios) for name in row.figures if (ratios := row.ratios(name, base))
            },
            "median_cpu_ratio": {
                name: median(ratios) for name in row.cpu if (ratios := row.cpu_ratios(name, base))
            },
        }
        for row in rows
    ]


def _ratios(dividends: Iterable[float], divisors: Iterable[float]) -> list[float]:
    pairs = zip(dividends, divisors, strict=False)
    return [dividend / divisor for dividend, divisor in pairs if dividend and divisor]


def _figure(values: Sequence[float] | None) -> str:
    if not values:
        return MISSING
    value = median(values)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return MISSING
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
