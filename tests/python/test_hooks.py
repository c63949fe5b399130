"""The methods that programs override: called in order, once a request, wherever they are set."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import ssl
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from conftest import DEADLINE, serving, wait_until
from peers import (
    TIMEOUT,
    answer,
    ask,
    ask_once,
    client,
    question,
    read_to_end,
    wait_for_single_thread,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from variants import Variant

HOST = ("127.0.0.1", 0)
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

ADDRESSES: dict[str, Any] = {"TCPServer": HOST, "UDPServer": HOST}
if hasattr(socket, "AF_UNIX"):
    ADDRESSES.update({"UnixStreamServer": "", "UnixDatagramServer": ""})

LOOP_HOOKS = ("_handle_request_noblock", "get_request", "verify_request", "process_request")
REQUEST_HOOKS = ("finish_request", "setup", "handle", "finish", "shutdown_request", "close_request")
SERVER_HOOKS = {*LOOP_HOOKS, *REQUEST_HOOKS, "process_request_thread"} - {
    "setup",
    "handle",
    "finish",
}


def echo(request: Any, client_address: Any, server: Any) -> None:
    """Send the question back."""
    answer(request, client_address, question(request))


class Boom(Exception):
    """An error of a handler."""


def boom(request: Any, client_address: Any, server: Any) -> None:
    """Fail as a handler would."""
    raise Boom("from the handler")


def noting(cls: type, names: Any, note: Callable[[str], Any]) -> type:
    """Return a subclass that tells `note` the name of each of these methods, then calls it."""

    def hook(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            note(name)
            return getattr(super(derived, self), name)(*args, **kwargs)

        return method

    derived = type(cls.__name__, (cls,), {name: hook(name) for name in names if hasattr(cls, name)})
    return derived


def echoing_handler(ss: Variant, note: Callable[[str], Any]) -> type:
    """Return a handler class that notes its three methods and sends the question back."""

    class Handler(ss.BaseRequestHandler):
        def handle(self) -> None:
            echo(self.request, self.client_address, self.server)

    return noting(Handler, ("setup", "handle", "finish"), note)


# --- order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(ADDRESSES))
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_order_inline(ss: Variant, family: str, run: str) -> None:
    calls: list[str] = []
    names = {*SERVER_HOOKS, "service_actions", "handle_timeout", "handle_error"}
    server_class = noting(getattr(ss, family), names, calls.append)
    server = server_class(ADDRESSES[family], echoing_handler(ss, calls.append))
    order = [*LOOP_HOOKS, *REQUEST_HOOKS]
    if run == "handle_request":
        with server:
            assert [ask_once(server, b"1"), ask_once(server, b"2")] == [b"1", b"2"]
        assert calls == order * 2
    else:
        with serving(server, 0.01):
            assert [ask(server, b"1"), ask(server, b"2")] == [b"1", b"2"]
        assert [call for call in calls if call != "service_actions"] == order * 2
        after = [calls[i + 1 : i + 2] for i, call in enumerate(calls) if call == "close_request"]
        assert after[0] == ["service_actions"]


@pytest.mark.parametrize("family", sorted(ADDRESSES))
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_order_with_threads(ss: Variant, family: str, run: str) -> None:
    calls: list[tuple[int, str]] = []

    def note(name: str) -> None:
        calls.append((threading.get_ident(), name))

    server_class = noting(getattr(ss, f"Threading{family}"), SERVER_HOOKS, note)
    server = server_class(ADDRESSES[family], echoing_handler(ss, note))
    if run == "handle_request":
        loop = threading.get_ident()
        with server:
            assert ask_once(server, b"1") == b"1"
    else:
        with serving(server, 0.01) as thread:
            loop = thread.ident or 0
            assert ask(server, b"1") == b"1"
    assert [name for ident, name in calls if ident == loop] == list(LOOP_HOOKS)
    in_thread = [name for ident, name in calls if ident != loop]
    assert in_thread == ["process_request_thread", *REQUEST_HOOKS]
    assert len({ident for ident, _ in calls}) == 2


@FORK
@pytest.mark.parametrize("family", ["TCPServer", "UDPServer"])
def test_order_with_children(ss: Variant, family: str) -> None:
    readable, writable = os.pipe()

    def note(name: str) -> None:
        os.write(writable, f"{os.getpid()} {name}\n".encode())

    wait_for_single_thread()
    server_class = noting(getattr(ss, f"Forking{family}"), SERVER_HOOKS, note)
    with server_class(HOST, echoing_handler(ss, note)) as server:
        assert ask_once(server, b"1") == b"1"
    os.close(writable)
    with open(readable) as pipe:
        calls = [line.split() for line in pipe]
    parent = str(os.getpid())
    assert [name for pid, name in calls if pid == parent] == [*LOOP_HOOKS, "close_request"]
    assert [name for pid, name in calls if pid != parent] == list(REQUEST_HOOKS)


def test_constructor_and_close(ss: Variant) -> None:
    calls: list[str] = []
    names = ("server_bind", "server_activate", "server_close", "fileno")
    with noting(ss.TCPServer, names, calls.append)(HOST, echo):
        assert calls == ["server_bind", "server_activate"]
        calls.clear()
    assert calls == ["server_close"]


def test_close_reaches_every_class_of_a_threading_server(ss: Variant) -> None:
    calls: list[str] = []
    base = noting(ss.TCPServer, ["server_close"], lambda name: calls.append("base"))

    class Server(ss.ThreadingMixIn, base):
        def server_close(self) -> None:
            calls.append("derived")
            super().server_close()

    with Server(HOST, echo) as server:
        ask_once(server)
    assert calls == ["derived", "base"]


def test_public_calls_may_be_overridden_themselves(ss: Variant) -> None:
    calls: list[str] = []
    names = ("serve_forever", "shutdown", "handle_request", "server_close")
    server = noting(ss.TCPServer, names, calls.append)(HOST, echo)
    assert ask_once(server, b"1") == b"1"
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"
    assert calls == ["handle_request", "serve_forever", "shutdown", "server_close"]


# --- once a request, wherever the hook is ----------------------------------------------------


def replacement(original: Callable[..., Any], calls: list[str], name: str) -> Callable[..., Any]:
    """Return a function that notes its call and passes everything on to the original."""

    def hook(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    return hook


PLACES = ["class", "base", "instance", "class-while-running", "instance-while-running"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("family", "hook"),
    [
        (family, hook)
        for family in ("TCPServer", "UDPServer", "ThreadingTCPServer", "ThreadingUDPServer")
        for hook in sorted(SERVER_HOOKS)
        if hasattr(getattr(socketserver, family), hook)
    ],
)
def test_hook_is_called_once_a_request(
    ss: Variant, family: str, hook: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hook alone is replaced, so that shortcuts around the others stay in force."""
    calls: list[str] = []
    cls = type("Server", (getattr(ss, family),), {})

    def handle(request: Any, client_address: Any, server: Any) -> None:
        if place.endswith("while-running") and not handled:
            target = cls if place.startswith("class") else server
            setattr(target, hook, replacement(getattr(target, hook), calls, hook))
        handled.append(1)
        echo(request, client_address, server)

    handled: list[int] = []
    if place == "class":
        setattr(cls, hook, replacement(getattr(cls, hook), calls, hook))
    elif place == "base":
        reference = getattr(socketserver, family)
        owner = next(each.__name__ for each in reference.__mro__ if hook in vars(each))
        base = getattr(ss.module, owner)
        monkeypatch.setattr(base, hook, replacement(vars(base)[hook], calls, hook))
    server = cls(HOST, handle)
    if place == "instance":
        setattr(server, hook, replacement(getattr(server, hook), calls, hook))
    with serving(server, 0.001):
        assert [ask(server, b"%d" % n) for n in range(3)] == [b"0", b"1", b"2"]
    expected = 3
    if place.endswith("while-running") and hook not in {"shutdown_request", "close_request"}:
        expected = 2
    assert calls == [hook] * expected


@pytest.mark.parametrize("place", PLACES[:3])
@pytest.mark.parametrize("hook", sorted(SERVER_HOOKS - {"process_request_thread"}))
def test_hook_is_called_once_by_handle_request(
    ss: Variant, hook: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    cls = type("Server", (ss.TCPServer,), {})
    if place == "class":
        setattr(cls, hook, replacement(getattr(cls, hook), calls, hook))
    elif place == "base":
        owner = next(each.__name__ for each in socketserver.TCPServer.__mro__ if hook in vars(each))
        base = getattr(ss.module, owner)
        monkeypatch.setattr(base, hook, replacement(vars(base)[hook], calls, hook))
    with cls(HOST, echo) as server:
        if place == "instance":
            setattr(server, hook, replacement(getattr(server, hook), calls, hook))
        assert [ask_once(server, b"1"), ask_once(server, b"2")] == [b"1", b"2"]
    assert calls == [hook] * 2


@pytest.mark.parametrize("place", PLACES[:3])
@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer", "UDPServer"])
def test_handle_error_is_called_once_an_error(
    ss: Variant, family: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Any] = []

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        errors.append((request, client_address, type(sys.exc_info()[1])))

    cls = type("Server", (getattr(ss, family),), {})
    if place == "class":
        cls.handle_error = handle_error
    elif place == "base":
        if ss.pass_through:
            pytest.skip("the variant's own override calls the base with the same arguments")
        monkeypatch.setattr(ss.module.BaseServer, "handle_error", handle_error)
    requests: list[Any] = []
    verify = {"verify_request": lambda self, *args: requests.append(args) or True}
    cls = type("Server", (cls,), verify)
    with cls(HOST, boom) as server:
        if place == "instance":
            server.handle_error = lambda *args: handle_error(server, *args)
        for _ in range(2):
            with client(server) as sock:
                sock.send(b"")
                server.handle_request()
    assert errors == [(*request, Boom) for request in requests]


def test_handler_hook_is_called_with_the_servers_request(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            seen.append((request, client_address))
            super().finish_request(request, client_address)

        def get_request(self) -> Any:
            request, client_address = super().get_request()
            seen.append((request, client_address))
            return request, client_address

    seen: list[Any] = []
    with Server(HOST, echo) as server:
        ask_once(server)
    assert seen[0][0] is seen[1][0]
    assert seen[0][1] is seen[1][1]


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
def test_hook_set_before_the_base_constructor(ss: Variant, family: str) -> None:
    class Server(getattr(ss, family)):
        def __init__(self, *args: Any) -> None:
            self.verify_request = lambda *args: calls.append(args) or True
            super().__init__(*args)

    calls: list[Any] = []
    with Server(HOST, echo) as server:
        assert ask_once(server, b"1") == b"1"
    assert len(calls) == 1


def test_hook_removed_while_running_is_no_longer_called(ss: Variant) -> None:
    calls: list[Any] = []
    server = ss.TCPServer(HOST, echo)
    server.verify_request = lambda *args: calls.append(args) or True
    with serving(server, 0.01):
        ask(server)
        del server.verify_request
        ask(server)
    assert len(calls) == 1


def test_hook_of_a_class_mixed_in_front(ss: Variant) -> None:
    class Quota:
        def verify_request(self: Any, request: Any, client_address: Any) -> bool:
            calls.append("verify_request")
            return super().verify_request(request, client_address)  # type: ignore[misc]

        def process_request(self: Any, request: Any, client_address: Any) -> None:
            calls.append("process_request")
            super().process_request(request, client_address)  # type: ignore[misc]

    class Server(Quota, ss.ThreadingTCPServer):
        pass

    calls: list[str] = []
    server = Server(HOST, echo)
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"
    assert calls == ["verify_request", "process_request"]


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
@pytest.mark.parametrize("hook", ["finish_request", "process_request", "_handle_request_noblock"])
def test_hook_bound_to_another_server_acts_on_that_one(ss: Variant, hook: str, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append(server)
        first._BaseServer__shutdown_request = True

    seen: list[Any] = []
    first, second = ss.TCPServer(HOST, handle), ss.TCPServer(HOST, handle)
    with first, second, client(first), client(second):
        setattr(first, hook, getattr(second, hook))
        getattr(first, run)()
    assert seen == [second]


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_close_request_borrowed_from_the_base_closes_nothing(ss: Variant, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        kept.append(request)
        server._BaseServer__shutdown_request = True

    kept: list[socket.socket] = []
    borrowed = {"close_request": vars(ss.module.BaseServer)["close_request"]}
    server = type("Server", (ss.TCPServer,), borrowed)(HOST, handle)
    with server, client(server) as sock:
        getattr(server, run)()
        with kept[0]:
            assert read_to_end(sock) == b""
            assert kept[0].fileno() >= 0


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_methods_borrowed_from_the_datagram_server(ss: Variant, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        echo(request, client_address, server)
        server._BaseServer__shutdown_request = True

    names = ("get_request", "server_activate", "shutdown_request", "close_request")
    borrowed: dict[str, Any] = {name: vars(ss.module.UDPServer)[name] for name in names}
    borrowed.update(socket_type=socket.SOCK_DGRAM, max_packet_size=3)
    server = type("Server", (ss.TCPServer,), borrowed)(HOST, handle)
    with server, client(server) as sock:
        sock.send(b"12345")
        getattr(server, run)()
        assert sock.recv(100) == b"123"


def test_class_of_a_running_server_may_be_changed(ss: Variant) -> None:
    class Other(ss.TCPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            request.sendall(b"other")

    server = ss.TCPServer(HOST, echo)
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"
        server.__class__ = Other
        assert ask(server) == b"other"


def test_hooks_may_be_class_and_static_methods_and_partials(ss: Variant) -> None:
    class Server(ss.TCPServer):
        @staticmethod
        def verify_request(request: Any, client_address: Any) -> bool:
            calls.append("static")
            return True

        @classmethod
        def service_actions(cls) -> None:
            calls.append(cls.__name__)

    calls: list[str] = []
    server = Server(HOST, echo)
    with serving(server, 0.01):
        ask(server)
        wait_until(lambda: "Server" in calls, "service_actions()")
    assert calls.count("static") == 1


# --- handle_error ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_exception_is_the_handled_one_in_handle_error(ss: Variant, family: str, run: str) -> None:
    error = Boom("this very one")

    def fail(request: Any, client_address: Any, server: Any) -> None:
        server._BaseServer__shutdown_request = True
        raise error

    class Server(getattr(ss, family)):
        def handle_error(self, request: Any, client_address: Any) -> None:
            seen.append(sys.exc_info())

    seen: list[Any] = []
    with Server(HOST, fail) as server, client(server) as sock:
        sock.send(b"")
        getattr(server, run)()
    [(kind, value, traceback)] = seen
    assert kind is Boom
    assert value is error
    assert traceback is not None
    names = []
    while traceback:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "fail"
    assert sys.exc_info() == (None, None, None)


def test_request_handled_while_another_exception_is_being_handled(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            seen.append(sys.exc_info()[1])

    seen: list[Any] = []
    outer = LookupError("of the program")
    with Server(HOST, boom) as server:
        try:
            raise outer
        except LookupError:
            assert ask_once(server) == b""
            assert sys.exc_info()[1] is outer
    assert type(seen[0]) is Boom
    assert seen[0].__context__ is outer


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_bare_raise_in_handle_error_leaves_the_server(ss: Variant, run: str) -> None:
    class Server(ss.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            request.close()
            raise

    with Server(HOST, boom) as server, client(server):
        with pytest.raises(Boom, match="from the handler"):
            getattr(server, run)()
        if run == "serve_forever":
            assert server._BaseServer__is_shut_down.is_set()


def test_bare_raise_in_handle_error_of_a_thread_reaches_the_excepthook(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server(ss.ThreadingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            raise

    caught: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_type))
    with Server(HOST, boom) as server:
        assert ask_once(server) == b""
    assert caught == [Boom]


def test_request_is_shut_down_after_handle_error(ss: Variant) -> None:
    calls: list[str] = []
    names = ("handle_error", "shutdown_request", "close_request")

    class Quiet(ss.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with noting(Quiet, names, calls.append)(HOST, boom) as server:
        assert ask_once(server) == b""
    assert calls == ["handle_error", "shutdown_request", "close_request"]


@pytest.mark.parametrize("error", [Boom, SystemExit])
def test_exception_is_still_the_handled_one_while_the_request_is_shut_down(
    ss: Variant, error: type[BaseException]
) -> None:
    def fail(request: Any, client_address: Any, server: Any) -> None:
        raise error("from the handler")

    class Server(ss.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

        def close_request(self, request: Any) -> None:
            seen.append(sys.exc_info()[0])
            super().close_request(request)

    seen: list[Any] = []
    with Server(HOST, fail) as server, client(server), contextlib.suppress(SystemExit):
        server.handle_request()
    assert seen == [error]


@pytest.mark.parametrize("where", ["finish_request", "process_request", "shutdown_request"])
def test_error_of_an_overridden_hook_goes_to_handle_error(ss: Variant, where: str) -> None:
    def fail_once(self: Any, request: Any, *args: Any) -> None:
        if not errors:
            raise Boom("from the hook")
        getattr(ss.TCPServer, where)(self, request, *args)

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        errors.append(sys.exc_info()[0])

    errors: list[Any] = []
    names = {where: fail_once, "handle_error": handle_error}
    with type("Server", (ss.TCPServer,), names)(HOST, echo) as server:
        assert ask_once(server) == b""
    assert errors == [Boom]


@FORK
def test_handle_error_runs_in_the_child(ss: Variant) -> None:
    class Server(ss.ForkingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            request.sendall(f"{os.getpid()} {sys.exc_info()[1]}".encode())

    wait_for_single_thread()
    with Server(HOST, boom) as server:
        child, error = ask_once(server).split(maxsplit=1)
    assert int(child) != os.getpid()
    assert error == b"from the handler"


# --- what is no Exception --------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
@pytest.mark.parametrize("family", ["TCPServer", "UDPServer"])
def test_exit_leaves_the_server_and_ends_the_request(
    ss: Variant, family: str, run: str, error: type[BaseException]
) -> None:
    def leave(request: Any, client_address: Any, server: Any) -> None:
        raise error("from the handler")

    calls: list[str] = []
    names = ("handle_error", "shutdown_request", "close_request", "service_actions")
    with noting(getattr(ss, family), names, calls.append)(HOST, leave) as server:
        with client(server) as sock:
            sock.send(b"")
            with pytest.raises(error, match="from the handler"):
                getattr(server, run)()
            if family == "TCPServer":
                assert read_to_end(sock) == b""
        assert calls == ["shutdown_request", "close_request"]
        if run == "serve_forever":
            assert server._BaseServer__is_shut_down.is_set()
        server.RequestHandlerClass = echo
        assert ask_once(server, b"again") == b"again"


def test_serve_forever_may_run_again_after_an_exit(ss: Variant) -> None:
    def leave(request: Any, client_address: Any, server: Any) -> None:
        raise SystemExit("from the handler")

    server = ss.TCPServer(HOST, leave)
    with client(server), pytest.raises(SystemExit):
        server.serve_forever()
    server.RequestHandlerClass = echo
    with serving(server, 0.01):
        assert ask(server, b"again") == b"again"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_in_a_thread_reaches_the_excepthook(
    ss: Variant, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(request: Any, client_address: Any, server: Any) -> None:
        names.append(threading.current_thread())
        raise error("from the handler")

    names: list[threading.Thread] = []
    caught: list[Any] = []
    monkeypatch.setattr(
        threading,
        "excepthook",
        lambda args: caught.append((args.exc_type, str(args.exc_value), args.thread)),
    )
    calls: list[str] = []
    hooks = ("handle_error", "shutdown_request", "close_request")
    with noting(ss.ThreadingTCPServer, hooks, calls.append)(HOST, leave) as server:
        assert ask_once(server) == b""
    assert caught == [(error, "from the handler", names[0])]
    assert calls == ["shutdown_request", "close_request"]


@FORK
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_in_a_child_ends_the_child_alone(ss: Variant, error: type[BaseException]) -> None:
    def leave(request: Any, client_address: Any, server: Any) -> None:
        request.sendall(b"%d" % os.getpid())
        raise error("from the handler")

    wait_for_single_thread()
    with ss.ForkingTCPServer(HOST, leave) as server:
        children = {int(ask_once(server)), int(ask_once(server))}
        assert os.getpid() not in children
        assert len(children) == 2
        server.collect_children(blocking=True)
        for child in children:
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)


# --- get_request -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError, ConnectionAbortedError, TimeoutError, ssl.SSLError])
@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer", "UDPServer"])
def test_os_error_of_get_request_is_swallowed(
    ss: Variant, family: str, error: type[OSError]
) -> None:
    class Server(getattr(ss, family)):
        def get_request(self) -> Any:
            if not calls:
                calls.append("get_request")
                raise error("not this time")
            return super().get_request()

    calls: list[str] = []
    names = ("verify_request", "handle_error", "process_request")
    server = noting(Server, names, calls.append)(HOST, echo)
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"
    assert calls == ["get_request", "verify_request", "process_request"]


def test_service_actions_run_after_a_get_request_that_failed(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def get_request(self) -> Any:
            calls.append("get_request")
            raise OSError("never")

        def service_actions(self) -> None:
            calls.append("service_actions")
            self._BaseServer__shutdown_request = "get_request" in calls

    calls: list[str] = []
    with Server(HOST, echo) as server, client(server):
        server.serve_forever(60)
    assert calls == ["get_request", "service_actions"]


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_other_error_of_get_request_leaves_the_server(ss: Variant, run: str) -> None:
    class Server(ss.TCPServer):
        def get_request(self) -> Any:
            raise Boom("from get_request")

    with Server(HOST, echo) as server, client(server), pytest.raises(Boom):
        getattr(server, run)()


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_get_request_may_return_anything(ss: Variant, family: str, run: str) -> None:
    class Request:
        def shutdown(self, how: int) -> None:
            calls.append("shutdown")

        def close(self) -> None:
            calls.append("close")

    class Server(getattr(ss, family)):
        def get_request(self) -> Any:
            self.socket.accept()[0].close()
            return request, address

        def verify_request(self, *args: Any) -> bool:
            seen.append(args)
            return super().verify_request(*args)

        def process_request(self, *args: Any) -> None:
            seen.append(args)
            super().process_request(*args)

        def finish_request(self, *args: Any) -> None:
            seen.append(args)
            super().finish_request(*args)

    def handle(*args: Any) -> None:
        seen.append(args[:2])
        args[2]._BaseServer__shutdown_request = True

    request, address = Request(), {"no": "address"}
    seen: list[Any] = []
    calls: list[str] = []
    with Server(HOST, handle) as server, client(server):
        getattr(server, run)()
    assert len(seen) == 4
    assert all(pair[0] is request and pair[1] is address for pair in seen)
    assert calls == ["shutdown", "close"]


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "iterator"])
def test_get_request_may_return_any_pair(ss: Variant, kind: Callable[..., Any]) -> None:
    class Server(ss.TCPServer):
        def get_request(self) -> Any:
            return kind(super().get_request())

    with Server(HOST, echo) as server:
        assert ask_once(server, b"1") == b"1"


@pytest.mark.parametrize(
    ("returned", "error"), [(None, TypeError), ((1,), ValueError), ((1, 2, 3), ValueError)]
)
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_get_request_that_returns_no_pair_leaves_the_server(
    ss: Variant, returned: Any, error: type[Exception], run: str
) -> None:
    with ss.TCPServer(HOST, echo) as server, client(server):
        server.get_request = lambda: returned
        with pytest.raises(error, match="unpack"):
            getattr(server, run)()


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
def test_get_request_may_return_a_socket_of_another_class(ss: Variant, family: str) -> None:
    class Connection(socket.socket):
        def sendall(self, data: Any, flags: int = 0) -> None:
            super().sendall(b"<" + data + b">", flags)

    class Server(getattr(ss, family)):
        def get_request(self) -> Any:
            plain, address = super().get_request()
            return Connection(fileno=plain.detach()), address

    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            assert type(self.request) is Connection
            self.wfile.write(self.rfile.readline())

    server = Server(HOST, Handler)
    with serving(server, 0.01):
        assert ask(server, b"line") == b"<line>"


def test_get_request_may_return_the_servers_own_socket(ss: Variant) -> None:
    class Server(ss.TCPServer):
        socket_type = socket.SOCK_DGRAM

        def server_activate(self) -> None:
            pass

        def get_request(self) -> Any:
            return self.socket, None

        def shutdown_request(self, request: Any) -> None:
            assert request is self.socket

    def handle(request: Any, client_address: Any, server: Any) -> None:
        assert request is server.socket
        assert client_address is None
        data, address = request.recvfrom(100)
        request.sendto(data.upper(), address)

    server = Server(HOST, handle)
    with serving(server, 0.01):
        assert [ask(server, b"a"), ask(server, b"b")] == [b"A", b"B"]
        assert server.fileno() >= 0


# --- verify_request --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("verdict", [False, None, 0, ""], ids=repr)
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_refused_request_is_shut_down_and_not_processed(
    ss: Variant, family: str, verdict: Any, run: str
) -> None:
    class Server(getattr(ss, family)):
        def verify_request(self, request: Any, client_address: Any) -> Any:
            self._BaseServer__shutdown_request = True
            return verdict

    calls: list[str] = []
    names = ("process_request", "finish_request", "shutdown_request", "close_request")
    server = noting(Server, names, calls.append)(HOST, echo)
    with server, client(server) as sock:
        sock.send(b"")
        getattr(server, run)()
        if family != "UDPServer":
            assert read_to_end(sock) == b""
    assert calls == ["shutdown_request", "close_request"]


@pytest.mark.parametrize("verdict", [True, 1, "yes", [0]], ids=repr)
def test_any_true_verdict_accepts(ss: Variant, verdict: Any) -> None:
    with ss.TCPServer(HOST, echo) as server:
        server.verify_request = lambda *args: verdict
        assert ask_once(server, b"1") == b"1"


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_error_of_verify_request_leaves_the_server(ss: Variant, run: str) -> None:
    class Server(ss.TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            request.close()
            raise Boom("from verify_request")

    with Server(HOST, echo) as server, client(server), pytest.raises(Boom):
        getattr(server, run)()


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer", "UDPServer"])
@pytest.mark.parametrize("error", [Boom, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_request_is_shut_down_when_verify_request_raises(
    ours: Variant, family: str, error: type[BaseException], run: str
) -> None:
    class Server(getattr(ours, family)):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            raise error("from verify_request")

    calls: list[str] = []
    names = ("process_request", "shutdown_request", "close_request")
    server = noting(Server, names, calls.append)(HOST, echo)
    with server, client(server) as sock:
        sock.send(b"")
        with pytest.raises(error):
            getattr(server, run)()
        if family != "UDPServer":
            assert read_to_end(sock) == b""
    assert calls == ["shutdown_request", "close_request"]


# --- threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", [False, True])
def test_threaded_request_is_closed_in_its_thread(ss: Variant, daemon: bool) -> None:
    class Server(ss.ThreadingTCPServer):
        daemon_threads = daemon

        def shutdown_request(self, request: Any) -> None:
            threads["shutdown_request"] = threading.current_thread()
            super().shutdown_request(request)

        def close_request(self, request: Any) -> None:
            threads["close_request"] = threading.current_thread()
            super().close_request(request)

    def handle(request: Any, client_address: Any, server: Any) -> None:
        threads["handle"] = threading.current_thread()

    threads: dict[str, threading.Thread] = {}
    with Server(HOST, handle) as server:
        assert ask_once(server) == b""
        wait_until(lambda: len(threads) == 3, "close_request()")
        threads["handle"].join(DEADLINE)
    assert len(set(threads.values())) == 1
    assert threads["handle"] is not threading.current_thread()


def test_process_request_that_dispatches_by_itself(ss: Variant) -> None:
    """As programs with a pool do: the request outlives `process_request`."""

    class Server(ss.TCPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            queue.append((request, client_address))

    queue: list[Any] = []
    server = Server(HOST, echo)
    with serving(server, 0.01), client(server) as first, client(server) as second:
        wait_until(lambda: len(queue) == 2, "both requests")
        for sock in (second, first):
            sock.sendall(b"late")
        for request, client_address in queue:
            server.finish_request(request, client_address)
            server.shutdown_request(request)
        assert [read_to_end(first), read_to_end(second)] == [b"late", b"late"]


def test_process_request_thread_called_by_a_pool(ss: Variant) -> None:
    class Server(ss.ThreadingTCPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            worker = threading.Thread(
                target=self.process_request_thread, args=(request, client_address)
            )
            worker.start()
            workers.append(worker)

    workers: list[threading.Thread] = []
    server = Server(HOST, echo)
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"
    workers[0].join(DEADLINE)
    assert "_threads" not in vars(server)


# --- service_actions and handle_timeout ------------------------------------------------------


@pytest.mark.parametrize("place", ["class", "instance"])
@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_service_actions_run_on_idle_rounds(ss: Variant, family: str, place: str) -> None:
    def actions(server: Any) -> None:
        rounds.append(threading.get_ident())
        if len(rounds) == 5:
            server._BaseServer__shutdown_request = True

    rounds: list[int] = []
    names = {"service_actions": actions} if place == "class" else {}
    with type("Server", (getattr(ss, family),), names)(HOST, echo) as server:
        if place == "instance":
            server.service_actions = lambda: actions(server)
        server.serve_forever(0.001)
    assert rounds == [threading.get_ident()] * 5


def test_service_actions_set_while_running_are_called(ss: Variant) -> None:
    called = threading.Event()
    server = ss.TCPServer(HOST, echo)
    with serving(server, 0.01):
        ask(server)
        server.service_actions = called.set
        assert called.wait(DEADLINE)


def test_service_actions_run_after_every_request(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            calls.append("request")
            super().process_request(request, client_address)

        def service_actions(self) -> None:
            calls.append("actions")
            self._BaseServer__shutdown_request = len(calls) == 6

    calls: list[str] = []
    with Server(HOST, echo) as server, contextlib.ExitStack() as clients:
        for _ in range(3):
            sock = clients.enter_context(client(server))
            sock.shutdown(socket.SHUT_WR)
        server.serve_forever(60)
    assert calls == ["request", "actions"] * 3


def test_service_actions_do_not_run_on_the_round_of_the_shutdown(ss: Variant) -> None:
    """The flag is set during a wait, which then ends because a client comes."""
    waiting = threading.Event()
    calls: list[str] = []

    class Server(ss.TCPServer):
        def service_actions(self) -> None:
            calls.append("actions")
            waiting.set()

    with Server(HOST, echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        assert waiting.wait(DEADLINE)
        server._BaseServer__shutdown_request = True
        before = len(calls)
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert len(calls) == before


def test_service_actions_run_after_the_request_whose_handler_stops_the_server(
    ss: Variant,
) -> None:
    def stop(request: Any, client_address: Any, server: Any) -> None:
        calls.append("request")
        server._BaseServer__shutdown_request = True

    calls: list[str] = []
    with ss.TCPServer(HOST, stop) as server, client(server), client(server):
        server.service_actions = lambda: calls.append("actions")
        server.serve_forever(60)
    assert calls == ["request", "actions"]


def test_error_of_service_actions_leaves_serve_forever(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def service_actions(self) -> None:
            raise Boom("from service_actions")

    with Server(HOST, echo) as server:
        with pytest.raises(Boom):
            server.serve_forever(0.001)
        assert server._BaseServer__is_shut_down.is_set()


@pytest.mark.parametrize("timeout", [0, None])
def test_service_actions_never_run_from_handle_request(ss: Variant, timeout: float | None) -> None:
    with ss.TCPServer(HOST, echo) as server:
        server.service_actions = lambda: pytest.fail("called by handle_request()")
        server.timeout = timeout
        assert ask_once(server, b"1") == b"1"
        if timeout is not None:
            server.handle_request()


def test_handle_timeout_runs_once_a_timeout(ss: Variant) -> None:
    calls: list[str] = []
    names = ("handle_timeout", "_handle_request_noblock", "get_request")
    with noting(ss.TCPServer, names, calls.append)(HOST, echo) as server:
        server.timeout = 0.001
        for _ in range(3):
            server.handle_request()
    assert calls == ["handle_timeout"] * 3


@FORK
def test_forking_server_collects_its_children_by_these_hooks(ss: Variant) -> None:
    calls: list[str] = []
    with noting(ss.ForkingTCPServer, ["collect_children"], calls.append)(HOST, echo) as server:
        server.timeout = 0.001
        server.handle_request()
        assert calls == ["collect_children"]
        server.service_actions()
        assert calls == ["collect_children"] * 2
    assert calls == ["collect_children"] * 3


# --- the listener changes --------------------------------------------------------------------


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
def test_socket_replaced_after_construction(ss: Variant, family: str) -> None:
    server = getattr(ss, family)(HOST, echo)
    server.socket.close()
    server.socket = socket.create_server(HOST)
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"


def test_socket_replaced_between_two_requests(ss: Variant) -> None:
    with ss.TCPServer(HOST, echo) as server:
        assert ask_once(server, b"1") == b"1"
        old, server.socket = server.socket, socket.create_server(HOST)
        assert ask_once(server, b"2") == b"2"
        old.close()
        assert ask_once(server, b"3") == b"3"


def test_socket_replaced_between_two_runs(ss: Variant) -> None:
    with ss.TCPServer(HOST, echo) as server:
        for question_ in (b"1", b"2"):
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            assert ask(server, question_) == question_
            server.shutdown()
            thread.join(DEADLINE)
            server.socket.close()
            server.socket = socket.create_server(HOST)


def test_socket_replaced_by_one_with_the_same_number(ss: Variant) -> None:
    """The descriptor lives on in another object, and the old object is dead."""
    with ss.TCPServer(HOST, echo) as server:
        assert ask_once(server, b"1") == b"1"
        server.socket = socket.socket(fileno=server.socket.detach())
        assert ask_once(server, b"2") == b"2"


def test_datagram_socket_replaced(ss: Variant) -> None:
    with ss.UDPServer(HOST, echo) as server:
        assert ask_once(server, b"1") == b"1"
        server.socket.close()
        server.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.socket.bind(HOST)
        assert ask_once(server, b"2") == b"2"
        with client(server) as sock:
            sock.send(b"3")
            assert server.get_request()[0] == (b"3", server.socket)


def test_socket_from_an_inherited_descriptor(ss: Variant) -> None:
    with socket.create_server(HOST) as inherited:
        server = ss.TCPServer(None, echo, bind_and_activate=False)
        server.socket.close()
        server.socket = socket.fromfd(inherited.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        server.server_address = server.socket.getsockname()
        with serving(server, 0.01):
            assert ask(server, b"1") == b"1"
        assert inherited.fileno() >= 0


class CountingListener(socket.socket):
    """A listener with an `accept` of its own."""

    accepted = 0

    def accept(self) -> Any:
        connection, address = super().accept()
        type(self).accepted += 1
        return connection, ("by accept", address)


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("when", ["before", "while-running"])
def test_listener_of_another_class_accepts_by_itself(ss: Variant, family: str, when: str) -> None:
    def replace() -> None:
        server.socket = listener(fileno=server.socket.detach())

    listener = type("Listener", (CountingListener,), {})
    seen: list[Any] = []

    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append(client_address[0])
        if when == "while-running" and len(seen) == 1:
            replace()
        echo(request, client_address, server)

    server = getattr(ss, family)(HOST, handle)
    if when == "before":
        replace()
    with serving(server, 0.01):
        assert [ask(server, b"1"), ask(server, b"2"), ask(server, b"3")] == [b"1", b"2", b"3"]
    expected = ["by accept"] * 3
    if when == "while-running":
        expected[0] = "127.0.0.1"
    assert seen == expected
    assert listener.accepted == expected.count("by accept")


def test_listener_that_is_no_socket_accepts_by_itself(ss: Variant) -> None:
    class Listener:
        """Has what a server asks of its socket, and no more."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def accept(self) -> Any:
            calls.append("accept")
            return self.sock.accept()[0], "somebody"

        def fileno(self) -> int:
            return self.sock.fileno()

        def gettimeout(self) -> None:
            return None

        def close(self) -> None:
            calls.append("close")
            self.sock.close()

    def handle(request: Any, client_address: Any, server: Any) -> None:
        assert client_address == "somebody"
        request.sendall(b"hello")

    calls: list[str] = []
    server = ss.TCPServer(HOST, handle)
    real = server.socket
    server.socket = Listener(real)
    for run in (server.handle_request, server._handle_request_noblock):
        with socket.create_connection(real.getsockname(), TIMEOUT) as sock:
            run()
            assert read_to_end(sock) == b"hello"
    with serving(server, 0.01), socket.create_connection(real.getsockname(), TIMEOUT) as sock:
        assert read_to_end(sock) == b"hello"
    assert calls == ["accept"] * 3 + ["close"]


def test_datagram_socket_of_another_class_receives_by_itself(ss: Variant) -> None:
    class Receiver(socket.socket):
        def recvfrom(self, size: int, flags: int = 0) -> Any:  # type: ignore[override]
            assert size == 8192
            data, address = super().recvfrom(size, flags)
            return data.upper(), address

    server = ss.UDPServer(HOST, echo)
    server.socket = Receiver(fileno=server.socket.detach())
    with serving(server, 0.01):
        assert ask(server, b"packet") == b"PACKET"


# --- TLS -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return a certificate authority that only these tests trust."""
    return trustme.CA()


@pytest.fixture
def tls_server_context(authority: trustme.CA) -> ssl.SSLContext:
    """Return the context of a server at the loopback address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def tls_ask(authority: trustme.CA) -> Callable[[Any, bytes], bytes]:
    """Return a function that sends a line over TLS and returns all of the answer."""
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def ask_line(address: Any, line: bytes) -> bytes:
        with (
            socket.create_connection(address, TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(line)
            return read_to_end(sock)

    return ask_line


def shouting_handler(ss: Variant) -> type:
    """Return a stream handler that answers one line in capitals, over TLS alone."""

    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            assert isinstance(self.request, ssl.SSLSocket)
            self.wfile.write(self.rfile.readline().upper())

    return Handler


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("when", ["in-server_activate", "after-construction"])
def test_tls_listener(
    ss: Variant,
    family: str,
    when: str,
    tls_server_context: ssl.SSLContext,
    tls_ask: Callable[[Any, bytes], bytes],
) -> None:
    class Server(getattr(ss, family)):
        def server_activate(self) -> None:
            super().server_activate()
            if when == "in-server_activate":
                self.socket = tls_server_context.wrap_socket(self.socket, server_side=True)

    server = Server(HOST, shouting_handler(ss))
    if when == "after-construction":
        server.socket = tls_server_context.wrap_socket(server.socket, server_side=True)
    with serving(server, 0.01):
        assert tls_ask(server.server_address, b"one\n") == b"ONE\n"
        assert tls_ask(server.server_address, b"two\n") == b"TWO\n"


@pytest.mark.parametrize("wanted", [True, False])
def test_nagle_algorithm_of_connections_from_a_tls_listener(
    ours: Variant,
    wanted: bool,
    tls_server_context: ssl.SSLContext,
    tls_ask: Callable[[Any, bytes], bytes],
) -> None:
    class Handler(shouting_handler(ours)):
        def handle(self) -> None:
            seen.append(self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
            super().handle()

    seen: list[bool] = []
    server = ours.ThreadingTCPServer(HOST, Handler)
    server.disable_nagle_algorithm = wanted
    server.socket = tls_server_context.wrap_socket(server.socket, server_side=True)
    with serving(server, 0.01):
        assert tls_ask(server.server_address, b"one\n") == b"ONE\n"
    assert seen == [wanted]


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
def test_client_that_does_not_speak_tls_does_not_end_the_server(
    ss: Variant,
    family: str,
    tls_server_context: ssl.SSLContext,
    tls_ask: Callable[[Any, bytes], bytes],
) -> None:
    server = getattr(ss, family)(HOST, shouting_handler(ss))
    server.socket = tls_server_context.wrap_socket(server.socket, server_side=True)
    errors: list[BaseException | None] = []
    server.handle_error = lambda *args: errors.append(sys.exc_info()[1])
    with serving(server, 0.01):
        with socket.create_connection(server.server_address, TIMEOUT) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                read_to_end(sock)
        assert tls_ask(server.server_address, b"one\n") == b"ONE\n"
    # The reference shakes hands before it has a request that could fail.
    assert [type(error) for error in errors] == ([] if ss.is_reference else [ssl.SSLError])


@pytest.mark.parametrize("place", ["get_request", "finish_request", "setup"])
def test_tls_wrapped_by_a_hook(
    ss: Variant,
    place: str,
    tls_server_context: ssl.SSLContext,
    tls_ask: Callable[[Any, bytes], bytes],
) -> None:
    def wrap(sock: socket.socket) -> ssl.SSLSocket:
        return tls_server_context.wrap_socket(sock, server_side=True)

    class Server(ss.ThreadingTCPServer):
        def get_request(self) -> Any:
            request, address = super().get_request()
            return (wrap(request) if place == "get_request" else request), address

        def finish_request(self, request: Any, client_address: Any) -> None:
            if place == "finish_request":
                with wrap(request) as secured:
                    super().finish_request(secured, client_address)
            else:
                super().finish_request(request, client_address)

    class Handler(shouting_handler(ss)):
        def setup(self) -> None:
            if place == "setup":
                self.request = wrap(self.request)
            super().setup()

        def finish(self) -> None:
            super().finish()
            if place == "setup":
                self.request.close()

    server = Server(HOST, Handler)
    with serving(server, 0.01):
        assert tls_ask(server.server_address, b"one\n") == b"ONE\n"


# --- server_bind, server_activate and fileno -------------------------------------------------


def test_server_bind_that_calls_the_base_unbound(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def server_bind(self) -> None:
            ss.module.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address

    with Server(HOST, echo) as server:
        assert server.server_port == server.socket.getsockname()[1] > 0
        assert ask_once(server, b"1") == b"1"


def test_server_bind_that_waits_for_another_thread(ss: Variant) -> None:
    """As a slow look-up of a name does; other threads run meanwhile."""

    class Server(ss.TCPServer):
        def server_bind(self) -> None:
            looked_up = threading.Event()
            thread = threading.Thread(target=looked_up.set)
            thread.start()
            assert looked_up.wait(DEADLINE)
            thread.join(DEADLINE)
            super().server_bind()

    with Server(HOST, echo) as server:
        assert ask_once(server, b"1") == b"1"


def test_server_bind_that_does_nothing(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def server_bind(self) -> None:
            pass

    with Server(("not", "an address"), echo) as server:
        assert server.server_address == ("not", "an address")
        assert ask_once(server, b"1") == b"1"


def test_server_bind_that_adopts_a_listener(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def server_bind(self) -> None:
            self.socket.close()
            self.socket = socket.create_server(HOST)
            self.server_address = self.socket.getsockname()

        def server_activate(self) -> None:
            pass

    server = Server(None, echo)
    with serving(server, 0.01):
        assert ask(server, b"1") == b"1"


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_server_activate_that_connects(ss: Variant, run: str) -> None:
    """The one connection is listener and request at once."""

    class Server(ss.TCPServer):
        def server_bind(self) -> None:
            pass

        def server_activate(self) -> None:
            self.socket.connect(self.server_address)

        def get_request(self) -> Any:
            return self.socket, self.server_address

        def shutdown_request(self, request: Any) -> None:
            pass

    def handle(request: Any, client_address: Any, server: Any) -> None:
        data = request.recv(100)
        request.sendall(data.upper())
        server._BaseServer__shutdown_request = data == b"last"

    with socket.create_server(HOST) as listener:
        listener.settimeout(TIMEOUT)
        with Server(listener.getsockname(), handle) as server:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(TIMEOUT)
                peer.sendall(b"last")
                getattr(server, run)()
                assert peer.recv(100) == b"LAST"


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_fileno_decides_what_is_waited_for(ss: Variant, run: str) -> None:
    class Server(ss.TCPServer):
        def __init__(self) -> None:
            self.readable, self.writable = os.pipe()
            super().__init__(HOST, echo)

        def fileno(self) -> int:
            return self.readable

        def get_request(self) -> Any:
            return os.read(self.readable, 10), "a pipe"

        def process_request(self, request: Any, client_address: Any) -> None:
            seen.append((request, client_address))
            self._BaseServer__shutdown_request = True

        def server_close(self) -> None:
            super().server_close()
            os.close(self.readable)
            os.close(self.writable)

    seen: list[Any] = []
    with Server() as server:
        os.write(server.writable, b"bytes")
        getattr(server, run)()
    assert seen == [(b"bytes", "a pipe")]


def test_fileno_is_called_once_for_each_handle_request(ss: Variant) -> None:
    calls: list[int] = []

    class Server(ss.TCPServer):
        def fileno(self) -> int:
            calls.append(super().fileno())
            return calls[-1]

    with Server(HOST, echo) as server:
        for count in (1, 2, 3):
            with client(server) as peer:
                peer.sendall(b"hello")
                server.handle_request()
            assert len(calls) == count


def test_fileno_set_on_the_instance_decides_what_is_waited_for(ss: Variant) -> None:
    with ss.TCPServer(HOST, echo) as server, socket.create_server(HOST) as other:
        server.timeout = 0
        timeouts: list[int] = []
        server.handle_timeout = lambda: timeouts.append(1)
        server.fileno = other.fileno
        with client(server) as sock:
            sock.shutdown(socket.SHUT_WR)
            server.handle_request()
            assert timeouts == [1]
            del server.fileno
            server.handle_request()
        assert timeouts == [1]


# --- _handle_request_noblock -----------------------------------------------------------------


@pytest.mark.parametrize("place", ["class", "instance"])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_handle_request_noblock_overridden_does_all_of_it(
    ss: Variant, place: str, run: str
) -> None:
    def noblock(server: Any) -> None:
        request, client_address = server.socket.accept()
        with request:
            seen.append(client_address)
        server._BaseServer__shutdown_request = True

    seen: list[Any] = []
    names = {"_handle_request_noblock": noblock} if place == "class" else {}
    with type("Server", (ss.TCPServer,), names)(HOST, boom) as server, client(server) as sock:
        if place == "instance":
            server._handle_request_noblock = lambda: noblock(server)
        getattr(server, run)()
        assert seen == [sock.getsockname()]
        assert read_to_end(sock) == b""


def test_handle_request_noblock_with_nobody_waiting(ss: Variant) -> None:
    with ss.TCPServer(HOST, boom) as server:
        server.socket.setblocking(False)
        server.handle_error = lambda *args: pytest.fail("nobody was waiting")
        assert server._handle_request_noblock() is None


def test_handle_request_noblock_takes_exactly_one(ss: Variant) -> None:
    seen: list[bytes] = []
    with ss.UDPServer(HOST, lambda *args: seen.append(args[0][0])) as server:
        server.socket.settimeout(TIMEOUT)
        with client(server) as sock:
            for packet in (b"1", b"2", b"3"):
                sock.send(packet)
            server._handle_request_noblock()
            assert seen == [b"1"]
            server._handle_request_noblock()
            assert seen == [b"1", b"2"]
            assert server.socket.recv(10) == b"3"


def test_server_may_be_served_from_inside_its_own_handler(ss: Variant) -> None:
    """A handler that waits for another request of the same server handles it by itself."""

    def handle(request: Any, client_address: Any, server: Any) -> None:
        data = request.recv(100)
        if data == b"outer":
            server.handle_request()
        request.sendall(data)

    server = ss.TCPServer(HOST, handle)
    with serving(server, 0.01), client(server) as outer, client(server) as inner:
        inner.sendall(b"inner")
        outer.sendall(b"outer")
        assert read_to_end(inner) == b"inner"
        assert read_to_end(outer) == b"outer"
