"""No descriptor is left while a client waits in the kernel's queue."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from clients import ask, connect, milliseconds, read_line
from lengths import LONG
from server_process import HERE, ServerProcess, needs_proc, on_both

if TYPE_CHECKING:
    from conftest import Figures

HOW_LONG = 2.0 if LONG else 0.5

FAIR_SHARE = 0.2
"""Of a processor, while nothing can be accepted: ten times of what is expected."""

COUNT_RECORDS = """
import logging
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record)
        say("logged")
logging.getLogger("fastsocketserver").addHandler(Keep())
"""

TAKE_ALL = (
    COUNT_RECORDS
    + """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
held = []
def take(*_):
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return say("taken")
def give(*_):
    while held:
        os.close(held.pop())
    say("given", len(records))
signal.signal(signal.SIGUSR1, take)
signal.signal(signal.SIGUSR2, give)
serve(server_class()(LOOPBACK, Upper))
"""
)

FAIL_ALL = (
    COUNT_RECORDS
    + """
import errno
class Server(server_class()):
    failing = False
    def get_request(self):
        if self.failing:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        return super().get_request()
def take(*_):
    Server.failing = True
    say("taken")
def give(*_):
    Server.failing = False
    say("given", len(records))
signal.signal(signal.SIGUSR1, take)
signal.signal(signal.SIGUSR2, give)
serve(Server(LOOPBACK, Upper))
"""
)


@needs_proc
@pytest.mark.parametrize("fault", ["EMFILE", "ENFILE"])
@on_both(reference=["inline"])
def test_a_server_without_descriptors_waits_and_recovers(
    module: str, dispatch: str, fault: str, figures: Figures
) -> None:
    source = TAKE_ALL if fault == "EMFILE" else FAIL_ALL
    with ServerProcess(source, module, dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        server.send_signal(signal.SIGUSR1)
        assert server.read_line() == "taken"
        with connect(address) as client:
            client.sendall(b"waiting\n")
            if module == HERE:
                assert server.read_line() == "logged"
            begin, used = time.monotonic(), server.cpu_seconds()
            time.sleep(HOW_LONG)
            share = (server.cpu_seconds() - used) / (time.monotonic() - begin)
            assert server.running(), server.errors
            server.send_signal(signal.SIGUSR2)
            given = server.read_line()
            begin = time.monotonic()
            assert given.split()[0] == "given", "lines in the log"
            assert read_line(client) == b"WAITING\n"
            took = time.monotonic() - begin
        assert ask(address) == b"HELLO\n"
        server.wait_for_descriptors(before)
        server.stop()
    name = f"{fault} for {HOW_LONG:g} s, {dispatch}"
    figures.note_for(module, f"{name}: share of a processor", f"{share:.1%}")
    figures.note_for(module, f"{name}: served after relief", milliseconds(took))
    if module == HERE:
        assert share < FAIR_SHARE
        assert given == "given 1"
