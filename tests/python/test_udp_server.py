"""`UDPServer`: a datagram is the request; nothing is accepted, shut down or closed."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving
from peers import TIMEOUT, ask, ask_once, client

if TYPE_CHECKING:
    from variants import Variant

HOST = ("127.0.0.1", 0)


def echo(request: Any, client_address: Any, server: Any) -> None:
    """Send a datagram back."""
    data, sock = request
    sock.sendto(data, client_address)


def test_defaults(ss: Variant) -> None:
    server = ss.UDPServer
    assert issubclass(server, ss.module.TCPServer)
    assert (server.address_family, server.socket_type) == (socket.AF_INET, socket.SOCK_DGRAM)
    assert server.max_packet_size == 8192
    assert server.allow_reuse_address is False


def test_allow_reuse_address_is_its_own_and_not_that_of_tcp_server(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ss.module.TCPServer, "allow_reuse_address", True)
    assert ss.UDPServer.allow_reuse_address is False


def test_request_is_the_data_and_the_socket_of_the_server(ss: Variant) -> None:
    seen: list[Any] = []
    with ss.UDPServer(HOST, lambda *args: seen.append(args)) as server, client(server) as sock:
        sock.send(b"data")
        server.handle_request()
        [(request, client_address, given)] = seen
        assert type(request) is tuple
        assert type(request[0]) is bytes
        assert request == (b"data", server.socket)
        assert request[1] is server.socket
        assert client_address == sock.getsockname()
        assert given is server


def test_get_request_receives(ss: Variant) -> None:
    with ss.UDPServer(HOST, echo) as server, client(server) as sock:
        sock.send(b"data")
        assert server.get_request() == ((b"data", server.socket), sock.getsockname())


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_address_family_of_a_subclass(ss: Variant) -> None:
    server_class = type("Server", (ss.UDPServer,), {"address_family": socket.AF_INET6})
    seen: list[Any] = []

    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append(client_address)
        echo(request, client_address, server)

    server = server_class(("::1", 0), handle)
    with serving(server, 0.01), client(server) as sock:
        sock.send(b"data")
        assert sock.recv(100) == b"data"
        assert seen == [sock.getsockname()]


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
@pytest.mark.parametrize("place", ["class", "instance", "default"])
def test_packet_over_the_maximum_is_cut(ss: Variant, run: str, place: str) -> None:
    limit = 8192 if place == "default" else 10
    names = {"max_packet_size": 10} if place == "class" else {}
    server = type("Server", (ss.UDPServer,), names)(HOST, echo)
    if place == "instance":
        server.max_packet_size = 10
    packet = os.urandom(limit + 5)
    if run == "handle_request":
        with server:
            assert ask_once(server, packet) == packet[:limit]
            assert ask_once(server, packet[:limit]) == packet[:limit]
    else:
        with serving(server, 0.01):
            assert ask(server, packet) == packet[:limit]
            assert ask(server, packet[:limit]) == packet[:limit]


def test_maximum_packet_size_changed_while_running(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        echo(request, client_address, server)
        server.max_packet_size = 3

    server = ss.UDPServer(HOST, handle)
    with serving(server, 0.01):
        assert [ask(server, b"12345"), ask(server, b"12345")] == [b"12345", b"123"]


def test_empty_packet_is_a_request(ss: Variant) -> None:
    server = ss.UDPServer(HOST, echo)
    with serving(server, 0.01):
        assert ask(server, b"") == b""


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_packets_are_handled_in_order_each_once(ss: Variant, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append(request[0])
        if len(seen) == 50:
            server._BaseServer__shutdown_request = True

    seen: list[bytes] = []
    packets = [b"%d" % n for n in range(50)]
    with ss.UDPServer(HOST, handle) as server, client(server) as sock:
        for packet in packets:
            sock.send(packet)
        if run == "serve_forever":
            server.serve_forever(0.01)
        else:
            for handled in range(1, 51):
                server.handle_request()
                assert len(seen) == handled
    assert seen == packets


def test_packets_that_come_with_a_shutdown_are_not_lost(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append(request[0])
        server._BaseServer__shutdown_request = True

    seen: list[bytes] = []
    packets = [b"%d" % n for n in range(5)]
    with ss.UDPServer(HOST, handle) as server, client(server) as sock:
        for packet in packets:
            sock.send(packet)
        server.serve_forever(0.01)
        server.timeout = 0
        while len(seen) < 5:
            before = len(seen)
            server.handle_request()
            assert len(seen) == before + 1
    assert seen == packets


def test_handler_may_receive_the_next_packet_itself(ss: Variant) -> None:
    """As file transfer servers do; the second packet is there before the loop looks."""

    def handle(request: Any, client_address: Any, server: Any) -> None:
        data, sock = request
        more, address = sock.recvfrom(100)
        assert address == client_address
        sock.sendto(data + more, client_address)

    server = ss.UDPServer(HOST, handle)
    server.socket.settimeout(TIMEOUT)
    with client(server) as sock:
        sock.send(b"first, ")
        sock.send(b"second")
        with serving(server, 0.01):
            assert sock.recv(100) == b"first, second"


def test_handler_may_wait_for_a_packet_that_has_not_arrived(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        data, sock = request
        sock.sendto(b"go on", client_address)
        sock.sendto(data + sock.recv(100), client_address)

    server = ss.UDPServer(HOST, handle)
    with serving(server, 0.01), client(server) as sock:
        sock.send(b"first, ")
        assert sock.recv(100) == b"go on"
        sock.send(b"second")
        assert sock.recv(100) == b"first, second"


def test_handler_may_send_to_anyone_through_the_socket(ss: Variant) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(HOST)
        other.settimeout(TIMEOUT)
        server = ss.UDPServer(HOST, lambda *args: args[0][1].sendto(b"hi", other.getsockname()))
        with serving(server, 0.01), client(server) as sock:
            sock.send(b"packet")
            assert other.recvfrom(100) == (b"hi", server.server_address)


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_socket_keeps_its_blocking_mode(ss: Variant, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        modes.append((os.get_blocking(server.fileno()), server.socket.gettimeout()))
        server._BaseServer__shutdown_request = True

    modes: list[Any] = []
    with ss.UDPServer(HOST, handle) as server, client(server) as sock:
        sock.send(b"packet")
        getattr(server, run)()
        modes.append((os.get_blocking(server.fileno()), server.socket.gettimeout()))
    assert modes == [(True, None), (True, None)]


def test_activation_does_not_listen(ss: Variant) -> None:
    class Socket:
        """Has no `listen`."""

    with ss.UDPServer(HOST, echo) as server:
        real, server.socket = server.socket, Socket()
        assert server.server_activate() is None
        server.socket = real


def test_nothing_is_shut_down_or_closed_after_a_packet(ss: Variant) -> None:
    class Server(ss.UDPServer):
        def shutdown_request(self, request: Any) -> None:
            calls.append(("shutdown_request", request))
            super().shutdown_request(request)

        def close_request(self, request: Any) -> None:
            calls.append(("close_request", request))
            super().close_request(request)

    calls: list[Any] = []
    with Server(HOST, echo) as server:
        assert ask_once(server, b"packet") == b"packet"
        request = (b"packet", server.socket)
        assert calls == [("shutdown_request", request), ("close_request", request)]
        assert server.fileno() >= 0


def test_error_queued_on_the_socket_does_not_end_the_server(ss: Variant) -> None:
    """A reply to a port that is closed comes back as an error of the connected socket."""
    server = ss.UDPServer(HOST, echo)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(HOST)
        nobody = gone.getsockname()
    with serving(server, 0.01):
        server.socket.connect(nobody)
        server.socket.send(b"to nobody")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.settimeout(TIMEOUT)
            late.bind(nobody)
            late.sendto(b"packet", server.server_address)
            assert late.recv(100) == b"packet"


def test_threads_answer_packets_of_many_clients(ss: Variant) -> None:
    server = ss.ThreadingUDPServer(HOST, echo)
    answers: list[bytes] = []

    def ask_many(name: int) -> None:
        answers.extend(ask(server, b"%d.%d" % (name, n)) for n in range(10))

    with serving(server, 0.01):
        threads = [threading.Thread(target=ask_many, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert sorted(answers) == sorted(b"%d.%d" % (name, n) for name in range(4) for n in range(10))
