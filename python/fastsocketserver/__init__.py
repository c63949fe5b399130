"""Network servers with blocking handlers: a drop-in for the standard library's `socketserver`.

``import fastsocketserver as socketserver`` is all that most programs need; for code that imports
`socketserver` by itself (`http.server`, for one), call `install()` first.

Servers: `TCPServer`, `UDPServer`, `UnixStreamServer`, `UnixDatagramServer`. Each handles one
request at a time; `ThreadingMixIn`, `ForkingMixIn` and `GreenletMixIn` make them concurrent, and
`ThreadingTCPServer` and its like are the ready-made combinations. Handlers: `BaseRequestHandler`,
`StreamRequestHandler` and `DatagramRequestHandler`.

What the standard library does not have: limits, deadlines and TLS are attributes of a server (see
`TCPServer` and the mix-ins); `BaseServer` has `stats()`, `connections()`, `pause()`, `resume()` and
``shutdown(drain=...)``; `sleep()` and `to_thread()` let other requests run where a handler has a
greenlet.
"""

import os as os
import selectors as selectors
import socket as socket
import sys as sys
import threading as threading
from io import BufferedIOBase as BufferedIOBase
from time import monotonic as time

from . import _core
from ._accepted import AcceptedSocket as _AcceptedSocket
from ._base import BaseServer, _ServerSelector as _ServerSelector
from ._handlers import (
    BaseRequestHandler,
    DatagramRequestHandler,
    StreamRequestHandler,
    _SocketWriter,
)
from ._install import install as install, uninstall as uninstall
from ._mixins import (
    GreenletMixIn,
    GreenletTCPServer,
    ThreadingMixIn,
    ThreadingTCPServer,
    ThreadingUDPServer,
    _NoThreads,
    _Threads,
)
from ._package import Package, publish
from ._servers import TCPServer, UDPServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Imported when first asked for; see `Package`.
    from ._cooperative import sleep as sleep, to_thread as to_thread

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "GreenletMixIn",
    "GreenletTCPServer",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
]
if hasattr(os, "fork"):
    from ._mixins import ForkingMixIn, ForkingTCPServer, ForkingUDPServer

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]
if hasattr(socket, "AF_UNIX"):
    from ._mixins import (
        GreenletUnixStreamServer,
        ThreadingUnixDatagramServer,
        ThreadingUnixStreamServer,
    )
    from ._servers import UnixDatagramServer, UnixStreamServer

    __all__ += [
        "GreenletUnixStreamServer",
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]
    if hasattr(os, "fork"):
        from ._mixins import ForkingUnixDatagramServer, ForkingUnixStreamServer

        __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]

_core.declare_accepted_socket(_AcceptedSocket)
_core.declare_defaults(BaseServer, TCPServer, UDPServer, ThreadingMixIn, GreenletMixIn)
publish(__name__, sys.modules[__name__])
sys.modules[__name__].__class__ = Package
