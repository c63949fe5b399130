"""The package as a module object that behaves as the standard library's single file does."""

from __future__ import annotations

import sys
from types import ModuleType

from . import _base, _handlers, _mixins, _servers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FILES = (_base, _servers, _mixins, _handlers)

_LATE = ("sleep", "to_thread")
"""What is imported when first asked for: most programs never do."""

REFERENCE_VERSION = "0.4"
"""What the standard library's module says of itself as its `__version__`."""


class Package(ModuleType):
    """A package whose names are those of its files, also when a program assigns to them.

    Programs patch `socketserver.socket`, `socketserver.os` or `socketserver._ServerSelector`; what
    runs then must see it, whichever file it stands in.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for file in _FILES:
            if name in file.__dict__:
                setattr(file, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _LATE:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from . import _cooperative

        value = self.__dict__[name] = getattr(_cooperative, name)
        return value

    @property
    def __version__(self) -> str:
        """The version of the interface; deprecated from Python 3.15 on, as it is there."""
        if sys.version_info >= (3, 15):
            import warnings

            message = "'__version__' is deprecated and slated for removal in Python 3.20"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return REFERENCE_VERSION


def publish(name: str, package: ModuleType) -> None:
    """Have the public classes of `package` say that they belong to the module `name`."""
    for public in package.__all__:
        getattr(package, public).__module__ = name
