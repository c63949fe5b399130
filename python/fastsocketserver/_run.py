"""Running an unmodified program on this package, as if it had been started directly."""

from __future__ import annotations

import io
import os
import runpy
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from ._install import install

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

_IS_PATH_SAFE = bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))
"""Whether the interpreter was told to keep the program's folder off `sys.path` (-I, -P)."""


def run_module(module: str, args: list[str]) -> None:
    """Do what ``python -m module args`` does, with `socketserver` being this package."""
    _run_module_as_main(module, [module, *args], alter_argv=True)


def run_script(path: str, args: list[str]) -> None:
    """Do what ``python path args`` does, with `socketserver` being this package.

    `path` may be a script, or a folder or zip file with a ``__main__.py``. One that cannot be
    opened ends the process with one line and status 2, as the interpreter does.
    """
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        if _IS_PATH_SAFE:
            sys.path.insert(0, path)
        else:
            sys.path[0] = path
        _run_module_as_main("__main__", [path, *args], alter_argv=False)
        return
    file_name = os.path.abspath(path)
    try:
        with io.open_code(file_name) as file:
            source = file.read()
    except OSError as error:
        print(f"fastsocketserver run: cannot open {path!r}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    if not _IS_PATH_SAFE:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    main = _prepare([path, *args])
    main.update(
        __file__=file_name, __cached__=None, __loader__=SourceFileLoader("__main__", file_name)
    )
    # The script's own future statements count, not this file's.
    _call(lambda: exec(compile(source, file_name, "exec", dont_inherit=True), main))  # noqa: S102


def _run_module_as_main(module: str, argv: list[str], *, alter_argv: bool) -> None:
    _prepare(argv)
    # What the interpreter itself calls for -m: its messages and exit statuses are the direct ones.
    _call(lambda: runpy._run_module_as_main(module, alter_argv))  # type: ignore[attr-defined]


def _prepare(argv: list[str]) -> dict[str, Any]:
    """Install the package; return the namespace of a new ``__main__``."""
    install()
    sys.argv[:] = argv
    main = sys.modules["__main__"] = ModuleType("__main__")
    namespace = main.__dict__
    namespace["__builtins__"] = sys.modules["builtins"]
    if sys.version_info < (3, 14):
        namespace.update(__annotations__={})
    return namespace


def _call(program: Callable[[], object]) -> None:
    """Call `program`; only its own frames will show in the traceback of what it raises."""
    original = sys.excepthook

    def excepthook(
        kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        own = _skip_own_frames(traceback)
        original(kind, value.with_traceback(own), own)

    sys.excepthook = excepthook
    program()


def _skip_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return what comes after the last frame of this file; all of it where none does."""
    rest = entry = traceback
    while entry is not None:
        if entry.tb_frame.f_code.co_filename == __file__:
            rest = entry.tb_next
        entry = entry.tb_next
    return rest
