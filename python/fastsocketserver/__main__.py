"""The command line: ``python -m fastsocketserver serve`` and ``python -m fastsocketserver run``."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from typing import NoReturn

from . import _run, _serve


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(prog="fastsocketserver", description="socketserver, several times faster")
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('fastsocketserver')}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a request handler class")
    serve.add_argument(
        "handler",
        nargs="?",
        metavar="MODULE:HANDLER",
        help="the handler class; without it, an example that answers in upper case",
    )
    serve.add_argument(
        "--bind",
        default="localhost:9999",
        metavar="ADDRESS",
        help="HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME (default: %(default)s)",
    )
    serve.add_argument("--udp", action="store_true", help="take datagrams, not connections")
    serve.add_argument(
        "--dispatch",
        choices=_serve.DISPATCHES,
        default="threads",
        help="one request at a time, a thread for each, or a child process for each"
        " (default: %(default)s)",
    )
    commands.add_parser(
        "run",
        help="run an unmodified program on this package",
        usage="%(prog)s [-h] (-m MODULE | SCRIPT) [ARGUMENT ...]",
    )
    return parser


def main(argv: list[str]) -> int:
    """Do what the command line asks for, and return the exit status."""
    parser = _parser()
    # What follows the program's name is the program's own, so argparse must not see it.
    match argv:
        case ["run", "-m", module, *args]:
            _run.run_module(module, args)
            return 0
        case ["run", script, *args] if not script.startswith("-"):
            _run.run_script(script, args)
            return 0
    options = parser.parse_args(argv)
    if options.command == "run":
        parser.error("run: expects a script, or -m and the name of a module")
    return _serve.main(options.handler, options.bind, udp=options.udp, dispatch=options.dispatch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
