"""What a server tells of itself."""

from __future__ import annotations

import errno
import gc
import http.client
import os
import re
import socket
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import fastsocketserver
import pytest
from conftest import DEADLINE, serving, wait_until
from dispatching import (
    BESIDE,
    HERE,
    MAY_FORK,
    SERVERS,
    Lines,
    clients_of,
    hear,
    hear_end,
    say,
    served,
    server_of,
    settled,
    wait_for,
)
from probes import LOOPBACK, Call, client_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings(MAY_FORK)

COUNTS = ["accepted", "received", "active", "parked", "finished", "failed", "refused"]


def quiet(*args: Any) -> None:
    pass


def counts(stats: Any) -> dict[str, int]:
    """Return the counts that are not 0."""
    return {name: value for name in COUNTS if (value := getattr(stats, name))}


def is_consistent(stats: Any) -> bool:
    taken = stats.accepted + stats.received
    over = stats.finished + stats.failed + stats.refused
    return bool(taken == stats.active + stats.parked + over)


class Failing(fastsocketserver.BaseRequestHandler):
    def handle(self) -> None:
        raise ValueError


class Upper(fastsocketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.packet.upper())


@pytest.mark.parametrize("dispatch", SERVERS)
def test_a_server_that_has_done_nothing(dispatch: str) -> None:
    with server_of(dispatch) as server:
        assert server.stats() == (0, 0, 0, 0, 0, 0, 0, 0, 0, {}, 0, 0.0)
        assert server.connections() == []
        assert str(server.stats()) == "active 0, finished 0"
    assert counts(server.stats()) == {}


@pytest.mark.parametrize("dispatch", SERVERS)
def test_requests_that_are_handled(dispatch: str) -> None:
    with served(dispatch) as server:
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            assert counts(server.stats()) == {"accepted": 1, "active": 1}
            client.shutdown(socket.SHUT_RDWR)
        assert counts(settled(server)) == {"accepted": 1, "finished": 1}


@pytest.mark.parametrize("dispatch", SERVERS)
def test_handlers_that_raise(dispatch: str) -> None:
    with served(dispatch, Failing, handle_error=quiet) as server:
        for _ in range(3):
            with client_of(server) as client:
                assert hear_end(client) == b""
        assert counts(settled(server)) == {"accepted": 3, "failed": 3}


@pytest.mark.parametrize("dispatch", SERVERS)
def test_requests_that_are_refused(dispatch: str) -> None:
    with served(dispatch, verify_request=lambda *_: False) as server:
        with client_of(server) as client:
            assert hear_end(client) == b""
        assert counts(settled(server)) == {"accepted": 1, "refused": 1}


def raising(dispatch: str, name: str) -> Callable[..., Any]:
    """Return a hook that does what it is to do, and raises."""

    def hook(self: Any, *args: Any) -> Any:
        if name in ("shutdown_request", "close_request"):
            getattr(SERVERS[dispatch], name)(self, *args)
        raise ValueError(name)

    return hook


@pytest.mark.parametrize("hook", ["process_request", "finish_request"])
@pytest.mark.parametrize("dispatch", HERE)
def test_hooks_that_raise(dispatch: str, hook: str) -> None:
    attributes = {hook: raising(dispatch, hook), "handle_error": quiet}
    with served(dispatch, **attributes) as server:
        with client_of(server) as client:
            assert hear_end(client) == b""
        assert counts(settled(server)) == {"accepted": 1, "failed": 1}


@pytest.mark.parametrize("hook", ["verify_request", "handle_error", "shutdown_request"])
def test_hooks_that_end_the_loop(hook: str) -> None:
    handler = Failing if hook == "handle_error" else Lines
    with server_of("inline", handler, **{hook: raising("inline", hook)}) as server:
        call = Call(server.serve_forever)
        with client_of(server) as client:
            client.shutdown(socket.SHUT_WR)
            assert hear_end(client) == b""
        with pytest.raises(ValueError, match=hook):
            call.outcome("serve_forever()")
        stats = server.stats()
        assert is_consistent(stats)
        assert (stats.accepted, stats.active) == (1, 0)


@pytest.mark.parametrize("kind", ["UDPServer", "ThreadingUDPServer"])
def test_datagrams(kind: str) -> None:
    server_class = type("Server", (getattr(fastsocketserver, kind),), {"max_packet_size": 8})
    with serving(server := server_class(LOOPBACK, Upper)), client_of(server) as client:
        for _ in range(3):
            client.send(b"short")
            assert client.recv(100) == b"SHORT"
        client.send(b"much too long")
        assert client.recv(100) == b"MUCH TOO"
        stats = settled(server)
        assert counts(stats) == {"received": 4, "finished": 4}
        assert stats.truncated == 1
        assert server.connections() == []


@pytest.mark.parametrize("kind", ["UDPServer", "ThreadingUDPServer"])
def test_a_datagram_that_fits_exactly_is_not_truncated(kind: str) -> None:
    server_class = type("Server", (getattr(fastsocketserver, kind),), {"max_packet_size": 8})
    with serving(server := server_class(LOOPBACK, Upper)), client_of(server) as client:
        client.send(b"12345678")
        assert client.recv(100) == b"12345678"
        assert server.stats().truncated == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
def test_datagrams_that_the_kernel_has_no_room_for() -> None:
    with fastsocketserver.UDPServer(LOOPBACK, Upper) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with client_of(server) as client:
            for _ in range(200):
                client.send(bytes(1000))
        assert server.stats().dropped > 0
        assert server.stats().received == 0


def test_errors_of_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests are asked for by a hook, want of room is told of."""
    left = 3

    def get_request(self: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return fastsocketserver.ThreadingTCPServer.get_request(self)

    with served("threads", get_request=get_request) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        assert server.stats().accept_errors == {errno.EMFILE: 3}
        assert "accept errors 3" in str(server.stats())


def test_threads_that_wait_for_the_next_request() -> None:
    with served("threads") as server:
        with clients_of(server, 3) as clients:
            assert [say(client) for client in clients] == [b"HELLO\n"] * 3
            assert server.stats().idle_threads == 0
        settled(server)
        wait_until(lambda: server.stats().idle_threads == 3, "three idle threads")
    assert server.stats().idle_threads == 0


@pytest.mark.parametrize("dispatch", BESIDE)
def test_the_age_of_the_queue(dispatch: str) -> None:
    with served(dispatch, max_connections=1) as server, client_of(server) as first:
        assert say(first) == b"HELLO\n"
        assert server.stats().queue_age == 0.0
        with client_of(server) as second:
            age = wait_until(lambda: server.stats().queue_age, "the age of the queue")
            wait_until(lambda: server.stats().queue_age > age, "a greater age")
            first.shutdown(socket.SHUT_RDWR)
            assert say(second) == b"HELLO\n"
            assert server.stats().queue_age == 0.0
            second.shutdown(socket.SHUT_RDWR)


def test_in_one_line() -> None:
    stats = fastsocketserver.BaseServer(None, Lines).stats()
    full = stats._replace(accepted=5, failed=1, accept_errors={24: 2, 23: 1}, queue_age=1.26)
    assert str(full) == (
        "accepted 5, active 0, finished 0, failed 1, accept errors 3, queue age 1.3 s"
    )


# --- the invariant ---------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", SERVERS)
def test_the_counts_are_of_one_moment(dispatch: str) -> None:
    stop = threading.Event()
    rounds = 8 if dispatch == "forks" else 60

    class Mixed(Lines):
        def handle(self) -> None:
            if self.rfile.readline() == b"fail\n":
                raise ValueError

    def hammer(server: Any, number: int) -> None:
        for step in range(rounds):
            with client_of(server) as client:
                client.sendall(b"fail\n" if (number + step) % 3 else b"ok\n")
                hear_end(client)

    def look(server: Any) -> int:
        looks = 0
        while not stop.is_set():
            stats = server.stats()
            assert is_consistent(stats), stats
            assert all(value >= 0 for value in stats[:9])
            server.connections()
            looks += 1
        return looks

    attributes: Any = {
        "handle_error": quiet,
        "verify_request": lambda self, request, address: address[1] % 5 != 0,
    }
    if dispatch == "threads":
        attributes["parking"] = True
    with served(dispatch, Mixed, **attributes) as server:
        looking = Call(look, server)
        calls = [Call(hammer, server, number) for number in range(4)]
        for call in calls:
            call.outcome("the clients")
        stats = settled(server)
        stop.set()
        assert looking.outcome("the looks") > 0
    assert stats.accepted == 4 * rounds
    assert is_consistent(stats)


# --- connections() ---------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", SERVERS)
def test_what_is_told_of_a_connection(dispatch: str) -> None:
    with served(dispatch) as server, client_of(server) as client:
        assert say(client, b"12345\n") == b"12345\n"
        (connection,) = server.connections()
        assert connection.client_address == client.getsockname()
        assert 0 < connection.age < DEADLINE
        assert (connection.state, connection.handler) == ("handling", "Lines")
        if sys.platform == "linux" and dispatch != "forks":
            wait_until(lambda: server.connections()[0].sent == 6, "what is sent to arrive")
            assert server.connections()[0].received == 6
        assert server.connections()[0].age > connection.age
        client.shutdown(socket.SHUT_RDWR)
        settled(server)
        assert server.connections() == []


def test_the_oldest_is_first() -> None:
    with served("threads") as server, clients_of(server, 5) as clients:
        assert [say(client) for client in clients] == [b"HELLO\n"] * 5
        told = [connection.client_address for connection in server.connections()]
        assert told == [client.getsockname() for client in clients]


def test_connections_of_a_unix_socket(tmp_path: Any) -> None:
    server = fastsocketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Lines)
    with serving(server), client_of(server) as client:
        assert say(client) == b"HELLO\n"
        (connection,) = server.connections()
        assert (connection.received, connection.sent) == (None, None)


def test_a_handler_that_is_no_class() -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        Lines(request, client_address, server)

    with served("threads", handle) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        assert server.connections()[0].handler.endswith(".handle")


@pytest.mark.parametrize("dispatch", SERVERS)
def test_process_request_that_calls_super(dispatch: str) -> None:
    def process_request(self: Any, request: Any, client_address: Any) -> None:
        SERVERS[dispatch].process_request(self, request, client_address)

    with served(dispatch, process_request=process_request) as server:
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            assert len(server.connections()) == 1
            client.shutdown(socket.SHUT_RDWR)
        assert counts(settled(server)) == {"accepted": 1, "finished": 1}


def test_a_programs_own_pool_that_closes_later() -> None:
    taken: list[Any] = []

    def process_request(self: Any, *args: Any) -> None:
        taken.append(args)

    with served("inline", process_request=process_request) as server:
        with client_of(server) as client:
            wait_until(lambda: taken, "the request")
            assert counts(wait_for(server, active=1)) == {"accepted": 1, "active": 1}
            assert len(server.connections()) == 1
            Call(server.finish_request, *taken[0])
            assert say(client) == b"HELLO\n"
        server.shutdown_request(taken[0][0])
        # Its file may be open for a moment yet, which holds the descriptor.
        wait_until(lambda: server.connections() == [], "the connection to be closed")
        assert counts(server.stats()) == {"accepted": 1, "finished": 1}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_programs_own_pool_that_drops_the_object() -> None:
    taken: list[Any] = []

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        taken.append(request)

    with served("inline", process_request=process_request) as server, client_of(server) as client:
        wait_until(lambda: taken, "the request")
        wait_for(server, active=1)
        taken.clear()
        wait_until(lambda: gc.collect() + 1 and server.connections() == [], "the end of it")
        assert counts(settled(server)) == {"accepted": 1, "finished": 1}
        assert hear_end(client) == b""


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_request_that_is_put_in_place_of_another_is_one() -> None:
    """A program may wrap what was accepted."""

    class Wrapped(socket.socket):
        pass

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        wrapped = Wrapped(fileno=request.detach())
        fastsocketserver.ThreadingTCPServer.process_request(self, wrapped, client_address)

    with served("threads", process_request=process_request) as server:
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            assert counts(server.stats()) == {"accepted": 1, "active": 1}
        assert counts(settled(server)) == {"accepted": 1, "finished": 1}


def test_a_request_at_the_address_of_one_that_is_gone() -> None:
    taken: list[Any] = []

    class Server(fastsocketserver.TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            if taken:
                self.shutdown_request(taken.pop())
                return False
            return not refused

        def process_request(self, request: Any, client_address: Any) -> None:
            taken.append(request)
            refused.append(True)

    refused: list[bool] = []
    with serving(server := Server(LOOPBACK, Lines)):
        for number in range(6):
            with client_of(server) as client:
                if number:
                    assert hear_end(client) == b""
                else:
                    wait_until(lambda: taken, "the request")
        assert counts(settled(server)) == {"accepted": 6, "finished": 1, "refused": 5}


def test_a_programs_own_pool_leaves_nothing_behind() -> None:
    class Address:
        """Who a request comes from; what is alive of these can be counted."""

    addresses: weakref.WeakSet[Address] = weakref.WeakSet()
    taken: list[Any] = []
    count = 0

    class Server(fastsocketserver.TCPServer):
        def get_request(self) -> Any:
            addresses.add(address := Address())
            return super().get_request()[0], address

        def process_request(self, request: Any, client_address: Any) -> None:
            nonlocal count
            if taken:
                self.shutdown_request(taken.pop())
            taken.append(request)
            count += 1

    with serving(server := Server(LOOPBACK, Lines)):
        for _ in range(400):
            client_of(server).close()
        wait_until(lambda: count == 400, "the requests")
        assert len(addresses) < 200
        server.shutdown_request(taken.pop())
        assert counts(settled(server)) == {"accepted": 400, "finished": 400}


@pytest.mark.parametrize("kind", ["UDPServer", "ThreadingUDPServer"])
def test_a_request_that_is_the_servers_own_socket(kind: str) -> None:
    class Server(getattr(fastsocketserver, kind)):  # type: ignore[misc]
        max_connections = 1

        def get_request(self) -> Any:
            self.data, client_address = self.socket.recvfrom(100)
            return self.socket, client_address

    class Answer(fastsocketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendto(b"hello", self.client_address)

    with serving(server := Server(LOOPBACK, Answer)):
        with client_of(server) as client:
            for _ in range(10):
                client.send(b"hi")
                assert client.recv(10) == b"hello"
        assert counts(settled(server)) == {"received": 10, "finished": 10}
        assert server.connections() == []
        assert server.shutdown(drain=DEADLINE) == 0


def test_a_child_counts_from_0() -> None:
    if "forks" not in SERVERS:
        pytest.skip("this platform does not fork")

    class Handler(Lines):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(f"{self.server.stats()}; {self.server.connections()}\n".encode())

    with served("forks", Handler) as server, client_of(server) as client:
        assert say(client) == b"active 0, finished 0; []\n"
        client.shutdown(socket.SHUT_RDWR)
        assert settled(server).finished == 1


@pytest.mark.parametrize("dispatch", HERE)
def test_nothing_is_kept_alive(dispatch: str) -> None:
    alive: list[Any] = []

    class Handler(Lines):
        def handle(self) -> None:
            alive.append(weakref.ref(self.request))
            super().handle()

    with served(dispatch, Handler) as server:
        for _ in range(5):
            with client_of(server) as client:
                assert say(client) == b"HELLO\n"
                server.stats()
                server.connections()
        settled(server)
        gc.disable()
        try:
            wait_until(lambda: not any(ref() for ref in alive), "the requests to go")
        finally:
            gc.enable()
    assert len(alive) == 5


def test_a_server_with_open_requests_is_not_kept_alive() -> None:
    taken: list[Any] = []

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        taken.append(request)

    server = server_of("inline", process_request=process_request)
    with server, client_of(server):
        server.handle_request()
        assert server.stats().active == 1
    alive = weakref.ref(server)
    del server
    wait_until(lambda: alive() is None, "the server to go")
    taken.pop().close()


# --- children of handlers --------------------------------------------------------------------


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
@pytest.mark.parametrize("dispatch", HERE)
def test_a_handler_that_forks_leaves_the_counts_alone(dispatch: str) -> None:
    class Handler(Lines):
        def handle(self) -> None:
            line = self.rfile.readline()
            pid = os.fork()
            if pid == 0:
                os._exit(0 if self.server.stats().accepted == 0 else 1)
            self.wfile.write(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            self.wfile.write(line)

    attributes: Any = {"max_threads": 2, "max_connections": 2, "max_connections_per_client": 100}
    if dispatch == "greenlets":
        attributes["stall_threshold"] = None
    with served(dispatch, Handler, **attributes) as server:
        for _ in range(5):
            with client_of(server) as client:
                assert say(client) == b"0\n"
                assert hear(client) == b"hello\n"
        assert counts(settled(server)) == {"accepted": 5, "finished": 5}


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
def test_a_child_that_is_killed_has_failed() -> None:
    class Handler(Lines):
        def handle(self) -> None:
            self.wfile.write(b"%d\n" % os.getpid())
            time.sleep(DEADLINE)

    with served("forks", Handler) as server, client_of(server) as client:
        os.kill(int(hear(client)), 9)
        assert counts(settled(server)) == {"accepted": 1, "failed": 1}


def test_quiet_disconnects_says_it_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    class Reset(Lines):
        def handle(self) -> None:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    with served("threads", Reset, quiet_disconnects=True) as server:
        with client_of(server) as client:
            assert hear_end(client) == b""
        settled(server)
    errors = capfd.readouterr().err
    assert re.fullmatch(r"\('127.0.0.1', \d+\) went away: \[Errno \d+\] reset\n", errors)


def refused(handler: Any) -> None:
    with socket.socket() as unheard:
        unheard.bind(LOOPBACK)
        socket.create_connection(unheard.getsockname())


def silent_backend(handler: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        ours.recv(1)


def backend_that_goes_away(handler: Any) -> None:
    raise http.client.RemoteDisconnected("closed without an answer")


@pytest.mark.parametrize("act", [refused, silent_backend, backend_that_goes_away])
@pytest.mark.parametrize("dispatch", SERVERS)
def test_quiet_disconnects_tells_in_full_of_other_connections(
    dispatch: str, act: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    handler = type("Handler", (Lines,), {"handle": act})
    with served(dispatch, handler, quiet_disconnects=True) as server:
        with client_of(server) as client:
            assert hear_end(client) == b""
        settled(server)
    errors = capfd.readouterr().err
    assert "Traceback" in errors
    assert "went away" not in errors


@pytest.mark.parametrize("own", [False, True], ids=["deadline", "timeout"])
@pytest.mark.parametrize(
    "act",
    [
        lambda handler: handler.rfile.readline(),
        lambda handler: handler.request.recv(1),
        lambda handler: handler.request.sendall(bytes(1 << 26)),
    ],
    ids=["readline", "recv", "sendall"],
)
@pytest.mark.parametrize("dispatch", SERVERS)
def test_quiet_disconnects_of_a_silent_client(
    dispatch: str, act: Callable[[Any], None], own: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = type("Handler", (Lines,), {"handle": act, "timeout": 0.05 if own else None})
    attributes: dict[str, Any] = {} if own else {"idle_timeout": 0.05}
    with (
        served(dispatch, handler, quiet_disconnects=True, **attributes) as server,
        client_of(server) as client,
    ):
        wait_for(server, failed=1, active=0)
        hear_end(client)
    errors = capfd.readouterr().err
    assert re.fullmatch(r"\('127.0.0.1', \d+\) went away: timed out\n", errors)
