"""Hundreds of clients that send a byte now and then."""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clients import Honest, ask, connect, milliseconds, percentile
from lengths import LONG, count
from server_process import PATIENCE, ServerProcess, dispatches, needs_proc, on_both, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Figures
    from typing_extensions import Self

SLOW = 200
LIMIT = 64
ANSWERS = count(short=1500, long=20_000)
"""Honest answers that are waited for with slow clients beside."""

SIMILAR = (("threads", "max_connections"), ("greenlets", "max_threads"))
"""What a short run leaves out, for the others are much the same."""

LINE = b"a slow line\n"

SOURCE = """
serve(server_class(request_queue_size=1000)(LOOPBACK, Upper))
"""

LIMITED = """
def print_stats(*_):
    say_json(count_of_stats(server.stats()))
signal.signal(signal.SIGUSR1, print_stats)
server = server_class(%s)(LOOPBACK, Upper)
serve(server)
"""


class SlowClients(threading.Thread):
    """`SLOW` clients that each send `LINE` byte by byte, in a second or so, and begin anew."""

    def __init__(self, address: Any) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.refused = 0
        self.wrong: list[bytes] = []
        self._address = address
        self._is_over = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._send_slowly()
        except BaseException as error:
            self._error = error

    def _send_slowly(self) -> None:
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            places: list[tuple[socket.socket, int] | None] = [None] * SLOW
            stack.callback(lambda: [place[0].close() for place in places if place])
            while not self._is_over.is_set():
                for number, place in enumerate(places):
                    if place is None:
                        client = connect(self._address)
                        selector.register(client, selectors.EVENT_READ, number)
                        place = (client, 0)
                    client, sent = place
                    if sent < len(LINE):
                        try:
                            client.send(LINE[sent : sent + 1])
                        except ConnectionError:
                            sent = len(LINE)
                    places[number] = (client, sent + 1)
                for key, _ in selector.select(0.1):
                    client = key.fileobj  # type: ignore[assignment]
                    try:
                        answer = client.recv(100)
                    except ConnectionError:
                        answer = b""
                    if answer == LINE.upper():
                        self.answered += 1
                    elif answer == b"":
                        self.refused += 1
                    else:
                        self.wrong.append(answer)
                    selector.unregister(client)
                    client.close()
                    places[key.data] = None
                self._is_over.wait(0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self.join(PATIENCE)
        assert self._error is None, self._error
        assert not self.is_alive()
        assert self.wrong == []


@contextlib.contextmanager
def in_a_process_of_their_own(address: Any) -> Iterator[None]:
    """Have `SLOW` clients send a byte in a second each, apart from what is measured here."""
    command = [sys.executable, str(Path(__file__).with_name("slow_clients.py"))]
    with subprocess.Popen(
        [*command, address[0], str(address[1]), str(SLOW)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            yield
        finally:
            process.communicate()
    assert process.returncode == 0


def latencies(address: Any, number: int) -> list[float]:
    """Return how long each of so many honest answers takes, of one client after the other."""
    with Honest(address) as honest:
        while len(honest.latencies) < number and honest.is_alive():
            time.sleep(0.01)
    return honest.latencies


@needs_proc
@on_both("threads", "greenlets")
def test_slow_clients_beside_honest_ones(module: str, dispatch: str, figures: Figures) -> None:
    with ServerProcess(SOURCE, module, dispatch) as server:
        address = server.read_address()
        without = latencies(address, ANSWERS)
        before = server.descriptors_at_rest()
        with in_a_process_of_their_own(address):
            beside = latencies(address, ANSWERS)
        assert len(beside) >= ANSWERS
        server.wait_for_descriptors(before)
        server.stop()
    figures.note_for(
        module,
        f"{SLOW} slow clients, {dispatch}: honest p99 without, with",
        f"{milliseconds(percentile(without, 0.99))}, {milliseconds(percentile(beside, 0.99))}",
    )


@needs_proc
@pytest.mark.parametrize("limit", ["max_threads", "max_connections"])
@dispatches("threads", "greenlets")
def test_with_a_limit_the_others_wait_their_turn(
    dispatch: str, limit: str, figures: Figures
) -> None:
    if not LONG and (dispatch, limit) in SIMILAR:
        pytest.skip("only in long runs")
    with ServerProcess(LIMITED % f"{limit}={LIMIT}", "fastsocketserver", dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        with SlowClients(address) as slow:
            wait_until(lambda: slow.answered >= LIMIT, "slow clients to be answered")
            beside = latencies(address, count(short=2, long=30))
            threads = server.threads()
        server.wait_for_descriptors(before)
        server.stop()
    figures.note(
        f"{SLOW} slow clients, {limit} = {LIMIT}, {dispatch}: honest ones answered, longest",
        here=f"{len(beside)} of {len(beside)}, {milliseconds(max(beside))}",
    )
    if dispatch == "threads":
        # One whose request is over may be on its way to the next when another is started.
        assert threads <= 2 * LIMIT


@needs_proc
@dispatches("threads", "greenlets")
def test_with_a_limit_for_each_client_its_surplus_is_refused(
    dispatch: str, figures: Figures
) -> None:
    attributes = f"max_connections_per_client={LIMIT}"
    served = refused = 0
    with ServerProcess(LIMITED % attributes, "fastsocketserver", dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        with SlowClients(address) as slow:
            wait_until(lambda: slow.refused, "slow clients to be refused")
            for _ in range(count(short=40, long=2000)):
                try:
                    answer = ask(address)
                except OSError:  # a reset, or no longer connected when it is to be shut down
                    answer = b""
                assert answer in (b"HELLO\n", b"")
                served += bool(answer)
                refused += not answer
                with socket.create_connection(address, PATIENCE, ("127.0.0.2", 0)) as other:
                    other.sendall(b"other\n")
                    assert other.recv(100) == b"OTHER\n"
        server.wait_for_descriptors(before)
        assert ask(address) == b"HELLO\n"
        server.send_signal(signal.SIGUSR1)
        stats = json.loads(server.read_line())
        assert stats["refused"] >= slow.refused
        server.stop()
    figures.note(
        f"{SLOW} slow clients, max_connections_per_client = {LIMIT}, {dispatch}: "
        "honest from there served, refused, hung",
        here=f"{served}, {refused}, 0",
    )
