"""What `import` costs, each time in a new process."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import dataclass

_PROGRAM = """
from time import perf_counter_ns
begin = perf_counter_ns()
import {module}
print(perf_counter_ns() - begin)
"""


@dataclass(frozen=True)
class Import:
    """The cost of importing a module once.

    Attributes:
        statement_ms: Milliseconds that the statement took.
        process_ms: Milliseconds of processor time, user and system, of the whole process, most of
            which is the interpreter's own start and end.
    """

    statement_ms: float
    process_ms: float


def measure(module: str) -> Import:
    """Import `module` in a new process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", _PROGRAM.format(module=module)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Import(statement_ms=int(done.stdout) / 1e6, process_ms=seconds * 1e3)
