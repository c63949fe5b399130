"""A request that keeps all others of its thread waiting is told of."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from fastsocketserver._core import Engine
from probes import LOOPBACK, ask, client_of, connect, read_all
from program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

NAME = "fastsocketserver stalls"
"""Of the thread that looks."""


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Return the list that what is logged goes to."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(f"{record.levelname} {record.getMessage()}")

    logger, handler = logging.getLogger("fastsocketserver"), Handler()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def server_of(ours: Variant, act: Callable[[], None], threshold: float | None) -> Any:
    """Return a server whose requests answer a line, after `act`."""

    class Slow(ours.StreamRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            line = self.rfile.readline()
            act()
            self.wfile.write(line.upper())

    class Server(ours.GreenletTCPServer):  # type: ignore[misc, name-defined]
        stall_threshold = threshold

    return Server(LOOPBACK, Slow)


def of_this(told: list[str]) -> list[str]:
    """Return what was told of `hold_until()`; load may hold a request before it gets there."""
    return [text for text in told if text.endswith("(hold_until)")]


def hold_until(told: list[str], count: int) -> None:
    """Keep the thread, in no other function, until that has been told so many times."""
    end = time.monotonic() + DEADLINE
    while " ".join(told).count("(hold_until)") < count:
        assert time.monotonic() < end, "nothing was told"


def watching() -> list[threading.Thread]:
    """Return the threads that look."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_who_holds_the_thread_is_told_with_the_line(ours: Variant, told: list[str]) -> None:
    server = server_of(ours, lambda: hold_until(told, 1), 0.1)
    with serving(server):
        assert ask(server.server_address) == b"HELLO\n"
    handler, place = of_this(told)[0].split(" has kept all other requests waiting for ")
    assert handler.startswith("WARNING ")
    assert handler.endswith(".Slow")
    file, line, function = re.split(r":(\d+) ", place.partition("now at ")[2])
    assert (file, function) == (__file__, "(hold_until)")
    assert int(line) - hold_until.__code__.co_firstlineno in (2, 3, 4)


def test_a_line_elsewhere_is_told_with_the_handlers_own(ours: Variant, told: list[str]) -> None:
    def elsewhere_told() -> list[str]:
        return [text for text in told if "(<lambda>), in " in text]

    server = server_of(ours, lambda: wait_until(elsewhere_told, "the warning"), 0.1)
    with serving(server):
        assert ask(server.server_address) == b"HELLO\n"
    own, _, elsewhere = elsewhere_told()[0].partition("now at ")[2].partition(", in ")
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+ \(<lambda>\)", own)
    assert __file__ not in elsewhere
    assert elsewhere.endswith(")")


def test_a_request_that_goes_on_and_on_is_told_of_again(ours: Variant, told: list[str]) -> None:
    server = server_of(ours, lambda: hold_until(told, 2), 0.005)
    with serving(server):
        assert ask(server.server_address) == b"HELLO\n"
    first, second = (int(text.partition(" for ")[2].split()[0]) for text in of_this(told)[:2])
    assert second >= 10 * first, "told of more often than that"


def test_who_waits_holds_nothing(ours: Variant) -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        while not end.is_set():
            ours.sleep(0.01)

    server = server_of(ours, wait, None)
    with serving(server), client_of(server) as client:
        client.sendall(b"line\n")
        assert begun.wait(DEADLINE)
        engine = Engine.of(server)
        wait_until(lambda: engine.held() == [], "the request to wait")
        end.set()
        assert read_all(client) == b"LINE\n"


@pytest.mark.parametrize(("threshold", "count"), [(0.1, 1), (None, 0)])
def test_a_thread_looks_while_the_server_serves(
    ours: Variant, threshold: float | None, count: int
) -> None:
    found: list[int] = []
    server = server_of(ours, lambda: found.append(len(watching())), threshold)
    with serving(server):
        ask(server.server_address)
    assert found == [count]
    assert watching() == []


def test_a_server_without_a_threshold_tells_nothing(ours: Variant, told: list[str]) -> None:
    held: list[float] = []

    def act() -> None:
        wait_until(lambda: Engine.of(server).held()[0][1] > 0.02, "some time to pass")
        held.append(1)

    server = server_of(ours, act, None)
    with serving(server):
        ask(server.server_address)
    assert held == [1]
    assert told == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_no_thread_looks_while_a_handler_forks(ours: Variant) -> None:
    source = """
        import os, threading

        def count():
            return sum(thread.name == "fastsocketserver stalls" for thread in threading.enumerate())

        class Handler(ss.StreamRequestHandler):
            def handle(self):
                if os.fork():
                    os.wait()
                    server._BaseServer__shutdown_request = True
                    print("parent", count(), flush=True)
                else:
                    print("child", count(), flush=True)

        # What is registered first is called last.
        os.register_at_fork(before=lambda: print("fork", count(), flush=True))
        server = ss.GreenletTCPServer(("127.0.0.1", 0), Handler)
        print(server.server_address[1], flush=True)
        with server:
            server.serve_forever()
        print("end", count(), flush=True)
    """
    with Program(ours, source) as program:
        with connect(program.read_port()) as client:
            assert read_all(client) == b""
        lines = [program.read_line() for _ in range(4)]
        assert lines == ["fork 0", "child 0", "parent 1", "end 0"]
        assert program.wait() == 0
