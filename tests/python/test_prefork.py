"""Servers and processes: made before a fork, forked by a handler, running while Python ends."""

from __future__ import annotations

import contextlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from probes import BRIEFLY, ask, ask_nothing, connect, read_all
from program import Program

if TYPE_CHECKING:
    from variants import Variant

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")

PRELUDE = """
import os, signal, socket, sys, threading, time
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
class Pid(ss.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d" % os.getpid())
        self.rfile.read()
class Echo(ss.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())
"""

MAY_FORK = ("-W", "ignore:This process:DeprecationWarning")
"""Handlers that fork in a request thread are warned by Python itself."""


# A server that is made before a fork


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_server_made_before_a_fork_serves_in_every_child(ss: Variant, used: bool) -> None:
    source = f"""
server = ss.TCPServer(("127.0.0.1", 0), Pid)
say(server.server_address[1])
if {used}:
    server.handle_request()
children = []
for _ in range(3):
    children.append(os.fork())
    if not children[-1]:
        server.serve_forever(3600)
say(*children)
sys.stdin.readline()
for child in children:
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
server.server_close()
"""
    with Program(ss, PRELUDE + source) as program, contextlib.ExitStack() as stack:
        address = program.read_port()
        if used:
            with connect(address) as client:
                assert int(client.recv(100)) == program.pid
        children = set(program.read_line().split())
        for _ in range(3):
            clients = [stack.enter_context(connect(address)) for _ in children]
            assert {client.recv(100).decode() for client in clients} == children
            for client in clients:
                client.close()
        program.send_line()
        program.end()


def test_parent_and_child_serve_the_same_listener(ss: Variant) -> None:
    source = """
server = ss.TCPServer(("127.0.0.1", 0), Pid)
say(server.server_address[1])
server.handle_request()
child = os.fork()
if not child:
    server.serve_forever(3600)
say(child)
loop = threading.Thread(target=server.serve_forever, args=(0.05,))
loop.start()
sys.stdin.readline()
os.kill(child, signal.SIGTERM)
os.waitpid(child, 0)
say("alone")
sys.stdin.readline()
server.shutdown()
loop.join()
server.server_close()
"""
    with Program(ss, PRELUDE + source) as program:
        address = program.read_port()
        with connect(address) as client:
            assert int(client.recv(100)) == program.pid
        both = {program.read_line(), str(program.pid)}
        with connect(address) as one, connect(address) as other:
            assert {one.recv(100).decode(), other.recv(100).decode()} == both
        program.send_line()
        assert program.read_line() == "alone"
        for _ in range(3):
            with connect(address) as client:
                assert int(client.recv(100)) == program.pid
        # The reference may be blocked in accept(), where the shutdown would not reach it.
        program.send_line()
        with contextlib.suppress(OSError), connect(address) as client:
            read_all(client) if not client.recv(100) else None
        program.end()


def test_the_shutdown_of_a_child_is_its_own(ss: Variant) -> None:
    source = """
server = ss.TCPServer(("127.0.0.1", 0), Echo)
server.timeout = 0
server.handle_request()
child = os.fork()
if not child:
    loop = threading.Thread(target=server.serve_forever, args=(0.01,))
    loop.start()
    server.shutdown()
    loop.join()
    os._exit(7)
assert os.waitpid(child, 0)[1] == 7 << 8
say(server.server_address[1])
loop = threading.Thread(target=server.serve_forever, args=(0.01,))
loop.start()
sys.stdin.readline()
server.shutdown()
loop.join()
server.server_close()
"""
    with Program(ss, PRELUDE + source) as program:
        address = program.read_port()
        assert ask(address) == b"HELLO\n"
        program.send_line()
        program.end()


def test_a_threading_server_that_served_before_the_fork_serves_in_the_child(ss: Variant) -> None:
    source = """
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Echo)
say(server.server_address[1])
loop = threading.Thread(target=server.serve_forever, args=(0.01,))
loop.start()
sys.stdin.readline()
server.shutdown()
loop.join()
child = os.fork()
if not child:
    say("child")
    loop = threading.Thread(target=server.serve_forever, args=(0.01,))
    loop.start()
    sys.stdin.readline()
    server.shutdown()
    loop.join()
    server.server_close()
    assert threading.active_count() == 1
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
server.server_close()
say("closed")
"""
    with Program(ss, PRELUDE + source, *MAY_FORK) as program:
        address = program.read_port()
        for _ in range(3):
            assert ask(address) == b"HELLO\n"
        program.send_line()
        assert program.read_line() == "child"
        for _ in range(3):
            assert ask(address) == b"HELLO\n"
        program.send_line()
        assert program.read_line() == "closed"
        program.end()


def test_datagrams_are_shared_between_children(ss: Variant) -> None:
    source = """
class Handler(ss.DatagramRequestHandler):
    def handle(self):
        self.socket.sendto(b"%d" % os.getpid(), self.client_address)
        os.read(read, 1)
read, write = os.pipe()
server = ss.UDPServer(("127.0.0.1", 0), Handler)
server.timeout = 0
server.handle_request()
children = []
for _ in range(3):
    children.append(os.fork())
    if not children[-1]:
        os.close(write)
        server.serve_forever(3600)
say(server.server_address[1])
say(*children)
sys.stdin.readline()
for child in children:
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
os.close(write), os.close(read)
server.server_close()
"""
    with (
        Program(ss, PRELUDE + source) as program,
        connect(program.read_port(), kind=socket.SOCK_DGRAM) as client,
    ):
        children = program.read_line().split()
        seen = []
        for _ in children:
            client.sendall(b"hello")
            seen.append(client.recv(100).decode())
        assert sorted(seen) == sorted(children)
        program.send_line()
        program.end()


# Handlers that fork


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_a_handler_may_fork_and_answer_from_the_child(ss: Variant, kind: str) -> None:
    source = f"""
class Handler(ss.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        child = os.fork()
        if not child:
            self.wfile.write(line + self.rfile.readline())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        self.wfile.write(b"from the parent")
with ss.{kind}(("127.0.0.1", 0), Handler) as server:
    say(server.server_address[1])
    for _ in range(3):
        server.handle_request()
"""
    with Program(ss, PRELUDE + source, *MAY_FORK) as program:
        address = program.read_port()
        for _ in range(3):
            with connect(address) as client:
                client.sendall(b"one\n")
                client.sendall(b"two\n")
                assert read_all(client) == b"one\ntwo\nfrom the parent"
        program.end()


def test_the_thread_that_forks_is_the_main_one_of_the_child(ss: Variant) -> None:
    source = """
class Handler(ss.StreamRequestHandler):
    def handle(self):
        child = os.fork()
        if not child:
            thread = threading.current_thread()
            self.wfile.write(b"%d %d" % (
                thread is threading.main_thread(), threading.active_count()))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
with ss.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
    say(server.server_address[1])
    for _ in range(2):
        server.handle_request()
"""
    with Program(ss, PRELUDE + source, *MAY_FORK) as program:
        address = program.read_port()
        for _ in range(2):
            assert ask_nothing(address) == b"1 1"
        program.end()


@pytest.mark.parametrize("kind", ["TCPServer", "ThreadingTCPServer"])
def test_a_child_of_a_handler_may_have_a_server_of_its_own(ss: Variant, kind: str) -> None:
    source = f"""
class Fork(ss.StreamRequestHandler):
    def handle(self):
        child = os.fork()
        if not child:
            own = ss.ThreadingTCPServer(("127.0.0.1", 0), Echo)
            self.wfile.write(b"%d" % own.server_address[1])
            for _ in range(3):
                own.handle_request()
            own.server_close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        self.wfile.write(b" ended")
with ss.{kind}(("127.0.0.1", 0), Fork) as server:
    say(server.server_address[1])
    for _ in range(2):
        server.handle_request()
"""
    with Program(ss, PRELUDE + source, *MAY_FORK) as program:
        address = program.read_port()
        for _ in range(2):
            with connect(address) as client:
                own = ("127.0.0.1", int(client.recv(100)))
                for _ in range(3):
                    assert ask(own) == b"HELLO\n"
                assert read_all(client) == b" ended"
        program.end()


def test_a_handler_may_start_a_process_by_multiprocessing(ss: Variant) -> None:
    source = """
import multiprocessing
context = multiprocessing.get_context("fork")
def answer(handler):
    handler.wfile.write(handler.rfile.readline().upper())
class Handler(ss.StreamRequestHandler):
    def handle(self):
        process = context.Process(target=answer, args=(self,))
        process.start()
        process.join()
        self.wfile.write(b"%d" % process.exitcode)
with ss.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
    say(server.server_address[1])
    for _ in range(2):
        server.handle_request()
"""
    with Program(ss, PRELUDE + source, *MAY_FORK) as program:
        address = program.read_port()
        for _ in range(2):
            assert ask(address) == b"HELLO\n0"
        program.end()


# Python ends while a server runs

DAEMON = """
class Handler(ss.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
            if line == b"spin\\n":
                while True:
                    pass
            if line == b"write\\n":
                self.wfile.write(bytes(1 << 26))
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
say(server.server_address[1])
sys.stdin.readline()
"""


def end_with_daemons(ss: Variant, lines: tuple[bytes, ...]) -> None:
    """Let a program end while daemon threads do what the lines tell them to, or have done it."""
    with (
        Program(ss, PRELUDE + DAEMON, "-W", "ignore::ResourceWarning") as program,
        contextlib.ExitStack() as stack,
    ):
        address = program.read_port()
        for line in lines:
            client = stack.enter_context(connect(address))
            client.sendall(line)
            assert client.recv(len(line)) == line
            if line == b"done\n":
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b""
        program.send_line()
        program.end()


def test_daemon_threads_let_the_program_end_quietly(ours: Variant) -> None:
    # Not so the reference: daemon threads of CPython 3.10 crash it now and then as it ends.
    read, write, spin, done = b"read\n", b"write\n", b"spin\n", b"done\n"
    # The last to arrive makes the loop's thread want the interpreter while it ends.
    scenes = [(read,), (write,), (spin,), (done,), (read, write, spin, done)]
    times = 1 if ours.pass_through else 40
    with ThreadPoolExecutor(2) as pool:
        for end in [pool.submit(end_with_daemons, ours, lines) for lines in scenes * times]:
            end.result()


@pytest.mark.parametrize("closes", [False, True], ids=["left open", "closed"])
def test_the_program_waits_for_threads_that_are_no_daemons(ss: Variant, closes: bool) -> None:
    source = f"""
import atexit
events = []
class Handler(ss.StreamRequestHandler):
    def handle(self):
        say("reading")
        self.wfile.write(self.rfile.readline())
        events.append("handled")
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Handler)
server.block_on_close = False
loop = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
loop.start()
say(server.server_address[1])
sys.stdin.readline()
if {closes}:
    server.shutdown()
    loop.join()
    server.server_close()
atexit.register(lambda: say("exit", *events))
say("leaving")
"""
    with (
        Program(ss, PRELUDE + source, "-W", "ignore::ResourceWarning") as program,
        connect(program.read_port()) as client,
    ):
        assert program.read_line() == "reading"
        program.send_line()
        assert program.read_line() == "leaving"
        assert not program.has_line(BRIEFLY), "it did not wait"
        client.sendall(b"late\n")
        assert read_all(client) == b"late\n"
        assert program.read_line() == "exit handled"
        program.end()


@pytest.mark.parametrize("daemon", [False, True])
def test_threads_that_are_done_do_not_keep_the_program_alive(ss: Variant, daemon: bool) -> None:
    source = f"""
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Echo)
server.daemon_threads = {daemon}
say(server.server_address[1])
for _ in range(3):
    server.handle_request()
server.socket.close()
sys.stdin.readline()
"""
    with Program(ss, PRELUDE + source) as program:
        address = program.read_port()
        for _ in range(3):
            assert ask(address) == b"HELLO\n"
        program.send_line()
        program.end()


def test_a_loop_in_a_daemon_thread_does_not_keep_the_program_alive(ss: Variant) -> None:
    source = """
server = ss.TCPServer(("127.0.0.1", 0), Echo)
threading.Thread(target=server.serve_forever, args=(3600,), daemon=True).start()
say(server.server_address[1])
sys.stdin.readline()
"""
    with Program(ss, PRELUDE + source, "-W", "ignore::ResourceWarning") as program:
        assert ask(program.read_port()) == b"HELLO\n"
        program.send_line()
        program.end()


def test_an_exit_function_may_shut_the_server_down(ss: Variant) -> None:
    source = """
import atexit
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Echo)
server.daemon_threads = True
loop = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
loop.start()
@atexit.register
def leave():
    server.shutdown()
    loop.join()
    server.server_close()
    say("left")
say(server.server_address[1])
sys.stdin.readline()
"""
    with Program(ss, PRELUDE + source) as program:
        address = program.read_port()
        with connect(address):
            assert ask(address) == b"HELLO\n"
            program.send_line()
            assert program.read_line() == "left"
            assert program.wait() == 0


def test_a_server_of_the_module_level_is_taken_down_with_the_interpreter(ss: Variant) -> None:
    source = """
server = ss.ThreadingTCPServer(("127.0.0.1", 0), Echo)
loop = threading.Thread(target=server.serve_forever, args=(0.01,))
loop.start()
say(server.server_address[1])
sys.stdin.readline()
server.shutdown()
"""
    with Program(ss, PRELUDE + source, "-W", "ignore::ResourceWarning") as program:
        assert ask(program.read_port()) == b"HELLO\n"
        program.send_line()
        program.end()
