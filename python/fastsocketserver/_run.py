"""Running an unmodified program on this package, as if it had been started directly.

As few modules as can be are imported here, and none that `socketserver` or ``python -m`` does not
import: a program may have its own of the same name.
"""

from __future__ import annotations

import os
import runpy
import sys
from types import ModuleType

from . import _core
from ._install import install

_IS_PATH_SAFE = bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))
"""Whether the interpreter was told to keep the program's folder off `sys.path` (-I, -P)."""


def choose(dispatch: str) -> None:
    """Have requests run in "threads" or "greenlets" where the program asks for threads.

    Raises:
        ImportError: What it takes is not installed; the error says how to get it.
    """
    if dispatch == "greenlets":
        from ._greenlets_for_threads import substitute

        substitute()


def run_module(module: str, args: list[str]) -> int:
    """Do what ``python -m module args`` does, with `socketserver` being this package.

    Returns:
        The exit status.
    """
    # The name is replaced by the module's path once that has been found.
    _prepare(["-m", *args])
    return _status(
        _core.call_program(runpy._run_module_as_main, (module, True))  # type: ignore[attr-defined]
    )


def run_script(path: str, args: list[str]) -> int:
    """Do what ``python path args`` does, with `socketserver` being this package.

    `path` may be a script, compiled or not, or a folder or zip file with a ``__main__.py``. One
    that cannot be opened gives one line and status 2, as with the interpreter.

    Returns:
        The exit status.
    """
    # Not normalized, which is how the interpreter does it.
    file_name = os.path.join(os.getcwd(), path) if path != "." else os.getcwd()
    _prepare([path, *args])
    if _is_importable(file_name):
        if _IS_PATH_SAFE:
            sys.path.insert(0, file_name)
        else:
            sys.path[0] = file_name
        return _status(
            _core.call_program(runpy._run_module_as_main, ("__main__", False))  # type: ignore[attr-defined]
        )
    if not _IS_PATH_SAFE:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    try:
        return _status(_core.run_file(file_name))
    except OSError as error:
        print(f"{sys.executable}: can't open file {file_name!r}: {error}", file=sys.stderr)
        return 2


def _prepare(argv: list[str]) -> None:
    """Install the package, and make a new ``__main__``."""
    install()
    sys.argv[:] = argv
    main = sys.modules["__main__"] = ModuleType("__main__")
    namespace = main.__dict__
    if sys.version_info < (3, 14):
        namespace.update(__annotations__={})
    namespace["__builtins__"] = sys.modules["builtins"]


def _is_importable(path: str) -> bool:
    """Whether modules can be imported from `path`: a folder, or a zip file of any name."""
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _is_interrupt(kind: type[BaseException] | None) -> bool:
    """Whether the interpreter takes such an exception for Ctrl-C; derived ones from 3.14 on."""
    if sys.version_info >= (3, 14):
        return kind is not None and issubclass(kind, KeyboardInterrupt)
    return kind is KeyboardInterrupt


def _status(went_well: bool) -> int:
    """The exit status of a program that has been run to its end, whose exception was printed."""
    if went_well or sys.flags.inspect:  # with -i, the interpreter does not end yet
        return 0
    if _is_interrupt(sys.last_type):
        # The interpreter will end itself by SIGINT. It has noted that for a script; for a module it
        # does so only where it runs one itself, or where it runs text.
        try:
            exec("raise KeyboardInterrupt")  # noqa: S102
        except KeyboardInterrupt:
            return 0
    return 1
