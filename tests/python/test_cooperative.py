"""What a handler may wait by, in any dispatch: `sleep()` and `to_thread()`."""

from __future__ import annotations

import contextvars
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving
from probes import LOOPBACK, Call, ask, ask_nothing, client_of, connect, read_all
from program import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from variants import Variant

# The servers run beside the test's own thread, also the one that forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

DISPATCHES = ["TCPServer", "ThreadingTCPServer", "GreenletTCPServer"]
if hasattr(os, "fork"):
    DISPATCHES.append("ForkingTCPServer")


def server_of(
    ours: Variant, dispatch: str, *acts: Callable[[Any], bytes], **attributes: Any
) -> Any:
    """Return a server whose requests send what one of `acts` returns, the last for good."""
    left = list(acts)

    def handle(handler: Any) -> None:
        act = left.pop(0) if len(left) > 1 else left[0]
        handler.wfile.write(act(handler))

    handler_class = type("Handler", (ours.StreamRequestHandler,), {"handle": handle})
    return type("Server", (getattr(ours, dispatch),), attributes)(LOOPBACK, handler_class)


# --- sleep -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 0.01, 1e-9])
def test_sleep_lasts_that_long_outside_a_server(ours: Variant, seconds: float) -> None:
    begun = time.monotonic()
    ours.sleep(seconds)
    assert time.monotonic() - begun >= seconds


@pytest.mark.parametrize("dispatch", ["TCPServer", "ThreadingTCPServer", "GreenletTCPServer"])
def test_sleep_lasts_that_long_in_a_request(ours: Variant, dispatch: str) -> None:
    lengths: list[float] = []

    def act(handler: Any) -> bytes:
        begun = time.monotonic()
        ours.sleep(0.01)
        lengths.append(time.monotonic() - begun)
        return b"slept"

    server = server_of(ours, dispatch, act)
    with serving(server):
        assert ask_nothing(server.server_address) == b"slept"
    assert lengths[0] >= 0.01


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan])
@pytest.mark.parametrize("dispatch", ["TCPServer", "GreenletTCPServer"])
def test_sleep_refuses_what_is_no_length(ours: Variant, dispatch: str, seconds: float) -> None:
    def act(handler: Any) -> bytes:
        with pytest.raises(ValueError, match=r"must be|NaN"):
            ours.sleep(seconds)
        return b"refused"

    server = server_of(ours, dispatch, act)
    with serving(server):
        assert ask_nothing(server.server_address) == b"refused"


def test_sleep_lets_others_run(ours: Variant) -> None:
    told = threading.Event()

    def sleep(handler: Any) -> bytes:
        while not told.is_set():
            ours.sleep(0.001)
        return b"told"

    def tell(handler: Any) -> bytes:
        told.set()
        return b"telling"

    server = server_of(ours, "GreenletTCPServer", sleep, tell)
    with serving(server), client_of(server) as client:
        assert ask_nothing(server.server_address) == b"telling"
        assert read_all(client) == b"told"


def test_sleep_of_nothing_lets_others_run(ours: Variant) -> None:
    """Those that can go on, and those whose clients have sent."""
    lines: list[bytes] = []

    def sleep(handler: Any) -> bytes:
        while not lines:
            ours.sleep(0)
        return lines[0]

    def read(handler: Any) -> bytes:
        lines.append(handler.rfile.readline())
        return b"read"

    server = server_of(ours, "GreenletTCPServer", sleep, read)
    with serving(server), client_of(server) as client:
        assert ask(server.server_address) == b"read"
        assert read_all(client) == b"hello\n"


def test_a_sleep_is_ended_with_its_request(ours: Variant) -> None:
    begun = threading.Event()

    def sleep(handler: Any) -> bytes:
        begun.set()
        ours.sleep(1e9)
        return b"slept"

    server = server_of(ours, "GreenletTCPServer", sleep, block_on_close=False)
    with serving(server), client_of(server) as client:
        assert begun.wait(DEADLINE)
        Call(server.server_close).outcome("server_close()")
        assert read_all(client) == b""


# --- to_thread -------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_to_thread_returns_what_the_function_does(ours: Variant, dispatch: str) -> None:
    def act(handler: Any) -> bytes:
        return repr(ours.to_thread(divmod, 7, 2)).encode()  # type: ignore[no-any-return]

    server = server_of(ours, dispatch, act)
    with serving(server):
        assert ask_nothing(server.server_address) == b"(3, 1)"


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_to_thread_raises_what_the_function_does(ours: Variant, dispatch: str) -> None:
    def act(handler: Any) -> bytes:
        with pytest.raises(ZeroDivisionError):
            ours.to_thread(divmod, 7, 0)
        return b"raised"

    server = server_of(ours, dispatch, act)
    with serving(server):
        assert ask_nothing(server.server_address) == b"raised"


def test_to_thread_passes_all_arguments_on(ours: Variant) -> None:
    def arguments(*args: Any, **kwargs: Any) -> bytes:
        return repr((args, kwargs)).encode()

    def act(handler: Any) -> bytes:
        return ours.to_thread(arguments, 1, function=2)  # type: ignore[no-any-return]

    server = server_of(ours, "GreenletTCPServer", act)
    with serving(server):
        assert ask_nothing(server.server_address) == b"((1,), {'function': 2})"


@pytest.mark.parametrize(
    ("dispatch", "is_own"), [("TCPServer", True), ("GreenletTCPServer", False)]
)
def test_only_greenlets_need_a_thread(ours: Variant, dispatch: str, is_own: bool) -> None:
    found: list[bool] = []

    def act(handler: Any) -> bytes:
        found.append(ours.to_thread(threading.get_ident) == threading.get_ident())
        return b""

    server = server_of(ours, dispatch, act)
    with serving(server):
        ask_nothing(server.server_address)
    assert found == [is_own]


def test_to_thread_lets_others_run(ours: Variant) -> None:
    told = threading.Event()

    def wait(handler: Any) -> bytes:
        return b"%d" % ours.to_thread(told.wait, DEADLINE)

    def tell(handler: Any) -> bytes:
        told.set()
        return b"telling"

    server = server_of(ours, "GreenletTCPServer", wait, tell)
    with serving(server), client_of(server) as client:
        assert ask_nothing(server.server_address) == b"telling"
        assert read_all(client) == b"1"


def test_functions_of_several_requests_run_at_once(ours: Variant) -> None:
    meeting = threading.Barrier(4, timeout=DEADLINE)

    def meet(handler: Any) -> bytes:
        ours.to_thread(meeting.wait)
        return b"met"

    server = server_of(ours, "GreenletTCPServer", meet)
    with serving(server):
        clients = [Call(ask_nothing, server.server_address) for _ in range(4)]
        assert [client.outcome("a request") for client in clients] == [b"met"] * 4


def test_to_thread_has_a_copy_of_the_context(ours: Variant) -> None:
    variable = contextvars.ContextVar("variable", default=b"default")

    def look() -> bytes:
        before = variable.get()
        variable.set(b"of the thread")
        return before

    def act(handler: Any) -> bytes:
        variable.set(b"of the request")
        return b", ".join([ours.to_thread(look), variable.get()])

    server = server_of(ours, "GreenletTCPServer", act)
    with serving(server):
        assert ask_nothing(server.server_address) == b"of the request, of the request"


def test_a_function_may_wait_for_the_request_s_client(ours: Variant) -> None:
    def act(handler: Any) -> bytes:
        return ours.to_thread(handler.rfile.readline).upper()  # type: ignore[no-any-return]

    server = server_of(ours, "GreenletTCPServer", act)
    with serving(server), client_of(server) as client:
        assert ask(server.server_address) == b"HELLO\n"
        client.sendall(b"client\n")
        assert read_all(client) == b"CLIENT\n"


def test_a_request_is_ended_while_its_function_runs(ours: Variant) -> None:
    entered, release = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        release.wait(DEADLINE)

    def act(handler: Any) -> bytes:
        ours.to_thread(block)
        return b"not reached"

    server = server_of(ours, "GreenletTCPServer", act, block_on_close=False)
    with serving(server), client_of(server) as client:
        assert entered.wait(DEADLINE)
        Call(server.server_close).outcome("server_close()")
        assert read_all(client) == b""
        release.set()


def test_to_thread_in_a_child_of_a_handler(ours: Variant) -> None:
    source = """
        import os
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                ss.to_thread(os.getpid)
                pid = os.fork()
                if pid:
                    os.waitpid(pid, 0)
                else:
                    self.wfile.write(b"%d" % ss.to_thread(divmod, 7, 2)[0])
        class Server(ss.GreenletTCPServer):
            stall_threshold = None
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        with Server(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.handle_request()
    """
    with Program(ours, source) as program:
        with connect(program.read_port()) as client:
            assert read_all(client) == b"3"
        program.end()
