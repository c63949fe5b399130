"""How long the tests are: short, or with `FAULTS=long` as long as the faults deserve."""

from __future__ import annotations

import os

LONG = os.environ.get("FAULTS") == "long"

SECONDS = float(os.environ.get("FAULTS_SECONDS", "120"))
"""How long a long run of the differential fuzzer takes."""


def count(*, short: int, long: int) -> int:
    """Return the number that holds for this run."""
    return long if LONG else short
