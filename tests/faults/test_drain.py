"""`shutdown(drain=seconds)` with requests under way."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from clients import connect, read_line
from lengths import count
from server_process import ServerProcess, dispatches, needs_proc, wait_until

if TYPE_CHECKING:
    from conftest import Figures

FINISHING = 100
ENDLESS = 10
SECONDS = count(short=1, long=5)
LONGEST = 30
"""Seconds for those that finish; it does not take so long."""

# shutdown() is called by a thread that the loop starts when it has seen a signal: a thread that is
# there from the beginning would be warned of where requests are forked.
SOURCE = """
import time
from fastsocketserver import _drain
_drain.GRACE = 30  # seconds for those that are told to end, which load may well need
def drain(*_):
    threading.Thread(target=drain_now).start()
def drain_now():
    say("draining")
    begin = time.monotonic()
    left = server.shutdown(drain=DRAIN)
    say_json([left, server.stats().active, time.monotonic() - begin])
signal.signal(signal.SIGUSR1, drain)
server = server_class()(LOOPBACK, Upper)
serve(server)
"""


def outcome(server: ServerProcess) -> Any:
    """Return what `drain_now()` says; the server says that it is closed before or after that."""
    lines = [server.read_line(), server.read_line()]
    lines.remove("closed")
    return json.loads(lines[0])


@needs_proc
@dispatches("threads", "forks", "greenlets")
def test_requests_under_way_are_answered(dispatch: str, figures: Figures) -> None:
    number = FINISHING // 4 if dispatch == "forks" else FINISHING
    source = f"DRAIN = {LONGEST}\n" + SOURCE
    with (
        ServerProcess(source, "fastsocketserver", dispatch) as server,
        contextlib.ExitStack() as stack,
    ):
        address = server.read_address()
        clients = [stack.enter_context(connect(address)) for _ in range(number)]
        for client in clients:
            client.sendall(b"first\n")
        for client in clients:
            assert read_line(client) == b"FIRST\n"
        server.send_signal(signal.SIGUSR1)
        assert server.read_line() == "draining"
        for client in clients:
            client.sendall(b"second\n")
            client.shutdown(socket.SHUT_WR)
        answers = []
        for client in clients:
            answers.append(read_line(client))
            client.close()
        assert answers == [b"SECOND\n"] * number
        left, active, took = outcome(server)
        server.send_line()
        assert (server.wait(), server.errors) == (0, "")
    assert (left, active) == (0, 0)
    figures.note(
        f"shutdown(drain) with {number} requests under way, {dispatch}: lost, took",
        here=f"{number - len(answers)}, {took * 1000:,.0f} ms",
    )


@needs_proc
@dispatches("threads", "forks", "greenlets")
def test_requests_that_never_end_are_closed_at_the_deadline(
    dispatch: str, figures: Figures
) -> None:
    source = f"DRAIN = {SECONDS}\n" + SOURCE
    with (
        ServerProcess(source, "fastsocketserver", dispatch) as server,
        contextlib.ExitStack() as stack,
    ):
        address = server.read_address()
        clients = [stack.enter_context(connect(address)) for _ in range(ENDLESS)]
        for client in clients:
            client.sendall(b"first\n")
        for client in clients:
            assert read_line(client) == b"FIRST\n"
        begin = time.monotonic()
        server.send_signal(signal.SIGUSR1)
        assert server.read_line() == "draining"
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        closed = time.monotonic() - begin
        left, active, _ = outcome(server)
        wait_until(lambda: not server.children(), "the children to be gone")
        server.send_line()
        assert (server.wait(), server.errors) == (0, "")
    assert (left, active) == (ENDLESS, 0)
    assert closed > SECONDS / 2
    figures.note(
        f"shutdown(drain={SECONDS}) with {ENDLESS} that never end, {dispatch}: returned, "
        "under way after that, closed after",
        here=f"{left}, {active}, {closed:.2f} s",
    )
