"""A thousand signals a second, with a handler in Python, while streams are read and written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients import ask, connect, read_exactly
from lengths import count
from server_process import ServerProcess, needs_proc, on_both

if TYPE_CHECKING:
    from conftest import Figures

REQUESTS = count(short=1000, long=5000)
A_CONNECTION = 100
"""Requests over one connection."""

LONG_ANSWER = 300_000

SOURCE = """
signals = 0
def count(*_):
    global signals
    signals += 1
signal.signal(signal.SIGALRM, count)
server = server_class()(LOOPBACK, Upper)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
closing = server.server_close
def close():
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert signals
    closing()
server.server_close = close
serve(server)
"""


@needs_proc
@on_both(reference=["inline"])
def test_signals_disturb_no_answer(module: str, dispatch: str, figures: Figures) -> None:
    with ServerProcess(SOURCE, module, dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        for begin in range(0, REQUESTS, A_CONNECTION):
            with connect(address) as client:
                for number in range(begin, begin + A_CONNECTION):
                    if number % 20:
                        line = b"line %d\n" % number
                        client.sendall(line[:3])
                        client.sendall(line[3:])
                        assert read_exactly(client, len(line)) == line.upper()
                    else:
                        client.sendall(b"big %d\n" % LONG_ANSWER)
                        assert read_exactly(client, LONG_ANSWER) == b"x" * LONG_ANSWER
        server.wait_for_descriptors(before)
        server.stop()
    figures.note_for(
        module,
        f"signals at 1 kHz, {dispatch}: answers right",
        f"{REQUESTS:,} of {REQUESTS:,}",
    )
