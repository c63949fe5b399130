"""`python -m fastsocketserver serve`: serving one handler class from the command line."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
from conftest import DEADLINE, wait_until
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

pytestmark = pytest.mark.timeout(60)


class Outcome(NamedTuple):
    """How a process ended."""

    status: int
    output: str
    errors: str


class Command:
    """A Python command line in a process group of its own, with every warning an error.

    What still runs of the group is killed on leaving the `with` block.
    """

    def __init__(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        self.name = " ".join(map(str, arguments))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, arguments)],
            bufsize=0,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._read = b""

    def read_line(self) -> str:
        """Return the next line of its standard output."""
        assert self.process.stdout is not None
        while b"\n" not in self._read:
            if not select.select([self.process.stdout], [], [], DEADLINE)[0]:
                pytest.fail(f"waited {DEADLINE:.0f} s in vain for a line of `{self.name}`")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                pytest.fail(f"`{self.name}` ended its output: {self.wait()}")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def stop(self, number: int = signal.SIGINT) -> Outcome:
        """Send the process a signal when it has come to rest, and wait for its end.

        SIGINT goes to its children as well, as it does from a terminal.
        """
        stat = Path(f"/proc/{self.process.pid}/stat")
        if stat.exists():  # elsewhere, the signal may still meet it at work
            wait_until(
                lambda: stat.read_text().rpartition(")")[2].split()[0] == "S",
                f"the main thread of `{self.name}` to sleep",
            )
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Outcome:
        """Wait for its end; the output is what has not been read before."""
        try:
            output, errors = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"waited {DEADLINE:.0f} s in vain for the end of `{self.name}`")
        return Outcome(self.process.returncode, (self._read + output).decode(), errors.decode())

    def has_processes(self) -> bool:
        """Say whether the process, or a child of it, has not ended yet."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def get_ready(self) -> None:
        """Wait until it is of use; called on entering the `with` block."""

    def __enter__(self) -> Self:
        """Return the running command."""
        try:
            self.get_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill what still runs."""
        self.kill()

    def kill(self) -> None:
        """Kill what still runs, children included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with self.process:
            pass


def has_ipv6() -> bool:
    """Say whether there is a loopback interface for IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ADDRESSES = {"inet": "127.0.0.1:0", "unix": "unix:./socket"}
if has_ipv6():
    ADDRESSES["inet6"] = "[::1]:0"
if sys.platform == "linux":
    ADDRESSES["abstract"] = "unix:@fastsocketserver.test.{pid}"

DISPATCHES = [
    "sync",
    "threads",
    pytest.param("forks", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")),
    "greenlets",
]
DEADLINES = ["--idle-timeout", "--request-deadline", "--handshake-timeout"]
SIGNALS = [
    pytest.param(signal.SIGINT, id="SIGINT"),
    pytest.param(signal.SIGTERM, id="SIGTERM"),
]


class Server(Command):
    """A `serve` command that says where it listens."""

    def __init__(self, *arguments: str, bind: str = "127.0.0.1:0", cwd: Path | None = None) -> None:
        super().__init__("-m", "fastsocketserver", "serve", "--bind", bind, *arguments, cwd=cwd)
        self.cwd = cwd or Path()
        self.kind = socket.SOCK_DGRAM if "--udp" in arguments else socket.SOCK_STREAM

    def get_ready(self) -> None:
        """Read what it prints at the start, and from that, where it says that it listens."""
        self.lines = [self.read_line() for _ in range(3)]
        self.bind = re.sub(r"serving .* on (\S+) \(\w+\)", r"\1", self.lines[0])

    def connect(self) -> socket.socket:
        """Return a socket that is connected to the server."""
        if self.bind.startswith("unix:"):
            family, path = socket.AF_UNIX, self.bind.removeprefix("unix:")
            address: str | tuple[str, int] = (
                f"\0{path[1:]}" if path.startswith("@") else str(self.cwd / path)
            )
        else:
            host, _, port = self.bind.rpartition(":")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            address = (host.strip("[]"), int(port))
        with contextlib.ExitStack() as on_error:
            client = on_error.enter_context(socket.socket(family, self.kind))
            client.settimeout(DEADLINE)
            if (family, self.kind) == (socket.AF_UNIX, socket.SOCK_DGRAM):
                client.bind("")  # a name of the kernel's choice, so that it can be answered
            client.connect(address)
            on_error.pop_all()
        return client

    def ask(self, question: bytes = b"hello\n", others: int = 0) -> bytes:
        """Return the answer to one line or one datagram, when no child but `others` is left."""
        with self.connect() as client:
            client.sendall(question)
            answer = client.recv(65536)
            while self.kind == socket.SOCK_STREAM and (more := client.recv(65536)):
                answer += more
        self.wait_for_children(others)
        return answer

    def wait_for_children(self, count: int = 0) -> None:
        """Wait until it has no more children than that, where the kernel tells of them."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if children.exists():
            wait_until(
                lambda: len(children.read_text().split()) <= count, f"children but {count} to go"
            )

    def sockets(self) -> int:
        """Return how many sockets it has open: that which listens, and connections."""
        found = 0
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(descriptor).startswith("socket:")
        return found


def serve(*arguments: str, cwd: Path | None = None) -> Outcome:
    """Run a `serve` command that is to end by itself."""
    with Command("-m", "fastsocketserver", "serve", *arguments, cwd=cwd) as command:
        return command.wait()


def write(path: Path, source: str) -> None:
    """Write a module, with its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))


# The default handler, on every kind of address


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("options", [(), ("--udp",)], ids=["stream", "datagram"])
@pytest.mark.parametrize("family", ADDRESSES)
def test_default_handler(
    tmp_path: Path, family: str, options: tuple[str, ...], dispatch: str
) -> None:
    bind = ADDRESSES[family].format(pid=os.getpid())
    with Server(*options, "--dispatch", dispatch, bind=bind, cwd=tmp_path) as server:
        assert server.ask(b"hello\n") == b"HELLO\n"
        assert server.ask(b"again\n") == b"AGAIN\n"
        assert server.stop() == (0, "stopped\n", "")
    target = server.bind.removeprefix("unix:")
    if family in ("inet", "inet6"):
        host, _, port = server.bind.rpartition(":")
        assert host == bind.rpartition(":")[0]
        assert 0 < int(port) <= 0xFFFF
        target = f"{host.strip('[]')} {port}"
    else:
        assert server.bind == bind
        target = f"-U {target}"
    assert server.lines == [
        f"serving the upper-casing example on {server.bind} ({dispatch})",
        f"try it:  echo hello | nc {'-u -w 1 ' if options else ''}{target}",
        "Ctrl-C stops it",
    ]
    assert os.listdir(tmp_path) == []


def test_dispatch_is_threads_unless_told_otherwise() -> None:
    with Server() as server, server.connect(), server.connect():
        assert server.lines[0].endswith(" (threads)")
        assert server.ask() == b"HELLO\n"


def test_sync_dispatch_handles_one_request_at_a_time() -> None:
    with (
        Server("--dispatch", "sync") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        second.sendall(b"second\n")
        assert not select.select([second], [], [], 0.1)[0]
        first.sendall(b"first\n")
        assert first.recv(100) == b"FIRST\n"
        assert second.recv(100) == b"SECOND\n"


def test_the_command_that_it_proposes_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    with Server(bind="unix:a name's", cwd=tmp_path) as server:
        command = server.lines[1].partition("| ")[2]
        assert shlex.split(command) == ["nc", "-U", "a name's"]


# Handlers


def test_handler_of_a_module(tmp_path: Path) -> None:
    write(
        tmp_path / "package/__init__.py",
        """
        import socketserver

        class Outer:
            class Handler(socketserver.BaseRequestHandler):
                def handle(self):
                    classes = type(self.server).__mro__
                    self.request.sendall(" ".join(c.__name__ for c in classes).encode())
        """,
    )
    name = "package:Outer.Handler"
    with Server(name, cwd=tmp_path) as server:
        assert server.lines[0] == f"serving {name} on {server.bind} (threads)"
        assert b" ThreadingMixIn TCPServer BaseServer object" in server.ask(b"")
        assert server.stop() == (0, "stopped\n", "")


def test_handler_that_is_no_class(tmp_path: Path) -> None:
    write(
        tmp_path / "handlers.py",
        """
        from functools import partial
        from socketserver import StreamRequestHandler

        class Handler(StreamRequestHandler):
            def __init__(self, answer, *args):
                self.answer = answer
                super().__init__(*args)

            def handle(self):
                self.wfile.write(self.answer)

        greet = partial(Handler, b"good day")
        """,
    )
    with Server("handlers:greet", cwd=tmp_path) as server:
        assert server.ask(b"") == b"good day"


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_handler_that_fails(tmp_path: Path, dispatch: str) -> None:
    """The traceback is printed, and the server goes on."""
    write(
        tmp_path / "handlers.py",
        """
        from socketserver import StreamRequestHandler

        class Failing(StreamRequestHandler):
            def handle(self):
                raise ValueError(self.rfile.readline().decode())
        """,
    )
    with Server("handlers:Failing", "--dispatch", dispatch, cwd=tmp_path) as server:
        for question in (b"first\n", b"second\n"):
            assert server.ask(question) == b""
        status, output, errors = server.stop()
    assert (status, output) == (0, "stopped\n")
    assert re.findall(r"^ValueError: (\w+)$", errors, re.MULTILINE) == ["first", "second"]
    assert errors.count("Traceback") == 2


# Stopping


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_stops_while_a_client_is_connected_and_idle(dispatch: str, number: int) -> None:
    with Server("--dispatch", dispatch, "--drain", "2.5") as server, server.connect() as idle:
        idle.sendall(b"no line end")
        wait_until_taken(server, dispatch)
        status, output, errors = server.stop(number)
        assert status == 0
        assert output == (
            "finishing 1 request, in 2.5 s at most; Ctrl-C ends them at once\n"
            "1 cut short\nstopped\n"
        )
        # The handler finds no client for what it has read.
        assert not errors or re.fullmatch(r".* went away: .*\n", errors)
        with contextlib.suppress(ConnectionResetError):
            assert idle.recv(100) in (b"", b"NO LINE END")
        wait_until(lambda: not server.has_processes(), "the processes of the server to end")


@pytest.mark.parametrize("number", SIGNALS)
def test_stops_as_soon_as_it_has_said_that_it_serves(number: int) -> None:
    for _ in range(5):
        with Server() as server:
            server.process.send_signal(number)
            assert server.wait() == (0, "stopped\n", "")


def test_port_can_be_bound_again_at_once() -> None:
    with Server() as server, server.connect() as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"HELLO\n"
        assert client.recv(100) == b""
        # The server has closed first, so its port lingers.
        assert server.stop().status == 0
    with Server(bind=server.bind) as second:
        assert second.ask() == b"HELLO\n"


@pytest.mark.parametrize("options", [(), ("--udp",)], ids=["stream", "datagram"])
def test_socket_file_of_another_is_left(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "socket"
    with Server(*options, bind=f"unix:{path}") as server:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            assert server.stop() == (0, "stopped\n", "")
            assert path.is_socket()


def test_socket_file_may_be_gone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Server(bind=f"unix:{path}") as server:
        path.unlink()
        assert server.stop() == (0, "stopped\n", "")


# Draining, limits, TLS, figures

FINISHING = "finishing 1 request, in 60 s at most; Ctrl-C ends them at once"


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["one", "all"])
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_the_first_signal_lets_requests_finish(dispatch: str, number: int, send: Any) -> None:
    """Be it sent to the server, or to all its processes as terminals and supervisors do."""
    with (
        Server("--dispatch", dispatch, "--drain", "60") as server,
        server.connect() as client,
    ):
        client.sendall(b"hel")
        wait_until_taken(server, dispatch)
        send(server.process.pid, number)
        assert server.read_line() == FINISHING
        client.sendall(b"lo\n")
        assert client.recv(100) == b"HELLO\n"
        assert server.wait() == (0, "stopped\n", "")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_the_second_signal_ends_them_at_once(dispatch: str, number: int) -> None:
    with (
        Server("--dispatch", dispatch, "--drain", "60") as server,
        server.connect() as client,
    ):
        client.sendall(b"hel")
        wait_until_taken(server, dispatch)
        server.process.send_signal(number)
        assert server.read_line() == FINISHING
        status, output, _ = server.stop(number)
        assert (status, output) == (0, "stopped\n")
        with contextlib.suppress(ConnectionResetError):
            client.recv(100)
        wait_until(lambda: not server.has_processes(), "the processes of the server to end")


def wait_until_taken(server: Server, dispatch: str) -> None:
    """Wait until the request of the only client is being handled."""
    if dispatch == "sync":
        stat = Path(f"/proc/{server.process.pid}/stat")
        if stat.exists():
            wait_until(lambda: server.sockets() == 2, "the request to be taken")
            wait_until(
                lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "the handler to wait"
            )
        return
    # What comes after it has been answered.
    assert server.ask(others=1) == b"HELLO\n"


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_no_time_to_finish(dispatch: str) -> None:
    with Server("--dispatch", dispatch, "--drain", "0") as server, server.connect() as client:
        client.sendall(b"hel")
        wait_until_taken(server, dispatch)
        status, output, _ = server.stop(signal.SIGTERM)
        assert status == 0
        # The child of the other client may not have ended yet.
        assert re.fullmatch(r"[12] cut short\nstopped\n", output)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_nothing_is_said_where_there_is_nothing_to_finish(dispatch: str) -> None:
    with Server("--dispatch", dispatch) as server:
        assert server.ask() == b"HELLO\n"
        assert server.stop() == (0, "stopped\n", "")


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_a_line_about_what_has_been_done(dispatch: str) -> None:
    with Server("--dispatch", dispatch, "--stats", "0.05") as server:
        assert server.ask() == b"HELLO\n"
        wait_until(
            lambda: server.read_line().startswith("accepted 1, active 0, finished 1"),
            "the line that tells of the request",
        )
        status, _, errors = server.stop()
        assert (status, errors) == (0, "")


NOBODY_READS = {
    "closed": "os.close(1)",
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    "broken": "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1)",
}


@pytest.mark.parametrize("trouble", NOBODY_READS)
def test_serves_without_a_standard_output(tmp_path: Path, trouble: str) -> None:
    if trouble == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-W", "error", "-m", "fastsocketserver", "serve"]
    run = f"import os, sys; {NOBODY_READS[trouble]}; os.execv(sys.argv[1], sys.argv[1:])"
    with Command(
        "-c", run, *command, "--bind", "unix:socket", "--stats", "0.01", cwd=tmp_path
    ) as server:
        wait_until(lambda: answers(tmp_path / "socket"), "the server to listen")
        ask_for_a_while(tmp_path / "socket")
        assert server.stop() == (0, "", "")


def test_goes_on_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    with Server("--stats", "0.01", bind="unix:socket", cwd=tmp_path) as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        ask_for_a_while(tmp_path / "socket")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0
        assert server.process.stderr is not None
        assert server.process.stderr.read() == b""


def answers(path: Path) -> bool:
    """Say whether a request to the server there is answered."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        if client.connect_ex(str(path)):
            return False
        client.sendall(b"hello\n")
        return client.recv(100) == b"HELLO\n"


def ask_for_a_while(path: Path) -> None:
    """Have requests answered until several lines about them are due."""
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        assert answers(path)


@pytest.mark.parametrize("dispatch", ["threads", "greenlets"])
def test_requests_beyond_max_threads_wait(dispatch: str) -> None:
    with (
        Server("--dispatch", dispatch, "--max-threads", "1") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        second.sendall(b"second\n")
        assert not select.select([second], [], [], 0.1)[0]
        first.sendall(b"first\n")
        assert first.recv(100) == b"FIRST\n"
        assert second.recv(100) == b"SECOND\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_max_threads_is_a_number_of_children_with_forks() -> None:
    with (
        Server("--dispatch", "forks", "--max-threads", "1") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        second.sendall(b"second\n")
        assert not select.select([second], [], [], 0.1)[0]
        first.sendall(b"first\n")
        assert first.recv(100) == b"FIRST\n"
        assert second.recv(100) == b"SECOND\n"


@pytest.mark.parametrize("dispatch", ["threads", "forks", "greenlets"])
def test_connections_beyond_max_connections_wait(dispatch: str) -> None:
    with (
        Server("--dispatch", dispatch, "--max-connections", "1") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        second.sendall(b"second\n")
        assert not select.select([second], [], [], 0.1)[0]
        first.sendall(b"first\n")
        assert first.recv(100) == b"FIRST\n"
        assert second.recv(100) == b"SECOND\n"


@pytest.mark.parametrize("dispatch", ["threads", "forks", "greenlets"])
def test_connections_beyond_those_of_one_client_are_closed(dispatch: str) -> None:
    with (
        Server("--dispatch", dispatch, "--max-connections-per-client", "1") as server,
        server.connect() as first,
        server.connect() as second,
    ):
        assert second.recv(100) == b""
        first.sendall(b"first\n")
        assert first.recv(100) == b"FIRST\n"


@pytest.mark.parametrize("option", ["--idle-timeout", "--request-deadline"])
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_a_silent_client_is_told_of_in_one_line(dispatch: str, option: str) -> None:
    with Server("--dispatch", dispatch, option, "0.05") as server, server.connect() as client:
        assert client.recv(100) == b""
        server.wait_for_children()
        status, output, errors = server.stop()
        assert (status, output) == (0, "stopped\n")
        assert re.fullmatch(r"\('127.0.0.1', \d+\) went away: timed out\n", errors)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_numbers_beyond_what_can_be_counted(dispatch: str) -> None:
    counts = ["--max-connections", "--max-connections-per-client", "--max-threads"]
    times = ["--idle-timeout", "--request-deadline", "--drain", "--stats"]
    options = [f"{option}={10**30}" for option in times]
    if dispatch != "sync":
        options += [f"{option}={10**30}" for option in counts]
    with Server("--dispatch", dispatch, *options) as server:
        assert server.ask() == b"HELLO\n"
        assert server.stop() == (0, "stopped\n", "")


def test_silent_clients_hold_no_threads(certificate: Any) -> None:
    options = ["--parking", "--max-threads", "1"]
    with Server(*options) as server, server.connect():
        assert server.ask() == b"HELLO\n"
    with Server(*options, "--certificate", str(certificate[3])) as server, server.connect():
        assert ask_by_tls(server, certificate) == b"HELLO\n"


def test_silent_clients_hold_no_threads_where_the_handler_says_so(tmp_path: Path) -> None:
    write(
        tmp_path / "handlers.py",
        """
        from socketserver import StreamRequestHandler

        class Speaks(StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"hello\\n")

        class Reads(StreamRequestHandler):
            reads_first = True

            def handle(self):
                self.wfile.write(self.rfile.readline())
        """,
    )
    assert serve("handlers:Speaks", "--parking", cwd=tmp_path) == (
        2,
        "",
        "fastsocketserver serve: --parking is of no use without --certificate, unless"
        " handlers:Speaks says `reads_first = True`\n",
    )
    with (
        Server("handlers:Reads", "--parking", "--max-threads", "1", cwd=tmp_path) as server,
        server.connect(),
    ):
        assert server.ask() == b"hello\n"


def test_handshake_timeout(certificate: Any) -> None:
    with (
        Server("--certificate", str(certificate[3]), "--handshake-timeout", "0.05") as server,
        server.connect() as silent,
    ):
        assert silent.recv(100) == b""
        assert ask_by_tls(server, certificate) == b"HELLO\n"


def ask_by_tls(server: Server, certificate: Any) -> bytes:
    """Return the answer to one line."""
    context = ssl.create_default_context()
    certificate[0].configure_trust(context)
    with (
        server.connect() as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(b"hello\n")
        return client.recv(100)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path, Path, Path]:
    """Return an authority, and files with a certificate, with its key, and with both."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    folder = tmp_path_factory.mktemp("certificate")
    chain, key, both = folder / "chain.pem", folder / "key.pem", folder / "both.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    issued.private_key_pem.write_to_path(key)
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    return authority, chain, key, both


@pytest.mark.parametrize("files", ["two", "one"])
@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_tls(dispatch: str, files: str, certificate: Any) -> None:
    _, chain, key, both = certificate
    options = ["--certificate", chain, "--key", key] if files == "two" else ["--certificate", both]
    with Server("--dispatch", dispatch, *map(str, options)) as server:
        assert ask_by_tls(server, certificate) == b"HELLO\n"
        server.wait_for_children()
        assert server.stop() == (0, "stopped\n", "")


@pytest.mark.parametrize("family", [family for family in ADDRESSES if family != "abstract"])
def test_the_command_that_it_proposes_speaks_tls(
    tmp_path: Path, family: str, certificate: Any
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    both = str(certificate[3])
    with Server("--certificate", both, bind=ADDRESSES[family], cwd=tmp_path) as server:
        target = "-unix ./socket" if family == "unix" else f"-connect {shlex.quote(server.bind)}"
        command = f"echo hello | openssl s_client -quiet {target}"
        assert server.lines[1] == f"try it:  {command}"
        answer = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=DEADLINE
        )
        assert answer.stdout == b"HELLO\n"


@pytest.mark.skipif("abstract" not in ADDRESSES, reason="no abstract namespace here")
def test_no_command_reaches_tls_at_an_abstract_name(certificate: Any) -> None:
    bind = f"unix:@fastsocketserver.test.{os.getpid()}"
    with Command(
        *("-m", "fastsocketserver", "serve", "--bind", bind, "--certificate", certificate[3])
    ) as server:
        assert server.read_line() == f"serving the upper-casing example on {bind} (threads)"
        assert server.read_line() == "Ctrl-C stops it"


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (["none.pem"], "cannot read none.pem: No such file or directory"),
        (["chain.pem", "none.key"], "cannot read none.key: No such file or directory"),
        (["none.pem", "none.key"], "cannot read none.pem: No such file or directory"),
        (["folder"], "cannot read folder: Is a directory"),
        (["garbage"], "garbage is no certificate in PEM"),
        (["broken", "key.pem"], "broken is no certificate in PEM"),
        (["key.pem", "chain.pem"], "key.pem is no certificate in PEM"),
        (["chain.pem"], "chain.pem holds no private key: give it by --key"),
        (["chain.pem", "chain.pem"], "chain.pem holds no private key in PEM"),
        (["chain.pem", "garbage"], "garbage holds no private key in PEM"),
        (["chain.pem", "other.key"], "the key other.key is not that of the certificate chain.pem"),
        (["chain.pem", "rsa.key"], "the key rsa.key is not that of the certificate chain.pem"),
        (
            ["chain.pem", "secret.key"],
            "the key in secret.key has a pass phrase, which is not supported",
        ),
        (["secret.pem"], "the key in secret.pem has a pass phrase, which is not supported"),
    ],
)
def test_certificate_that_cannot_be_used(
    tmp_path: Path, certificate: Any, files: list[str], fault: str
) -> None:
    authority, chain, key, _ = certificate
    shutil.copytree(chain.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbage").write_text("garbage")
    base64 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "broken").write_text(base64)
    other, rsa = (
        authority.issue_cert("127.0.0.1", key_type=kind).private_key_pem
        for kind in (trustme.KeyType.ECDSA, trustme.KeyType.RSA)
    )
    other.write_to_path(tmp_path / "other.key")
    rsa.write_to_path(tmp_path / "rsa.key")
    secret = serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "secret.key").write_bytes(secret)
    (tmp_path / "secret.pem").write_bytes(chain.read_bytes() + secret)
    certificate_file, *key_file = files
    options = ["--certificate", certificate_file, *(["--key", *key_file] if key_file else [])]
    assert serve(*options, cwd=tmp_path) == (2, "", f"fastsocketserver serve: {fault}\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--key key.pem", "--key is of no use without --certificate"),
        ("--parking --dispatch greenlets", "--parking needs --dispatch threads"),
        ("--udp --certificate c.pem", "there is no TLS over datagrams: --certificate with --udp"),
        *(
            (f"{option} {value}", f"argument {option}: not a number, 1 or more: '{value}'")
            for option in ("--max-threads", "--max-connections", "--max-connections-per-client")
            for value in ("0", "-1", "x", "1.5", "")
        ),
        *(
            (f"{option} {value}", f"argument {option}: not a number of seconds: '{value}'")
            for option in (*DEADLINES, "--drain", "--stats")
            for value in ("x", "-1", "nan", "inf")
        ),
        *(
            (f"{option} 0", f"argument {option}: not more than 0 seconds: '0'")
            for option in DEADLINES
        ),
    ],
)
def test_values_that_are_none(arguments: str, reason: str) -> None:
    status, output, errors = serve(*arguments.split(" "))
    assert (status, output) == (2, "")
    assert errors == f"fastsocketserver serve: {reason}\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--handshake-timeout=1", "without --certificate"),
        *(
            (f"{option}=1 --dispatch=sync", "with --dispatch sync")
            for option in ("--max-threads", "--max-connections", "--max-connections-per-client")
        ),
        *((f"{option}=1 --udp", "with --udp") for option in DEADLINES[:2]),
        ("--parking --udp", "with --udp"),
        ("--max-connections-per-client=1 --bind=unix:socket", "with unix:"),
    ],
)
def test_options_without_effect(tmp_path: Path, arguments: str, why: str) -> None:
    option = re.split("[ =]", arguments)[0]
    reason = f"fastsocketserver serve: {option} is of no use {why}\n"
    assert serve(*arguments.split(), cwd=tmp_path) == (2, "", reason)


@pytest.mark.parametrize(
    ("handler", "option", "advice"),
    [
        ("StreamRequestHandler", "--udp", "handles connections: leave out --udp"),
        ("DatagramRequestHandler", "--dispatch=sync", "handles datagrams: add --udp"),
    ],
)
def test_handler_of_another_kind(handler: str, option: str, advice: str) -> None:
    name = f"socketserver:{handler}"
    assert serve(name, option) == (2, "", f"fastsocketserver serve: {name} {advice}\n")


# Addresses that cannot be listened on


@pytest.mark.parametrize("options", [(), ("--udp",)], ids=["stream", "datagram"])
@pytest.mark.parametrize("family", ADDRESSES)
def test_address_in_use(tmp_path: Path, family: str, options: tuple[str, ...]) -> None:
    bind = ADDRESSES[family].format(pid=os.getpid())
    with Server(*options, bind=bind, cwd=tmp_path) as server:
        reason = f"[Errno {errno.EADDRINUSE}] {os.strerror(errno.EADDRINUSE)}"
        if family == "unix":
            reason += "; if no server uses it, remove the file"
        assert serve("--bind", server.bind, *options, cwd=tmp_path) == (
            1,
            "",
            f"fastsocketserver serve: cannot listen on {server.bind}: {reason}\n",
        )
        assert server.ask() == b"HELLO\n"


def test_other_file_where_the_socket_should_be(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    status, _, errors = serve("--bind", "unix:socket", cwd=tmp_path)
    assert (status, errors.count("remove the file")) == (1, 0)
    assert (tmp_path / "socket").exists()


def test_socket_file_in_no_folder(tmp_path: Path) -> None:
    reason = f"[Errno {errno.ENOENT}] {os.strerror(errno.ENOENT)}"
    assert serve("--bind", "unix:no/socket", cwd=tmp_path) == (
        1,
        "",
        f"fastsocketserver serve: cannot listen on unix:no/socket: {reason}\n",
    )


def test_socket_file_with_too_long_a_name() -> None:
    bind = f"unix:{200 * 'x'}"
    status, output, errors = serve("--bind", bind)
    assert (status, output) == (1, "")
    assert errors == f"fastsocketserver serve: cannot listen on {bind}: AF_UNIX path too long\n"


# Wrong command lines


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--dispatch fibers", r"argument --dispatch: invalid choice: 'fibers' .*"),
        ("--bind", r"argument --bind: expected one argument"),
        ("--udp=1", r"argument --udp: ignored explicit argument '1'"),
        ("--backlog", r"unrecognized arguments: --backlog"),
        ("os:getpid os:getppid", r"unrecognized arguments: os:getppid"),
        ("os", r"not a handler: 'os' .*"),
        ("os:", r"not a handler: 'os:' .*"),
        (":Handler", r"not a handler: ':Handler' .*"),
        (".os:Handler", r"not a handler: '.os:Handler' .*"),
        ("no_such:Handler", r"no module named 'no_such': no_such:Handler"),
        ("no_such.inner:Handler", r"no module named 'no_such': no_such.inner:Handler"),
        ("no_such.py:Handler", r"no module named 'no_such': no_such.py:Handler"),
        ("email.no_such:Handler", r"no module named 'email.no_such': email.no_such:Handler"),
        ("os.path:Handler", r".*has no attribute 'Handler': os.path:Handler"),
        ("os:path.no_such", r".*has no attribute 'no_such': os:path.no_such"),
        ("os:sep", r"not a request handler class: os:sep"),
    ],
)
def test_wrong_command_line(arguments: str, reason: str) -> None:
    status, output, errors = serve(*arguments.split())
    assert (status, output) == (2, "")
    assert re.fullmatch(rf"fastsocketserver(?: serve)?: {reason}\n", errors), errors


@pytest.mark.parametrize(
    "bind",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "127.0.0.1:70000",
        "127.0.0.1:-1",
        "127.0.0.1:1.5",
        "127.0.0.1:\N{SUPERSCRIPT TWO}",
        "::1:0",
        "[::1]",
        "[::1:0",
        "unix:",
        "unix:@",
        "..:0",
        f"{64 * 'x'}:0",
    ],
)
def test_wrong_address(bind: str) -> None:
    status, output, errors = serve("--bind", bind)
    assert (status, output) == (2, "")
    assert errors == (
        f"fastsocketserver serve: not an address to listen on: {bind!r}"
        " (HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME)\n"
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import handlers.inner", "ModuleNotFoundError: No module named 'handlers.inner'.*"),
        ("from os import no_such", "ImportError: cannot import name 'no_such' from 'os' .*"),
        ("class = 1", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_module_that_cannot_be_imported(tmp_path: Path, source: str, error: str) -> None:
    """That is no wrong command line: where it failed must be seen."""
    write(tmp_path / "handlers.py", source)
    status, output, errors = serve("handlers:Handler", cwd=tmp_path)
    assert (status, output) == (1, "")
    assert errors.startswith("Traceback (most recent call last):\n")
    assert f'File "{tmp_path / "handlers.py"}", line 1' in errors
    assert re.fullmatch(error, errors.splitlines()[-1])


def test_module_whose_import_meets_an_error_of_the_system(tmp_path: Path) -> None:
    write(tmp_path / "handlers.py", "open('no_such_file')")
    status, output, errors = serve("handlers:Handler", cwd=tmp_path)
    assert (status, output) == (1, "")
    assert errors.startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize("arguments", ["", "sevre", "--verbose serve"])
def test_unknown_command(arguments: str) -> None:
    with Command("-m", "fastsocketserver", *arguments.split()) as command:
        status, output, errors = command.wait()
    assert (status, output) == (2, "")
    assert re.fullmatch("fastsocketserver: .+\n", errors)


# Help


@pytest.mark.parametrize("arguments", ["--help", "serve --help", "run --help"])
def test_help(arguments: str) -> None:
    with Command("-m", "fastsocketserver", *arguments.split()) as command:
        status, output, errors = command.wait()
    assert (status, errors) == (0, "")
    command_name = arguments.removesuffix("--help")
    assert output.startswith(f"usage: fastsocketserver {command_name}[-h]")


def test_version() -> None:
    with Command("-m", "fastsocketserver", "--version") as command:
        assert command.wait() == (0, f"fastsocketserver {version('fastsocketserver')}\n", "")
