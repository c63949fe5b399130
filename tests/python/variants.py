"""The variants that the parity tests run on: which module, and with which hooks overridden."""

from __future__ import annotations

import importlib
from typing import Any

HOOKS = (
    "_handle_request_noblock",
    "close_request",
    "collect_children",
    "fileno",
    "finish_request",
    "get_request",
    "handle_error",
    "handle_request",
    "handle_timeout",
    "process_request",
    "process_request_greenlet",
    "process_request_thread",
    "serve_forever",
    "server_activate",
    "server_bind",
    "server_close",
    "service_actions",
    "shutdown",
    "shutdown_request",
    "verify_request",
)
"""Every method of a server that programs override."""

HANDLER_HOOKS = ("setup", "handle", "finish")
"""Every method of a request handler that programs override."""


def _pass_through(name: str) -> Any:
    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(holder, self), name)(*args, **kwargs)

    hook.__name__ = name
    holder: type = object

    def bind(owner: type) -> Any:
        nonlocal holder
        holder = owner
        return hook

    return bind


def overridden(cls: type, names: tuple[str, ...]) -> type:
    """Return a subclass of `cls` that overrides each of `names` by a call of `super()` alone."""
    derived = type(cls.__name__, (cls,), {"__module__": __name__})
    for name in names:
        if hasattr(cls, name):
            setattr(derived, name, _pass_through(name)(derived))
    return derived


IN_GREENLETS = {
    "TCPServer": "GreenletTCPServer",
    "ThreadingTCPServer": "GreenletTCPServer",
    "UnixStreamServer": "GreenletUnixStreamServer",
    "ThreadingUnixStreamServer": "GreenletUnixStreamServer",
}
"""By the name of a stream server: the one that stands in for it."""


class Variant:
    """A module under test, seen through its names, as `import … as socketserver` would show it.

    With `pass_through`, every class that it hands out has each hook overridden by one that only
    calls `super()`. With `in_greenlets`, its stream servers handle requests in greenlets.
    """

    def __init__(self, module: str, *, pass_through: bool, in_greenlets: bool = False) -> None:
        self.module = importlib.import_module(module)
        self.name = module
        self.pass_through = pass_through
        self.in_greenlets = in_greenlets
        self.is_reference = module == "socketserver"
        self._classes: dict[str, type] = {}

    def __repr__(self) -> str:
        place = "-in-greenlets" if self.in_greenlets else ""
        return f"{self.name}{place}{'-overridden' if self.pass_through else ''}"

    def __getattr__(self, name: str) -> Any:
        if self.in_greenlets:
            name = IN_GREENLETS.get(name, name)
        value = getattr(self.module, name)
        if not (self.pass_through and isinstance(value, type) and name in self.module.__all__):
            return value
        if name not in self._classes:
            hooks = HANDLER_HOOKS if name.endswith("Handler") else HOOKS
            self._classes[name] = overridden(value, hooks)
        return self._classes[name]
