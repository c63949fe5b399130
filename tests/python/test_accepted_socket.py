"""The socket of an accepted connection: what its own methods do is what `socket.socket`'s do."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE
from peers import END, assert_like_plain_files, handled, play

if TYPE_CHECKING:
    from collections.abc import Callable

    from variants import Variant

pytestmark = pytest.mark.in_greenlets

LARGE = 300_000


def received_into(size: int, *arguments: Any) -> Callable[[Any], Any]:
    """Return a step that receives into a buffer of `size`, and returns the count and the buffer."""

    def step(handler: Any) -> Any:
        buffer = bytearray(size)
        return handler.request.recv_into(buffer, *arguments), bytes(buffer)

    return step


def close_files(handler: Any) -> None:
    handler.rfile.close()
    handler.wfile.close()


@pytest.mark.parametrize(
    "steps",
    [
        (b"hello", ("recv", 2), ("recv", 0), ("recv", 100)),
        (b"hello", ("recv", 100_000)),
        (b"hello", ("recv", 2, socket.MSG_PEEK), ("recv", 100)),
        (b"hello", END, ("recv", 5), ("recv", 5), ("recv", 5)),
        (("recv", -1), ("recv", "x"), ("recv",), ("recv", 1, 2, 3)),
        (b"hello", received_into(3), received_into(8), END, received_into(8)),
        (b"hello", received_into(8, 2), received_into(8, 0, socket.MSG_PEEK), received_into(8, 3)),
        (received_into(3, 4), received_into(3, -1), received_into(3, "x")),
        (("recv_into", b"constant"), ("recv_into", "text"), ("recv_into", 3)),
        (("send", b"abc"), ("send", b""), ("send", bytearray(b"abc")), ("send", memoryview(b"a"))),
        (("sendall", b"abc"), ("sendall", b""), ("sendall", bytearray(b"abc"))),
        (("send", "text"), ("sendall", "text"), ("send",), ("sendall", b"", 0, 0)),
        (("send", b"abc", socket.MSG_DONTWAIT), ("sendall", b"abc", socket.MSG_DONTWAIT)),
        (("send", memoryview(b"abcdef")[::2]), ("sendall", memoryview(b"abcdef")[::2])),
        (("settimeout", 0), ("recv", 5), received_into(3), b"hello", ("recv", 5)),
        (("settimeout", 0), ("send", b"abc"), ("sendall", b"abc")),
        (("settimeout", 0.01), ("recv", 5), b"hello", ("recv", 5), received_into(3)),
        (("settimeout", 0), ("sendall", bytes(1 << 24))),
        (("settimeout", 0.01), ("sendall", bytes(1 << 24))),
        (close_files, ("close",), ("recv", 5), received_into(3), ("send", b"a"), ("sendall", b"a")),
        (close_files, ("close",), ("close",), ("fileno",), ("gettimeout",), ("shutdown", 1)),
        (("shutdown", socket.SHUT_WR), ("send", b"abc"), ("sendall", b"abc")),
        (("shutdown", socket.SHUT_RD), ("recv", 5), received_into(3)),
    ],
    ids=lambda steps: "-".join(
        step[0] if isinstance(step, tuple) else "client" for step in steps if not callable(step)
    ),
)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["inet", "unix"])
def test_calls_end_alike(ss: Variant, family: int, steps: tuple[Any, ...]) -> None:
    assert_like_plain_files(ss, play("request", *steps), family=family)


def test_large_data_goes_both_ways(ss: Variant) -> None:
    data = bytes(range(256)) * (LARGE // 256)

    def receive(sock: Any, into: list[bytes]) -> None:
        while sum(map(len, into)) < len(data):
            into.append(sock.recv(1 << 20))

    def exchange(handler: Any) -> tuple[bytes, bytes]:
        down: list[bytes] = []
        up: list[bytes] = []
        reader = threading.Thread(target=receive, args=(handler.peer, down))
        reader.start()
        handler.request.sendall(data)
        reader.join(DEADLINE)
        writer = threading.Thread(target=handler.peer.sendall, args=(data,))
        writer.start()
        receive(handler.request, up)
        writer.join(DEADLINE)
        return b"".join(down), b"".join(up)

    assert handled(ss, exchange) == (data, data)


def test_a_file_keeps_the_descriptor(ss: Variant) -> None:
    def close_first(handler: Any) -> Any:
        with handler.request.makefile("rb") as file:
            handler.request.close()
            handler.peer.sendall(b"line\n")
            line = file.readline()
            open_still = handler.request.fileno() >= 0
        handler.rfile.close()
        return line, open_still, handler.request.fileno()

    assert handled(ss, close_first) == (b"line\n", True, -1)


def test_it_is_a_socket_to_those_who_ask(ss: Variant) -> None:
    def look(handler: Any) -> list[Any]:
        request = handler.request
        with request.dup() as duplicate:
            same_kind = type(duplicate) is type(request)
        with pytest.raises(AttributeError):
            request.extra = 1
        return [isinstance(request, socket.socket), type(request).__name__, same_kind]

    assert handled(ss, look) == [True, "socket", True]


SEND_IT = """
import socket, sys, threading
from multiprocessing import reduction
ss = __import__(sys.argv[1])
class Handler(ss.BaseRequestHandler):
    def handle(self):
        pickled = reduction.ForkingPickler.dumps(self.request)
        with reduction.ForkingPickler.loads(pickled) as copied:
            copied.sendall(b"sent by the copy")
with ss.TCPServer(("127.0.0.1", 0), Handler) as server:
    with socket.create_connection(server.server_address, 10) as client:
        server.handle_request()
        print(client.recv(100).decode())
"""


def test_it_is_sent_to_another_process_as_a_socket_is(ss: Variant) -> None:
    # In a process of its own: what pickles sockets is not to be there for other tests.
    command = [sys.executable, "-c", SEND_IT, ss.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.stdout, done.stderr) == ("sent by the copy\n", "")
