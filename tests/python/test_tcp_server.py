"""`TCPServer`: how the listener is made, what an accepted connection is, and how it ends."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from peers import TIMEOUT, ask, ask_once, client, read_to_end

if TYPE_CHECKING:
    from variants import Variant

HOST = ("127.0.0.1", 0)
V6 = pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
REUSE_PORT = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")


def greet(request: Any, client_address: Any, server: Any) -> None:
    """Answer a request."""
    request.sendall(b"hello")


def option(sock: Any, name: str) -> bool:
    """Return whether a socket option is set."""
    return sock.getsockopt(socket.SOL_SOCKET, getattr(socket, name)) != 0


class RecordingSocket:
    """Stands in for a server's socket and notes what is asked of it, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def setsockopt(self, *args: Any) -> None:
        self.calls.append(("setsockopt", *args))

    def bind(self, address: Any) -> None:
        self.calls.append(("bind", address))

    def getsockname(self) -> Any:
        self.calls.append(("getsockname",))
        return ("bound", 1)

    def listen(self, *args: Any) -> None:
        self.calls.append(("listen", *args))

    def close(self) -> None:
        self.calls.append(("close",))


def recorded(ss: Variant, **attributes: Any) -> tuple[Any, RecordingSocket]:
    """Return a server that is not bound, over a recording socket."""
    server = ss.TCPServer(("127.0.0.1", 0), greet, bind_and_activate=False)
    server.socket.close()
    server.socket = RecordingSocket()
    vars(server).update(attributes)
    return server, server.socket


# --- the listener ----------------------------------------------------------------------------


def test_defaults(ss: Variant) -> None:
    server = ss.TCPServer
    assert (server.address_family, server.socket_type) == (socket.AF_INET, socket.SOCK_STREAM)
    assert server.allow_reuse_address is False
    assert server.timeout is None


def test_allow_reuse_port_defaults_to_false(ss: Variant) -> None:
    if ss.is_reference and sys.version_info < (3, 11):
        pytest.skip("the reference has it from 3.11 on")
    assert ss.TCPServer.allow_reuse_port is False
    assert "allow_reuse_port" in vars(ss.module.TCPServer)
    assert "allow_reuse_port" in vars(ss.module.UDPServer)


def test_allow_reuse_port_exists_on_every_version(ours: Variant) -> None:
    assert ours.TCPServer.allow_reuse_port is False
    assert ours.UDPServer.allow_reuse_port is False


def test_accept_queue_is_as_long_as_the_system_allows(ours: Variant) -> None:
    assert ours.TCPServer.request_queue_size == socket.SOMAXCONN


def test_accept_queue_of_the_reference() -> None:
    import socketserver

    expected = socket.SOMAXCONN if sys.version_info >= (3, 15) else 5
    assert socketserver.TCPServer.request_queue_size == expected


def test_address_is_that_of_the_bound_socket(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        assert server.server_address == server.socket.getsockname()
        assert server.server_address[0] == "127.0.0.1"
        assert server.server_address[1] > 0


def test_socket_is_an_ordinary_listening_socket(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        assert type(server.socket) is socket.socket
        assert server.socket.family == socket.AF_INET
        assert server.socket.type == socket.SOCK_STREAM
        assert server.socket.gettimeout() is None
        assert not server.socket.get_inheritable()
        assert option(server.socket, "SO_ACCEPTCONN")
        assert server.fileno() == server.socket.fileno()
        assert not option(server.socket, "SO_REUSEADDR")


def test_host_name_is_resolved(ss: Variant) -> None:
    with ss.TCPServer(("localhost", 0), greet) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert ask_once(server) == b"hello"


def test_empty_host_is_every_address(ss: Variant) -> None:
    with ss.TCPServer(("", 0), greet) as server:
        assert server.server_address[0] == "0.0.0.0"


@V6
def test_address_family_of_a_subclass(ss: Variant) -> None:
    class Server(ss.TCPServer):
        address_family = socket.AF_INET6

    seen: list[Any] = []
    with Server(("::1", 0), lambda *args: seen.append(args[1])) as server:
        assert server.server_address[::2] == ("::1", 0)
        assert len(server.server_address) == 4
        with client(server) as sock:
            server.handle_request()
            assert seen == [sock.getsockname()]


@V6
def test_address_family_set_on_the_class(ss: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ss.module.TCPServer, "address_family", socket.AF_INET6)
    with ss.TCPServer(("::1", 0), greet) as server:
        assert server.socket.family == socket.AF_INET6
        assert ask_once(server) == b"hello"


def test_allow_reuse_address_set_on_the_class(ss: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ss.module.TCPServer, "allow_reuse_address", True)
    with ss.TCPServer(HOST, greet) as server:
        assert option(server.socket, "SO_REUSEADDR")


def test_allow_reuse_address_of_a_subclass(ss: Variant) -> None:
    class Server(ss.TCPServer):
        allow_reuse_address = True

    with Server(HOST, greet) as server:
        assert option(server.socket, "SO_REUSEADDR")


def test_attributes_set_on_the_instance_count_for_a_later_bind(ss: Variant) -> None:
    server = ss.TCPServer(HOST, greet, bind_and_activate=False)
    with server:
        server.allow_reuse_address = True
        server.request_queue_size = 3
        server.server_bind()
        server.server_activate()
        assert option(server.socket, "SO_REUSEADDR")
        assert ask_once(server) == b"hello"


@REUSE_PORT
def test_two_servers_share_a_port_with_allow_reuse_port(ss: Variant) -> None:
    if ss.is_reference and sys.version_info < (3, 11):
        pytest.skip("the reference has it from 3.11 on")

    class Server(ss.TCPServer):
        allow_reuse_port = True

    with Server(HOST, greet) as first, Server(first.server_address, greet) as second:
        assert second.server_address == first.server_address
        assert option(first.socket, "SO_REUSEPORT")


@REUSE_PORT
def test_order_of_binding(ss: Variant) -> None:
    if ss.is_reference and sys.version_info < (3, 11):
        pytest.skip("the reference has allow_reuse_port from 3.11 on")
    server, sock = recorded(ss, allow_reuse_address=True, allow_reuse_port=True)
    assert server.server_bind() is None
    assert sock.calls == [
        ("setsockopt", socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        ("setsockopt", socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
        ("bind", ("127.0.0.1", 0)),
        ("getsockname",),
    ]
    assert server.server_address == ("bound", 1)


def test_order_of_binding_without_options(ss: Variant) -> None:
    server, sock = recorded(ss)
    server.server_bind()
    assert sock.calls == [("bind", ("127.0.0.1", 0)), ("getsockname",)]


@REUSE_PORT
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_reuse_port_is_for_internet_families_only(ss: Variant, family: str) -> None:
    if ss.is_reference and sys.version_info < (3, 13, 2):
        pytest.skip("the reference asks for the family from 3.13.2 on")
    address_family = getattr(socket, family)
    server, sock = recorded(ss, allow_reuse_port=True, address_family=address_family)
    server.server_bind()
    options = [call for call in sock.calls if call[0] == "setsockopt"]
    reuse_port = ("setsockopt", socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    assert options == ([] if family == "AF_UNIX" else [reuse_port])


def test_activation_listens_with_the_queue_size(ss: Variant) -> None:
    server, sock = recorded(ss, request_queue_size=17)
    assert server.server_activate() is None
    assert sock.calls == [("listen", 17)]


def test_activation_listens_with_the_default_queue_size(ss: Variant) -> None:
    server, sock = recorded(ss)
    server.server_activate()
    assert sock.calls == [("listen", ss.module.TCPServer.request_queue_size)]


def test_close_closes_whatever_the_socket_is(ss: Variant) -> None:
    server, sock = recorded(ss)
    assert server.server_close() is None
    assert sock.calls == [("close",)]


def test_fileno_is_that_of_the_socket(ss: Variant) -> None:
    class Descriptor(RecordingSocket):
        def fileno(self) -> int:
            return 12345

    server = ss.TCPServer(HOST, greet, bind_and_activate=False)
    server.socket.close()
    server.socket = Descriptor()
    assert server.fileno() == 12345


def test_constructor_binds_then_activates(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def server_bind(self) -> None:
            calls.append(("bind", option(self.socket, "SO_ACCEPTCONN")))
            super().server_bind()

        def server_activate(self) -> None:
            calls.append(("activate", self.server_address[1] > 0))
            super().server_activate()

    calls: list[Any] = []
    with Server(HOST, greet) as server:
        assert calls == [("bind", False), ("activate", True)]
        assert option(server.socket, "SO_ACCEPTCONN")


@pytest.mark.parametrize("failing", ["server_bind", "server_activate"])
@pytest.mark.parametrize("error", [OSError, OverflowError, KeyboardInterrupt])
def test_constructor_that_fails_closes_the_server(
    ss: Variant, failing: str, error: type[BaseException]
) -> None:
    def fail(self: Any) -> None:
        raise error("from the hook")

    def server_close(self: Any) -> None:
        closed.append(self)
        ss.TCPServer.server_close(self)

    closed: list[Any] = []
    names = {failing: fail, "server_close": server_close}
    server = type("Server", (ss.TCPServer,), names)
    with pytest.raises(error, match="from the hook"):
        server(HOST, greet)
    assert [server.fileno() for server in closed] == [-1]


def test_constructor_takes_its_arguments_by_name(ss: Variant) -> None:
    server = ss.TCPServer(server_address=HOST, RequestHandlerClass=greet, bind_and_activate=False)
    with server:
        assert server.server_address == HOST
        assert server.RequestHandlerClass is greet
        assert server.socket.getsockname()[1] == 0


def test_server_that_is_never_bound_closes(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet, bind_and_activate=False) as server:
        assert server.fileno() >= 0
    assert server.fileno() == -1


def test_bound_and_activated_later_it_serves(ss: Variant) -> None:
    server = ss.TCPServer(HOST, greet, bind_and_activate=False)
    server.server_bind()
    server.server_activate()
    with serving(server, 0.01):
        assert ask(server) == b"hello"


def test_never_bound_but_given_a_listener_it_serves(ss: Variant) -> None:
    server = ss.TCPServer(None, greet, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.create_server(HOST)
    with serving(server, 0.01):
        assert ask(server) == b"hello"


# --- the accepted connection -----------------------------------------------------------------


def test_accepted_connection_is_an_ordinary_socket(ss: Variant) -> None:
    seen: list[Any] = []

    def handle(request: Any, client_address: Any, server: Any) -> None:
        assert isinstance(request, socket.socket)
        assert repr(request).startswith("<socket.socket fd=")
        assert request.family is socket.AF_INET
        assert request.type is socket.SOCK_STREAM
        assert request.gettimeout() is None
        assert os.get_blocking(request.fileno())
        assert not request.get_inheritable()
        assert request.getsockname() == server.server_address
        assert request.getpeername() == client_address
        seen.append(client_address)

    with ss.TCPServer(HOST, handle) as server, client(server) as sock:
        server.handle_request()
        assert seen == [sock.getsockname()]
        assert type(seen[0]) is tuple


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
@pytest.mark.parametrize("listener_timeout", [None, 0, 5.0])
@pytest.mark.parametrize("default", [None, 3.0])
def test_timeout_of_an_accepted_connection_is_the_default_one(
    ss: Variant, run: str, listener_timeout: float | None, default: float | None
) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append((request.gettimeout(), os.get_blocking(request.fileno())))
        server._BaseServer__shutdown_request = True

    seen: list[Any] = []
    with ss.TCPServer(HOST, handle) as server, client(server):
        server.socket.settimeout(listener_timeout)
        socket.setdefaulttimeout(default)
        try:
            getattr(server, run)()
        finally:
            socket.setdefaulttimeout(None)
        assert server.socket.gettimeout() == listener_timeout
    assert seen == [(default, default is None)]


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_listener_keeps_its_blocking_mode(ss: Variant, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        modes.append(os.get_blocking(server.fileno()))
        server._BaseServer__shutdown_request = True

    modes: list[bool] = []
    with ss.TCPServer(HOST, handle) as server, client(server):
        getattr(server, run)()
        modes.append(os.get_blocking(server.fileno()))
    assert modes == [True, True]


def test_get_request_accepts(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server, client(server) as sock:
        request, client_address = server.get_request()
        with request:
            assert client_address == sock.getsockname()
            assert type(request) is socket.socket


def test_handler_may_accept_from_the_listener_itself(ss: Variant) -> None:
    """As FTP servers do: the second client of the queue belongs to the first one's handler."""

    def handle(request: Any, client_address: Any, server: Any) -> None:
        second, _ = server.socket.accept()
        with second:
            second.sendall(b"second")
        request.sendall(b"first")

    server = ss.TCPServer(HOST, handle)
    server.socket.settimeout(TIMEOUT)
    with client(server) as first, client(server) as second, serving(server, 0.01):
        assert read_to_end(first) == b"first"
        assert read_to_end(second) == b"second"


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_nagle_algorithm_is_off_for_accepted_connections(
    ours: Variant, family: str, run: str
) -> None:
    assert nodelay(getattr(ours, family), run) is True


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_nagle_algorithm_stays_if_the_class_asks_for_it(
    ours: Variant, family: str, run: str
) -> None:
    kept = type("Server", (getattr(ours, family),), {"disable_nagle_algorithm": False})
    assert nodelay(kept, run) is False


def test_nagle_algorithm_stays_if_the_instance_asks_for_it(ours: Variant) -> None:
    class Server(ours.TCPServer):
        def server_activate(self) -> None:
            self.disable_nagle_algorithm = False
            super().server_activate()

    assert nodelay(Server, "handle_request") is False


def test_nagle_algorithm_is_off_by_default(ours: Variant) -> None:
    assert ours.TCPServer.disable_nagle_algorithm is True


def nodelay(server_class: type, run: str) -> bool:
    """Return whether a connection accepted by a server of that class has TCP_NODELAY."""
    seen: list[bool] = []

    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append(request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)

    server = server_class(HOST, handle)
    if run == "handle_request":
        with server:
            ask_once(server)
    else:
        with serving(server, 0.01):
            ask(server)
    return seen[0]


# --- the end of a request --------------------------------------------------------------------


def test_request_is_shut_down_then_closed(ss: Variant) -> None:
    class Request:
        def shutdown(self, how: int) -> None:
            calls.append(("shutdown", how))

        def close(self) -> None:
            calls.append("close")

    calls: list[Any] = []
    with ss.TCPServer(HOST, greet, bind_and_activate=False) as server:
        assert server.shutdown_request(Request()) is None
        assert calls == [("shutdown", socket.SHUT_WR), "close"]
        calls.clear()
        assert server.close_request(Request()) is None
        assert calls == ["close"]


def test_error_of_the_shutdown_is_swallowed_and_the_request_closed(ss: Variant) -> None:
    class Request:
        def shutdown(self, how: int) -> None:
            raise OSError("not connected")

        def close(self) -> None:
            calls.append("close")

    calls: list[str] = []
    with ss.TCPServer(HOST, greet, bind_and_activate=False) as server:
        server.shutdown_request(Request())
    assert calls == ["close"]


def test_client_sees_the_end_even_if_the_handler_kept_a_duplicate(ss: Variant) -> None:
    kept: list[socket.socket] = []
    with ss.TCPServer(HOST, lambda *args: kept.append(args[0].dup())) as server:
        assert ask_once(server) == b""
    kept[0].close()


def test_request_is_closed_when_it_is_over(ss: Variant) -> None:
    requests: list[Any] = []
    with ss.TCPServer(HOST, lambda *args: requests.append(args[0])) as server:
        ask_once(server)
    assert requests[0].fileno() == -1


def test_handler_may_detach_the_request(ss: Variant) -> None:
    """As programs do that give a connection to another thread."""
    taken: list[socket.socket] = []

    def handle(request: Any, client_address: Any, server: Any) -> None:
        taken.append(socket.socket(fileno=request.detach()))

    with ss.TCPServer(HOST, handle) as server, client(server) as sock:
        server.handle_request()
        with taken[0] as mine:
            mine.sendall(b"still open")
        assert read_to_end(sock) == b"still open"


def test_handler_may_close_the_request(ss: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    with ss.TCPServer(HOST, lambda *args: args[0].close()) as server:
        assert ask_once(server) == b""
    assert capsys.readouterr().err == ""


# --- own loops -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["server", "fileno", "socket"])
def test_own_loop_selects_and_handles_one_request_at_a_time(ss: Variant, what: str) -> None:
    with ss.TCPServer(HOST, greet) as server:
        watched = {"server": server, "fileno": server.fileno(), "socket": server.socket}[what]
        assert select.select([watched], [], [], 0)[0] == []
        for handle in (server.handle_request, server._handle_request_noblock):
            with client(server) as sock:
                assert select.select([watched], [], [], TIMEOUT)[0] == [watched]
                handle()
                server.service_actions()
                assert read_to_end(sock) == b"hello"


def test_own_loop_over_several_servers(ss: Variant) -> None:
    def name(request: Any, client_address: Any, server: Any) -> None:
        request.sendall(b"%d" % server.server_address[1])

    first, second = ss.TCPServer(HOST, name), ss.TCPServer(HOST, name)
    with first, second, client(second) as later, client(first) as earlier:
        wait_until(
            lambda: len(select.select([first, second], [], [], TIMEOUT)[0]) == 2,
            "both listeners to be readable",
        )
        for server in select.select([first, second], [], [], 0)[0]:
            server.handle_request()
        assert int(read_to_end(earlier)) == first.server_address[1]
        assert int(read_to_end(later)) == second.server_address[1]


def test_handle_request_in_a_loop_until_told_to_stop(ss: Variant) -> None:
    class Server(ss.TCPServer):
        timeout = 0.01
        stopping = False

        def loop(self) -> None:
            while not self.stopping:
                self.handle_request()

    with Server(HOST, greet) as server:
        thread = threading.Thread(target=server.loop)
        thread.start()
        assert [ask(server) for _ in range(5)] == [b"hello"] * 5
        server.stopping = True
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_handle_request_from_several_threads_serves_each_client_once(ss: Variant) -> None:
    """As pre-threaded servers do: some of the threads find that another one was faster."""

    with ss.TCPServer(HOST, greet) as server:
        server.timeout = 0.01
        server.socket.setblocking(False)
        stopping = threading.Event()

        def loop() -> None:
            while not stopping.is_set():
                server.handle_request()

        threads = [threading.Thread(target=loop) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert [ask(server) for _ in range(20)] == [b"hello"] * 20
        stopping.set()
        for thread in threads:
            thread.join(DEADLINE)
