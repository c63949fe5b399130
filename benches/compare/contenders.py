"""Who takes part: one entry for each server program.

A program is run with three more arguments, `SERVICE DISPATCH ADDRESS`: the first two are those of
`workloads.Workload`, the address is `127.0.0.1:0` or a path for a Unix socket. When it is ready, it
writes the address that it then has as a line to its standard output. On SIGTERM it ends everything
that it has started and exits with status 0.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads import Workload

SERVERS = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Contender:
    """A server program.

    Attributes:
        name: What the table says.
        command: The program and its first arguments.
        module: The module whose import is measured, and without which there is no contender.
        takes: Whether it takes part in a workload.
    """

    name: str
    command: tuple[str, ...]
    module: str
    takes: Callable[[Workload], bool] = lambda _: True

    def is_installed(self) -> bool:
        """Say whether it can be run here."""
        return importlib.util.find_spec(self.module) is not None


def _python(program: str, *arguments: str) -> tuple[str, ...]:
    """Return the command for one of our programs, run by the interpreter that runs this."""
    return sys.executable, str(SERVERS / program), *arguments


CONTENDERS = (
    # The first is what the others are compared with.
    Contender("stdlib", _python("blocking.py", "socketserver"), "socketserver"),
    Contender("fastsocketserver", _python("blocking.py", "fastsocketserver"), "fastsocketserver"),
)
