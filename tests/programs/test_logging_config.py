"""`logging.config.listen`, which drives its server with a loop of its own."""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING

from program import DEADLINE, SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

CONFIGURATION = {
    "version": 1,
    "formatters": {"loud": {"format": "!! %(name)s: %(message)s"}},
    "handlers": {"loud": {"class": "logging.StreamHandler", "formatter": "loud"}},
    "root": {"level": "INFO", "handlers": ["loud"]},
}


def test_configuration_from_the_network(both: Both) -> None:
    """The program logs as it has been told, and its listener stops when asked."""
    both.start(SCRIPTS / "listen_for_logging.py", ready=r"port (\d+)")
    both.ask(configure)
    both.say("log")
    assert both.wait() == 0
    said = both.ask(lambda program: program.wait_for("!! (.*)\nstopped")[1])
    assert said == "program: configured from outside"


def configure(program: Program) -> bytes:
    """Send the configuration, and return what the listener answers until it hangs up: nothing."""
    message = json.dumps(CONFIGURATION).encode()
    with socket.create_connection(("localhost", program.port), timeout=DEADLINE) as connection:
        connection.sendall(struct.pack(">L", len(message)) + message)
        return connection.recv(1)
