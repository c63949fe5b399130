"""Fixtures of the fault tests, and the table of what they have measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lengths import LONG

if TYPE_CHECKING:
    from collections.abc import Callable

NEITHER_MEASURED = "–"  # noqa: RUF001, a dash in a table


class Figures:
    """What has been measured: a line for each fault. Nothing here fails a test."""

    def __init__(self) -> None:
        self.rows: dict[str, list[str]] = {}

    def note(self, fault: str, reference: object = None, here: object = None) -> None:
        """Note a figure of the standard library, of this, or both; two calls may share a line."""
        row = self.rows.setdefault(fault, [NEITHER_MEASURED, NEITHER_MEASURED])
        for column, value in enumerate((reference, here)):
            if value is not None:
                row[column] = str(value)

    def note_for(self, module: str, fault: str, value: object) -> None:
        """Note a figure of the module of that name."""
        if module == "socketserver":
            self.note(fault, reference=value)
        else:
            self.note(fault, here=value)


FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave more time than the project's tests have: these wait for others, on a busy machine."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800 if LONG else 120))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash[FIGURES].rows
    if rows:
        terminalreporter.section("figures")
        terminalreporter.write_line("| fault | the standard library | here |")
        terminalreporter.write_line("|---|---|---|")
        for fault, (reference, here) in rows.items():
            terminalreporter.write_line(f"| {fault} | {reference} | {here} |")


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Return where to note what has been measured."""
    return request.config.stash[FIGURES]


@pytest.fixture
def progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that prints a line at once, whatever is captured."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(line)

    return say
