"""The threading classes for a program whose requests shall run in greenlets."""

from __future__ import annotations

import sys

from . import _core, _servers
from ._mixins import GreenletMixIn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._base import AddressType, RequestType


class ThreadingMixIn(GreenletMixIn):
    """Handle each request in a greenlet, where a program asks for a thread.

    `process_request_thread()` is called in the greenlet. What a program does with threads of its
    own, it does.
    """

    process_request_thread = GreenletMixIn.process_request_greenlet

    def process_request_greenlet(self, request: RequestType, client_address: AddressType) -> None:
        """Call `process_request_thread()`, which the program may have overridden."""
        self.process_request_thread(request, client_address)


def substitute() -> None:
    """Have the package's threading classes for streams be of this kind, in this process.

    Raises:
        ImportError: The package `greenlet` is missing; the error says how to get it.
    """
    _core.check_greenlets()
    package = sys.modules[__package__]
    package.ThreadingMixIn = ThreadingMixIn  # type: ignore[attr-defined]
    for prefix in ("TCP", "UnixStream"):
        server = getattr(_servers, f"{prefix}Server", None)
        if server is not None:
            name = f"Threading{prefix}Server"
            documentation = {"__doc__": f"{prefix}Server with a greenlet for each connection."}
            setattr(package, name, type(name, (ThreadingMixIn, server), documentation))
