"""Accepting that fails: one connection's fault, or no descriptor to be had."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, serving, wait_until
from probes import BRIEFLY, LOOPBACK, Call, ask, client_of, connect, echo_handler, read_all
from program import Program
from variants import Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

AN_HOUR = 3600

EXHAUST = '''
import os, resource, socket, sys, threading, time
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def descriptors():
    return len(os.listdir("/dev/fd"))
def descriptors_while_serving(server):
    with socket.create_connection(server.server_address, 10) as client:
        client.sendall(b"hello\\n")
        assert client.recv(100) == b"HELLO\\n"
        return descriptors() - 2
def exhaust(count):
    """Open files up to the limit, once no more than `count` descriptors are open."""
    end = time.monotonic() + 10
    while descriptors() > count:
        assert time.monotonic() < end, "connections stay open"
        time.sleep(0.001)
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return
def leave(count):
    """Have so many descriptors left, once there are as many connections as at the start."""
    exhaust(64)
    for _ in range(count):
        os.close(held.pop())
def release():
    while held:
        os.close(held.pop())
held = []
class Echo(ss.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())
'''

LOG = """
import logging
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
        say("logged")
logging.getLogger("fastsocketserver").addHandler(Keep())
"""


class Tries:
    """A server whose `get_request` fails, on demand, without taking the connection."""

    failing: int | None = None
    tries = 0

    def get_request(self) -> Any:
        self.tries += 1
        if self.failing is not None:
            raise OSError(self.failing, os.strerror(self.failing))
        return super().get_request()  # type: ignore[misc]


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Return a function that says what the package has warned of so far."""
    with caplog.at_level(logging.WARNING, logger="fastsocketserver"):
        yield lambda: [r for r in caplog.records if r.name == "fastsocketserver"]


# The failure of one connection


@pytest.mark.parametrize(
    "number", [errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EAGAIN, errno.EPERM]
)
def test_an_error_of_get_request_is_swallowed_and_the_loop_tries_again(
    ss: Variant, records: Any, number: int
) -> None:
    class Server(Tries, ss.TCPServer):  # type: ignore[misc, name-defined]
        failing: int | None = number

        def get_request(self) -> Any:
            try:
                return super().get_request()
            finally:
                if self.tries == 3:
                    self.failing = None

    with Server(LOOPBACK, echo_handler(ss)) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        assert ask(server.server_address) == b"HELLO\n"
        assert server.tries == 4
        server._BaseServer__shutdown_request = True
        with client_of(server):
            loop.outcome("serve_forever()")
    assert records() == []


def test_a_subclass_of_oserror_is_swallowed_too(ss: Variant) -> None:
    class Server(ss.TCPServer):  # type: ignore[misc, name-defined]
        tries = 0

        def get_request(self) -> Any:
            request = super().get_request()
            self.tries += 1
            if self.tries == 1:
                request[0].close()
                raise TimeoutError("a handshake that took too long")
            return request

    with Server(LOOPBACK, echo_handler(ss)) as server, serving(server, 0.01):
        with client_of(server) as client:
            assert read_all(client) == b""
        assert ask(server.server_address) == b"HELLO\n"


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EMFILE])
def test_handle_request_returns_when_get_request_fails(ss: Variant, number: int) -> None:
    class Server(Tries, ss.TCPServer):  # type: ignore[misc, name-defined]
        failing = number

    with Server(LOOPBACK, echo_handler(ss)) as server, client_of(server) as client:
        assert Call(server.handle_request).outcome("handle_request()") is None
        assert server.tries == 1
        server.failing = None
        client.sendall(b"hello\n")
        server.handle_request()
        assert read_all(client) == b"HELLO\n"


def test_a_client_that_left_the_queue_keeps_nobody_waiting(ss: Variant) -> None:
    with ss.TCPServer(LOOPBACK, echo_handler(ss)) as server:
        server.handle_error = lambda *request: None
        for _ in range(3):
            client_of(server).close()
        with serving(server, 0.01):
            assert ask(server.server_address) == b"HELLO\n"


def test_a_wait_that_was_for_nothing_blocks_nobody(ss: Variant) -> None:
    class Server(ss.TCPServer):  # type: ignore[misc, name-defined]
        def get_request(self) -> Any:
            raise BlockingIOError("another process was faster")

    with Server(LOOPBACK, ss.BaseRequestHandler) as server, client_of(server):
        assert Call(server.handle_request).outcome("handle_request()") is None


# No descriptor to be had


def test_handle_request_returns_when_no_descriptor_is_to_be_had(ss: Variant) -> None:
    source = """
with ss.TCPServer(("127.0.0.1", 0), Echo) as server:
    server.timeout = 0
    server.handle_request()
    say(server.server_address[1])
    sys.stdin.readline()
    exhaust(descriptors())
    try:
        result = server.handle_request()
    except OSError as error:  # for want of a descriptor to wait with
        result = error
    release()
    say(result)
    server.timeout = None
    server.handle_request()
"""
    with Program(ss, EXHAUST + source) as program, connect(program.read_port()) as client:
        program.send_line()
        assert program.read_line() == "None"
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"
        client.close()
        program.end()


def test_a_loop_that_begins_without_descriptors_serves_when_there_are_some(ss: Variant) -> None:
    source = """
server = ss.TCPServer(("127.0.0.1", 0), Echo)
say(server.server_address[1])
sys.stdin.readline()
def serve():
    try:
        server.serve_forever(0.01)
    except OSError as error:
        say(error)
loop = threading.Thread(target=serve)
exhaust(descriptors())
loop.start()
threading.Event().wait(0.1)
release()
say("released")
sys.stdin.readline()
server.shutdown()
loop.join()
server.server_close()
"""
    with Program(ss, EXHAUST + source) as program, connect(program.read_port()) as client:
        client.sendall(b"hello\n")
        program.send_line()
        assert program.read_line() == "released"
        assert client.recv(100) == b"HELLO\n"
        client.close()
        program.send_line()
        assert program.wait() == 0


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_exhausted_descriptors_are_logged_once_and_waited_for(ours: Variant, kind: str) -> None:
    source = f"""
server = ss.{kind}(("127.0.0.1", 0), Echo)
loop = threading.Thread(target=server.serve_forever, args=(3600,))
loop.start()
count = descriptors_while_serving(server)
say(server.server_address[1])
sys.stdin.readline()
exhaust(count)
say("exhausted")
sys.stdin.readline()
used = time.process_time()
threading.Event().wait(1)
say(time.process_time() - used)
sys.stdin.readline()
release()
say("released")
sys.stdin.readline()
server.shutdown()
loop.join()
server.server_close()
say(len(records), *records)
"""
    with Program(ours, EXHAUST + LOG + source) as program:
        address = program.read_port()
        program.send_line()
        assert program.read_line() == "exhausted"
        with connect(address) as client:
            client.sendall(b"hello\n")
            assert program.read_line() == "logged"
            program.send_line()
            assert float(program.read_line()) < 0.3, "it tried and tried"
            assert not select.select([client], [], [], 0)[0]
            program.send_line()
            assert program.read_line() == "released"
            assert client.recv(100) == b"HELLO\n"
        with connect(address) as client:
            client.sendall(b"again\n")
            assert client.recv(100) == b"AGAIN\n"
        program.send_line()
        assert program.read_line().startswith("1 ")
        program.end()


def test_open_connections_are_served_while_descriptors_are_exhausted(ours: Variant) -> None:
    source = """
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Echo)
loop = threading.Thread(target=server.serve_forever, args=(3600,))
loop.start()
count = descriptors_while_serving(server)
say(server.server_address[1])
sys.stdin.readline()
exhaust(count + 1)
say("exhausted")
sys.stdin.readline()
server.shutdown()
loop.join()
release()
server.server_close()
"""
    with Program(ours, EXHAUST + LOG + source) as program:
        address = program.read_port()
        with connect(address) as early:
            early.sendall(b"early\n")
            assert early.recv(100) == b"EARLY\n"
            program.send_line()
            assert program.read_line() == "exhausted"
            with connect(address) as late:
                late.sendall(b"late\n")
                assert program.read_line() == "logged"
                early.sendall(b"still\n")
                assert early.recv(100) == b"STILL\n"
                early.close()  # its descriptor is the late one's
                assert late.recv(100) == b"LATE\n"
        program.send_line()
        program.end()


def test_shutdown_and_close_work_while_descriptors_are_exhausted(ours: Variant) -> None:
    source = """
server = ss.TCPServer(("127.0.0.1", 0), Echo)
loop = threading.Thread(target=server.serve_forever, args=(3600,))
loop.start()
count = descriptors_while_serving(server)
say(server.server_address[1])
sys.stdin.readline()
exhaust(count)
say("exhausted")
sys.stdin.readline()
server.shutdown()
loop.join()
server.server_close()
say("ended")
"""
    with Program(ours, EXHAUST + LOG + source) as program:
        address = program.read_port()
        program.send_line()
        assert program.read_line() == "exhausted"
        with connect(address):
            assert program.read_line() == "logged"
            program.send_line()
            assert program.read_line() == "ended"
        program.end()


def test_a_program_without_logging_recovers_as_well(ours: Variant) -> None:
    source = """
assert "logging" not in sys.modules
server = ss.TCPServer(("127.0.0.1", 0), Echo)
loop = threading.Thread(target=server.serve_forever, args=(3600,))
loop.start()
count = descriptors_while_serving(server)
say(server.server_address[1])
sys.stdin.readline()
exhaust(count)
say("exhausted")
sys.stdin.readline()
threading.Event().wait(0.1)
release()
sys.stdin.readline()
server.shutdown()
loop.join()
server.server_close()
"""
    with Program(ours, EXHAUST + source) as program:
        address = program.read_port()
        program.send_line()
        assert program.read_line() == "exhausted"
        with connect(address) as client:
            client.sendall(b"hello\n")
            program.send_line()
            assert client.recv(100) == b"HELLO\n"
        program.send_line()
        assert program.wait() == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_a_hook_that_finds_no_descriptor_is_not_called_without_end(
    ours: Variant, records: Any, kind: str, number: int
) -> None:
    server_class = type("Server", (Tries, getattr(ours, kind)), {})
    with server_class(LOOPBACK, echo_handler(ours)) as server, serving(server, AN_HOUR):
        assert ask(server.server_address) == b"HELLO\n"
        server.tries = 0
        server.failing = number
        begin = time.monotonic()
        with client_of(server) as client:
            client.sendall(b"waiting\n")
            wait_until(records, "the trouble to be logged")
            threading.Event().wait(3 * BRIEFLY)
            assert 1 <= server.tries < 50 * (1 + time.monotonic() - begin)
            server.failing = None
            assert read_all(client) == b"WAITING\n"
    assert len(records()) == 1


def test_nothing_is_logged_without_trouble(ours: Variant, records: Any) -> None:
    with ours.TCPServer(LOOPBACK, echo_handler(ours)) as server, serving(server):
        for _ in range(3):
            assert ask(server.server_address) == b"HELLO\n"
    assert records() == []


def test_service_actions_are_not_called_without_end_in_trouble(ours: Variant, records: Any) -> None:
    rounds: list[None] = []

    class Server(Tries, ours.TCPServer):  # type: ignore[misc, name-defined]
        failing = errno.EMFILE

        def service_actions(self) -> None:
            super().service_actions()
            rounds.append(None)

    with Server(LOOPBACK, echo_handler(ours)) as server:
        loop = Call(server.serve_forever, AN_HOUR)
        begin = time.monotonic()
        with client_of(server):
            wait_until(records, "the trouble to be logged")
            threading.Event().wait(3 * BRIEFLY)
            assert len(rounds) < 50 * (1 + time.monotonic() - begin)
            Call(server.shutdown).outcome("shutdown()")
            loop.outcome("serve_forever()")


def test_server_close_from_another_thread_ends_a_loop_in_trouble(
    ours: Variant, records: Any
) -> None:
    class Server(Tries, ours.TCPServer):  # type: ignore[misc, name-defined]
        failing = errno.EMFILE

    server = Server(LOOPBACK, echo_handler(ours))
    loop = Call(server.serve_forever, AN_HOUR)
    with client_of(server):
        wait_until(records, "the trouble to be logged")
        server.server_close()
        loop.outcome("serve_forever()")
    assert server._BaseServer__is_shut_down.wait(DEADLINE)


FEW = (
    EXHAUST
    + LOG
    + """
LEFT = int(sys.stdin.readline())
class Server(ss.TCPServer):
    def service_actions(self):
        began.set()
began = threading.Event()
class Wake(logging.Handler):
    def emit(self, record):
        began.set()
logging.getLogger("fastsocketserver").addHandler(Wake())
with Server(("127.0.0.1", 0), Echo) as server, socket.socket() as client:
    client.settimeout(20)
    leave(LEFT)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    assert began.wait(20)
    release()
    client.connect(server.server_address)
    client.sendall(b"hello\\n")
    say(client.recv(100).decode().strip())
    client.shutdown(socket.SHUT_RDWR)
    server.shutdown()
    thread.join()
    say("ended")
"""
)


# Greenlets cannot begin without one: their module is read then.
@pytest.mark.parametrize(
    ("in_greenlets", "left"),
    [*((False, left) for left in range(5)), *((True, left) for left in range(1, 5))],
)
def test_few_descriptors_when_the_loop_begins(in_greenlets: bool, left: int) -> None:
    ours = Variant("fastsocketserver", pass_through=False, in_greenlets=in_greenlets)
    with Program(ours, FEW) as program:
        program.send_line(str(left))
        lines = list(iter(program.read_line, ""))
        assert [line for line in lines if line != "logged"] == ["HELLO", "ended"], program.errors
        program.end()


WAITS = """
class Waits(Echo):
    reads_first = True
    def handle(self):
        begun.set()
        super().handle()
begun = threading.Event()
"""

NONE_TO_WAIT_WITH = (
    EXHAUST
    + WAITS
    + """
with ss.TCPServer(("127.0.0.1", 0), Waits) as server, socket.socket() as client:
    client.settimeout(20)
    client.connect(server.server_address)
    leave(3)  # for the connection, for the poll object, and for what wakes it
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    assert begun.wait(20)
    client.sendall(b"hello\\n")
    release()
    say(client.recv(100).decode().strip())
    client.shutdown(socket.SHUT_RDWR)
    thread.join()
"""
)


def test_a_greenlet_waits_for_a_descriptor_to_wait_with() -> None:
    ours = Variant("fastsocketserver", pass_through=False, in_greenlets=True)
    with Program(ours, NONE_TO_WAIT_WITH) as program:
        assert list(iter(program.read_line, "")) == ["HELLO"], program.errors
        program.end()


NONE_LEFT = (
    EXHAUST
    + WAITS
    + """
class Server(ss.ThreadingTCPServer):
    parking = sys.stdin.readline().strip() == "True"
with Server(("127.0.0.1", 0), Waits) as server, socket.socket() as first, socket.socket() as second:
    first.connect(server.server_address)
    leave(3)  # for the poll object, for what wakes it, and for the connection
    thread = threading.Thread(target=server.serve_forever, args=(3600,))
    thread.start()
    assert begun.wait(20)
    release()
    second.connect(server.server_address)
    while Server.parking and not server.stats().parked:
        assert thread.is_alive()
        time.sleep(0.001)
    for client in (first, second):
        client.settimeout(20)
        client.sendall(b"hello\\n")
        say(client.recv(100).decode().strip())
        client.shutdown(socket.SHUT_RDWR)
    server.shutdown()
    thread.join()
"""
)


@pytest.mark.parametrize("parks", [False, True])
def test_a_thread_takes_no_descriptor(parks: bool) -> None:
    """Neither its first one, nor that of a client who cannot be parked."""
    with Program(Variant("fastsocketserver", pass_through=False), NONE_LEFT) as program:
        program.send_line(str(parks))
        assert list(iter(program.read_line, "")) == ["HELLO", "HELLO"], program.errors
        program.end()
