"""Standing in for the standard library's module."""

from __future__ import annotations

import sys

from ._package import publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_NAME = "socketserver"

_displaced: ModuleType | None = None
"""What stood in `sys.modules` before; `install()` leaves it here for `uninstall()`."""


def install() -> None:
    """Have `import socketserver` give this package, in this process, from now on.

    Modules that are imported later run on it: `http.server`, `xmlrpc.server`, and whatever else
    stands on `socketserver`. Calling it again does nothing.

    Warns:
        RuntimeWarning: Modules have already derived classes from the original, and keep them; the
            warning names the modules. Call `install()` before importing them.
    """
    global _displaced
    package = sys.modules[__package__]
    current = sys.modules.get(_NAME)
    if current is package:
        return
    if current is not None and (modules := sorted(set(_deriving_modules(current)))):
        import warnings

        warnings.warn(
            f"fastsocketserver.install() came too late for {', '.join(modules)}: "
            "already derived from the standard library's socketserver",
            RuntimeWarning,
            stacklevel=2,
        )
    _displaced = current
    sys.modules[_NAME] = package
    publish(_NAME, package)


def uninstall() -> None:
    """Undo `install()`: `import socketserver` gives the standard library's module again.

    Classes that were derived meanwhile keep their bases. Without a former `install()` this does
    nothing.
    """
    global _displaced
    package = sys.modules[__package__]
    if sys.modules.get(_NAME) is not package:
        return
    if _displaced is None:
        del sys.modules[_NAME]
    else:
        sys.modules[_NAME] = _displaced
    _displaced = None
    publish(__package__, package)


def _deriving_modules(original: ModuleType) -> Iterator[str]:
    """Name the modules, other than `original`, with classes derived from its classes."""
    found: list[type] = [
        value
        for name in getattr(original, "__all__", ())
        if isinstance(value := getattr(original, name), type)
    ]
    while found:
        derived: type
        for derived in found.pop().__subclasses__():
            found.append(derived)
            if derived.__module__ != original.__name__:
                yield derived.__module__
