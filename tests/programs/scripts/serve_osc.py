"""An Open Sound Control server over UDP, of the kind that the argument names."""

import os
import sys

from pythonosc import osc_server
from pythonosc.dispatcher import Dispatcher

MAIN_PROCESS = os.getpid()


def add(_: str, *numbers: float) -> tuple[str, float, str]:
    """Answer with the sum, and with whether a forked child added."""
    return "/sum", sum(numbers), "main" if os.getpid() == MAIN_PROCESS else "child"


dispatcher = Dispatcher()
dispatcher.map("/add", add)
with getattr(osc_server, sys.argv[1])(("127.0.0.1", 0), dispatcher) as server:
    print("port", server.server_address[1])
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("interrupted")
