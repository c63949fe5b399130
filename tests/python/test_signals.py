"""Signals that arrive while a server waits or a handler does I/O."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest
from probes import ask, connect, read_all
from program import Program

if TYPE_CHECKING:
    from variants import Variant

PRELUDE = """
import os, signal, socket, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
class Echo(ss.StreamRequestHandler):
    def handle(self):
        say("reading")
        self.wfile.write(self.rfile.readline().upper())
class Rounds:
    new = 0
    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.new += 1
    def service_actions(self):
        super().service_actions()
        if self.new:
            self.new = 0
            say("round")
"""

KINDS = ("TCPServer", "ThreadingTCPServer", "ForkingTCPServer")


def programs(ss: Variant, source: str) -> Program:
    """Return a program that begins with the prelude."""
    return Program(ss, PRELUDE + source)


def first_round(program: Program) -> tuple[str, int]:
    """Let the program serve one request, and wait until its loop waits again."""
    address = program.read_port()
    assert ask(address) == b"HELLO\n"
    assert sorted([program.read_line(), program.read_line()]) == ["reading", "round"]
    program.wait_asleep()
    return address


# SIGINT


@pytest.mark.parametrize("kind", KINDS)
def test_sigint_ends_an_idle_loop_at_once(ss: Variant, kind: str) -> None:
    source = f"""
class Server(Rounds, ss.{kind}):
    pass
server = Server(("127.0.0.1", 0), Echo)
say(server.server_address[1])
try:
    server.serve_forever(3600)
except KeyboardInterrupt:
    say("interrupted", server._BaseServer__is_shut_down.is_set(),
        server._BaseServer__shutdown_request)
server.shutdown()
server.server_close()
"""
    with programs(ss, source) as program:
        first_round(program)
        program.send_signal(signal.SIGINT)
        assert program.read_line() == "interrupted True False"
        program.end()


@pytest.mark.parametrize("timeout", [None, 3600])
def test_sigint_ends_the_wait_of_handle_request(ss: Variant, timeout: int | None) -> None:
    source = f"""
with ss.TCPServer(("127.0.0.1", 0), Echo) as server:
    server.timeout = {timeout}
    say(server.server_address[1])
    server.handle_request()
    say("handled")
    try:
        server.handle_request()
    except KeyboardInterrupt:
        say("interrupted")
"""
    with programs(ss, source) as program:
        assert ask(program.read_port()) == b"HELLO\n"
        assert [program.read_line(), program.read_line()] == ["reading", "handled"]
        program.wait_asleep()
        program.send_signal(signal.SIGINT)
        assert program.read_line() == "interrupted"
        program.end()


@pytest.mark.parametrize(
    ("blocking", "timeout"),
    [
        ("rfile.readline()", None),
        ("rfile.readline()", 3600),
        ("rfile.read(1)", None),
        ("rfile.peek()", None),
        ("request.recv(1)", None),
        ("wfile.write(LARGE)", None),
        ("wfile.write(LARGE)", 3600),
    ],
)
def test_sigint_ends_a_handler_that_blocks(ss: Variant, blocking: str, timeout: int | None) -> None:
    source = f"""
LARGE = bytes(1 << 25)
class Blocked(ss.StreamRequestHandler):
    timeout = {timeout}
    def handle(self):
        say("blocking")
        self.{blocking}
with ss.TCPServer(("127.0.0.1", 0), Blocked) as server:
    say(server.server_address[1])
    try:
        server.serve_forever(3600)
    except KeyboardInterrupt:
        say("interrupted")
"""
    with programs(ss, source) as program, connect(program.read_port()) as client:
        assert program.read_line() == "blocking"
        program.wait_asleep()
        program.send_signal(signal.SIGINT)
        assert program.read_line() == "interrupted"
        read_all(client)  # the request was shut down
        program.end()


def test_sigint_ends_the_loop_while_request_threads_block(ss: Variant) -> None:
    source = """
class Server(Rounds, ss.ThreadingTCPServer):
    pass
server = Server(("127.0.0.1", 0), Echo)
say(server.server_address[1])
try:
    server.serve_forever(3600)
except KeyboardInterrupt:
    say("interrupted")
server.server_close()
"""
    with programs(ss, source) as program, connect(program.read_port()) as client:
        assert sorted([program.read_line(), program.read_line()]) == ["reading", "round"]
        program.wait_asleep()
        program.send_signal(signal.SIGINT)
        assert program.read_line() == "interrupted"
        client.sendall(b"late\n")
        assert read_all(client) == b"LATE\n"
        program.end()


def test_a_server_serves_on_after_keyboard_interrupt(ss: Variant) -> None:
    source = """
class Server(Rounds, ss.TCPServer):
    pass
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    for _ in range(2):
        try:
            server.serve_forever(3600)
        except KeyboardInterrupt:
            say("interrupted")
            say(server.server_address[1])
"""
    with programs(ss, source) as program:
        for _ in range(2):
            first_round(program)
            program.send_signal(signal.SIGINT)
            assert program.read_line() == "interrupted"
        program.read_port()
        program.end()


# Signal handlers in Python


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_handler_runs_while_the_loop_waits(ss: Variant, kind: str) -> None:
    source = f"""
signal.signal(signal.SIGUSR1, lambda *signal: say("signalled"))
class Server(Rounds, ss.{kind}):
    pass
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    try:
        server.serve_forever(3600)
    except KeyboardInterrupt:
        pass
"""
    with programs(ss, source) as program:
        address = first_round(program)
        for _ in range(3):
            program.send_signal(signal.SIGUSR1)
            assert program.read_line() == "signalled"
            program.wait_asleep()
        assert ask(address) == b"HELLO\n"
        assert sorted([program.read_line(), program.read_line()]) == ["reading", "round"]
        program.wait_asleep()
        program.send_signal(signal.SIGINT)
        program.end()


def test_a_signal_handler_runs_while_handle_request_waits(ss: Variant) -> None:
    source = """
signal.signal(signal.SIGUSR1, lambda *signal: say("signalled"))
with ss.TCPServer(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    server.handle_request()
"""
    with programs(ss, source) as program:
        address = program.read_port()
        program.wait_asleep()
        program.send_signal(signal.SIGUSR1)
        assert program.read_line() == "signalled"
        assert ask(address) == b"HELLO\n"
        program.end()


@pytest.mark.parametrize("timeout", [None, 3600])
def test_a_read_goes_on_after_a_signal_handler(ss: Variant, timeout: int | None) -> None:
    source = f"""
signal.signal(signal.SIGUSR1, lambda *signal: say("signalled"))
Echo.timeout = {timeout}
with ss.TCPServer(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    server.handle_request()
"""
    with programs(ss, source) as program, connect(program.read_port()) as client:
        assert program.read_line() == "reading"
        for piece in (b"a", b"bc", b"def\n"):
            program.wait_asleep()
            program.send_signal(signal.SIGUSR1)
            assert program.read_line() == "signalled"
            client.sendall(piece)
        assert read_all(client) == b"ABCDEF\n"
        program.end()


@pytest.mark.parametrize("buffered", [0, 65536])
@pytest.mark.parametrize("timeout", [None, 3600])
def test_a_write_goes_on_after_a_signal_handler(
    ss: Variant, buffered: int, timeout: int | None
) -> None:
    source = f"""
signal.signal(signal.SIGUSR1, lambda *signal: say("signalled"))
class Large(ss.StreamRequestHandler):
    wbufsize = {buffered}
    timeout = {timeout}
    def handle(self):
        say("writing")
        self.wfile.write(bytes(range(256)) * 65536)
with ss.TCPServer(("127.0.0.1", 0), Large) as server:
    say(server.server_address[1])
    server.handle_request()
"""
    with programs(ss, source) as program, connect(program.read_port()) as client:
        assert program.read_line() == "writing"
        for _ in range(2):
            program.wait_asleep()
            program.send_signal(signal.SIGUSR1)
            assert program.read_line() == "signalled"
        assert read_all(client) == bytes(range(256)) * 65536
        program.end()


def test_an_exception_of_a_signal_handler_ends_the_read(ss: Variant) -> None:
    source = """
def fail(*signal):
    raise InterruptedError("from a signal handler")
signal.signal(signal.SIGUSR1, fail)
class Reader(ss.StreamRequestHandler):
    def handle(self):
        say("reading")
        try:
            self.rfile.readline()
        except InterruptedError as error:
            say(error)
            self.wfile.write(b"sorry, " + self.rfile.readline())
with ss.TCPServer(("127.0.0.1", 0), Reader) as server:
    say(server.server_address[1])
    server.handle_request()
"""
    with programs(ss, source) as program, connect(program.read_port()) as client:
        assert program.read_line() == "reading"
        program.wait_asleep()
        program.send_signal(signal.SIGUSR1)
        assert program.read_line() == "from a signal handler"
        client.sendall(b"again\n")
        assert read_all(client) == b"sorry, again\n"
        program.end()


def test_an_exception_of_a_signal_handler_goes_to_handle_error(ss: Variant) -> None:
    source = """
def fail(*signal):
    raise ValueError("from a signal handler")
signal.signal(signal.SIGUSR1, fail)
class Server(Rounds, ss.TCPServer):
    def handle_error(self, request, client_address):
        say("error:", sys.exc_info()[1])
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    try:
        server.serve_forever(3600)
    except ValueError as error:
        say("ended by", error)
"""
    with programs(ss, source) as program:
        address = program.read_port()
        with connect(address) as client:
            assert program.read_line() == "reading"
            program.wait_asleep()
            program.send_signal(signal.SIGUSR1)
            assert program.read_line() == "error: from a signal handler"
            assert read_all(client) == b""
        program.wait_asleep()
        program.send_signal(signal.SIGUSR1)
        assert program.read_line() == "ended by from a signal handler"
        program.end()


def test_a_signal_handler_stops_the_loop_by_the_private_flag(ss: Variant) -> None:
    source = """
def stop(*signal):
    server._BaseServer__shutdown_request = True
signal.signal(signal.SIGTERM, stop)
class Server(ss.TCPServer):
    new = True
    def service_actions(self):
        super().service_actions()
        if self.new:
            self.new = False
            say("round")
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    server.serve_forever(0.01)
"""
    with programs(ss, source) as program:
        program.read_port()
        assert program.read_line() == "round"
        program.send_signal(signal.SIGTERM)
        program.end()


def test_the_wakeup_descriptor_is_written_while_the_loop_waits(ss: Variant) -> None:
    source = """
read, write = os.pipe()
os.set_blocking(write, False)
signal.set_wakeup_fd(write)
signal.signal(signal.SIGUSR1, lambda *signal: None)
def report():
    say("woken by", list(os.read(read, 1)) == [signal.SIGUSR1])
threading.Thread(target=report, daemon=True).start()
class Server(Rounds, ss.TCPServer):
    pass
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    try:
        server.serve_forever(3600)
    except KeyboardInterrupt:
        signal.set_wakeup_fd(-1)
os.close(read), os.close(write)
"""
    with programs(ss, source) as program:
        first_round(program)
        program.send_signal(signal.SIGUSR1)
        assert program.read_line() == "woken by True"
        program.wait_asleep()
        program.send_signal(signal.SIGINT)
        program.end()


# A storm of signals

STORM = """
storm = []
signal.signal(signal.SIGALRM, lambda *signal: storm.append(None))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def calm():
    signal.setitimer(signal.ITIMER_REAL, 0)
    say("signals" if storm else "no signals", server.server_close())
"""


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_served_in_a_storm_of_signals(ss: Variant, kind: str) -> None:
    source = f"""
class Lines(ss.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())
class Server(ss.{kind}):
    requests = 0
    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.requests += 1
        if self.requests == 20:
            self._BaseServer__shutdown_request = True
server = Server(("127.0.0.1", 0), Lines)
say(server.server_address[1])
server.serve_forever(3600)
calm()
"""
    lines = b"".join(b"line %d\n" % number for number in range(2000))
    with programs(ss, STORM + source) as program:
        address = program.read_port()
        for _ in range(20):
            with connect(address) as client:
                client.sendall(lines[:9000])
                client.sendall(lines[9000:])
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == lines.upper()
        assert program.read_line() == "signals None"
        program.end()


def test_datagrams_are_served_in_a_storm_of_signals(ss: Variant) -> None:
    source = """
class Datagram(ss.DatagramRequestHandler):
    def handle(self):
        data = self.rfile.read()
        self.wfile.write(data.upper())
        if data == b"last":
            self.server._BaseServer__shutdown_request = True
server = ss.UDPServer(("127.0.0.1", 0), Datagram)
say(server.server_address[1])
server.serve_forever(3600)
calm()
"""
    with (
        programs(ss, STORM + source) as program,
        connect(program.read_port(), kind=socket.SOCK_DGRAM) as client,
    ):
        for number in range(300):
            client.sendall(b"datagram %d" % number)
            assert client.recv(100) == b"DATAGRAM %d" % number
        client.sendall(b"last")
        assert client.recv(100) == b"LAST"
        assert program.read_line() == "signals None"
        program.end()


def test_handle_request_times_out_once_in_a_storm_of_signals(ss: Variant) -> None:
    source = """
class Server(ss.TCPServer):
    timeout = 0.1
    def handle_timeout(self):
        say("timeout", time.monotonic() - begin >= self.timeout)
server = Server(("127.0.0.1", 0), Echo)
begin = time.monotonic()
server.handle_request()
calm()
"""
    with programs(ss, STORM + source) as program:
        assert program.read_line() == "timeout True"
        assert program.read_line() == "signals None"
        program.end()


# Where the replacement does better


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_a_signal_handler_may_call_shutdown(ours: Variant, kind: str) -> None:
    source = f"""
def stop(*signal):
    server.shutdown()
    say("noted")
signal.signal(signal.SIGTERM, stop)
class Server(Rounds, ss.{kind}):
    pass
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    server.serve_forever(3600)
    say("ended")
"""
    with programs(ours, source) as program:
        first_round(program)
        program.send_signal(signal.SIGTERM)
        assert program.read_line() == "noted"
        assert program.read_line() == "ended"
        program.end()


def test_a_signal_handler_may_call_shutdown_while_a_handler_runs(ours: Variant) -> None:
    source = """
signal.signal(signal.SIGTERM, lambda *signal: say("noted", server.shutdown()))
with ss.TCPServer(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    server.serve_forever(3600)
    say("ended")
"""
    with programs(ours, source) as program, connect(program.read_port()) as client:
        assert program.read_line() == "reading"
        program.wait_asleep()
        program.send_signal(signal.SIGTERM)
        assert program.read_line() == "noted None"
        client.sendall(b"late\n")
        assert read_all(client) == b"LATE\n"
        assert program.read_line() == "ended"
        program.end()


def test_threads_unknown_to_python_block_all_signals(ours: Variant) -> None:
    source = """
def blocked_by(task):
    with open(f"/proc/self/task/{task}/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
def unknown():
    known = {thread.native_id for thread in threading.enumerate()}
    return [task for task in os.listdir("/proc/self/task") if int(task) not in known]
class Server(Rounds, ss.ThreadingTCPServer):
    pass
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    loop = threading.Thread(target=server.serve_forever, args=(3600,))
    loop.start()
    sys.stdin.readline()
    end = time.monotonic() + 10
    while threading.active_count() > 2 and time.monotonic() < end:
        time.sleep(0.001)
    wanted = sum(1 << number - 1 for number in range(1, 32)
                 if number not in (signal.SIGKILL, signal.SIGSTOP))
    # A thread that has just ended a request is yet to block them.
    while (open_to := [task for task in unknown() if blocked_by(task) & wanted != wanted]) and (
        time.monotonic() < end
    ):
        time.sleep(0.001)
    say(open_to)
    server.shutdown()
    loop.join()
"""
    with programs(ours, source) as program:
        address = program.read_port()
        for _ in range(3):
            assert ask(address) == b"HELLO\n"
        program.send_line()
        lines = [program.read_line() for _ in range(7)]
        assert sorted(lines)[0] == "[]", lines
        program.end()


def test_a_signal_for_the_process_reaches_the_main_thread_beside_idle_threads(
    ss: Variant,
) -> None:
    source = """
signal.signal(signal.SIGUSR1, lambda *signal: say("signalled"))
class Server(Rounds, ss.ThreadingTCPServer):
    pass
with Server(("127.0.0.1", 0), Echo) as server:
    say(server.server_address[1])
    try:
        server.serve_forever(3600)
    except KeyboardInterrupt:
        pass
"""
    with programs(ss, source) as program:
        address = first_round(program)
        for _ in range(5):
            assert ask(address) == b"HELLO\n"
            assert sorted([program.read_line(), program.read_line()]) == ["reading", "round"]
        program.wait_asleep()
        program.send_signal(signal.SIGUSR1)
        assert program.read_line() == "signalled"
        program.wait_asleep()
        program.send_signal(signal.SIGINT)
        program.end()
