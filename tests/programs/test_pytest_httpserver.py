"""pytest-httpserver: a whole pytest run inside, in which every test has its server."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from program import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from program import Both

pytest.importorskip("pytest_httpserver", reason="pytest-httpserver is not installed")


def test_suite(both: Both, tmp_path: Path) -> None:
    """All tests of the suite pass on both."""
    shutil.copy(SCRIPTS / "httpserver_suite.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ("-v", "-W", "error", "-p", "no:cacheprovider", "httpserver_suite.py")
    both.start("-m", "pytest", *options)
    assert both.wait() == 0
    outcomes = both.ask(lambda program: program.wait_for(r"=+ (\d+ passed) in ")[1])
    assert outcomes == "7 passed"
