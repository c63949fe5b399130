"""How many requests there may be at once, and what becomes of the others."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fractions
import logging
import os
import queue
import select
import selectors
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import fastsocketserver
import pytest
from conftest import DEADLINE, serving, wait_until
from dispatching import (
    BESIDE,
    HERE,
    MAY_FORK,
    SERVERS,
    Gate,
    Lines,
    clients_of,
    hear,
    hear_end,
    is_silent,
    say,
    served,
    server_of,
    settled,
    wait_for,
)
from probes import LOOPBACK, Call, client_of
from program import Program
from variants import Variant

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings(MAY_FORK)

AT_ONCE = ["threads", "greenlets"]
"""Where `max_threads` is a limit of the server's."""


def counting(gate: Gate) -> type:
    """Return a handler class that answers lines, and is counted by `gate`."""

    class Counted(Lines):
        def handle(self) -> None:
            with gate.entered():
                super().handle()

    return Counted


# --- max_threads -----------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", AT_ONCE)
def test_no_more_than_max_threads_run_and_the_others_are_served_later(dispatch: str) -> None:
    gate = Gate()
    with served(dispatch, counting(gate), max_threads=3) as server:
        with clients_of(server, 12) as clients:
            for client in clients:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
            assert [hear_end(client) for client in clients] == [b"HELLO\n"] * 12
        stats = settled(server)
    assert gate.most <= 3
    assert (stats.accepted, stats.finished) == (12, 12)


@pytest.mark.parametrize("dispatch", AT_ONCE)
def test_the_surplus_waits_in_the_kernels_queue(dispatch: str) -> None:
    with served(dispatch, max_threads=2) as server, clients_of(server, 3) as clients:
        assert say(clients[0]) == say(clients[1]) == b"HELLO\n"
        clients[2].sendall(b"last\n")
        assert is_silent(clients[2])
        assert server.stats().accepted == 2
        clients[0].close()
        assert hear(clients[2]) == b"LAST\n"


@pytest.mark.parametrize("dispatch", AT_ONCE)
@pytest.mark.parametrize("poll_interval", [None, 3600.0])
def test_the_end_of_a_request_wakes_the_loop(dispatch: str, poll_interval: float | None) -> None:
    """Without a wake-up, nobody would look before the poll interval is over."""
    with serving(server := server_of(dispatch, max_threads=1), poll_interval):  # type: ignore[arg-type]
        for _ in range(20):
            with clients_of(server, 2) as (first, second):
                assert say(first) == b"HELLO\n"
                second.sendall(b"next\n")
                first.close()
                assert hear(second) == b"NEXT\n"


def test_threads_are_no_more_than_max_threads() -> None:
    before = threading.active_count()
    with served("threads", max_threads=2) as server, clients_of(server, 5) as clients:
        assert say(clients[0]) == say(clients[1]) == b"HELLO\n"
        # That which serves, and two.
        assert threading.active_count() <= before + 3


@pytest.mark.parametrize("dispatch", AT_ONCE)
def test_a_handler_that_raises_gives_its_place_back(dispatch: str) -> None:
    class Failing(fastsocketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError

    quiet = {"handle_error": lambda *_: None}
    with served(dispatch, Failing, max_threads=1, **quiet) as server:
        for _ in range(5):
            with client_of(server) as client:
                assert hear_end(client) == b""
        assert settled(server).failed == 5


@pytest.mark.parametrize("hook", ["verify_request", "process_request", "finish_request"])
@pytest.mark.parametrize("dispatch", AT_ONCE)
def test_a_hook_that_raises_gives_the_place_back(dispatch: str, hook: str) -> None:
    def fail(*args: Any) -> None:
        raise ValueError

    hooks = {hook: fail, "handle_error": lambda *_: None}
    if hook == "verify_request":
        hooks[hook] = lambda *_: False
    with served(dispatch, max_threads=1, max_connections=1, **hooks) as server:
        for _ in range(5):
            with client_of(server) as client:
                assert hear_end(client) == b""
        stats = settled(server)
    assert stats.accepted == 5
    assert (stats.refused if hook == "verify_request" else stats.failed) == 5


def test_datagrams_keep_to_max_threads() -> None:
    gate = Gate()

    class Handler(fastsocketserver.DatagramRequestHandler):
        def handle(self) -> None:
            with gate.entered():
                gate.opened.wait(DEADLINE)
                self.wfile.write(self.packet.upper())

    class Server(fastsocketserver.ThreadingUDPServer):
        max_threads = 2

    with serving(server := Server(LOOPBACK, Handler)), clients_of(server, 8) as clients:
        for client in clients:
            client.send(b"hello")
        wait_for(server, active=2)
        assert is_silent(clients[0], 0.05)
        gate.opened.set()
        assert [client.recv(10) for client in clients] == [b"HELLO"] * 8
        assert settled(server).received == 8
    assert gate.most == 2


# --- max_connections -------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", BESIDE)
def test_no_more_than_max_connections_are_taken(dispatch: str) -> None:
    with served(dispatch, max_connections=2) as server, clients_of(server, 4) as clients:
        assert say(clients[0]) == say(clients[1]) == b"HELLO\n"
        clients[2].sendall(b"third\n")
        clients[3].sendall(b"fourth\n")
        assert is_silent(clients[2])
        stats = server.stats()
        assert (stats.accepted, stats.active) == (2, 2)
        clients[1].shutdown(socket.SHUT_RDWR)
        assert hear(clients[2]) == b"THIRD\n"
        clients[0].shutdown(socket.SHUT_RDWR)
        assert hear(clients[3]) == b"FOURTH\n"
        for client in clients[2:]:
            client.shutdown(socket.SHUT_RDWR)


def test_a_request_in_a_programs_own_pool_counts_until_it_is_closed() -> None:
    taken: list[Any] = []

    class Server(fastsocketserver.TCPServer):
        max_connections = 1

        def process_request(self, request: Any, client_address: Any) -> None:
            taken.append(request)

    with serving(server := Server(LOOPBACK, Lines)), clients_of(server, 2) as clients:
        wait_until(lambda: taken, "the first")
        assert is_silent(clients[1])
        assert len(taken) == 1
        server.shutdown_request(taken[0])
        assert hear_end(clients[0]) == b""
        wait_until(lambda: len(taken) == 2, "the second")
        server.shutdown_request(taken[1])


def test_a_connection_that_is_wrapped_in_a_programs_own_thread_counts() -> None:
    """What was accepted is detached then, and the server is not told what goes on in its place."""
    detached = threading.Semaphore(0)

    class Server(fastsocketserver.TCPServer):
        max_connections = 1

        def process_request(self, request: Any, client_address: Any) -> None:
            Call(self.wrap, request, client_address)
            detached.acquire()

        def wrap(self, request: Any, client_address: Any) -> None:
            with socket.socket(fileno=request.detach()) as wrapped:
                detached.release()
                super().process_request(wrapped, client_address)

    with serving(server := Server(LOOPBACK, Lines)), clients_of(server, 2) as clients:
        assert say(clients[0]) == b"HELLO\n"
        clients[1].sendall(b"second\n")
        assert is_silent(clients[1])
        assert server.stats().accepted == 1
        drained = Call(server.shutdown, DEADLINE)
        assert drained.still_waits()
        clients[0].close()
        assert drained.outcome("shutdown()") == 0


def test_parked_connections_and_threads_are_counted_apart() -> None:
    """Threads are held by those alone that have spoken."""
    attributes: dict[str, Any] = {"parking": True, "max_threads": 1, "max_connections": 3}
    with served("threads", **attributes) as server, clients_of(server, 3) as clients:
        wait_for(server, parked=3)
        assert say(clients[0]) == b"HELLO\n"
        clients[1].sendall(b"second\n")
        assert is_silent(clients[1])
        clients[0].close()
        assert hear(clients[1]) == b"SECOND\n"
        clients[1].close()
        assert say(clients[2]) == b"HELLO\n"


# --- max_connections_per_client --------------------------------------------------------------


@pytest.mark.parametrize("dispatch", BESIDE)
def test_the_surplus_of_one_client_is_closed_at_once(dispatch: str) -> None:
    with served(dispatch, max_connections_per_client=2) as server:
        with clients_of(server, 3) as clients:
            assert say(clients[0]) == say(clients[1]) == b"HELLO\n"
            assert hear_end(clients[2]) == b""
            assert wait_for(server, refused=1).accepted == 3
            clients[0].shutdown(socket.SHUT_RDWR)
            clients[1].shutdown(socket.SHUT_RDWR)
        settled(server)
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback net has one address here")
def test_other_clients_are_served_though_one_has_too_many() -> None:
    with served("threads", max_connections_per_client=1) as server, client_of(server) as first:
        assert say(first) == b"HELLO\n"
        with socket.create_connection(
            server.server_address, DEADLINE, source_address=("127.0.0.2", 0)
        ) as other:
            assert say(other) == b"HELLO\n"
        with client_of(server) as surplus:
            assert hear_end(surplus) == b""


def test_the_surplus_is_not_verified() -> None:
    seen: list[Any] = []

    class Server(fastsocketserver.ThreadingTCPServer):
        max_connections_per_client = 1

        def verify_request(self, request: Any, client_address: Any) -> bool:
            seen.append(client_address)
            return True

    with serving(server := Server(LOOPBACK, Lines)), clients_of(server, 2) as clients:
        assert say(clients[0]) == b"HELLO\n"
        assert hear_end(clients[1]) == b""
    assert len(seen) == 1


def test_clients_of_a_unix_socket_are_not_counted(tmp_path: Any) -> None:
    class Server(fastsocketserver.ThreadingUnixStreamServer):
        max_connections_per_client = 1

    with serving(server := Server(str(tmp_path / "s"), Lines)), clients_of(server, 3) as clients:
        assert [say(client) for client in clients] == [b"HELLO\n"] * 3


class Greet(fastsocketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"hello\n")


@pytest.mark.parametrize("dispatch", HERE)
def test_a_client_that_comes_again_when_it_has_seen_the_end(dispatch: str) -> None:
    with served(dispatch, Greet, max_connections_per_client=1) as server:
        for _ in range(200):
            with client_of(server) as client:
                assert hear_end(client) == b"hello\n"
        stats = settled(server)
    assert (stats.accepted, stats.finished) == (200, 200)


def test_a_client_that_comes_again_to_a_programs_own_pool() -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:

        def process_request(self: Any, *args: Any) -> None:
            pool.submit(self.process_request_thread, *args)

        attributes = {"process_request": process_request, "max_connections_per_client": 1}
        with served("threads", Greet, **attributes) as server:
            for _ in range(200):
                with client_of(server) as client:
                    assert hear_end(client) == b"hello\n"
            stats = settled(server)
    assert (stats.accepted, stats.finished) == (200, 200)


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
def test_a_client_that_comes_again_when_the_child_has_ended() -> None:
    forked: queue.SimpleQueue[set[int]] = queue.SimpleQueue()

    class Server(fastsocketserver.ForkingTCPServer):
        max_connections_per_client = 1

        def process_request(self, request: Any, client_address: Any) -> None:
            super().process_request(request, client_address)
            forked.put(set(self.active_children or ()))

    with serving(server := Server(LOOPBACK, Greet)):
        for _ in range(50):
            with client_of(server) as client:
                assert hear_end(client) == b"hello\n"
            for pid in forked.get(timeout=DEADLINE):
                # Whether the server has looked after it is another question.
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        stats = settled(server)
    assert (stats.accepted, stats.finished) == (50, 50)


def test_datagrams_of_one_client_are_not_counted() -> None:
    opened = threading.Event()

    class Handler(fastsocketserver.DatagramRequestHandler):
        def handle(self) -> None:
            opened.wait(DEADLINE)
            self.wfile.write(self.packet.upper())

    class Server(fastsocketserver.ThreadingUDPServer):
        max_connections_per_client = 1

    with serving(server := Server(LOOPBACK, Handler)), client_of(server) as client:
        for _ in range(5):
            client.send(b"hello")
        wait_for(server, active=5)
        opened.set()
        assert [client.recv(10) for _ in range(5)] == [b"HELLO"] * 5


# --- values that are no limits ---------------------------------------------------------------

LIMITS = ["max_threads", "max_connections", "max_connections_per_client"]


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_no_limit(name: str) -> None:
    for value in (None, 2**62, 10**400, 0, -1, float("inf"), float("nan"), False):
        with served("threads", **{name: value}) as server, clients_of(server, 5) as clients:
            assert [say(client) for client in clients] == [b"HELLO\n"] * 5, value


@pytest.mark.parametrize("value", ["2", len, [2]])
@pytest.mark.parametrize("name", LIMITS)
def test_what_is_no_number_is_the_programs_own(
    name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "fastsocketserver"),
        served("threads") as server,
        clients_of(server, 5) as clients,
    ):
        setattr(server, name, value)
        assert [say(client) for client in clients] == [b"HELLO\n"] * 5
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
    assert {record.getMessage() for record in caplog.records} == {
        f"{name} is of type {type(value).__name__}, not a number, and is ignored"
    }
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", [2.0, 2.5, fractions.Fraction(2)])
def test_other_kinds_of_numbers(value: Any) -> None:
    with served("threads", max_connections=value) as server, clients_of(server, 3) as clients:
        assert say(clients[0]) == say(clients[1]) == b"HELLO\n"
        clients[2].sendall(b"third\n")
        assert is_silent(clients[2])


# --- limits that change ----------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", AT_ONCE)
@pytest.mark.parametrize("name", ["max_threads", "max_connections"])
def test_a_limit_may_be_changed_while_serving(dispatch: str, name: str) -> None:
    with served(dispatch, **{name: 1}) as server, clients_of(server, 4) as clients:
        assert say(clients[0]) == b"HELLO\n"
        for client in clients[1:]:
            client.sendall(b"late\n")
        assert is_silent(clients[1])
        setattr(server, name, 3)
        assert hear(clients[1]) == hear(clients[2]) == b"LATE\n"
        assert is_silent(clients[3])
        setattr(server, name, None)
        assert hear(clients[3]) == b"LATE\n"
        setattr(server, name, 1)
        for client in clients[1:]:
            client.close()
        wait_for(server, active=1)
        with client_of(server) as surplus:
            surplus.sendall(b"surplus\n")
            assert is_silent(surplus)
            clients[0].close()
            assert hear(surplus) == b"SURPLUS\n"


# --- handle_request() and own loops ----------------------------------------------------------


def test_handle_request_at_a_limit_waits_no_longer_than_its_timeout() -> None:
    timeouts: list[bool] = []

    class Server(fastsocketserver.ThreadingTCPServer):
        max_threads = 1
        timeout = 0.05

        def handle_timeout(self) -> None:
            timeouts.append(True)

    with Server(LOOPBACK, Lines) as server, clients_of(server, 2) as clients:
        server.timeout = DEADLINE
        server.handle_request()
        assert say(clients[0]) == b"HELLO\n"
        server.timeout = 0.05
        server.handle_request()
        assert timeouts == [True]
        server.timeout = DEADLINE
        call = Call(server.handle_request)
        assert call.still_waits()
        clients[0].close()
        call.outcome("handle_request()")
        assert say(clients[1]) == b"HELLO\n"
        clients[1].close()
    assert timeouts == [True]


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
def test_handle_request_looks_after_children_while_it_waits() -> None:
    with server_of("forks", max_connections=1, timeout=None) as server:
        for _ in range(3):
            with client_of(server) as client:
                call = Call(server.handle_request)
                assert say(client) == b"HELLO\n"
                call.outcome("handle_request()")
                # The child has this end of it as well.
                client.shutdown(socket.SHUT_RDWR)


def test_handle_request_with_a_selector_of_the_programs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Selector(selectors.SelectSelector):
        pass

    monkeypatch.setattr("fastsocketserver._base._ServerSelector", Selector)
    timeouts: list[bool] = []
    with (
        server_of("threads", max_threads=1, timeout=DEADLINE) as server,
        clients_of(server, 2) as clients,
    ):
        server.handle_timeout = lambda: timeouts.append(True)
        server.handle_request()
        server.timeout = 0.05
        server.handle_request()
        assert timeouts == [True]
        clients[0].close()
        server.timeout = DEADLINE
        server.handle_request()
        assert say(clients[1]) == b"HELLO\n"
        clients[1].close()


def test_a_programs_own_loop_keeps_to_the_limit() -> None:
    gate = Gate()
    count = 10
    with server_of("threads", counting(gate), max_threads=2) as server:

        def loop() -> None:
            for _ in range(count):
                select.select([server], [], [], DEADLINE)
                server.handle_request()

        with clients_of(server, count) as clients:
            for client in clients:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
            call = Call(loop)
            assert [hear_end(client) for client in clients] == [b"HELLO\n"] * count
            call.outcome("the loop")
        settled(server)
    assert gate.most <= 2


# --- what the system does not give -----------------------------------------------------------


class FewThreads(threading.Thread):
    """A thread whose start fails some times."""

    left = 0
    tried = 0

    def start(self) -> None:
        if self.name != "serving":
            FewThreads.tried += 1
            if FewThreads.left:
                FewThreads.left -= 1
                raise RuntimeError("can't start new thread")
        super().start()


def test_a_thread_of_the_programs_own_class_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with server_of("threads") as server, serving(server):
        monkeypatch.setattr(FewThreads, "left", 4)
        monkeypatch.setattr(FewThreads, "tried", 0)
        monkeypatch.setattr(threading, "Thread", FewThreads)
        with caplog.at_level(logging.WARNING, "fastsocketserver"), client_of(server) as client:
            assert say(client) == b"HELLO\n"
        monkeypatch.undo()
        assert settled(server).finished == 1
    assert [record.getMessage() for record in caplog.records] == [
        "cannot start a thread for a request; trying again until it works"
    ]


def test_a_thread_that_never_starts_does_not_keep_shutdown_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[Any] = []
    attributes = {"handle_error": lambda *_: errors.append(sys.exc_info()[1])}
    with server_of("threads", **attributes) as server, serving(server):
        monkeypatch.setattr(FewThreads, "left", 10**9)
        monkeypatch.setattr(FewThreads, "tried", 0)
        monkeypatch.setattr(threading, "Thread", FewThreads)
        with client_of(server) as client:
            wait_until(lambda: FewThreads.tried, "the first try")
            server.shutdown()
            monkeypatch.undo()
            assert hear_end(client) == b""
        assert settled(server).failed == 1
    assert [str(error) for error in errors] == ["can't start new thread"]


def test_other_errors_of_a_start_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("threads can only be started once")

    errors: list[Any] = []
    attributes = {"handle_error": lambda *_: errors.append(sys.exc_info()[1])}
    with server_of("threads", **attributes) as server, serving(server):
        monkeypatch.setattr(threading, "Thread", Broken)
        with client_of(server) as client:
            assert hear_end(client) == b""
        monkeypatch.undo()
        assert settled(server).failed == 1
    assert [str(error) for error in errors] == ["threads can only be started once"]


NO_ROOM = """
    import logging, resource, socket, sys, threading
    from conftest import serving, wait_until
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")

    class Lines(ss.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line.upper())

    server = ss.ThreadingTCPServer(("127.0.0.1", 0), Lines)
    with serving(server):
        former = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        resource.setrlimit(
            resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 29), former[1])
        )
        threading.stack_size(1 << 31)
        count = 1 if END else 5
        clients = [socket.create_connection(server.server_address, 20) for _ in range(count)]
        for client in clients:
            client.sendall(b"hello\\n")
        wait_until(
            lambda: any(c.state == "queued" for c in server.connections()), "a queued connection"
        )
        print(server.stats().active >= 1, flush=True)
        clients[0].settimeout(0.05)
        try:
            clients[0].recv(1)
        except TimeoutError:
            print("waits", flush=True)
        clients[0].settimeout(20)
        if END:
            server.shutdown()
            print([client.recv(10) for client in clients], flush=True)
        else:
            threading.stack_size(1 << 18)
            print([client.recv(10) for client in clients], flush=True)
        for client in clients:
            client.close()
        wait_until(lambda: server.stats().active == 0, "the end of all")
        stats = server.stats()
        print(stats.accepted == stats.finished + stats.failed, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and a limit that counts stacks")
@pytest.mark.parametrize("end", [False, True])
def test_cached_threads_that_have_no_room_are_started_when_there_is(end: bool) -> None:
    ours = Variant("fastsocketserver", pass_through=False)
    with Program(ours, NO_ROOM.replace("END", str(end))) as program:
        lines = list(iter(program.read_line, ""))
        errors = program.errors
        assert program.wait() == 0
    answer = b"" if end else b"HELLO\n"
    assert [line for line in lines if not line.startswith("WARNING")] == [
        "True",
        "waits",
        str([answer] * (1 if end else 5)),
        "True",
    ], errors
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert warnings[0] == "WARNING cannot start a thread for a request; trying again until it works"
    # Who could not be served is told of.
    assert ("can't start new thread" in errors) is end


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_is_tried_again(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = 4
    fork = os.fork

    def failing() -> int:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(number, os.strerror(number))
        return fork()

    monkeypatch.setattr(os, "fork", failing)
    with (
        caplog.at_level(logging.WARNING, "fastsocketserver"),
        served("forks") as server,
        client_of(server) as client,
    ):
        assert say(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)
        assert settled(server).finished == 1
    assert failures == 0
    assert [record.getMessage()[:25] for record in caplog.records] == ["cannot fork for a request"]


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EAGAIN])
def test_a_fork_that_never_works(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that may pass is tried until `shutdown()`; others at once go to handle_error()."""
    errors: list[Any] = []
    tried = threading.Event()

    def failing() -> int:
        tried.set()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fork", failing)
    attributes = {"handle_error": lambda *_: errors.append(sys.exc_info()[1])}
    with served("forks", **attributes) as server, client_of(server) as client:
        assert tried.wait(DEADLINE)
        if number == errno.EAGAIN:
            server.shutdown()
        assert hear_end(client) == b""
        assert settled(server).failed == 1
    assert [error.errno for error in errors] == [number]


# --- parking ---------------------------------------------------------------------------------


def parking(handler: Any = Lines, **attributes: Any) -> Any:
    """Serve with a thread for each connection that has spoken."""
    return served("threads", handler, parking=True, **attributes)


def test_idle_connections_hold_no_thread() -> None:
    with parking() as server:
        before = threading.active_count()
        with clients_of(server, 30) as clients:
            stats = wait_for(server, parked=30)
            assert (stats.accepted, stats.active, stats.idle_threads) == (30, 0, 0)
            assert threading.active_count() <= before
            assert {c.state for c in server.connections()} == {"parked"}
            assert say(clients[7]) == b"HELLO\n"
            wait_for(server, parked=29, active=1)
            assert [say(client) for client in clients] == [b"HELLO\n"] * 30
            wait_for(server, parked=0, active=30)
        assert settled(server).finished == 30


def test_a_connection_whose_client_has_spoken_is_not_parked() -> None:
    with parking() as server:
        server.pause()
        with client_of(server) as client:
            client.sendall(b"hello\n")
            server.resume()
            assert hear(client) == b"HELLO\n"


def test_a_parked_client_that_leaves_is_over() -> None:
    with parking() as server:
        with clients_of(server, 3) as clients:
            wait_for(server, parked=3)
            clients[0].shutdown(socket.SHUT_WR)
            assert hear_end(clients[0]) == b""
        assert settled(server).accepted == 3


@pytest.mark.parametrize("name", ["idle_timeout", "request_deadline"])
def test_parked_connections_are_closed_after_a_deadline(name: str) -> None:
    with parking(**{name: 0.1}) as server, clients_of(server, 3) as clients:
        assert [hear_end(client) for client in clients] == [b""] * 3
        stats = settled(server)
        assert (stats.accepted, stats.failed) == (3, 3)


@pytest.mark.parametrize("poll_interval", [None, 3600.0])
def test_the_loop_wakes_for_parked_connections(poll_interval: float | None) -> None:
    server = server_of("threads", parking=True)
    with serving(server, poll_interval), client_of(server) as client:  # type: ignore[arg-type]
        wait_for(server, parked=1)
        assert say(client) == b"HELLO\n"
        server.idle_timeout = 0.2
        with client_of(server) as silent:
            assert hear_end(silent) == b""


def test_each_parked_connection_has_the_deadline_of_its_time() -> None:
    server = server_of("threads", parking=True, handshake_timeout=0.05)
    with serving(server, None), client_of(server) as first:  # type: ignore[arg-type]
        wait_for(server, parked=1)
        server.idle_timeout = 3600.0
        with client_of(server) as second:
            wait_for(server, parked=2)
            server.request_deadline = 0.1
            with client_of(server) as third:
                assert hear_end(third) == b""
            assert wait_for(server, failed=1).parked == 2
            assert say(second) == say(first) == b"HELLO\n"


def test_only_handlers_that_read_first_are_parked() -> None:
    class SpeaksFirst(fastsocketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"welcome\n")

    with parking(SpeaksFirst) as server, client_of(server) as client:
        assert hear_end(client) == b"welcome\n"


@pytest.mark.parametrize("dispatch", [d for d in BESIDE if d != "threads"])
def test_other_dispatches_are_served_as_if_nothing_were_said(dispatch: str) -> None:
    with served(dispatch, parking=True) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)


def test_the_oldest_silent_one_makes_room() -> None:
    with parking(max_connections=2) as server, clients_of(server, 2) as clients:
        wait_for(server, parked=2)
        with client_of(server) as third:
            assert hear_end(clients[0]) == b""
            assert say(third) == b"HELLO\n"
            assert say(clients[1]) == b"HELLO\n"
            stats = server.stats()
            assert (stats.accepted, stats.refused) == (3, 1)
            # Those who have spoken make no room.
            with client_of(server) as fourth:
                fourth.sendall(b"hello\n")
                assert is_silent(fourth)
                third.close()
                assert hear(fourth) == b"HELLO\n"


def test_a_parked_connection_that_the_program_has_closed_harms_nobody() -> None:
    """The next one has its descriptor, and keeps it when the former makes room."""
    taken: list[Any] = []

    def verify_request(self: Any, request: Any, client_address: Any) -> bool:
        taken.append(request)
        return True

    with (
        parking(max_connections=2, verify_request=verify_request) as server,
        client_of(server),
        contextlib.ExitStack() as stack,
    ):
        wait_for(server, parked=1)
        descriptor = taken[0].fileno()
        server.pause()
        with clients_of(server, 2) as clients:
            while (number := os.open(os.devnull, os.O_RDONLY)) < descriptor:
                stack.callback(os.close, number)
            os.close(number)
            taken[0].close()
            server.resume()
            wait_for(server, accepted=3, parked=2)
            assert taken[1].fileno() == descriptor
            assert [say(client) for client in clients] == [b"HELLO\n"] * 2
        assert settled(server).refused == 0


@pytest.mark.parametrize("reason", ["room", "overdue"])
def test_a_parked_client_that_has_just_spoken_is_served(reason: str) -> None:
    """The loop, which has not been told, looks before it ends one."""
    taken: list[Any] = []
    go_on = threading.Event()

    def verify_request(self: Any, request: Any, client_address: Any) -> bool:
        taken.append(request)
        return len(taken) == 1 or go_on.wait(DEADLINE)

    limit: dict[str, Any] = {"max_connections": 2} if reason == "room" else {"idle_timeout": 0.5}
    with parking(verify_request=verify_request, **limit) as server, client_of(server) as first:
        wait_for(server, parked=1)
        with clients_of(server, 2):
            wait_until(lambda: len(taken) == 2, "the loop to be kept")
            first.sendall(b"hello\n")
            if reason == "overdue":
                wait_until(lambda: server.connections()[0].age > 0.6, "the first to be overdue")
            go_on.set()
            assert hear(first) == b"HELLO\n"


def test_room_is_made_also_by_serving_who_has_spoken() -> None:
    """Where all have spoken, nobody is turned away."""
    taken: list[Any] = []
    go_on = threading.Event()

    def verify_request(self: Any, request: Any, client_address: Any) -> bool:
        taken.append(request)
        return len(taken) == 1 or go_on.wait(DEADLINE)

    class OneLine(Lines):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline().upper())

    attributes: dict[str, Any] = {"verify_request": verify_request, "max_connections": 2}
    server = server_of("threads", OneLine, parking=True, **attributes)
    with serving(server, None), client_of(server) as first:  # type: ignore[arg-type]
        wait_for(server, parked=1)
        with client_of(server) as second:
            wait_until(lambda: len(taken) == 2, "the loop to be kept")
            with client_of(server) as third:
                for client in (first, second, third):
                    client.sendall(b"hello\n")
                go_on.set()
                for client in (first, second, third):
                    assert hear_end(client) == b"HELLO\n"
        assert settled(server).refused == 0


def test_no_parked_connection_makes_room_while_none_is_taken() -> None:
    with parking(max_connections=2) as server, clients_of(server, 2) as clients:
        wait_for(server, parked=2)
        server.pause()
        with client_of(server) as third:
            assert is_silent(third)
            assert server.stats().refused == 0
            assert say(clients[0]) == b"HELLO\n"
            server.resume()
            assert hear_end(clients[1]) == b""


def test_shutdown_ends_the_parked_and_serves_who_has_spoken() -> None:
    served_lines: list[bytes] = []
    stepped = threading.Event()
    held = threading.Event()

    class Server(fastsocketserver.ThreadingTCPServer):
        parking = True

        def service_actions(self) -> None:
            if held.is_set():
                stepped.set()
                time.sleep(0.001)
                while not self._BaseServer__shutdown_request:  # type: ignore[attr-defined]
                    time.sleep(0.001)

    class Handler(Lines):
        def handle(self) -> None:
            line = self.rfile.readline()
            served_lines.append(line)
            self.wfile.write(line.upper())

    server = Server(LOOPBACK, Handler)
    with serving(server), clients_of(server, 3) as clients:
        wait_for(server, parked=3)
        # The loop looks at nothing more before it ends.
        held.set()
        assert stepped.wait(DEADLINE)
        clients[1].sendall(b"just now\n")
        server.shutdown()
        assert hear_end(clients[1]) == b"JUST NOW\n"
        assert hear_end(clients[0]) == hear_end(clients[2]) == b""
        stats = settled(server)
    assert served_lines == [b"just now\n"]
    assert (stats.finished, stats.failed) == (1, 2)


def test_parked_connections_outlive_no_server() -> None:
    """After the loop has ended, another can be run."""
    with server_of("threads", parking=True) as server:
        for _ in range(2):
            call = Call(server.serve_forever, None)
            with clients_of(server, 2) as clients:
                wait_for(server, parked=2)
                server.shutdown()
                call.outcome("serve_forever()")
                assert [hear_end(client) for client in clients] == [b""] * 2


def test_hooks_see_a_parked_connection_once() -> None:
    calls: list[str] = []

    def note(name: str) -> Callable[..., Any]:
        def hook(self: Any, *args: Any) -> Any:
            calls.append(name)
            return getattr(fastsocketserver.ThreadingTCPServer, name)(self, *args)

        return hook

    hooks = ["verify_request", "process_request", "finish_request", "shutdown_request"]
    with parking(**{name: note(name) for name in hooks}) as server:
        with client_of(server) as client:
            wait_for(server, parked=1)
            assert calls == ["verify_request"]
            assert say(client) == b"HELLO\n"
        settled(server)
    assert calls == hooks


@pytest.mark.parametrize("hook", ["process_request", "finish_request", "shutdown_request"])
def test_a_hook_that_raises_after_parking(hook: str) -> None:
    def fail(self: Any, *args: Any) -> None:
        if hook == "shutdown_request":
            fastsocketserver.ThreadingTCPServer.shutdown_request(self, *args)
        raise ValueError

    def quiet(*args: Any) -> None:
        pass

    if hook == "shutdown_request":
        pytest.skip("it leaves the thread, as in the standard library")
    with parking(**{hook: fail, "handle_error": quiet}, max_connections=2) as server:
        for _ in range(5):
            with client_of(server) as client:
                wait_for(server, parked=1)
                client.sendall(b"hello\n")
                assert hear_end(client) == b""
        assert settled(server).failed == 5


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["parking", "reads_first"])
def test_a_property_that_raises_leaves_no_connection_open(name: str, error: type) -> None:
    """An `Exception` goes to `handle_error()`, as one that the handler's class raises does."""
    errors: list[Any] = []

    def fail(*_: Any) -> bool:
        raise error

    class Server(fastsocketserver.ThreadingTCPServer):
        parking = property(fail) if name == "parking" else True  # type: ignore[assignment]

        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(sys.exc_info()[0])

    class Kind(type):
        reads_first = property(fail)

    handler = Lines if name == "parking" else Kind("Handler", (Lines,), {})
    with Server(LOOPBACK, handler) as server:
        call = Call(server.serve_forever)
        with client_of(server) as client:
            assert hear_end(client) == b""
        assert settled(server).failed == 1
        if error is ValueError:
            with client_of(server) as client:
                assert hear_end(client) == b""
            server.shutdown()
            call.outcome("serve_forever()")
            assert errors == [ValueError] * 2
        else:
            with pytest.raises(KeyboardInterrupt):
                call.outcome("serve_forever()")
            assert errors == []


# --- all of them at once ---------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", HERE)
def test_limits_that_change_all_the_time_lose_nobody(dispatch: str) -> None:
    attributes: dict[str, Any] = {"parking": True} if dispatch == "threads" else {}
    stop = threading.Event()
    failures: list[Any] = []

    def hammer(server: Any) -> None:
        for number in range(40):
            with client_of(server) as client:
                line = b"line %d\n" % number
                if say(client, line) != line.upper():
                    failures.append(number)
                if number % 5 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def toggle(server: Any) -> None:
        step = 0
        while not stop.wait(0.002):
            step += 1
            server.max_threads = (None, 1, 2, 8)[step % 4]
            if dispatch != "threads":
                # There, a connection of those that are parked would have to make room.
                server.max_connections = (3, None, 1)[step % 3]
            (server.pause if step % 7 == 0 else server.resume)()
        server.resume()

    attributes |= {"handle_error": lambda *_: None}
    with served(dispatch, **attributes) as server:
        calls = [Call(hammer, server) for _ in range(4)]
        toggling = Call(toggle, server)
        for call in calls:
            call.outcome("the clients")
        stop.set()
        toggling.outcome("the changes")
        stats = settled(server)
    assert failures == []
    assert stats.accepted == 160 == stats.finished + stats.failed
