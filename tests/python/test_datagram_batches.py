"""Datagram servers with threads, where several datagrams are received at once: nobody can tell."""

from __future__ import annotations

import os
import socket
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from peers import TIMEOUT, client, wait_for_single_thread
from probes import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

COUNT = 40
"""More datagrams than are received at once."""

PACKETS = [b"%d" % number for number in range(COUNT)]


class Seen:
    """Datagrams that handlers have got, in the order in which their threads were started."""

    def __init__(self) -> None:
        self._by_thread: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._by_thread)

    def note(self, data: bytes) -> None:
        """Note a datagram that the calling thread handles."""
        number = threading.current_thread().name.split()[0].removeprefix("Thread-")
        self._by_thread.append((int(number), data))

    @property
    def packets(self) -> list[bytes]:
        """All of them."""
        return [data for _, data in sorted(self._by_thread)]


def noting_server(
    ss: Variant, act: Callable[[Any, bytes], None] = lambda server, data: None, **attributes: Any
) -> tuple[Any, Seen]:
    """Return a server whose every request calls `act` with server and data, then notes the data."""
    seen = Seen()

    def handle(request: Any, client_address: Any, server: Any) -> None:
        act(server, request[0])
        seen.note(request[0])

    server_class = type("Server", (ss.ThreadingUDPServer,), attributes)
    return server_class(LOOPBACK, handle), seen


def send_all(server: Any, packets: list[bytes] = PACKETS) -> None:
    """Send `packets`, which are then waiting: over the loopback interface, sent is arrived."""
    with client(server) as sock:
        for packet in packets:
            sock.send(packet)


def left_in(server: Any) -> Iterator[bytes]:
    """Receive what no server has taken."""
    server.socket.setblocking(False)
    while True:
        try:
            yield server.socket.recv(100)
        except BlockingIOError:
            return


def test_waiting_datagrams_are_handled_in_order_each_once(ss: Variant) -> None:
    server, seen = noting_server(ss)
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT, "all datagrams to be handled")
        assert list(left_in(server)) == []
    assert seen.packets == PACKETS


def test_empty_and_cut_datagrams_are_requests_like_others(ss: Variant) -> None:
    server, seen = noting_server(ss, max_packet_size=4)
    send_all(server, [b"12345", b"", b"1234", b"", b"123456789", b"1"])
    with serving(server):
        wait_until(lambda: len(seen) >= 6, "all datagrams to be handled")
    assert seen.packets == [b"1234", b"", b"1234", b"", b"1234", b"1"]


def test_request_is_a_pair_of_bytes_and_the_socket_and_its_sender_is_known(ss: Variant) -> None:
    requests: list[Any] = []
    server = ss.ThreadingUDPServer(LOOPBACK, lambda *args: requests.append(args))
    with client(server) as one, client(server) as other, serving(server):
        senders = [one, other, one, other]
        for number, sender in enumerate(senders):
            sender.send(b"%d" % number)
        wait_until(lambda: len(requests) >= 4, "all datagrams to be handled")
        for (data, sock), client_address, given in requests:
            assert type(data) is bytes
            assert sock is server.socket
            assert client_address == senders[int(data)].getsockname()
            assert given is server


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
def test_unix_senders_without_a_name_have_none(ss: Variant, tmp_path: Any) -> None:
    addresses: list[Any] = []
    path = str(tmp_path / "server")
    server = ss.ThreadingUnixDatagramServer(path, lambda *args: addresses.append(args[1]))
    named, unnamed = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with named, unnamed:
        named.bind(str(tmp_path / "client"))
        for sender in (named, unnamed, named):
            sender.sendto(b"", path)
        with serving(server):
            wait_until(lambda: len(addresses) >= 3, "all datagrams to be handled")
    assert sorted(addresses, key=str) == [str(tmp_path / "client")] * 2 + [None]


def test_handle_request_takes_exactly_one(ss: Variant) -> None:
    server, seen = noting_server(ss)
    with server:
        send_all(server)
        server.handle_request()
        assert list(left_in(server)) == PACKETS[1:]
    assert seen.packets == PACKETS[:1]


def test_a_shutdown_in_between_loses_nothing(ss: Variant) -> None:
    """What `serve_forever()` has not handed on is there for `handle_request()`, one by one."""

    def stop(server: Any, data: bytes) -> None:
        server._BaseServer__shutdown_request = True

    server, seen = noting_server(ss, stop, timeout=TIMEOUT)
    with server:
        send_all(server)
        server.serve_forever(0.01)
        server._threads.join()
        for handled in range(len(seen), COUNT):
            server.handle_request()
            server._threads.join()
            assert len(seen) == handled + 1
        assert list(left_in(server)) == []
    assert seen.packets == PACKETS


def test_the_rest_goes_through_hooks_that_a_handler_overrides(ss: Variant) -> None:
    """Also those datagrams that were received before."""

    def override(server: Any, data: bytes) -> None:
        def verify(request: Any, client_address: Any) -> bool:
            verified.append(request[0])
            return True

        server.__dict__.setdefault("verify_request", verify)

    verified: list[bytes] = []
    server, seen = noting_server(ss, override)
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT, "all datagrams to be handled")
        send_all(server, [b"later"])
        wait_until(lambda: len(seen) >= COUNT + 1, "the last datagram to be handled")
    assert seen.packets == [*PACKETS, b"later"]
    # From some datagram on, each once.
    assert verified
    assert verified == [*PACKETS, b"later"][-len(verified) :]


@pytest.mark.parametrize("hook", ["verify_request", "service_actions"])
def test_hooks_that_run_between_two_datagrams_find_the_next_on_the_socket(
    ss: Variant, hook: str
) -> None:
    """A server that overrides one of them is given its datagrams one by one."""

    def look(self: Any, *args: Any) -> bool:
        self.socket.setblocking(False)
        try:
            waiting.append(self.socket.recv(100, socket.MSG_PEEK))
        except BlockingIOError:
            waiting.append(b"")
        return True

    waiting: list[bytes] = []
    server, seen = noting_server(ss, **{hook: look})
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT, "all datagrams to be handled")
        wait_until(lambda: len(waiting) >= COUNT, "the hook to be called")
    assert waiting[: COUNT - 1] == PACKETS[1:]
    assert seen.packets == PACKETS


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_what_verify_request_raises_leaves_the_rest_on_the_socket(
    ss: Variant, error: type[BaseException]
) -> None:
    def verify(self: Any, request: Any, client_address: Any) -> bool:
        if request[0] == b"3":
            raise error
        return True

    server, seen = noting_server(ss, verify_request=verify)
    with server:
        send_all(server)
        with pytest.raises(error):
            server.serve_forever(0.01)
        assert list(left_in(server)) == PACKETS[4:]
    assert seen.packets == PACKETS[:3]


class FailingThrice:
    """In place of `daemon_threads`, which is asked for each request: fails for three of them."""

    def __init__(self) -> None:
        self.asked = 0

    def __get__(self, server: Any, owner: Any) -> bool:
        self.asked += 1
        if self.asked in (3, 4, 20):
            raise ValueError(self.asked)
        return False


def test_a_datagram_whose_thread_cannot_be_started_is_an_error_of_its_own(ss: Variant) -> None:
    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        errors.append((request[0], str(sys.exc_info()[1])))

    errors: list[tuple[bytes, str]] = []
    server, seen = noting_server(ss, handle_error=handle_error, daemon_threads=FailingThrice())
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT - 3, "all other datagrams to be handled")
    assert errors == [(b"2", "3"), (b"3", "4"), (b"19", "20")]
    assert seen.packets == [packet for packet in PACKETS if packet not in (b"2", b"3", b"19")]


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_what_leaves_the_loop_loses_no_datagram_that_was_received(
    ss: Variant, raised: type[BaseException]
) -> None:
    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        failed.append(request[0])
        raise raised(request[0])

    failed: list[bytes] = []
    server, seen = noting_server(ss, handle_error=handle_error, daemon_threads=FailingThrice())
    with server:
        send_all(server)
        with pytest.raises(raised) as caught:
            server.serve_forever(0.01)
        # The first one is raised, and what comes after has been handed on or is still waiting.
        assert caught.value.args == (b"2",)
        server._threads.join()
        left = list(left_in(server))
    handled = [packet for packet in PACKETS[: COUNT - len(left)] if packet not in failed]
    assert seen.packets == handled
    assert left == PACKETS[COUNT - len(left) :]
    assert failed == [b"2", b"3"][: len(failed)]


def test_the_maximum_packet_size_is_read_again(ss: Variant) -> None:
    def cut(server: Any, data: bytes) -> None:
        server.max_packet_size = 3

    server, seen = noting_server(ss, cut)
    with serving(server):
        send_all(server, [b"12345"])
        wait_until(lambda: len(seen) == 1, "the first datagram to be handled")
        send_all(server, [b"12345", b"67890"])
        wait_until(lambda: len(seen) == 3, "the others to be handled")
    assert seen.packets == [b"12345", b"123", b"678"]


@pytest.mark.parametrize("size", [0, 1 << 16, 1 << 20, (1 << 24) + 1])
def test_any_maximum_packet_size_will_do(ss: Variant, size: int) -> None:
    server, seen = noting_server(ss, max_packet_size=size)
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT, "all datagrams to be handled")
    assert seen.packets == [packet[:size] for packet in PACKETS]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_handler_that_forks_has_no_datagram_handled_twice(ss: Variant) -> None:
    """Its child returns from the handler, which ends it."""

    def note_and_fork(server: Any, data: bytes) -> None:
        os.write(writer, data + b" ")
        if data == b"0":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid:
                children.append(pid)

    wait_for_single_thread()
    children: list[int] = []
    reader, writer = os.pipe()
    server, seen = noting_server(ss, note_and_fork)
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT, "all datagrams to be handled")
        [child] = children
        os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as file:
        handled = file.read().split()
    assert sorted(handled) == sorted(PACKETS)


def test_a_replaced_socket_loses_nothing_of_what_was_received(ss: Variant) -> None:
    """Servers that go on waiting for the old one find nothing on the new one."""

    def replace(server: Any, data: bytes) -> None:
        if data == b"0":
            server.socket = new

    server, seen = noting_server(ss, replace)
    old = server.socket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new, old:
        new.bind(LOOPBACK)
        new.setblocking(False)
        send_all(server)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        wait_until(lambda: server.socket is new, "the socket to be replaced")
        server.shutdown()
        thread.join(DEADLINE)
        server._threads.join()
        server.socket = old
        left = list(left_in(server))
        server.server_close()
    assert [*seen.packets, *left] == PACKETS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no recvmmsg")
def test_what_is_waiting_is_received_at_once(ss: Variant) -> None:
    """Sixteen, and one where hooks are overridden; only a look behind the scenes shows it."""

    class Waiting:
        """In place of `daemon_threads`, which is asked between two datagrams."""

        def __get__(self, server: Any, owner: Any) -> bool:
            try:
                waiting.append(server.socket.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except BlockingIOError:
                waiting.append(b"")
            return False

    waiting: list[bytes] = []
    server, seen = noting_server(ss, daemon_threads=Waiting())
    send_all(server)
    with serving(server):
        wait_until(lambda: len(seen) >= COUNT, "all datagrams to be handled")
    if ss.is_reference or ss.pass_through:
        assert waiting == [*PACKETS[1:], b""]
    else:
        assert waiting == [b"16"] * 16 + [b"32"] * 16 + [b""] * 8
