"""How requests are handled in processes of their own, and what becomes of the processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE, wait_until
from probes import BRIEFLY, LOOPBACK, ask_nothing, client_of, connect, open_descriptors, read_all
from program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

    Act = Callable[[Any], Any]

CHILDREN = Path("/proc/self/task")
"""Where the kernel lists, thread by thread, the children of this process."""

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork"),
    # The test runner may have threads; servers without any are tested in programs of their own.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _no_child_is_left_over() -> Iterator[None]:
    yield
    left = [int(pid) for pid in " ".join(map(Path.read_text, CHILDREN.glob("*/children"))).split()]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert left == []


@contextlib.contextmanager
def caller_of(server: Any) -> Iterator[socket.socket]:
    """Connect to `server`; at the end, hang up, although children have copies of the socket."""
    with client_of(server) as client:
        try:
            yield client
        finally:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def pid_handler(ss: Variant) -> type:
    """Return a handler class that answers with the number of its process, then waits for EOF."""

    class Pid(ss.StreamRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            self.wfile.write(b"%d\n" % os.getpid())
            self.rfile.read()

    return Pid


def forking_server(ss: Variant, act: Act, **attributes: Any) -> Any:
    """Return a forking TCP server whose every request calls `act` with its handler."""

    class Handler(ss.StreamRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            act(self)

    return type("Server", (ss.ForkingTCPServer,), attributes)(LOOPBACK, Handler)


def say_pid(handler: Any) -> None:
    handler.wfile.write(b"%d" % os.getpid())


def await_exit(pid: int) -> None:
    """Wait until a child has ended, and leave it to be collected."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def one_request(server: Any) -> bytes:
    """Let the server handle one request on this thread; return what the child says."""
    with caller_of(server) as client:
        server.handle_request()
        return read_all(client)


def only_child(server: Any) -> int:
    """Return the number of the server's only child."""
    (pid,) = server.active_children
    assert isinstance(pid, int)
    return pid


# The child


def test_each_request_runs_in_a_child_of_its_own(ss: Variant) -> None:
    def act(handler: Any) -> None:
        handler.wfile.write(b"%d %d" % (os.getpid(), os.getppid()))

    with forking_server(ss, act) as server:
        answers = [one_request(server).split() for _ in range(3)]
    pids = {int(pid) for pid, _ in answers}
    assert len(pids | {os.getpid()}) == 4
    assert {int(parent) for _, parent in answers} == {os.getpid()}


def test_the_child_has_one_thread_and_it_is_the_main_one(ss: Variant) -> None:
    def act(handler: Any) -> None:
        main = threading.current_thread() is threading.main_thread()
        tasks = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 1
        handler.wfile.write(b"%d %d %d" % (main, threading.active_count(), tasks))

    with forking_server(ss, act) as server:
        assert one_request(server) == b"1 1 1"


def test_a_stream_is_read_and_written_in_the_child(ss: Variant) -> None:
    def act(handler: Any) -> None:
        for line in handler.rfile:
            handler.wfile.write(line.upper())

    with forking_server(ss, act) as server, caller_of(server) as client:
        client.sendall(b"one\ntwo\n")
        server.handle_request()
        client.sendall(b"three\n")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"ONE\nTWO\nTHREE\n"


def test_a_handler_that_speaks_first_is_served_at_once(ss: Variant) -> None:
    with ss.ForkingTCPServer(LOOPBACK, pid_handler(ss)) as server, caller_of(server) as client:
        server.handle_request()
        assert int(client.recv(100)) == only_child(server)


@pytest.mark.parametrize("kind", ["ForkingUDPServer", "ForkingUnixDatagramServer"])
def test_each_datagram_is_answered_once_by_a_child_of_its_own(
    ss: Variant, kind: str, tmp_path: Path
) -> None:
    if not hasattr(ss.module, kind):
        pytest.skip(f"this version has no {kind}")

    class Answer(ss.DatagramRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            self.wfile.write(self.rfile.read() + b" %d" % os.getpid())

    address = LOOPBACK if "UDP" in kind else str(tmp_path / "socket")
    with getattr(ss, kind)(address, Answer) as server, caller_of(server) as client:
        for number in range(8):
            client.sendall(b"%d" % number)
        for number in range(8):
            server.handle_request()
            assert len(server.active_children) == number + 1
        answers = [client.recv(100).split() for _ in range(8)]
        assert sorted(int(number) for number, _ in answers) == list(range(8))
        assert {int(pid) for _, pid in answers} == server.active_children


def test_the_unix_servers_fork(ss: Variant, tmp_path: Path) -> None:
    if not hasattr(ss.module, "ForkingUnixStreamServer"):
        pytest.skip("this version has no ForkingUnixStreamServer")
    with (
        ss.ForkingUnixStreamServer(str(tmp_path / "socket"), pid_handler(ss)) as server,
        caller_of(server) as client,
    ):
        server.handle_request()
        assert int(client.recv(100)) == only_child(server)


@pytest.mark.parametrize("last", [0, 1], ids=["the first ends first", "the last ends first"])
def test_a_child_holds_no_connection_of_another_request(ss: Variant, last: int) -> None:
    with (
        ss.ForkingTCPServer(LOOPBACK, pid_handler(ss)) as server,
        caller_of(server) as first,
        caller_of(server) as second,
    ):
        server.handle_request()
        server.handle_request()
        clients = [first, second]
        for client in clients:
            assert int(client.recv(100)) in server.active_children
        ends, stays = clients[1 - last], clients[last]
        ends.shutdown(socket.SHUT_WR)
        assert read_all(ends) == b"", "its connection is open in the other child"
        stays.shutdown(socket.SHUT_WR)
        assert read_all(stays) == b""


def test_which_hooks_run_in_the_parent_and_which_in_the_child(ss: Variant) -> None:
    read, write = os.pipe()

    def recorded(name: str) -> Callable[..., Any]:
        def hook(server: Any, *args: Any) -> Any:
            os.write(write, f"{name} {os.getpid()}\n".encode())
            return getattr(super(type(server), server), name)(*args)

        return hook

    names = ("verify_request", "process_request", "finish_request", "shutdown_request")
    hooks = {name: recorded(name) for name in (*names, "close_request")}
    with forking_server(ss, say_pid, **hooks) as server:
        pid = int(one_request(server))
    os.close(write)
    with os.fdopen(read) as stream:
        events = [(name, int(number)) for name, number in map(str.split, stream)]
    parent = os.getpid()
    assert [name for name, number in events if number == parent] == [
        "verify_request",
        "process_request",
        "close_request",
    ]
    assert [name for name, number in events if number == pid] == [
        "finish_request",
        "shutdown_request",
        "close_request",
    ]


def test_the_parent_keeps_no_connection_open(ss: Variant) -> None:
    with forking_server(ss, say_pid) as server:
        one_request(server)
        before = open_descriptors()
        for _ in range(5):
            one_request(server)
        assert open_descriptors() == before


def test_a_fork_that_fails_is_an_error_of_its_request(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException | None] = []

    def no_fork() -> int:
        raise BlockingIOError("no process to be had")

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        errors.append(sys.exc_info()[1])

    with forking_server(ss, say_pid, handle_error=handle_error) as server:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fork", no_fork)
            assert one_request(server) == b""
        assert [str(error) for error in errors] == ["no process to be had"]
        assert not server.active_children
        assert int(one_request(server)) == only_child(server)


# The exit status


@pytest.mark.parametrize(
    ("error", "handled"),
    [
        (None, False),
        (ValueError("from a handler"), True),
        (SystemExit(5), False),
        (SystemExit(0), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_the_exit_status_of_a_child(
    ss: Variant, error: BaseException | None, handled: bool
) -> None:
    def act(handler: Any) -> None:
        if error is not None:
            raise error

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        request.sendall(b"handled in the parent" if os.getpid() == parent else b"handled")

    parent = os.getpid()
    with forking_server(ss, act, handle_error=handle_error) as server:
        assert one_request(server) == (b"handled" if handled else b"")
        assert os.waitpid(only_child(server), 0)[1] == (0 if error is None else 1 << 8)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_child_ends_also_when_shutdown_request_fails(
    ss: Variant, error: type[BaseException]
) -> None:
    def shutdown_request(server: Any, request: Any) -> None:
        raise error("from shutdown_request")

    with forking_server(ss, say_pid, shutdown_request=shutdown_request) as server:
        pid = int(one_request(server))
        assert os.waitpid(pid, 0) == (pid, 0)


def test_the_child_ends_also_when_handle_error_fails(ss: Variant) -> None:
    def act(handler: Any) -> None:
        raise ValueError("from a handler")

    def handle_error(server: Any, request: Any, client_address: Any) -> None:
        raise

    with forking_server(ss, act, handle_error=handle_error) as server:
        assert one_request(server) == b""
        assert os.waitpid(only_child(server), 0)[1] == 1 << 8


def test_a_child_that_is_killed_is_collected(ss: Variant) -> None:
    def act(handler: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with forking_server(ss, act) as server:
        assert one_request(server) == b""
        await_exit(only_child(server))
        server.collect_children()
        assert server.active_children == set()


def test_the_child_leaves_without_the_exit_functions(ss: Variant) -> None:
    source = """
        import atexit, os
        atexit.register(os.write, 1, b"exit function\\n")
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                raise SystemExit
        with ss.ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.handle_request()
    """
    with Program(ss, source) as program:
        assert ask_nothing(program.read_port()) == b""
        program.end()
        assert [program.read_line(), program.read_line()] == ["exit function", ""]


# Collecting children


def test_the_set_of_children(ss: Variant) -> None:
    with ss.ForkingTCPServer(LOOPBACK, pid_handler(ss)) as server:
        assert server.active_children is None
        assert "active_children" not in vars(server)
        with caller_of(server) as first, caller_of(server) as second:
            pids = set()
            for client in (first, second):
                server.handle_request()
                pids.add(int(client.recv(100)))
                assert server.active_children == pids
            assert isinstance(server.active_children, set)
            server.collect_children()
            assert server.active_children == pids, "running children were dropped"
            first.shutdown(socket.SHUT_WR)
            assert read_all(first) == b""
            second.shutdown(socket.SHUT_WR)
            server.collect_children(blocking=True)
            assert server.active_children == set()


def test_the_defaults(ss: Variant) -> None:
    assert ss.ForkingMixIn.timeout == 300
    assert ss.ForkingMixIn.max_children == 40
    assert ss.ForkingMixIn.block_on_close is True
    assert ss.ForkingMixIn.active_children is None


def test_collecting_before_the_first_request_does_nothing(ss: Variant) -> None:
    with ss.ForkingTCPServer(LOOPBACK, ss.BaseRequestHandler) as server:
        server.collect_children()
        server.collect_children(blocking=True)
        assert server.active_children is None


def test_blocking_is_a_keyword(ss: Variant) -> None:
    server = ss.ForkingTCPServer(LOOPBACK, ss.BaseRequestHandler)
    with server, pytest.raises(TypeError):
        server.collect_children(True)


def test_handle_request_leaves_finished_children_to_the_program(ss: Variant) -> None:
    with forking_server(ss, say_pid) as server:
        pids = set()
        for _ in range(3):
            pids.add(int(one_request(server)))
            await_exit(max(pids))
        assert server.active_children == pids
        server.service_actions()
        assert server.active_children == set()


def test_a_timeout_of_handle_request_collects_children(ss: Variant) -> None:
    with forking_server(ss, say_pid, timeout=0.001) as server:
        await_exit(int(one_request(server)))
        assert len(server.active_children) == 1
        server.handle_request()
        assert server.active_children == set()


def test_the_loop_collects_children(ss: Variant) -> None:
    answers: list[bytes] = []

    def service_actions(server: Any) -> None:
        super(type(server), server).service_actions()
        if len(clients) > len(answers):
            answers.append(read_all(clients[len(answers)]))
        elif not server.active_children or time.monotonic() > end:
            server._BaseServer__shutdown_request = True

    with forking_server(ss, say_pid, service_actions=service_actions) as server:
        end = time.monotonic() + DEADLINE
        clients = [client_of(server) for _ in range(3)]
        server.serve_forever(0.01)
        assert server.active_children == set()
        for client in clients:
            client.close()
    assert len({int(answer) for answer in answers}) == 3


def test_a_child_that_the_program_collected_is_forgotten(ss: Variant) -> None:
    with forking_server(ss, say_pid) as server:
        pid = int(one_request(server))
        os.waitpid(pid, 0)
        assert server.active_children == {pid}
        server.collect_children()
        assert server.active_children == set()


def test_children_that_the_kernel_collects_are_forgotten(ss: Variant) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with forking_server(ss, say_pid) as server:
            assert len({one_request(server) for _ in range(3)}) == 3
            server.collect_children(blocking=True)
            assert server.active_children == set()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_child_of_the_program_is_collected(ss: Variant) -> None:
    own = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"])
    with forking_server(ss, say_pid, timeout=0.001) as server:
        await_exit(own.pid)
        for _ in range(2):
            await_exit(int(one_request(server)))
            server.handle_request()
            server.service_actions()
            server.collect_children(blocking=True)
    assert own.wait() == 7


def test_at_max_children_the_next_request_waits_for_a_child_to_end(ss: Variant) -> None:
    source = """
        import os
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"%d" % os.getpid())
                self.rfile.read()
        class Server(ss.ForkingTCPServer):
            max_children = 2
            def service_actions(self):
                super().service_actions()
                assert len(self.active_children) < 2, self.active_children
            def process_request(self, request, client_address):
                super().process_request(request, client_address)
                assert len(self.active_children) <= 2, self.active_children
                if os.getpid() == parent and len(pids := pids_seen | self.active_children) == 4:
                    self._BaseServer__shutdown_request = True
                pids_seen.update(self.active_children)
        parent, pids_seen = os.getpid(), set()
        with Server(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.serve_forever(0.01)
        print(len(server.active_children))
    """
    with Program(ss, source) as program:
        address = program.read_port()
        clients = [connect(address) for _ in range(4)]
        pids = [int(clients[number].recv(100)) for number in (0, 1)]
        for number in (2, 3):
            waiting = clients[number]
            assert select.select([waiting], [], [], BRIEFLY)[0] == [], "there are three children"
            clients[number - 2].shutdown(socket.SHUT_WR)
            pids.append(int(waiting.recv(100)))
        assert len(set(pids)) == 4
        for client in clients:
            client.close()
        assert program.read_line() == "0"
        program.end()


# The end of a server


def test_server_close_waits_for_the_children(ss: Variant) -> None:
    source = """
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline())
        server = ss.ForkingTCPServer(("127.0.0.1", 0), Handler)
        print(server.server_address[1], flush=True)
        server.handle_request()
        print("closing", flush=True)
        server.server_close()
        print("closed", server.active_children, server.fileno(), flush=True)
    """
    with Program(ss, source) as program, connect(program.read_port()) as client:
        assert program.read_line() == "closing"
        assert not program.has_line(BRIEFLY)
        client.sendall(b"released\n")
        assert read_all(client) == b"released\n"
        assert program.read_line() == "closed set() -1"
        program.end()


def test_server_close_does_not_wait_when_told_so(ss: Variant) -> None:
    server = ss.ForkingTCPServer(LOOPBACK, pid_handler(ss))
    server.block_on_close = False
    with caller_of(server) as client:
        server.handle_request()
        pid = int(client.recv(100))
        server.server_close()
        assert server.active_children == {pid}
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    os.waitpid(pid, 0)


def test_server_close_collects_finished_children_in_any_case(ss: Variant) -> None:
    server = forking_server(ss, say_pid, block_on_close=False)
    await_exit(int(one_request(server)))
    server.server_close()
    assert server.active_children == set()


# Forking goes through `os.fork`, on a process of one thread


def test_forks_go_through_os_fork(ss: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    fork = os.fork

    def recorded() -> int:
        pids.append(fork())
        return pids[-1]

    monkeypatch.setattr(os, "fork", recorded)
    with forking_server(ss, say_pid) as server:
        answers = [int(one_request(server)) for _ in range(2)]
    assert pids == answers


def test_hooks_at_fork_run_once_a_request(ss: Variant) -> None:
    source = """
        import os
        events = []
        os.register_at_fork(
            before=lambda: events.append("before"),
            after_in_parent=lambda: events.append("parent"),
            after_in_child=lambda: events.append("child"),
        )
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                self.wfile.write(" ".join(events).encode())
        with ss.ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.handle_request()
            server.handle_request()
        print(*events)
    """
    with Program(ss, source) as program:
        address = program.read_port()
        assert ask_nothing(address) == b"before child"
        assert ask_nothing(address) == b"before parent before child"
        assert program.read_line() == "before parent before parent"
        program.end()


@pytest.mark.parametrize("kind", ["ForkingTCPServer", "ForkingUDPServer"])
def test_a_forking_server_has_one_thread_and_no_fork_warns(ss: Variant, kind: str) -> None:
    source = f"""
        import os, threading
        counts = []
        def count():
            counts.append(threading.active_count())
            if os.path.exists("/proc/self/task"):
                counts.append(len(os.listdir("/proc/self/task")))
        datagrams = {kind == "ForkingUDPServer"}
        class Handler(ss.DatagramRequestHandler if datagrams else ss.StreamRequestHandler):
            def handle(self):
                count()
                self.wfile.write(self.rfile.readline() + b"%d" % max(counts))
        class Server(ss.{kind}):
            requests = 0
            def process_request(self, request, client_address):
                count()
                super().process_request(request, client_address)
                self.requests += 1
            def service_actions(self):
                super().service_actions()
                count()
                if self.requests == 5:
                    self._BaseServer__shutdown_request = True
        with Server(("127.0.0.1", 0), Handler) as server:
            count()
            print(server.server_address[1], flush=True)
            server.serve_forever(0.01)
            server.timeout = 0
            server.handle_request()
            count()
        count()
        print(set(counts))
    """
    kernel_kind = socket.SOCK_DGRAM if kind == "ForkingUDPServer" else socket.SOCK_STREAM
    with Program(ss, source) as program:
        address = program.read_port()
        for _ in range(5):
            with connect(address, kind=kernel_kind) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"hello\n1"
        assert program.read_line() == "{1}"
        program.end()


def test_a_server_beside_threads_of_the_program_still_forks(ss: Variant) -> None:
    release = threading.Event()
    other = threading.Thread(target=release.wait, args=(DEADLINE,))
    other.start()
    try:
        with forking_server(ss, say_pid) as server:
            assert int(one_request(server)) == only_child(server)
    finally:
        release.set()
        other.join()


# Where the replacement does better


def test_shutdown_called_in_a_child_returns_and_leaves_the_parent_serving(ours: Variant) -> None:
    source = """
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                self.server.shutdown()
                self.wfile.write(b"returned")
        class Server(ss.ForkingTCPServer):
            requests = 0
            def process_request(self, request, client_address):
                super().process_request(request, client_address)
                self.requests += 1
                if self.requests == 2:
                    self.shutdown()
        with Server(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.serve_forever(3600)
    """
    with Program(ours, source) as program:
        address = program.read_port()
        assert ask_nothing(address) == b"returned"
        assert ask_nothing(address) == b"returned"
        program.end()


def test_a_signal_handler_may_collect_children_first(ss: Variant) -> None:
    source = """
        import os, signal
        def reap(*signal):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        signal.signal(signal.SIGCHLD, reap)
        class Handler(ss.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"hello")
        class Server(ss.ForkingTCPServer):
            requests = 0
            def process_request(self, request, client_address):
                super().process_request(request, client_address)
                self.requests += 1
            def service_actions(self):
                super().service_actions()
                if self.requests == 10 and not self.active_children:
                    self._BaseServer__shutdown_request = True
        with Server(("127.0.0.1", 0), Handler) as server:
            print(server.server_address[1], flush=True)
            server.serve_forever(0.01)
    """
    with Program(ss, source) as program:
        address = program.read_port()
        for _ in range(10):
            assert ask_nothing(address) == b"hello"
        program.end()


def test_the_listener_may_be_closed_in_the_child(ss: Variant) -> None:
    def act(handler: Any) -> None:
        handler.server.socket.close()
        handler.wfile.write(b"%d" % handler.server.fileno())

    with forking_server(ss, act) as server:
        assert [one_request(server) for _ in range(2)] == [b"-1", b"-1"]
        assert server.fileno() != -1
        wait_until(lambda: server.collect_children() or not server.active_children, "the children")
