"""Draws how the contenders compare with the first of them; needs matplotlib."""

from __future__ import annotations

import importlib.util
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from table import Row

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = {
    "fastsocketserver": "#d55e00",
    "fastsocketserver+greenlets": "#e69f00",
    "stdlib": "#999999",
    "stdlib+nodelay": "#000000",
    "gevent": "#009e73",
    "asyncio": "#56b4e9",
    "uvloop-streams": "#0072b2",
    "uvloop-protocol": "#cc79a7",
    "mio": "#f0e442",
}

BAR = 0.16
"""Inches that a bar takes."""
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def is_possible() -> bool:
    """Say whether there is what it takes."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], names: Sequence[str], about: str, path: Path) -> None:
    """Write an SVG with a group of bars for each row of rates; the same rows, the same bytes.

    The first of `names` is 1. A bar is the median over the rounds of the ratio within a round; its
    whisker goes from the lowest to the highest.
    """
    import matplotlib

    # Text stays text, which the reader's own fonts show.
    matplotlib.rcParams.update({"svg.hashsalt": path.name, "svg.fonttype": "none"})
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    base, *others = names
    # What is compared stands first in each group.
    others.sort(key=lambda name: list(COLOURS).index(name))
    groups = [(row, _bars(row, others, base)) for row in rows if row.unit.endswith("/s")]
    groups = [(row, bars) for row, bars in groups if bars]
    height = sum(len(bars) + 1.5 for _, bars in groups) * BAR
    figure = Figure(figsize=(9, height + 1.6), facecolor="white", layout="constrained")
    FigureCanvasSVG(figure)
    axes: Any = figure.add_subplot()
    top = 0.0
    centres, labels = [], []
    for row, bars in groups:
        places = [top + place for place in range(len(bars))]
        for place, (name, ratios) in zip(places, bars, strict=True):
            _draw_bar(axes, place, name, ratios)
        centres.append((places[0] + places[-1]) / 2)
        labels.append(_label(row))
        top += len(bars) + 1.5
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Room for the figure at the end of the longest bar.
    high *= 1.3
    axes.set_xlim(low, high)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(axis="x", top=True, labeltop=True)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(centres, labels)
    axes.set_ylim(top - 1, -1)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("left", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(f"times as many requests or bytes a second as {base}\n{about}")
    drawn = {name for _, bars in groups for name, _ in bars}
    patch = importlib.import_module("matplotlib.patches").Patch
    handles = [patch(color=COLOURS[name], label=name) for name in others if name in drawn]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _bars(row: Row, names: Sequence[str], base: str) -> list[tuple[str, list[float]]]:
    return [(name, ratios) for name in names if (ratios := row.ratios(name, base))]


def _draw_bar(axes: Any, place: float, name: str, ratios: Sequence[float]) -> None:
    ratio = median(ratios)
    axes.barh(place, ratio - 1, left=1, height=0.85, color=COLOURS[name])
    if len(ratios) > 1:
        axes.plot([min(ratios), max(ratios)], [place, place], color="#333333", linewidth=0.8)
    axes.annotate(
        f"{ratio:.2f}",
        (max(*ratios, 1.0), place),
        xytext=(4, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=7,
        color="#333333",
    )


def _label(row: Row) -> str:
    what, _, how = row.title.partition("; ")
    return f"{what}\n{how}"
