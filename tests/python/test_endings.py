"""How serving ends, and what is left afterwards."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from probes import (
    BRIEFLY,
    LOOPBACK,
    Call,
    ask_nothing,
    client_of,
    connect,
    echo_handler,
    open_descriptors,
    read_all,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from variants import Variant

AN_HOUR = 3600
"""A poll interval that no test lives to see the end of."""

KINDS = (
    "TCPServer",
    "ThreadingTCPServer",
    "UDPServer",
    "ThreadingUDPServer",
    "UnixStreamServer",
    "UnixDatagramServer",
)


def make_server(ss: Variant, kind: str, tmp_path: Path, handler: type | None = None) -> Any:
    """Return a server of the named class that answers a line in capitals."""
    base = "DatagramRequestHandler" if "UDP" in kind or "Datagram" in kind else None
    address = str(tmp_path / "socket") if "Unix" in kind else LOOPBACK
    return getattr(ss, kind)(address, handler or echo_handler(ss, base or "StreamRequestHandler"))


def exchange(server: Any) -> bytes:
    """Return the server's answer to one line or datagram."""
    with client_of(server) as client:
        client.sendall(b"hello\n")
        answer: bytes = client.recv(100)
        return answer


def ended(server: Any) -> bool:
    """Say whether the server's flags are those of one whose loop has ended."""
    return server._BaseServer__is_shut_down.is_set() and not server._BaseServer__shutdown_request


# shutdown()


def test_shutdown_before_serve_forever_waits_and_makes_it_return_at_once(ss: Variant) -> None:
    handled: list[Any] = []
    with ss.TCPServer(LOOPBACK, lambda *request: handled.append(request)) as server:
        with client_of(server):
            shutdown = Call(server.shutdown)
            wait_until(lambda: server._BaseServer__shutdown_request, "the request to be noted")
            assert shutdown.still_waits()
            Call(server.serve_forever, AN_HOUR).outcome("serve_forever()")
            shutdown.outcome("shutdown()")
        assert handled == []
        assert ended(server)


def test_shutdown_may_meet_any_line_of_serve_forever(ss: Variant) -> None:
    for _ in range(50):
        with ss.TCPServer(LOOPBACK, ss.BaseRequestHandler) as server:
            loop = Call(server.serve_forever, 0.001)
            Call(server.shutdown).outcome("shutdown()")
            loop.outcome("serve_forever()")
            assert ended(server)


def test_shutdown_returns_when_the_running_handler_has_ended(ss: Variant) -> None:
    entered, release = threading.Event(), threading.Event()
    events: list[str] = []

    class Slow(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            entered.set()
            release.wait(DEADLINE)
            events.append("handled")

    with ss.TCPServer(LOOPBACK, Slow) as server:
        loop = Call(server.serve_forever, 0.01)
        with client_of(server), client_of(server):
            assert entered.wait(DEADLINE), "no request was handled"
            shutdown = Call(server.shutdown)
            wait_until(lambda: server._BaseServer__shutdown_request, "the request to be noted")
            assert shutdown.still_waits()
            release.set()
            shutdown.outcome("shutdown()")
            assert events == ["handled"], "the second client was served after the shutdown"
        loop.outcome("serve_forever()")


def test_shutdown_after_the_end_returns_and_ends_the_next_serve_forever(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        loop = Call(server.serve_forever, 0.01)
        server.shutdown()
        loop.outcome("serve_forever()")
        Call(server.shutdown).outcome("shutdown() after the end")
        Call(server.serve_forever, AN_HOUR).outcome("the next serve_forever()")
        assert ended(server)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_serves_again_after_shutdown(ss: Variant, kind: str, tmp_path: Path) -> None:
    with make_server(ss, kind, tmp_path) as server:
        for _ in range(3):
            loop = Call(server.serve_forever, 0.01)
            assert exchange(server) == b"HELLO\n"
            server.shutdown()
            loop.outcome("serve_forever()")
            assert ended(server)


def test_clients_wait_in_the_queue_while_nobody_serves(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        loop = Call(server.serve_forever, 0.01)
        server.shutdown()
        loop.outcome("serve_forever()")
        with client_of(server) as client, serving(server, 0.01):
            client.sendall(b"early\n")
            assert read_all(client) == b"EARLY\n"


def test_shutdown_from_a_request_thread_waits_for_the_loop(ss: Variant) -> None:
    observed: list[bool] = []

    class Stop(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            self.server.shutdown()
            observed.append(ended(self.server))

    with ss.ThreadingTCPServer(LOOPBACK, Stop) as server:
        loop = Call(server.serve_forever, 0.01)
        assert ask_nothing(server.server_address) == b""
        loop.outcome("serve_forever()")
    assert observed == [True]


def test_two_callers_of_shutdown_both_return(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        loop = Call(server.serve_forever, 0.01)
        assert exchange(server) == b"HELLO\n"
        calls = [Call(server.shutdown) for _ in range(2)]
        for call in calls:
            call.outcome("shutdown()")
        loop.outcome("serve_forever()")


# The private flags, which programs write and read


def test_a_handler_stops_the_server_by_the_private_flag(ss: Variant) -> None:
    class Stop(ss.StreamRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            self.server._BaseServer__shutdown_request = True
            self.wfile.write(b"bye")

    with ss.TCPServer(LOOPBACK, Stop) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        assert ask_nothing(server.server_address) == b"bye"
        loop.outcome("serve_forever()")
        assert ended(server)


def test_another_thread_stops_the_server_by_the_private_flag(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        loop = Call(server.serve_forever, 0.01)
        assert exchange(server) == b"HELLO\n"
        server._BaseServer__shutdown_request = True
        loop.outcome("serve_forever()")
        assert ended(server)


def test_the_loop_leaves_without_accepting_when_asked_to_while_it_waited(ss: Variant) -> None:
    rounds: list[None] = []

    class Server(ss.TCPServer):  # type: ignore[misc, name-defined]
        def service_actions(self) -> None:
            super().service_actions()
            rounds.append(None)

    with Server(LOOPBACK, echo_handler(ss)) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        assert exchange(server) == b"HELLO\n"
        wait_until(lambda: rounds, "the first round to end")
        server._BaseServer__shutdown_request = True
        with client_of(server) as client:
            loop.outcome("serve_forever()")
            assert len(rounds) == 1, "service_actions() ran on the round that saw the request"
            client.sendall(b"late\n")
            with serving(server, 0.01):
                assert read_all(client) == b"LATE\n", "the client was taken from the queue"


def test_the_event_is_cleared_while_serving(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        assert not server._BaseServer__is_shut_down.is_set()
        for _ in range(2):
            loop = Call(server.serve_forever, 0.01)
            assert exchange(server) == b"HELLO\n"
            assert not server._BaseServer__is_shut_down.is_set()
            server.shutdown()
            assert server._BaseServer__is_shut_down.is_set()
            loop.outcome("serve_forever()")


def test_setting_the_event_releases_shutdown(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        shutdown = Call(server.shutdown)
        wait_until(lambda: server._BaseServer__shutdown_request, "the request to be noted")
        server._BaseServer__is_shut_down.set()
        shutdown.outcome("shutdown()")


# Exceptions that leave the loop


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("hook", ["service_actions", "get_request", "verify_request"])
def test_an_exception_that_leaves_the_loop_leaves_it_ended(
    ss: Variant, hook: str, error: type[BaseException]
) -> None:
    def fail(self: Any, *request: Any) -> None:
        if request:
            request[0].close()
        raise error("from a hook")

    server_class = type("Failing", (ss.TCPServer,), {hook: fail})
    with server_class(LOOPBACK, ss.BaseRequestHandler) as server, client_of(server):
        loop = Call(server.serve_forever, AN_HOUR)
        with pytest.raises(error, match="from a hook"):
            loop.outcome("serve_forever()")
        assert ended(server)
        Call(server.shutdown).outcome("shutdown()")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["serve_forever", "handle_request"])
def test_the_end_of_the_program_leaves_the_loop_from_a_handler(
    ss: Variant, how: str, error: type[BaseException]
) -> None:
    class Quit(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            raise error("from a handler")

    with ss.TCPServer(LOOPBACK, Quit) as server, client_of(server) as client:
        call = Call(getattr(server, how))
        with pytest.raises(error, match="from a handler"):
            call.outcome(how)
        assert read_all(client) == b"", "the request was not shut down"
        assert ended(server) == (how == "serve_forever")


# server_close()


@pytest.mark.parametrize("kind", KINDS)
def test_server_close_may_be_called_twice(ss: Variant, kind: str, tmp_path: Path) -> None:
    server = make_server(ss, kind, tmp_path)
    server.server_close()
    server.server_close()
    assert server.fileno() == -1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("served", [False, True], ids=["unused", "used"])
def test_a_closed_server_refuses_to_serve(
    ss: Variant, kind: str, served: bool, tmp_path: Path
) -> None:
    server = make_server(ss, kind, tmp_path)
    if served:
        with serving(server, 0.01):
            assert exchange(server) == b"HELLO\n"
    server.server_close()
    for method in (server.serve_forever, server.handle_request):
        with pytest.raises(ValueError, match="-1"):
            Call(method).outcome(method.__name__)


def test_shutdown_returns_after_a_closed_server_refused_to_serve(ss: Variant) -> None:
    server = ss.TCPServer(LOOPBACK, ss.BaseRequestHandler)
    server.server_close()
    with pytest.raises(ValueError, match="-1"):
        server.serve_forever()
    assert ended(server)
    Call(server.shutdown).outcome("shutdown()")


def test_a_closed_server_refuses_its_clients(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server, serving(server, 0.01):
        assert exchange(server) == b"HELLO\n"
    with pytest.raises(ConnectionRefusedError):
        connect(server.server_address)


@pytest.mark.parametrize("kind", [*KINDS, "ThreadingUnixStreamServer", "ForkingTCPServer"])
def test_a_whole_life_leaves_no_descriptor_open(ss: Variant, kind: str, tmp_path: Path) -> None:
    before = open_descriptors()
    with make_server(ss, kind, tmp_path) as server:
        if not kind.startswith("Forking"):
            loop = Call(server.serve_forever, 0.01)
            assert exchange(server) == b"HELLO\n"
            server.shutdown()
            loop.outcome("serve_forever()")
        server.timeout = 0
        server.handle_request()
    assert open_descriptors() == before


def test_own_loops_leave_nothing_open_but_the_listener(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        counts = []
        for _ in range(5):
            with client_of(server) as client:
                client.sendall(b"hello\n")
                server.handle_request()
                assert read_all(client) == b"HELLO\n"
            counts.append(open_descriptors())
        assert len(set(counts)) == 1


# Construction that fails


@pytest.mark.parametrize("hook", ["server_bind", "server_activate"])
@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_of_a_hook_closes_the_socket_of_the_constructor(
    ss: Variant, hook: str, error: type[BaseException]
) -> None:
    seen: list[Any] = []

    def fail(self: Any) -> None:
        seen.append(self.socket)
        raise error("from a hook")

    def server_close(self: Any) -> None:
        seen.append("server_close")
        super(type(self), self).server_close()

    attributes = {hook: fail, "server_close": server_close}
    server_class = type("Failing", (ss.TCPServer,), attributes)
    with pytest.raises(error, match="from a hook"):
        server_class(LOOPBACK, ss.BaseRequestHandler)
    assert seen[1:] == ["server_close"]
    assert seen[0].fileno() == -1


def test_a_failed_server_is_freed_at_once(ss: Variant, uncollected: None) -> None:
    references: list[weakref.ref[Any]] = []

    class Failing(ss.TCPServer):  # type: ignore[misc, name-defined]
        def server_bind(self) -> None:
            references.extend([weakref.ref(self), weakref.ref(self.socket)])
            super().server_bind()

    with pytest.raises(OverflowError) as caught:
        Failing(("127.0.0.1", -1), ss.BaseRequestHandler)
    del caught
    assert [reference() for reference in references] == [None, None]


# What is freed without the cycle collector


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Run the test without the cycle collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def life_of(server: Any, *, served: bool) -> list[weakref.ref[Any]]:
    """Let a server live and close; return weak references to it and to its socket."""
    references = [weakref.ref(server), weakref.ref(server.socket)]
    if served:
        loop = Call(server.serve_forever, 0.01)
        assert exchange(server) == b"HELLO\n"
        server.shutdown()
        loop.outcome("serve_forever()")
        server.timeout = 0
        server.handle_request()
    server.server_close()
    return references


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("served", [False, True], ids=["unused", "used"])
def test_a_closed_server_is_freed_as_soon_as_nobody_refers_to_it(
    ss: Variant, kind: str, served: bool, tmp_path: Path, uncollected: None
) -> None:
    references = life_of(make_server(ss, kind, tmp_path), served=served)
    assert [reference() for reference in references] == [None, None]


@pytest.mark.parametrize("served", [False, True], ids=["unused", "used"])
def test_a_server_that_is_dropped_open_warns_and_closes(
    ss: Variant, served: bool, uncollected: None
) -> None:
    before = open_descriptors()
    server = ss.TCPServer(LOOPBACK, echo_handler(ss))
    if served:
        loop = Call(server.serve_forever, 0.01)
        assert exchange(server) == b"HELLO\n"
        server.shutdown()
        loop.outcome("serve_forever()")
        del loop
    with pytest.warns(ResourceWarning, match="unclosed <socket"):
        del server
    assert open_descriptors() == before


@pytest.mark.parametrize("kind", [*KINDS, "ThreadingUnixStreamServer"])
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_handlers_and_requests_are_freed_when_the_request_is_over(
    ss: Variant, kind: str, fails: bool, tmp_path: Path, uncollected: None
) -> None:
    references: list[weakref.ref[Any]] = []
    datagrams = "UDP" in kind or "Datagram" in kind

    base = "DatagramRequestHandler" if datagrams else "StreamRequestHandler"

    class Watched(echo_handler(ss, base)):  # type: ignore[misc]
        def handle(self) -> None:
            references.append(weakref.ref(self))
            if not datagrams:
                references.append(weakref.ref(self.request))
            super().handle()
            if fails:
                raise ValueError("from a handler")

    server = make_server(ss, kind, tmp_path, Watched)
    server.handle_error = lambda *request: None
    with serving(server, 0.01):
        for _ in range(3):
            assert exchange(server) == b"HELLO\n"
        wait_until(lambda: len(references) == 3 * (2 - datagrams), "three requests")
        wait_until(
            lambda: not any(reference() for reference in references),
            "the handlers and their requests to be freed",
        )


# Where the replacement does better


@pytest.mark.parametrize("kind", [*KINDS, "ForkingTCPServer"])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_shutdown_of_an_idle_server_does_not_wait_for_the_poll_interval(
    ours: Variant, kind: str, used: bool, tmp_path: Path
) -> None:
    if used and kind.startswith("Forking"):
        pytest.skip("forks belong on the main thread: see test_forking_mixin")
    with make_server(ours, kind, tmp_path) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        if used:
            assert exchange(server) == b"HELLO\n"
        Call(server.shutdown).outcome("shutdown() of an idle server")
        loop.outcome("serve_forever()")
        assert ended(server)


def test_shutdown_ends_a_loop_that_was_told_to_wait_for_ever(ours: Variant) -> None:
    with ours.TCPServer(LOOPBACK, echo_handler(ours)) as server:
        loop = Call(server.serve_forever, None)
        assert exchange(server) == b"HELLO\n"
        Call(server.shutdown).outcome("shutdown()")
        loop.outcome("serve_forever()")


def test_shutdown_wakes_each_of_many_loops(ours: Variant) -> None:
    for _ in range(100):
        with ours.TCPServer(LOOPBACK, ours.BaseRequestHandler) as server:
            loop = Call(server.serve_forever, AN_HOUR)
            Call(server.shutdown).outcome("shutdown()")
            loop.outcome("serve_forever()")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_server_close_from_another_thread_ends_the_loop(
    ours: Variant, kind: str, used: bool, tmp_path: Path
) -> None:
    rounds: list[None] = []
    server = make_server(ours, kind, tmp_path)
    server.service_actions = lambda: rounds.append(None)
    loop = Call(server.serve_forever, AN_HOUR if used else 0.01)
    if used:
        assert exchange(server) == b"HELLO\n"
    else:
        wait_until(lambda: rounds, "the loop to run")
    Call(server.server_close).outcome("server_close()")
    loop.outcome("serve_forever()")
    assert server.fileno() == -1
    assert ended(server)
    Call(server.shutdown).outcome("shutdown()")


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer", "UnixStreamServer"])
def test_a_handler_that_closes_its_server_ends_the_loop(
    ours: Variant, kind: str, tmp_path: Path
) -> None:
    class Close(ours.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            self.server.server_close()

    server = make_server(ours, kind, tmp_path, Close)
    loop = Call(server.serve_forever, AN_HOUR)
    with client_of(server) as client:
        if kind == "UDPServer":
            client.sendall(b"hello")
        loop.outcome("serve_forever()")
    assert ended(server)


def test_server_close_while_serving_burns_no_processor_time(ours: Variant) -> None:
    server = ours.TCPServer(LOOPBACK, echo_handler(ours))
    loop = Call(server.serve_forever)
    assert exchange(server) == b"HELLO\n"
    Call(server.server_close).outcome("server_close()")
    used = time.process_time()
    loop.join(1)
    assert time.process_time() - used < 0.3
    loop.outcome("serve_forever()")


def test_an_idle_server_makes_no_needless_rounds(ss: Variant) -> None:
    rounds: list[None] = []
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        server.service_actions = lambda: rounds.append(None)
        with serving(server, 0.02):
            assert exchange(server) == b"HELLO\n"
            begin, count = time.monotonic(), len(rounds)
            threading.Event().wait(2 * BRIEFLY)
            count = len(rounds) - count
            elapsed = time.monotonic() - begin
        assert count <= elapsed / 0.02 + 3


STOPPING_HOOKS = (
    "get_request",
    "verify_request",
    "process_request",
    "finish_request",
    "shutdown_request",
    "close_request",
    "service_actions",
    "_handle_request_noblock",
)


@pytest.mark.parametrize("hook", STOPPING_HOOKS)
def test_shutdown_from_a_hook_of_the_loop_is_noted_and_returns(ours: Variant, hook: str) -> None:
    returned: list[bool] = []

    def stop(self: Any, *args: Any) -> Any:
        if not returned:
            self.shutdown()
            returned.append(self._BaseServer__is_shut_down.is_set())
        return getattr(super(server_class, self), hook)(*args)

    server_class = type("Stopping", (ours.TCPServer,), {hook: stop})
    with server_class(LOOPBACK, echo_handler(ours)) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        assert exchange(server) == b"HELLO\n", "the request at hand was not finished"
        loop.outcome("serve_forever()")
        assert returned == [False]
        assert ended(server)
        with serving(server):
            assert exchange(server) == b"HELLO\n", "the server does not serve again"


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer", "UnixStreamServer"])
def test_shutdown_from_the_handler_on_the_loop_is_noted_and_returns(
    ours: Variant, kind: str, tmp_path: Path
) -> None:
    base = "DatagramRequestHandler" if kind == "UDPServer" else "StreamRequestHandler"

    class Stop(echo_handler(ours, base)):  # type: ignore[misc]
        def handle(self) -> None:
            self.server.shutdown()
            super().handle()

    with make_server(ours, kind, tmp_path, Stop) as server:
        for _ in range(2):
            loop = Call(server.serve_forever, AN_HOUR)
            assert exchange(server) == b"HELLO\n"
            loop.outcome("serve_forever()")
            assert ended(server)


def test_shutdown_from_handle_error_on_the_loop_is_noted_and_returns(ours: Variant) -> None:
    class Fail(ours.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            raise ValueError("from a handler")

    class Server(ours.TCPServer):  # type: ignore[misc, name-defined]
        def handle_error(self, request: socket.socket, client_address: Any) -> None:
            self.shutdown()

    with Server(LOOPBACK, Fail) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        assert ask_nothing(server.server_address) == b""
        loop.outcome("serve_forever()")
