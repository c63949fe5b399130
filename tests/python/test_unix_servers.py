"""The servers of the Unix family: paths, abstract names, and peers without a name."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from conftest import serving, wait_until
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
    from collections.abc import Iterator

    from variants import Variant

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")

ABSTRACT = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract names")
STREAMS = ["UnixStreamServer", "ThreadingUnixStreamServer"]
DATAGRAMS = ["UnixDatagramServer", "ThreadingUnixDatagramServer"]


@contextlib.contextmanager
def client_at(server: Any, name: Any = None) -> Iterator[socket.socket]:
    """Give a socket that is bound to `name`, or to none, and connected to the server."""
    with socket.socket(socket.AF_UNIX, server.socket_type) as sock:
        sock.settimeout(TIMEOUT)
        if name is not None:
            sock.bind(name)
        sock.connect(server.server_address)
        yield sock


@pytest.fixture
def path() -> Iterator[str]:
    """Return a path for a socket, short enough for the system's limit of about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="ss") as directory:
        yield os.path.join(directory, "socket")


def echo(request: Any, client_address: Any, server: Any) -> None:
    """Send the question back."""
    answer(request, client_address, question(request))


def test_defaults(ss: Variant) -> None:
    stream, datagram = ss.UnixStreamServer, ss.UnixDatagramServer
    assert issubclass(stream, ss.module.TCPServer)
    assert issubclass(datagram, ss.module.UDPServer)
    assert (stream.address_family, stream.socket_type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    assert (datagram.address_family, datagram.socket_type) == (socket.AF_UNIX, socket.SOCK_DGRAM)


@pytest.mark.parametrize("family", STREAMS + DATAGRAMS)
def test_server_at_a_path_answers(ss: Variant, family: str, path: str) -> None:
    server = getattr(ss, family)(path, echo)
    assert server.server_address == path
    assert type(server.server_address) is str
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with serving(server, 0.01):
        assert ask(server, b"one") == b"one"
        assert ask(server, b"two") == b"two"


@ABSTRACT
@pytest.mark.parametrize("name", ["str", "bytes"])
@pytest.mark.parametrize("family", STREAMS + DATAGRAMS)
def test_server_at_an_abstract_name_answers(ss: Variant, family: str, name: str, path: str) -> None:
    address = b"\0" + os.fsencode(path)
    server = getattr(ss, family)(address.decode() if name == "str" else address, echo)
    assert server.server_address == address
    assert type(server.server_address) is bytes
    with serving(server, 0.01):
        assert ask(server, b"one") == b"one"


@ABSTRACT
@pytest.mark.parametrize("family", STREAMS + DATAGRAMS)
def test_empty_address_is_bound_to_a_name_of_the_systems_choice(ss: Variant, family: str) -> None:
    server = getattr(ss, family)("", echo)
    assert type(server.server_address) is bytes
    assert server.server_address[0] == 0
    with serving(server, 0.01):
        assert ask(server, b"one") == b"one"


@pytest.mark.parametrize("family", ["UnixStreamServer", "UnixDatagramServer"])
def test_path_in_bytes_is_reported_as_text(ss: Variant, family: str, path: str) -> None:
    with getattr(ss, family)(os.fsencode(path), echo) as server:
        assert server.server_address == path
        assert ask_once(server, b"one") == b"one"


@pytest.mark.parametrize("family", ["UnixStreamServer", "UnixDatagramServer"])
def test_path_that_is_no_utf8_survives(ss: Variant, family: str, path: str) -> None:
    name = os.fsdecode(os.fsencode(path) + b"\xff")
    with getattr(ss, family)(name, echo) as server:
        assert server.server_address == name
        assert ask_once(server, b"one") == b"one"


@pytest.mark.parametrize("family", ["UnixStreamServer", "UnixDatagramServer"])
@pytest.mark.parametrize("reuse", [False, True])
def test_path_in_use_is_refused(ss: Variant, family: str, path: str, reuse: bool) -> None:
    server_class = type("Server", (getattr(ss, family),), {"allow_reuse_address": reuse})
    with getattr(ss, family)(path, echo) as server:
        with pytest.raises(OSError, match="in use"):
            server_class(path, echo)
        assert ask_once(server, b"still there") == b"still there"


@pytest.mark.parametrize("family", ["UnixStreamServer", "UnixDatagramServer"])
def test_path_too_long_is_refused(ss: Variant, family: str) -> None:
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        getattr(ss, family)("x" * 200, echo)


@pytest.mark.parametrize("family", STREAMS)
def test_stream_client_without_a_name_has_an_empty_address(ss: Variant, family: str) -> None:
    seen: list[Any] = []
    with getattr(ss, family)("", lambda *args: seen.append(args[1])) as server, client(server):
        server.handle_request()
    assert seen == [""]
    assert type(seen[0]) is str


@pytest.mark.parametrize("family", STREAMS + DATAGRAMS)
def test_client_at_a_path_has_that_path_as_its_address(ss: Variant, family: str, path: str) -> None:
    seen: list[Any] = []
    server = getattr(ss, family)("", lambda *args: seen.append(args[1]))
    with server, client_at(server, path) as sock:
        sock.send(b"hello")
        server.handle_request()
    assert seen == [path]
    assert type(seen[0]) is str


@ABSTRACT
@pytest.mark.parametrize("family", STREAMS + DATAGRAMS)
def test_client_at_an_abstract_name_has_bytes_as_its_address(
    ss: Variant, family: str, path: str
) -> None:
    seen: list[Any] = []
    name = b"\0" + os.fsencode(path)
    server = getattr(ss, family)("", lambda *args: seen.append(args[1]))
    with server, client_at(server, name) as sock:
        sock.send(b"hello")
        server.handle_request()
    assert seen == [name]
    assert type(seen[0]) is bytes


@pytest.mark.parametrize("family", DATAGRAMS)
@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_datagram_client_without_a_name_has_no_address(ss: Variant, family: str, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        seen.append((request[0], client_address))
        server._BaseServer__shutdown_request = True

    seen: list[Any] = []
    server = getattr(ss, family)("", handle)
    with server, client_at(server) as sock:
        sock.send(b"hello")
        getattr(server, run)(*([0.01] if run == "serve_forever" else []))
    assert seen == [(b"hello", None)]


def test_answer_to_a_client_without_a_name_goes_to_handle_error(ss: Variant) -> None:
    class Server(ss.UnixDatagramServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append((client_address, sys.exc_info()[0]))

    errors: list[Any] = []
    server = Server("", ss.DatagramRequestHandler)
    with server, client_at(server) as sock:
        sock.send(b"hello")
        server.handle_request()
    assert errors == [(None, TypeError)]


def test_packets_keep_their_bounds(ss: Variant) -> None:
    seen: list[bytes] = []
    server = ss.UnixDatagramServer("", lambda *args: seen.append(args[0][0]))
    with server, client(server) as sock:
        for packet in (b"one", b"", b"x" * 9000, b"last"):
            sock.send(packet)
            server.handle_request()
    assert seen == [b"one", b"", b"x" * 8192, b"last"]


def test_accepted_connection_is_an_ordinary_unix_socket(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        assert isinstance(request, socket.socket)
        assert repr(request).startswith("<socket.socket fd=")
        assert request.family is socket.AF_UNIX
        assert request.type is socket.SOCK_STREAM
        assert request.gettimeout() is None
        assert not request.get_inheritable()
        request.sendall(b"checked")

    with ss.UnixStreamServer("", handle) as server:
        assert ask_once(server) == b"checked"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SOCK_SEQPACKET")
@pytest.mark.parametrize("family", STREAMS)
def test_connections_of_sequenced_packets(ss: Variant, family: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        assert request.type is socket.SOCK_SEQPACKET
        for packet in iter(lambda: request.recv(100), b""):
            request.send(packet.upper())

    server_class = type("Server", (getattr(ss, family),), {"socket_type": socket.SOCK_SEQPACKET})
    server = server_class("", handle)
    with serving(server, 0.01), client_at(server) as sock:
        sock.send(b"one")
        sock.send(b"two")
        assert [sock.recv(100), sock.recv(100)] == [b"ONE", b"TWO"]


def test_stream_handler_over_a_unix_connection(ss: Variant) -> None:
    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())

    server = ss.ThreadingUnixStreamServer("", Handler)
    with serving(server, 0.01):
        assert ask(server, b"a\nb\n") == b"A\nB\n"


def test_descriptor_sent_over_a_unix_connection(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        data, descriptors, _, _ = socket.recv_fds(request, 10, 1)
        with socket.socket(fileno=descriptors[0]) as received:
            received.sendall(data)

    here, there = socket.socketpair()
    here.settimeout(TIMEOUT)
    with here, ss.UnixStreamServer("", handle) as server, client(server) as sock:
        with there:
            socket.send_fds(sock, [b"passed"], [there.fileno()])
        server.handle_request()
        assert read_to_end(here) == b"passed"


# --- forking ---------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("family", ["ForkingUnixStreamServer", "ForkingUnixDatagramServer"])
def test_forking_unix_server_answers_from_a_child(ss: Variant, family: str) -> None:
    if ss.is_reference and sys.version_info < (3, 12):
        pytest.skip("the reference has it from 3.12 on")

    def pid(request: Any, client_address: Any, server: Any) -> None:
        answer(request, client_address, b"%d" % os.getpid())

    wait_for_single_thread()
    with getattr(ss, family)("", pid) as server:
        assert int(ask_once(server)) not in {0, os.getpid()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("kind", ["Stream", "Datagram"])
def test_forking_unix_servers_exist_on_every_version(ours: Variant, kind: str) -> None:
    name = f"ForkingUnix{kind}Server"
    assert name in ours.module.__all__
    forking = getattr(ours.module, name)
    assert forking.__bases__ == (
        ours.module.ForkingMixIn,
        getattr(ours.module, f"Unix{kind}Server"),
    )


def test_requests_of_a_stream_server_are_closed(ss: Variant) -> None:
    requests: list[Any] = []
    server = ss.ThreadingUnixStreamServer("", lambda *args: requests.append(args[0]))
    with serving(server, 0.01):
        assert ask(server) == b""
        wait_until(lambda: requests[0].fileno() == -1, "the request to be closed")
