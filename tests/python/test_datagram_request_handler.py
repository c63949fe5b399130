"""`DatagramRequestHandler`: one packet to read, one packet as the answer."""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING, Any

import pytest
from conftest import serving
from peers import ask, ask_once, client

if TYPE_CHECKING:
    from collections.abc import Callable

    from variants import Variant

FAMILIES = [
    ("UDPServer", ("127.0.0.1", 0)),
    ("ThreadingUDPServer", ("127.0.0.1", 0)),
    pytest.param(
        "UnixDatagramServer",
        "",
        marks=pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets"),
    ),
]


def handler_of(ss: Variant, handle: Callable[[Any], Any]) -> type:
    """Return a datagram handler with this method `handle`."""
    return type("Handler", (ss.DatagramRequestHandler,), {"handle": handle})


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_answer_is_one_packet_of_all_that_was_written(
    ss: Variant, family: str, address: Any
) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.write(b"answer to ")
        handler.wfile.write(handler.rfile.read())

    server = getattr(ss, family)(address, handler_of(ss, handle))
    with serving(server, 0.01):
        assert ask(server, b"packet 1") == b"answer to packet 1"
        assert ask(server, b"packet 2") == b"answer to packet 2"


def test_attributes(ss: Variant) -> None:
    seen: list[Any] = []

    def handle(handler: Any) -> None:
        seen.append(handler)
        assert type(handler.rfile) is io.BytesIO
        assert type(handler.wfile) is io.BytesIO
        assert type(handler.packet) is bytes
        assert handler.packet == b"packet"
        assert handler.request == (handler.packet, handler.socket)
        assert handler.socket is handler.server.socket

    with ss.UDPServer(("127.0.0.1", 0), handler_of(ss, handle)) as server:
        ask_once(server, b"packet")
    assert set(vars(seen[0])) == {
        "client_address",
        "packet",
        "request",
        "rfile",
        "server",
        "socket",
        "wfile",
    }


def test_lines_of_a_packet(ss: Variant) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.writelines(reversed(list(handler.rfile)))

    with ss.UDPServer(("127.0.0.1", 0), handler_of(ss, handle)) as server:
        assert ask_once(server, b"a\nb\n") == b"b\na\n"


def test_nothing_written_is_answered_by_an_empty_packet(ss: Variant) -> None:
    with ss.UDPServer(("127.0.0.1", 0), ss.DatagramRequestHandler) as server:
        assert ask_once(server, b"packet") == b""


def test_empty_packet_is_handled(ss: Variant) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.write(b"length %d" % len(handler.packet))

    with ss.UDPServer(("127.0.0.1", 0), handler_of(ss, handle)) as server:
        assert ask_once(server, b"") == b"length 0"


def test_answer_is_sent_even_if_handle_raises(ss: Variant) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.write(b"partial")
        raise ArithmeticError("from handle")

    class Server(ss.UDPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(client_address)

    errors: list[Any] = []
    with Server(("127.0.0.1", 0), handler_of(ss, handle)) as server, client(server) as sock:
        sock.send(b"packet")
        server.handle_request()
        assert sock.recv(100) == b"partial"
        assert errors == [sock.getsockname()]


def test_answer_goes_to_the_client_address_of_the_handler(ss: Variant) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(10)

        def handle(handler: Any) -> None:
            handler.wfile.write(b"redirected")
            handler.client_address = other.getsockname()

        server = ss.UDPServer(("127.0.0.1", 0), handler_of(ss, handle))
        with server, client(server) as sock:
            sock.send(b"packet")
            server.handle_request()
            assert other.recv(100) == b"redirected"


def test_answer_goes_out_through_the_socket_of_the_handler(ss: Variant) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.sent: list[Any] = []

        def sendto(self, *args: Any) -> None:
            self.sent.append(args)

    recorder = Recorder()

    def handle(handler: Any) -> None:
        assert handler.socket is recorder
        handler.wfile.write(handler.packet * 2)

    handler_of(ss, handle)((b"ab", recorder), "somewhere", None)
    assert recorder.sent == [(b"abab", "somewhere")]


def test_wfile_replaced_by_the_handler_is_what_is_sent(ss: Variant) -> None:
    def handle(handler: Any) -> None:
        handler.wfile = io.BytesIO(b"replaced")

    with ss.UDPServer(("127.0.0.1", 0), handler_of(ss, handle)) as server:
        assert ask_once(server, b"packet") == b"replaced"


def test_answer_too_long_for_a_packet_goes_to_handle_error(
    ss: Variant, capsys: pytest.CaptureFixture[str]
) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.write(b"x" * 100_000)

    server = ss.UDPServer(("127.0.0.1", 0), handler_of(ss, handle))
    with server, client(server) as sock:
        sock.send(b"packet")
        server.handle_request()
    assert "Message too long" in capsys.readouterr().err
