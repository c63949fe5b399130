"""Ending a server while requests run, holding it up, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
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
    MAY_FORK,
    SERVERS,
    Lines,
    clients_of,
    hear,
    hear_end,
    is_silent,
    say,
    server_of,
    settled,
    wait_for,
)
from probes import LOOPBACK, Call, client_of
from program import Program
from variants import Variant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings(MAY_FORK)

LONG = 600.0
"""Seconds that never are over."""
SHORT = 0.05


def quiet(*args: Any) -> None:
    pass


@pytest.fixture(params=SERVERS)
def dispatch(request: pytest.FixtureRequest) -> str:
    """Return the name of each dispatch."""
    name: str = request.param
    return name


@pytest.fixture
def long_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give requests that are ended more time to do so than load can take."""
    monkeypatch.setattr("fastsocketserver._drain.GRACE", DEADLINE)


@contextlib.contextmanager
def running(dispatch: str, handler: Any = Lines, **attributes: Any) -> Iterator[Any]:
    """Give a server that serves, and that the test stops."""
    with server_of(dispatch, handler, **attributes) as server:
        server.call = Call(server.serve_forever)
        yield server
        server.call.outcome("serve_forever()")


# --- shutdown(drain=...) ---------------------------------------------------------------------


def test_without_requests_nothing_is_waited_for(dispatch: str) -> None:
    with running(dispatch) as server:
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
        settled(server)
        assert server.shutdown(drain=LONG) == 0


def test_without_drain_nothing_is_returned(dispatch: str) -> None:
    with running(dispatch) as server:
        assert server.shutdown() is None


def test_requests_that_end_in_time_are_answered(dispatch: str) -> None:
    with running(dispatch) as server:
        count = 1 if dispatch == "inline" else 3
        with clients_of(server, count) as clients:
            assert [say(client) for client in clients] == [b"HELLO\n"] * count
            draining = Call(server.shutdown, LONG)
            assert draining.still_waits()
            assert [say(client, b"last\n") for client in clients] == [b"LAST\n"] * count
            for client in clients:
                client.shutdown(socket.SHUT_RDWR)
            assert draining.outcome("shutdown()") == 0
        stats = server.stats()
        assert (stats.active, stats.finished, stats.failed) == (0, count, 0)


def test_requests_that_are_left_see_the_end(dispatch: str) -> None:
    with running(dispatch, handle_error=quiet) as server:
        count = 1 if dispatch == "inline" else 3
        with clients_of(server, count) as clients:
            assert [say(client) for client in clients] == [b"HELLO\n"] * count
            assert server.shutdown(drain=SHORT) == count
            assert [hear_end(client) for client in clients] == [b""] * count
            assert settled(server).accepted == count


def test_drain_of_nothing_ends_them_at_once(dispatch: str) -> None:
    with running(dispatch, handle_error=quiet) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        assert server.shutdown(drain=0) == 1
        assert hear_end(client) == b""


@pytest.mark.parametrize("dispatch", [name for name in SERVERS if name != "forks"])
def test_handlers_that_are_left_run_to_their_end(dispatch: str, long_grace: None) -> None:
    ends: list[str] = []

    class Handler(Lines):
        def handle(self) -> None:
            try:
                super().handle()
            finally:
                ends.append("handle")

        def finish(self) -> None:
            ends.append("finish")
            super().finish()

    with running(dispatch, Handler, handle_error=quiet) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        assert server.shutdown(drain=SHORT) == 1
        assert ends == ["handle", "finish"]


@pytest.mark.parametrize("dispatch", [name for name in SERVERS if name != "forks"])
def test_a_handler_that_writes_to_nobody_sees_the_end(dispatch: str) -> None:
    errors: list[Any] = []

    class Handler(fastsocketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"hello\n")
            while True:
                self.wfile.write(bytes(1 << 20))

    attributes = {"handle_error": lambda *_: errors.append(sys.exc_info()[1])}
    with running(dispatch, Handler, **attributes) as server, client_of(server) as client:
        assert hear(client) == b"HELLO\n".lower()
        assert server.shutdown(drain=SHORT) == 1
        settled(server)
    # In a greenlet, GreenletExit: that is no `Exception`.
    assert all(isinstance(error, OSError) for error in errors)


@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("dispatch", ["threads", "greenlets"])
def test_requests_that_nobody_would_wait_for_are_drained(
    dispatch: str, block: bool, daemon: bool
) -> None:
    attributes = {"daemon_threads": daemon, "block_on_close": block}
    with running(dispatch, **attributes) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        draining = Call(server.shutdown, LONG)
        assert draining.still_waits()
        assert say(client, b"last\n") == b"LAST\n"
        client.close()
        assert draining.outcome("shutdown()") == 0
        assert server.stats().failed == 0


def test_no_request_is_taken_while_others_are_drained(dispatch: str) -> None:
    with running(dispatch) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        draining = Call(server.shutdown, LONG)
        wait_until(
            lambda: (
                server._BaseServer__shutdown_request or server._BaseServer__is_shut_down.is_set()
            ),
            "the request to be noted",
        )
        assert draining.still_waits()
        with client_of(server) as late:
            late.sendall(b"late\n")
            assert is_silent(late)
        assert server.stats().accepted == 1
        client.shutdown(socket.SHUT_RDWR)
        assert draining.outcome("shutdown()") == 0


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
@pytest.mark.parametrize("count", [1, 2])
def test_drain_does_not_wait_for_one_of_max_children(count: int) -> None:
    """The loop does, as in the standard library."""
    with running("forks", max_children=count) as server, clients_of(server, count) as clients:
        assert [say(client) for client in clients] == [b"HELLO\n"] * count
        draining = Call(server.shutdown, SHORT)
        assert draining.outcome("shutdown()") == count
        assert [hear_end(client) for client in clients] == [b""] * count
        settled(server)


@pytest.mark.skipif("forks" not in SERVERS, reason="this platform does not fork")
def test_a_child_that_ignores_sigterm_is_killed(long_grace: None) -> None:
    class Handler(Lines):
        def handle(self) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.wfile.write(b"ready\n")
            time.sleep(LONG)

    with running("forks", Handler) as server, client_of(server) as client:
        assert hear(client) == b"ready\n"
        assert server.shutdown(drain=SHORT) == 1
        assert server.active_children == set()
        assert server.stats().failed == 1


def test_datagrams_are_drained() -> None:
    go_on = threading.Event()

    class Handler(fastsocketserver.DatagramRequestHandler):
        def handle(self) -> None:
            go_on.wait(DEADLINE)
            self.wfile.write(self.packet)

    with fastsocketserver.ThreadingUDPServer(LOOPBACK, Handler) as server:
        call = Call(server.serve_forever)
        with client_of(server) as client:
            client.send(b"hello")
            wait_for(server, active=1)
            assert server.shutdown(drain=SHORT) == 1
            call.outcome("serve_forever()")
            go_on.set()
            assert client.recv(10) == b"hello"


def test_a_request_in_a_programs_own_pool_is_drained() -> None:
    taken: list[Any] = []

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        taken.append(request)

    with running("inline", process_request=process_request) as server, client_of(server) as client:
        wait_until(lambda: taken, "the request")
        draining = Call(server.shutdown, LONG)
        assert draining.still_waits()
        server.shutdown_request(taken[0])
        assert draining.outcome("shutdown()") == 0
        assert hear_end(client) == b""


def test_a_request_in_a_programs_own_pool_that_stays_is_ended() -> None:
    taken: list[Any] = []

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        taken.append(request)

    with running("inline", process_request=process_request) as server, client_of(server) as client:
        wait_until(lambda: taken, "the request")
        assert server.shutdown(drain=SHORT) == 1
        assert taken[0].recv(1) == b""
        assert hear_end(client) == b""
        taken[0].close()


@pytest.mark.parametrize("seconds", [None, LONG, 0])
def test_from_the_thread_that_serves(dispatch: str, seconds: float | None) -> None:
    """It is noted, and does not wait."""
    returned: list[Any] = []

    class Server(SERVERS[dispatch]):  # type: ignore[misc, valid-type]
        def service_actions(self) -> None:
            super().service_actions()
            if not returned:
                returned.append(self.shutdown(seconds))

    with Server(LOOPBACK, Lines) as server:
        Call(server.serve_forever, SHORT).outcome("serve_forever()")
    assert returned == [None]


def test_a_signals_handler_drains(dispatch: str) -> None:
    """On the thread that serves, which cannot wait for itself; the time is kept all the same."""
    source = f"""
        import signal, threading
        from dispatching import Lines, SERVERS

        class Server(SERVERS[{dispatch!r}]):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass

        with Server(("127.0.0.1", 0), Lines) as server:
            signal.signal(signal.SIGTERM, lambda *_: server.shutdown(drain=float(input())))
            print(server.server_address[1], flush=True)
            server.serve_forever()
            print("over", flush=True)
    """
    for seconds, line in ((LONG, b"LAST\n"), (SHORT, b"")):
        with Program(Variant("fastsocketserver", pass_through=False), source) as program:
            address = "127.0.0.1", int(program.read_line())
            with socket.create_connection(address, DEADLINE) as client:
                assert say(client) == b"HELLO\n"
                program.send_line(str(seconds))
                program.send_signal(signal.SIGTERM)
                if dispatch in ("threads", "forks"):
                    assert program.read_line() == "over"
                if line:
                    assert say(client, b"last\n") == line
                    client.shutdown(socket.SHUT_RDWR)
                else:
                    assert hear_end(client) == b""
            program.end()


def test_from_a_signals_handler_while_the_loop_ends() -> None:
    source = """
        import os, signal, threading

        class Handler(ss.StreamRequestHandler):
            reads_first = True

        class Server(ss.ThreadingTCPServer):
            parking = True

            def shutdown_request(self, request):
                os.kill(os.getpid(), signal.SIGTERM)
                super().shutdown_request(request)

        with Server(("127.0.0.1", 0), Handler) as server:
            signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
            print(server.server_address[1], flush=True)
            def stop():
                while not server.stats().parked:
                    pass
                server.shutdown()
            threading.Thread(target=stop).start()
            server.serve_forever()
    """
    with Program(Variant("fastsocketserver", pass_through=False), source) as program:
        address = "127.0.0.1", int(program.read_line())
        with socket.create_connection(address, DEADLINE) as client:
            assert hear_end(client) == b""
        program.end()


def test_one_that_is_being_taken_is_left() -> None:
    taking, go_on = threading.Event(), threading.Event()

    class Server(fastsocketserver.TCPServer):
        def get_request(self) -> Any:
            request = super().get_request()
            taking.set()
            assert go_on.wait(DEADLINE)
            return request

    with Server(LOOPBACK, Lines) as server:
        serve = Call(server.serve_forever)
        with client_of(server) as client:
            assert taking.wait(DEADLINE)
            assert server.shutdown(drain=SHORT) == 1
            go_on.set()
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
            serve.outcome("serve_forever()")


def test_before_serve_forever(dispatch: str) -> None:
    """It waits for that as long as it may, and the loop then returns at once."""
    with server_of(dispatch) as server:
        assert server.shutdown(drain=SHORT) == 0
        Call(server.serve_forever).outcome("serve_forever()")
        with serving(server), client_of(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)


def test_serve_again_afterwards(dispatch: str) -> None:
    with server_of(dispatch, handle_error=quiet) as server:
        for _ in range(3):
            call = Call(server.serve_forever)
            with client_of(server) as client:
                assert say(client) == b"HELLO\n"
                assert server.shutdown(drain=SHORT) == 1
                assert hear_end(client) == b""
            call.outcome("serve_forever()")
        assert server.stats().accepted == 3


def test_two_may_drain_at_once(dispatch: str) -> None:
    with running(dispatch) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        calls = [Call(server.shutdown, LONG) for _ in range(2)]
        assert calls[0].still_waits()
        client.shutdown(socket.SHUT_RDWR)
        assert [call.outcome("shutdown()") for call in calls] == [0, 0]


def test_many_requests_are_left() -> None:
    with running("greenlets") as server, clients_of(server, 100) as clients:
        assert [say(client) for client in clients] == [b"HELLO\n"] * 100
        assert server.shutdown(drain=SHORT) == 100
        assert [hear_end(client) for client in clients] == [b""] * 100


@pytest.mark.parametrize("wait", ["sleep", "to_thread"])
def test_a_greenlet_that_waits_for_something_else_is_ended(wait: str) -> None:
    go_on = threading.Event()
    ends: list[str] = []

    class Handler(Lines):
        def handle(self) -> None:
            self.wfile.write(b"ready\n")
            try:
                if wait == "sleep":
                    fastsocketserver.sleep(LONG)
                else:
                    fastsocketserver.to_thread(go_on.wait, LONG)
            finally:
                ends.append("end")

    with running("greenlets", Handler) as server, client_of(server) as client:
        assert hear(client) == b"ready\n"
        assert server.shutdown(drain=SHORT) == 1
        go_on.set()
        assert hear_end(client) == b""
    assert ends == ["end"]


def test_a_greenlet_sleeps_on_while_it_is_drained() -> None:
    class Handler(Lines):
        def handle(self) -> None:
            self.wfile.write(b"ready\n")
            fastsocketserver.sleep(0.3)
            self.wfile.write(b"done\n")

    with running("greenlets", Handler, block_on_close=False) as server, client_of(server) as client:
        assert hear(client) == b"ready\n"
        assert server.shutdown(drain=LONG) == 0
        assert hear_end(client) == b"done\n"


@pytest.mark.parametrize("value", ["x", object()])
def test_what_is_no_number_of_seconds(value: Any) -> None:
    with running("threads") as server:
        with pytest.raises(TypeError):
            server.shutdown(drain=value)
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
        server.shutdown()


def test_any_time(dispatch: str) -> None:
    with running(dispatch) as server, client_of(server) as client:
        assert say(client) == b"HELLO\n"
        draining = Call(server.shutdown, float("inf"))
        assert draining.still_waits()
        client.shutdown(socket.SHUT_RDWR)
        assert draining.outcome("shutdown()") == 0


# --- pause() and resume() --------------------------------------------------------------------


def test_the_kernel_holds_what_is_not_taken(dispatch: str) -> None:
    with serving(server := server_of(dispatch)):
        server.pause()
        with clients_of(server, 3) as clients:
            for client in clients:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
            assert is_silent(clients[0])
            assert server.stats().accepted == 0
            wait_until(lambda: server.stats().queue_age > 0, "the age of the queue")
            server.resume()
            assert [hear_end(client) for client in clients] == [b"HELLO\n"] * 3
        assert server.stats().queue_age == 0.0


@pytest.mark.parametrize("dispatch", BESIDE)
def test_what_was_taken_goes_on(dispatch: str) -> None:
    with serving(server := server_of(dispatch)), client_of(server) as client:
        assert say(client) == b"HELLO\n"
        server.pause()
        assert say(client) == b"HELLO\n"
        server.resume()
        client.shutdown(socket.SHUT_RDWR)


def test_resume_wakes_the_loop(dispatch: str) -> None:
    with serving(server := server_of(dispatch), None), client_of(server) as client:  # type: ignore[arg-type]
        assert say(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)
        if dispatch == "inline":
            settled(server)
        server.pause()
        with client_of(server) as waiting:
            waiting.sendall(b"hello\n")
            assert is_silent(waiting)
            server.resume()
            assert hear(waiting) == b"HELLO\n"
            waiting.shutdown(socket.SHUT_RDWR)


def test_pause_before_serving_and_twice(dispatch: str) -> None:
    server = server_of(dispatch)
    server.pause()
    server.pause()
    with serving(server), client_of(server) as client:
        client.sendall(b"hello\n")
        assert is_silent(client)
        server.resume()
        assert hear(client) == b"HELLO\n"
        client.shutdown(socket.SHUT_RDWR)
        server.resume()


def test_a_paused_server_can_be_shut_down(dispatch: str) -> None:
    with running(dispatch) as server:
        server.pause()
        with client_of(server):
            assert server.shutdown(drain=LONG) == 0


@pytest.mark.parametrize("dispatch", [name for name in SERVERS if name != "greenlets"])
def test_handle_request_while_paused_times_out(dispatch: str) -> None:
    timeouts: list[bool] = []
    attributes: Any = {"timeout": SHORT, "handle_timeout": lambda self: timeouts.append(True)}
    with server_of(dispatch, **attributes) as server, client_of(server) as client:
        server.pause()
        client.sendall(b"hello\n")
        client.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert timeouts == [True]
        assert server.stats().accepted == 0
        server.timeout = DEADLINE
        server.resume()
        server.handle_request()
        assert hear_end(client) == b"HELLO\n"
        assert timeouts == [True]
        server.timeout = SHORT


def test_handle_request_in_greenlets_while_paused_times_out() -> None:
    timeouts: list[bool] = []
    attributes: Any = {"timeout": SHORT, "handle_timeout": lambda self: timeouts.append(True)}
    with server_of("greenlets", **attributes) as server, client_of(server) as client:
        server.pause()
        client.sendall(b"hello\n")
        client.shutdown(socket.SHUT_WR)
        server.handle_request()
        assert timeouts == [True]
        assert server.stats().accepted == 0


def test_datagrams_wait_too() -> None:
    class Handler(fastsocketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.packet.upper())

    for server_class in (fastsocketserver.UDPServer, fastsocketserver.ThreadingUDPServer):
        with serving(server := server_class(LOOPBACK, Handler)), client_of(server) as client:
            server.pause()
            client.send(b"hello")
            assert is_silent(client)
            server.resume()
            assert client.recv(10) == b"HELLO"


# --- unlink_on_close -------------------------------------------------------------------------

if hasattr(socket, "AF_UNIX"):
    UNIX: list[Any] = [fastsocketserver.UnixStreamServer, fastsocketserver.UnixDatagramServer]
else:
    UNIX = []


def unix_server(base: Any, path: Any, **attributes: Any) -> Any:
    return type("Server", (base,), attributes)(path, Lines)


@pytest.mark.parametrize("base", UNIX)
def test_the_file_of_a_socket_is_removed(base: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with unix_server(base, str(path), unlink_on_close=True) as server:
        assert path.exists()
        server.server_close()
        assert not path.exists()
        server.server_close()


@pytest.mark.parametrize("base", UNIX)
def test_the_file_is_left_by_default(base: Any, tmp_path: Path) -> None:
    with unix_server(base, str(tmp_path / "s")):
        pass
    assert (tmp_path / "s").exists()


@pytest.mark.parametrize("base", UNIX)
def test_the_file_of_another_is_left(base: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with unix_server(base, str(path), unlink_on_close=True):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


@pytest.mark.parametrize("base", UNIX)
def test_a_file_that_is_gone_is_no_error(base: Any, tmp_path: Path) -> None:
    with unix_server(base, str(tmp_path / "s"), unlink_on_close=True):
        (tmp_path / "s").unlink()


@pytest.mark.parametrize("base", UNIX)
def test_a_path_that_cannot_be_bound_is_left(base: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("another's")
    with pytest.raises(OSError, match="in use"):
        unix_server(base, str(path), unlink_on_close=True)
    assert path.read_text() == "another's"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
@pytest.mark.parametrize("base", UNIX)
def test_abstract_names_have_no_file(base: Any) -> None:
    with unix_server(base, f"\0fastsocketserver.test.{os.getpid()}", unlink_on_close=True):
        pass


@pytest.mark.parametrize("base", UNIX)
def test_a_path_of_bytes(base: Any, tmp_path: Path) -> None:
    with unix_server(base, os.fsencode(tmp_path / "s"), unlink_on_close=True):
        assert (tmp_path / "s").exists()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("base", UNIX)
def test_a_relative_path_after_a_change_of_folder(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's file of that name is not removed."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with unix_server(base, "s", unlink_on_close=True):
        monkeypatch.chdir(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "s").write_text("another's")
    assert (tmp_path / "elsewhere" / "s").read_text() == "another's"
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("base", UNIX)
def test_a_program_may_give_the_server_another_address(base: Any, tmp_path: Path) -> None:
    with unix_server(base, str(tmp_path / "s"), unlink_on_close=True) as server:
        server.server_address = ("a name", 80)
    assert not (tmp_path / "s").exists()


def test_tcp_servers_have_no_file() -> None:
    with server_of("threads", unlink_on_close=True):
        pass


@pytest.mark.skipif("forks" not in SERVERS or not UNIX, reason="this platform does not fork")
def test_a_child_leaves_the_file(tmp_path: Path) -> None:
    class Handler(Lines):
        def handle(self) -> None:
            super().handle()
            self.server.server_close()

    path = tmp_path / "s"
    server = type("Server", (fastsocketserver.ForkingUnixStreamServer,), {"unlink_on_close": True})(
        str(path), Handler
    )
    with serving(server):
        with client_of(server) as client:
            assert say(client) == b"HELLO\n"
            client.shutdown(socket.SHUT_RDWR)
        settled(server)
        assert path.exists()
    assert not path.exists()
