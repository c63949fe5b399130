"""What a request's handler sees in its thread, and what becomes of the threads."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import decimal
import gc
import os
import re
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from probes import (
    LOOPBACK,
    Call,
    ask,
    ask_nothing,
    client_of,
    echo_handler,
    kernel_threads,
    read_all,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from variants import Variant

    Act = Callable[[Any], Any]

NAME = re.compile(r"Thread-(\d+) \(process_request_thread\)")


def threading_server(ss: Variant, act: Act, **attributes: Any) -> Any:
    """Return a threading TCP server whose every request calls `act` with its handler."""

    class Handler(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            act(self)

    server_class = type("Server", (ss.ThreadingTCPServer,), attributes)
    return server_class(LOOPBACK, Handler)


def in_requests(ss: Variant, *acts: Act, **attributes: Any) -> list[Any]:
    """Return what each of `acts` returns in a request thread; one request after the other."""
    values: list[Any] = []
    errors: list[Any] = []
    threads: list[threading.Thread] = []
    waiting = list(acts)

    def act(handler: Any) -> None:
        threads.append(threading.current_thread())
        values.append(waiting.pop(0)(handler))

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        errors.append(sys.exc_info()[1])

    with threading_server(ss, act, **{"handle_error": handle_error, **attributes}) as server:
        loop = Call(server.serve_forever, 0.01)
        for number in range(len(acts)):
            assert ask_nothing(server.server_address) == b""
            threads[number].join(DEADLINE)
            assert not threads[number].is_alive(), "the request's thread did not end"
        server.shutdown()
        loop.outcome("serve_forever()")
    assert errors == []
    return values


class Blocked:
    """A threading server with handlers that wait until they are released."""

    def __init__(self, ss: Variant, **attributes: Any) -> None:
        self.threads: list[threading.Thread] = []
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self.server = threading_server(ss, self._act, **attributes)

    def _act(self, handler: Any) -> None:
        self.threads.append(threading.current_thread())
        self.entered.release()
        assert self.release.wait(DEADLINE), "nobody released the handler"
        handler.request.sendall(b"released")

    def enter(self) -> socket.socket:
        """Return a client whose request's handler waits now."""
        client: socket.socket = client_of(self.server)
        assert self.entered.acquire(timeout=DEADLINE), "no request was handled"
        return client


# Identity


def test_a_request_runs_in_a_thread_that_threading_knows(ss: Variant) -> None:
    def observe(handler: Any) -> None:
        thread = threading.current_thread()
        assert thread is threading.current_thread()
        assert type(thread) is threading.Thread
        assert thread is not threading.main_thread()
        assert thread.is_alive()
        assert thread in threading.enumerate()
        assert thread.ident == threading.get_ident()
        assert thread.native_id == threading.get_native_id()
        assert thread.ident in sys._current_frames()

    in_requests(ss, observe, observe, observe)


@pytest.mark.parametrize("kind", ["ThreadingTCPServer", "ThreadingUDPServer"])
def test_each_request_has_a_thread_of_its_own_name(ss: Variant, kind: str) -> None:
    seen: list[Any] = []

    class Handler(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            seen.append((threading.current_thread(), threading.current_thread().name))

    with getattr(ss, kind)(LOOPBACK, Handler) as server, serving(server, 0.01):
        for number in range(1, 6):
            with client_of(server) as client:
                client.sendall(b"hello\n")
                wait_until(lambda: len(seen) >= number, "the request")  # noqa: B023, called at once
    threads, names = zip(*seen, strict=True)
    assert len(set(threads)) == len(set(names)) == 5
    assert all(NAME.fullmatch(name) for name in names), names
    numbers = [int(NAME.fullmatch(name)[1]) for name in names]  # type: ignore[index]
    assert numbers == sorted(numbers)


def test_a_request_thread_is_no_thread_of_another_request(ss: Variant) -> None:
    blocked = Blocked(ss)
    with (
        blocked.server as server,
        serving(server, 0.01),
        blocked.enter(),
        blocked.enter(),
        blocked.enter(),
    ):
        threads = blocked.threads
        assert len({thread.ident for thread in threads}) == 3
        assert len({thread.native_id for thread in threads}) == 3
        assert {thread.native_id for thread in threads} <= kernel_threads()
        blocked.release.set()


def test_enumerate_and_active_count_count_the_running_requests_only(ss: Variant) -> None:
    blocked = Blocked(ss)
    with blocked.server as server, serving(server, 0.01):
        before = set(threading.enumerate())
        with blocked.enter() as first, blocked.enter() as second:
            assert set(threading.enumerate()) - before == set(blocked.threads)
            assert threading.active_count() == len(before) + 2
            blocked.release.set()
            assert read_all(first) == read_all(second) == b"released"
        wait_until(lambda: set(threading.enumerate()) == before, "the threads to be gone")
        assert threading.active_count() == len(before)


def test_joining_a_request_thread_waits_for_its_request(ss: Variant) -> None:
    blocked = Blocked(ss)
    with blocked.server as server, serving(server, 0.01), blocked.enter() as client:
        (thread,) = blocked.threads
        join = Call(thread.join)
        assert join.still_waits()
        blocked.release.set()
        join.outcome("join()")
        assert not thread.is_alive()
        assert thread not in threading.enumerate()
        assert read_all(client) == b"released"
        assert NAME.fullmatch(thread.name)


def test_joining_oneself_is_refused(ss: Variant) -> None:
    def observe(handler: Any) -> None:
        with pytest.raises(RuntimeError, match="cannot join current thread"):
            threading.current_thread().join()
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            threading.current_thread().start()

    in_requests(ss, observe, observe)


def test_a_new_name_does_not_reach_the_next_request(ss: Variant) -> None:
    def rename(handler: Any) -> str:
        before = threading.current_thread().name
        threading.current_thread().name = "another"
        return before

    for name in in_requests(ss, rename, rename):
        assert NAME.fullmatch(name)


@pytest.mark.parametrize("daemon", [False, True])
def test_the_daemon_flag_is_that_of_the_class(ss: Variant, daemon: bool) -> None:
    def observe(handler: Any) -> bool:
        return threading.current_thread().daemon

    assert in_requests(ss, observe, observe, daemon_threads=daemon) == [daemon, daemon]


def test_the_daemon_flag_is_read_for_each_request(ss: Variant) -> None:
    def toggle(handler: Any) -> bool:
        handler.server.daemon_threads = not handler.server.daemon_threads
        return threading.current_thread().daemon

    assert in_requests(ss, toggle, toggle, toggle) == [False, True, False]


def test_the_daemon_flag_is_not_that_of_the_serving_thread(ss: Variant) -> None:
    seen: list[bool] = []

    class Handler(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            seen.append(threading.current_thread().daemon)

    with ss.ThreadingTCPServer(LOOPBACK, Handler) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        loop.start()
        assert ask_nothing(server.server_address) == b""
        server.shutdown()
        loop.join(DEADLINE)
    assert seen == [False]


# What does not reach the next request


def test_locals_are_empty_at_first(ss: Variant) -> None:
    local = threading.local()

    def observe(handler: Any) -> dict[str, Any]:
        before = dict(vars(local))
        local.value = handler.client_address
        return before

    assert in_requests(ss, observe, observe, observe) == [{}, {}, {}]


def test_a_subclass_of_local_is_initialised_for_each_request(ss: Variant) -> None:
    made: list[int] = []

    class Local(threading.local):
        def __init__(self) -> None:
            made.append(threading.get_ident())
            self.count = 0

    local = Local()

    def observe(handler: Any) -> int:
        local.count += 1
        return local.count

    assert in_requests(ss, observe, observe, observe) == [1, 1, 1]
    assert len(made) == 4


def test_values_of_locals_die_with_the_request(ss: Variant) -> None:
    class Value:
        pass

    local = threading.local()
    references: list[weakref.ref[Value]] = []

    def keep(handler: Any) -> None:
        local.value = Value()
        references.append(weakref.ref(local.value))

    gc.disable()
    try:
        with threading_server(ss, keep) as server, serving(server, 0.01):
            for number in range(1, 4):
                assert ask_nothing(server.server_address) == b""
                assert len(references) == number
                wait_until(lambda: references[-1]() is None, "the value to be freed")
    finally:
        gc.enable()


def test_a_value_of_a_local_is_freed_in_its_thread(ss: Variant) -> None:
    freed: list[tuple[int, int]] = []

    class Value:
        def __init__(self) -> None:
            self.ident = threading.get_ident()

        def __del__(self) -> None:
            freed.append((self.ident, threading.get_ident()))

    local = threading.local()

    def keep(handler: Any) -> None:
        local.value = Value()

    with threading_server(ss, keep) as server, serving(server, 0.01):
        for _ in range(3):
            assert ask_nothing(server.server_address) == b""
        wait_until(lambda: len(freed) == 3, "the values to be freed")
    assert all(made == ended for made, ended in freed)


def test_context_variables_are_those_of_a_new_thread(ss: Variant) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    expected: list[str] = []

    def verify_request(server: Any, request: Any, client_address: Any) -> bool:
        variable.set("of the serving thread")
        thread = threading.Thread(target=lambda: expected.append(variable.get()))
        thread.start()
        thread.join()
        return True

    def observe(handler: Any) -> str:
        before = variable.get()
        variable.set("of a request")
        return before

    seen = in_requests(ss, observe, observe, observe, verify_request=verify_request)
    assert seen == expected


def test_context_variables_set_by_a_request_stay_in_it(ss: Variant) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    seen: list[str] = []

    def service_actions(server: Any) -> None:
        seen.append(variable.get())

    def observe(handler: Any) -> tuple[str, bool]:
        before = variable.get()
        variable.set("of a request")
        return before, "variable" in [key.name for key in contextvars.copy_context()]

    values = in_requests(ss, observe, observe, service_actions=service_actions)
    assert values == [("default", True), ("default", True)]
    assert set(seen) == {"default"}


def test_the_decimal_context_is_that_of_a_new_thread(ss: Variant) -> None:
    def observe(handler: Any) -> int:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = 3
        return before

    assert in_requests(ss, observe, observe) == [decimal.DefaultContext.prec] * 2


def test_the_running_event_loop_stays_in_its_request(ss: Variant) -> None:
    def observe(handler: Any) -> Any:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(handler)
        return before

    assert in_requests(ss, observe, observe) == [None, None]


def test_a_request_can_run_an_event_loop(ss: Variant) -> None:
    async def answer() -> int:
        return await asyncio.sleep(0, 42)

    def run(handler: Any) -> int:
        return asyncio.run(answer())

    assert in_requests(ss, run, run) == [42, 42]


def test_hooks_of_coroutines_and_generators_stay_in_their_request(ss: Variant) -> None:
    def observe(handler: Any) -> Any:
        before = (sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth())
        sys.set_asyncgen_hooks(lambda generator: None, lambda generator: None)
        sys.set_coroutine_origin_tracking_depth(7)
        return before

    assert in_requests(ss, observe, observe) == [((None, None), 0)] * 2


def test_the_signal_mask_stays_in_its_request(ss: Variant) -> None:
    def observe(handler: Any) -> bool:
        return signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def block(handler: Any) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    def unblock(handler: Any) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

    first, _, second, _, third = in_requests(ss, observe, block, observe, unblock, observe)
    assert first == second == third


def test_the_handled_exception_of_a_request_stays_in_it(ss: Variant) -> None:
    seen: list[Any] = []

    def fail(handler: Any) -> None:
        seen.append(sys.exc_info()[1])
        raise ValueError("from a handler")

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        seen.append((str(error), error.__context__))

    with threading_server(ss, fail, handle_error=handle_error) as server, serving(server, 0.01):
        for _ in range(3):
            assert ask_nothing(server.server_address) == b""
    assert seen == [None, ("from a handler", None)] * 3


# Tracing, profiling, debugging


def calls_of(ss: Variant, install: Callable[[Any], None], get: Callable[[], Any]) -> None:
    seen: list[str] = []

    def trace(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    def traced_request(handler: Any) -> Any:
        return get()

    def untraced_request(handler: Any) -> Any:
        install(None)
        return get()

    try:
        assert in_requests(ss, lambda handler: install(trace), traced_request) == [None, trace]
        assert "traced_request" in seen
        assert "process_request_thread" in seen
        assert in_requests(ss, untraced_request, untraced_request) == [trace, None]
        assert seen.count("untraced_request") == 1
    finally:
        install(None)


def test_request_threads_are_traced_as_threading_settrace_asks(ss: Variant) -> None:
    before = threading.gettrace()
    try:
        calls_of(ss, threading.settrace, sys.gettrace)
    finally:
        threading.settrace(before)


def test_request_threads_are_profiled_as_threading_setprofile_asks(ss: Variant) -> None:
    before = threading.getprofile()
    try:
        calls_of(ss, threading.setprofile, sys.getprofile)
    finally:
        threading.setprofile(before)


def test_a_trace_function_set_by_a_request_stays_in_it(ss: Variant) -> None:
    def observe(handler: Any) -> Any:
        before = (sys.gettrace(), sys.getprofile())
        sys.settrace(lambda *event: None)
        sys.setprofile(lambda *event: None)
        return before

    expected = (threading.gettrace(), threading.getprofile())
    assert in_requests(ss, observe, observe) == [expected, expected]


def test_an_exception_can_be_raised_in_a_request_thread_by_its_ident(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = threading.Event()
    hooked: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)

    def spin(handler: Any) -> None:
        handler.server.thread = threading.current_thread()
        entered.set()
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            pass

    with threading_server(ss, spin) as server, serving(server, 0.01):
        with client_of(server) as client:
            assert entered.wait(DEADLINE), "no request was handled"
            ident = ctypes.c_ulong(server.thread.ident)
            set_async = ctypes.pythonapi.PyThreadState_SetAsyncExc
            assert set_async(ident, ctypes.py_object(SystemExit)) == 1
            assert read_all(client) == b""
        wait_until(lambda: hooked, "threading.excepthook to be called")
    assert hooked[0].exc_type is SystemExit


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library for the stack's size")
@pytest.mark.parametrize("size", [0, 16 << 20], ids=["default", "16 MiB"])
def test_the_stack_is_as_large_as_that_of_a_new_thread(ss: Variant, size: int) -> None:
    library = ctypes.CDLL(None)
    library.pthread_self.restype = ctypes.c_ulong

    def size_in(fill: Callable[[Any], int]) -> int:
        attributes, value = ctypes.create_string_buffer(256), ctypes.c_size_t()
        assert fill(attributes) == 0
        library.pthread_attr_getstacksize(attributes, ctypes.byref(value))
        library.pthread_attr_destroy(attributes)
        return value.value

    def stack_size(handler: Any) -> int:
        thread = ctypes.c_ulong(library.pthread_self())
        return size_in(lambda attributes: library.pthread_getattr_np(thread, attributes))

    expected = size or size_in(library.pthread_getattr_default_np)
    before = threading.stack_size(size)
    try:
        # The C library may take a few pages off for itself, or give a larger stack that it kept.
        assert min(in_requests(ss, stack_size, stack_size)) >= expected - expected // 16
    finally:
        threading.stack_size(before)


# Exceptions


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of what `threading.excepthook` is called with."""
    calls: list[Any] = []

    def hook(arguments: Any) -> None:
        calls.append((arguments.exc_type, str(arguments.exc_value), arguments.thread))

    monkeypatch.setattr(threading, "excepthook", hook)
    return calls


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_reaches_the_excepthook(
    ss: Variant, hooked: list[Any], error: type[BaseException]
) -> None:
    threads: list[threading.Thread] = []
    errors: list[Any] = []

    def fail(handler: Any) -> None:
        threads.append(threading.current_thread())
        raise error("from a handler")

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        errors.append(request)

    with threading_server(ss, fail, handle_error=handle_error) as server:
        with serving(server, 0.01):
            for _ in range(2):
                assert ask_nothing(server.server_address) == b"", "the request was not shut down"
        server.server_close()
    assert set(hooked) == {(error, "from a handler", thread) for thread in threads}
    assert len(threads) == 2
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_an_exception_of_handle_error_reaches_the_excepthook(
    ss: Variant, hooked: list[Any]
) -> None:
    def fail(handler: Any) -> None:
        raise ValueError("from a handler")

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        raise

    with threading_server(ss, fail, handle_error=handle_error) as server, serving(server, 0.01):
        assert ask_nothing(server.server_address) == b"", "the request was not shut down"
        server.shutdown()
    assert [(kind, text) for kind, text, _ in hooked] == [(ValueError, "from a handler")]


def test_an_exception_of_shutdown_request_reaches_the_excepthook(
    ss: Variant, hooked: list[Any]
) -> None:
    def shutdown_request(server: Any, request: Any) -> None:
        super(type(server), server).shutdown_request(request)
        raise ValueError("from shutdown_request")

    server = threading_server(ss, lambda handler: None, shutdown_request=shutdown_request)
    with server, serving(server, 0.01):
        assert ask_nothing(server.server_address) == b""
        server.shutdown()
    assert [(kind, text) for kind, text, _ in hooked] == [(ValueError, "from shutdown_request")]


def test_an_exception_goes_to_handle_error_in_the_thread_of_its_request(
    ss: Variant, hooked: list[Any]
) -> None:
    seen: list[Any] = []

    def fail(handler: Any) -> None:
        seen.append(threading.current_thread())
        raise ValueError("from a handler")

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        seen.append(threading.current_thread())

    with threading_server(ss, fail, handle_error=handle_error) as server, serving(server, 0.01):
        assert ask_nothing(server.server_address) == b""
    assert len(seen) == 2
    assert seen[0] is seen[1]
    assert hooked == []


def test_a_request_is_shut_down_in_its_own_thread(ss: Variant) -> None:
    seen: list[Any] = []

    def hook(name: str) -> Callable[..., None]:
        def shut(server: Any, request: Any) -> None:
            seen.append((name, threading.current_thread()))
            getattr(super(type(server), server), name)(request)

        return shut

    names = ("shutdown_request", "close_request")
    hooks = {name: hook(name) for name in names}
    (thread,) = in_requests(ss, lambda handler: threading.current_thread(), **hooks)
    assert seen == [(name, thread) for name in names]


# Bookkeeping


def test_threads_are_kept_from_the_first_request_on(ss: Variant) -> None:
    blocked = Blocked(ss)
    with blocked.server as server:
        assert type(server._threads) is ss._NoThreads
        assert "_threads" not in vars(server)
        with serving(server, 0.01), blocked.enter():
            assert type(vars(server)["_threads"]) is ss._Threads
            assert vars(server)["_threads"] == blocked.threads
            with blocked.enter():
                assert vars(server)["_threads"] == blocked.threads
                assert len(blocked.threads) == 2
                blocked.release.set()


def test_finished_threads_are_reaped_with_the_next_request(ss: Variant) -> None:
    blocked = Blocked(ss)
    with blocked.server as server, serving(server, 0.01):
        blocked.release.set()
        for number in range(1, 21):
            with blocked.enter() as client:
                assert read_all(client) == b"released"
            thread = blocked.threads[-1]
            thread.join(DEADLINE)
            assert server._threads == [thread]
            assert len(blocked.threads) == number
        blocked.release.clear()
        with blocked.enter():
            assert server._threads[-1:] == blocked.threads[-1:]
            assert server._threads == blocked.threads[-1:]
            blocked.release.set()


def test_daemon_threads_are_never_kept(ss: Variant) -> None:
    blocked = Blocked(ss, daemon_threads=True)
    with blocked.server as server, serving(server, 0.01), blocked.enter():
        assert vars(server)["_threads"] == []
        blocked.release.set()


def test_no_thread_is_kept_without_block_on_close(ss: Variant) -> None:
    blocked = Blocked(ss, block_on_close=False)
    with blocked.server as server, serving(server, 0.01), blocked.enter():
        assert "_threads" not in vars(server)
        blocked.release.set()


def test_a_container_of_the_programs_own_gets_the_threads(ss: Variant) -> None:
    class Container:
        def __init__(self) -> None:
            self.threads: list[threading.Thread] = []
            self.joined = 0

        def append(self, thread: threading.Thread) -> None:
            self.threads.append(thread)

        def join(self) -> None:
            self.joined += 1

    container = Container()
    seen: list[threading.Thread] = []

    def observe(handler: Any) -> None:
        seen.append(threading.current_thread())

    server = threading_server(ss, observe, block_on_close=False, _threads=container)
    with server:
        loop = Call(server.serve_forever, 0.01)
        for _ in range(3):
            assert ask_nothing(server.server_address) == b""
        server.shutdown()
        loop.outcome("serve_forever()")
        assert container.threads == seen
        assert container.joined == 0
    assert container.joined == 1
    for thread in seen:
        thread.join(DEADLINE)


def test_the_list_of_threads(ss: Variant) -> None:
    threads, release = ss._Threads(), threading.Event()
    assert issubclass(ss._Threads, list)
    waiting = threading.Thread(target=release.wait, args=(DEADLINE,))
    waiting.start()
    finished = threading.Thread(target=int)
    finished.start()
    finished.join()
    daemon = threading.Thread(target=int, daemon=True)
    threads.append(waiting)
    threads.append(finished)
    assert threads == [waiting, finished]
    threads.append(daemon)
    assert threads == [waiting]
    assert threads.pop_all() == [waiting]
    assert threads == []
    threads.append(waiting)
    join = Call(threads.join)
    assert join.still_waits()
    release.set()
    join.outcome("join()")
    assert threads == []
    threads.extend([finished, waiting])
    threads.reap()
    assert threads == []


def test_the_list_of_no_threads(ss: Variant) -> None:
    threads = ss._NoThreads()
    threads.append(threading.current_thread())
    threads.join()
    assert not isinstance(threads, list)


# The end of a server


def test_server_close_waits_for_the_request_threads(ss: Variant) -> None:
    blocked = Blocked(ss)
    server = blocked.server
    loop = Call(server.serve_forever, 0.01)
    with blocked.enter() as first, blocked.enter() as second:
        server.shutdown()
        loop.outcome("serve_forever()")
        close = Call(server.server_close)
        assert close.still_waits()
        assert server.fileno() == -1, "the listener is closed first"
        blocked.release.set()
        close.outcome("server_close()")
        assert not any(thread.is_alive() for thread in blocked.threads)
        assert read_all(first) == read_all(second) == b"released"


@pytest.mark.parametrize(
    "attributes", [{"block_on_close": False}, {"daemon_threads": True}], ids=str
)
def test_server_close_does_not_wait_when_told_so(ss: Variant, attributes: dict[str, bool]) -> None:
    blocked = Blocked(ss, **attributes)
    server = blocked.server
    loop = Call(server.serve_forever, 0.01)
    with blocked.enter() as client:
        server.shutdown()
        loop.outcome("serve_forever()")
        Call(server.server_close).outcome("server_close()")
        assert blocked.threads[0].is_alive()
        blocked.release.set()
        assert read_all(client) == b"released", "the running request was cut"
        blocked.threads[0].join(DEADLINE)


def test_block_on_close_may_be_switched_off_while_requests_run(ss: Variant) -> None:
    blocked = Blocked(ss)
    server = blocked.server
    loop = Call(server.serve_forever, 0.01)
    with blocked.enter():
        server.block_on_close = False
        server.shutdown()
        loop.outcome("serve_forever()")
        close = Call(server.server_close)
        assert close.still_waits(), "threads kept before are waited for all the same"
        blocked.release.set()
        close.outcome("server_close()")


@pytest.mark.parametrize("daemon", [False, True])
def test_nothing_of_the_threads_is_left_after_server_close(ss: Variant, daemon: bool) -> None:
    before, known = kernel_threads(), threading.enumerate()
    blocked = Blocked(ss, daemon_threads=daemon)
    with blocked.server as server, serving(server, 0.01):
        clients = [blocked.enter() for _ in range(5)]
        blocked.release.set()
        for client in clients:
            with client:
                assert read_all(client) == b"released"
    wait_until(lambda: threading.enumerate() == known, "the threads to be gone")
    wait_until(lambda: kernel_threads() <= before, "the kernel's threads to be gone")
    assert not any(isinstance(t, threading._DummyThread) for t in threading.enumerate())


def test_a_server_that_never_serves_has_no_thread(ss: Variant) -> None:
    before = kernel_threads()
    with ss.ThreadingTCPServer(LOOPBACK, ss.BaseRequestHandler) as server:
        server.timeout = 0
        server.handle_request()
        assert kernel_threads() <= before


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_a_server_without_threads_handles_on_the_callers_thread(ss: Variant, kind: str) -> None:
    seen: list[Any] = []

    class Handler(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            seen.append((threading.current_thread(), kernel_threads()))

    with getattr(ss, kind)(LOOPBACK, Handler) as server, client_of(server) as client:
        before = kernel_threads()
        client.sendall(b"hello\n")
        server.handle_request()
    ((thread, threads),) = seen
    assert thread is threading.current_thread()
    # Another test's thread that has ended may have been listed for a moment longer.
    assert threads <= before


# The threads of the system


def native_id(handler: Any) -> int:
    return threading.get_native_id()


def test_requests_one_after_the_other_share_threads_of_the_system(ours: Variant) -> None:
    # One may still be ending when the next begins.
    assert len(set(in_requests(ours, *[native_id] * 12))) < 6


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="each request has a new thread state")
def test_a_thread_that_keeps_something_serves_no_other_request(ours: Variant) -> None:
    def set_loop(handler: Any) -> int:
        asyncio._set_running_loop(handler)
        return threading.get_native_id()

    first, *others = in_requests(ours, set_loop, *[native_id] * 5)
    assert first not in others


def test_threads_are_started_as_a_program_wants_it(
    ours: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def count(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    def current(handler: Any) -> threading.Thread:
        return threading.current_thread()

    first = in_requests(ours, current)
    monkeypatch.setattr(threading.Thread, "start", count)
    patched = in_requests(ours, current, current)
    assert [thread for thread in started if thread in patched] == patched
    assert first[0] not in started


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_idle_thread_is_there_when_the_process_forks(ours: Variant) -> None:
    with threading_server(ours, native_id) as server, serving(server, 0.01):
        for _ in range(3):
            ask_nothing(server.server_address)
        wait_until(lambda: threading.active_count() == 2, "the requests to be over")
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        known = {thread.native_id for thread in threading.enumerate()}
        # One that has ended may be listed for a moment longer.
        wait_until(lambda: kernel_threads() <= known, "the idle threads to be gone")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handler_may_fork_and_return_in_the_child(ss: Variant) -> None:
    ended: list[int] = []

    def fork(handler: Any) -> None:
        if pid := os.fork():
            ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    with threading_server(ss, fork) as server, serving(server, 0.01):
        ask_nothing(server.server_address)
        wait_until(lambda: ended, "the child to end")
    assert ended == [0]


# Many at once


def test_handlers_run_at_the_same_time(ss: Variant) -> None:
    together = threading.Barrier(32)

    def meet(handler: Any) -> None:
        together.wait(DEADLINE)

    server = threading_server(ss, meet, request_queue_size=together.parties)
    with server, serving(server, 0.01):
        clients = [client_of(server) for _ in range(together.parties)]
        for client in clients:
            with client:
                assert read_all(client) == b""
    assert not together.broken


def test_every_one_of_many_requests_is_answered_once(ss: Variant) -> None:
    def ask_all(lines: list[bytes]) -> list[bytes]:
        return [ask(server.server_address, line) for line in lines]

    with ss.ThreadingTCPServer(LOOPBACK, echo_handler(ss)) as server, serving(server, 0.01):
        lines = [b"line %d\n" % number for number in range(200)]
        calls = [Call(ask_all, lines[first::4]) for first in range(4)]
        answers = [answer for call in calls for answer in call.outcome("a client")]
    assert sorted(answers) == sorted(line.upper() for line in lines)


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_a_handler_that_speaks_first_is_served_at_once(ss: Variant, kind: str) -> None:
    class Greet(ss.StreamRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            self.wfile.write(b"welcome")
            self.wfile.write(self.rfile.readline())

    with (
        getattr(ss, kind)(LOOPBACK, Greet) as server,
        serving(server, 0.01),
        client_of(server) as client,
    ):
        assert client.recv(100) == b"welcome"
        client.sendall(b"thanks\n")
        assert read_all(client) == b"thanks\n"


def test_a_slow_request_keeps_no_other_waiting(ss: Variant) -> None:
    with (
        ss.ThreadingTCPServer(LOOPBACK, echo_handler(ss)) as server,
        serving(server, 0.01),
        client_of(server) as silent,
    ):
        for _ in range(3):
            assert ask(server.server_address) == b"HELLO\n"
        silent.sendall(b"late\n")
        assert read_all(silent) == b"LATE\n"


@pytest.fixture(autouse=True)
def _no_thread_is_left_over() -> Iterator[None]:
    yield
    wait_until(
        lambda: not any(NAME.fullmatch(thread.name) for thread in threading.enumerate()),
        "the request threads to end",
    )
