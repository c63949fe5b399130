"""The command line: ``python -m fastsocketserver serve`` and ``python -m fastsocketserver run``."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import NoReturn


def _parser() -> ArgumentParser:
    import argparse

    from . import _serve

    class Parser(argparse.ArgumentParser):
        """A parser that says what is wrong in one line."""

        def error(self, message: str) -> NoReturn:
            self.exit(2, f"{self.prog}: {message}\n")

    class Version(argparse.Action):
        """Finds out the version when it is asked for: that takes longer than all else here."""

        def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
            from importlib.metadata import version

            print(f"{parser.prog} {version('fastsocketserver')}")
            parser.exit()

    parser = Parser(prog="fastsocketserver", description="socketserver on a poll loop in Rust")
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
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
        help="one request at a time, a thread, a child process or a greenlet for each"
        " (default: %(default)s)",
    )
    tls = serve.add_argument_group("TLS")
    tls.add_argument("--certificate", metavar="FILE", help="the certificate, and its chain; PEM")
    tls.add_argument("--key", metavar="FILE", help="its key, if it is not in the same file")
    tls.add_argument(
        "--handshake-timeout",
        type=_limit,
        metavar="SECONDS",
        help="for how long a handshake lasts (default: 10)",
    )
    limits = serve.add_argument_group("limits (none by default; further requests wait)")
    limits.add_argument(
        "--max-threads",
        type=_count,
        metavar="N",
        help="requests that are handled at once: threads, greenlets or child processes",
    )
    limits.add_argument(
        "--max-connections", type=_count, metavar="N", help="connections that are open at once"
    )
    limits.add_argument(
        "--max-connections-per-client",
        type=_count,
        metavar="N",
        help="the same from one address; further ones are closed",
    )
    limits.add_argument(
        "--parking",
        action="store_true",
        default=None,
        help="no thread for a connection whose client has sent nothing; takes --certificate, or a"
        " handler class that says `reads_first = True`: that it does nothing before it reads",
    )
    limits.add_argument(
        "--idle-timeout",
        type=_limit,
        metavar="SECONDS",
        help="for how long a handler waits for its client to go on",
    )
    limits.add_argument(
        "--request-deadline", type=_limit, metavar="SECONDS", help="for how long a request lasts"
    )
    serve.add_argument(
        "--drain",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="what requests have to end in after Ctrl-C or SIGTERM; a second one ends them at once"
        " (default: %(default)g)",
    )
    serve.add_argument(
        "--stats", type=_seconds, metavar="SECONDS", help="print a line about what has been done"
    )
    # Only for its help, and to say what is wrong: see `main()`.
    run = commands.add_parser(
        "run",
        help="run an unmodified program on this package",
        usage=f"%(prog)s [-h] {_RUN_USAGE}",
        allow_abbrev=False,
    )
    run.add_argument(
        "--dispatch",
        choices=_RUN_DISPATCHES,
        help="greenlets: requests run in greenlets that the program would have run in threads",
    )
    run.add_argument("-m", dest="module", metavar="MODULE", help="a module, as python -m runs it")
    run.add_argument("script", nargs="?", metavar="SCRIPT", help="a file, a folder or a zip file")
    run.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="what the program is given")
    return parser


_RUN_DISPATCHES = ("threads", "greenlets")
_RUN_OPTIONS = {f"--dispatch={dispatch}": dispatch for dispatch in _RUN_DISPATCHES}
_RUN_USAGE = "[--dispatch {threads,greenlets}] (-m MODULE | SCRIPT) [ARGUMENT ...]"


def _count(text: str) -> int:
    """A number of at least 1."""
    from argparse import ArgumentTypeError

    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise ArgumentTypeError(f"not a number, 1 or more: {text!r}")
    return min(count, sys.maxsize)


def _seconds(text: str) -> float:
    """A time of 0 s or more, and no longer than what the system can wait for."""
    from argparse import ArgumentTypeError
    from threading import TIMEOUT_MAX

    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError(f"not a number of seconds: {text!r}")
    return min(seconds, TIMEOUT_MAX)


def _limit(text: str) -> float:
    """A time of more than 0 s."""
    from argparse import ArgumentTypeError

    if not (seconds := _seconds(text)):
        raise ArgumentTypeError(f"not more than 0 seconds: {text!r}")
    return seconds


_ATTRIBUTES = (
    "max_threads",
    "max_connections",
    "max_connections_per_client",
    "parking",
    "idle_timeout",
    "request_deadline",
    "handshake_timeout",
)
"""Options that are attributes of the server."""


def _run_program(dispatch: str, argv: list[str]) -> int | None:
    """Run the program that `argv` names and return the exit status; `None` if it names none."""
    is_module = argv[:1] == ["-m"] and len(argv) > 1
    if not is_module and (not argv or not argv[0] or argv[0].startswith("-")):
        return None
    from . import _run

    try:
        _run.choose(dispatch)
    except ImportError as error:
        print(f"fastsocketserver run: {error}", file=sys.stderr)
        return 2
    if is_module:
        return _run.run_module(argv[1], argv[2:])
    return _run.run_script(argv[0], argv[1:])


def main(argv: list[str]) -> int:
    """Do what the command line asks for, and return the exit status."""
    # What follows the program's name is the program's own, so argparse must not see it. Nor must it
    # be imported: modules beside the program come before those of the standard library.
    match argv:
        case ["run", "--dispatch", dispatch, *program] if dispatch in _RUN_DISPATCHES:
            status = _run_program(dispatch, program)
        case ["run", option, *program] if option in _RUN_OPTIONS:
            status = _run_program(_RUN_OPTIONS[option], program)
        case ["run", *program]:
            status = _run_program("threads", program)
        case _:
            status = None
    if status is not None:
        return status
    from . import _serve

    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "run":
        is_named = options.module or options.script
        what = f"expects {_RUN_USAGE}" if is_named else "a script, or -m MODULE, is missing"
        parser.exit(2, f"fastsocketserver run: {what}\n")
    given = {name: getattr(options, name) for name in _ATTRIBUTES}
    attributes = {name: value for name, value in given.items() if value is not None}
    if options.dispatch == "forks" and "max_threads" in attributes:
        attributes["max_children"] = attributes["max_threads"]
    return _serve.main(
        _serve.Options(
            handler=options.handler,
            bind=options.bind,
            udp=options.udp,
            dispatch=options.dispatch,
            certificate=options.certificate,
            key=options.key,
            drain=options.drain,
            stats=options.stats or None,
            attributes=attributes,
        )
    )


# Without sys.exit() where all went well: `python -i` goes on, and shows a SystemExit as an error.
if __name__ == "__main__" and (status := main(sys.argv[1:])):
    sys.exit(status)
