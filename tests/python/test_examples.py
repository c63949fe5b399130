"""The examples do what they say, run as their users would run them."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE
from test_serve_command import Command, Outcome

pytestmark = pytest.mark.timeout(60)

EXAMPLES = Path(__file__).parents[2] / "examples"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


class Server(Command):
    """An example that serves, on a port of the kernel's choice."""

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__(EXAMPLES / name, "0", *arguments)

    def get_ready(self) -> None:
        """Wait until it listens."""
        found = re.fullmatch(r"listening on port (\d+)", self.read_line())
        assert found
        self.port = found[1]

    def connect(self) -> socket.socket:
        """Return a socket that is connected to the server."""
        return socket.create_connection(("127.0.0.1", int(self.port)), timeout=DEADLINE)


def run(name: str, *arguments: str) -> Outcome:
    """Run an example that ends by itself."""
    with Command(EXAMPLES / name, *arguments) as command:
        return command.wait()


def client_output(sent: str, received: str) -> Outcome:
    """Return what a client prints in the end."""
    return Outcome(0, f"sent:     {sent}\nreceived: {received}\n", "")


def test_every_python_example_is_tested() -> None:
    tests = Path(__file__).read_text()
    untested = {path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tests}
    assert untested == set()


@pytest.mark.parametrize("name", ["tcp_recv.py", "tcp_readline.py"])
def test_tcp_servers_and_their_client(name: str) -> None:
    with Server(name) as server:
        assert run("tcp_client.py", server.port, "some", "words") == client_output(
            "some words", "SOME WORDS"
        )
        assert run("tcp_client.py", server.port, "ünï") == client_output("ünï", "üNï")
        assert server.stop() == (
            0,
            "127.0.0.1 sent 'some words\\n'\n127.0.0.1 sent 'ünï\\n'\n",
            "",
        )


def test_tcp_server_with_recv_takes_what_has_arrived() -> None:
    with Server("tcp_recv.py") as server, server.connect() as client:
        client.sendall(b"no line")
        assert client.recv(100) == b"NO LINE"
        assert client.recv(100) == b""
        assert server.stop() == (0, "127.0.0.1 sent 'no line'\n", "")


def test_tcp_server_with_readline_waits_for_the_end_of_each_line() -> None:
    with Server("tcp_readline.py") as server, server.connect() as client:
        client.sendall(b"a li")
        client.sendall(b"ne\n")
        assert client.recv(100) == b"A LINE\n"
        client.sendall(b"the rest")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"THE REST"
        assert client.recv(100) == b""
        assert server.stop() == (
            0,
            "127.0.0.1 sent 'a line\\n'\n127.0.0.1 sent 'the rest'\n",
            "",
        )


def test_udp_server_and_its_client() -> None:
    with Server("udp_server.py") as server:
        for text, answer in [("some words", "SOME WORDS"), ("ünï", "üNï"), ("", "")]:
            assert run("udp_client.py", server.port, *text.split()) == client_output(text, answer)
        assert server.stop() == (
            0,
            "127.0.0.1 sent 'some words'\n127.0.0.1 sent 'ünï'\n127.0.0.1 sent ''\n",
            "",
        )


def test_threading_mixin() -> None:
    assert run("threading_mixin.py") == (
        0,
        "good evening, says Thread-3 (process_request_thread)\n"
        "good day, says Thread-2 (process_request_thread)\n"
        "good morning, says Thread-1 (process_request_thread)\n",
        "",
    )


def test_greenlet_mixin() -> None:
    pytest.importorskip("greenlet", reason="greenlet is not installed")
    assert run("greenlet_mixin.py") == (
        0,
        "the loop has read good evening\nthe loop has read good morning\n",
        "",
    )


@needs_fork
def test_forking_mixin() -> None:
    status, output, errors = run("forking_mixin.py")
    assert (status, errors) == (0, "")
    assert re.sub(r"\d+", "N", output) == (
        "this is process N\n"
        "good evening, says process N\n"
        "good day, says process N\n"
        "good morning, says process N\n"
    )
    assert len(set(re.findall(r"\d+", output))) == 4


@needs_fork
def test_explicit_fork() -> None:
    with Server("explicit_fork.py") as server, server.connect() as patient:
        patient.sendall(b"%d\n" % (2**89 - 1))  # a prime that keeps its child busy for good
        for text, answer in [
            ("360", "2 2 2 3 3 5"),
            ("1234567", "127 9721"),
            ("1", "not a number above one"),
            ("words", "not a number above one"),
        ]:
            assert run("tcp_client.py", server.port, text) == client_output(text, answer)
        assert server.stop() == (0, "", "")


def test_access_control_serves() -> None:
    with Server("access_control.py") as server:
        assert run("tcp_client.py", server.port, "hello") == client_output(
            "hello", "welcome, you said: hello"
        )
        assert server.stop() == (0, "serving 127.0.0.1\n", "")


def test_access_control_refuses() -> None:
    with Server("access_control.py", "10.0.0.0/8", "127.0.0.2/32") as server:
        assert run("tcp_client.py", server.port, "hello") == client_output("hello", "")
        assert server.stop() == (0, "refusing 127.0.0.1\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="one loopback address elsewhere")
def test_access_control_serves_other_networks() -> None:
    with Server("access_control.py", "10.0.0.0/8", "127.0.0.2/31") as server:
        with socket.create_connection(
            ("127.0.0.1", int(server.port)), DEADLINE, source_address=("127.0.0.3", 0)
        ) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"welcome, you said: hello\n"
            assert client.recv(100) == b""
        assert server.stop() == (0, "serving 127.0.0.3\n", "")


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("tcp_recv.py", ""),
        ("tcp_readline.py", ""),
        pytest.param("explicit_fork.py", "", marks=needs_fork),
        ("access_control.py", "serving 127.0.0.1\n"),
    ],
)
def test_stops_while_a_client_is_connected_and_idle(name: str, output: str) -> None:
    with Server(name) as server, server.connect():
        assert server.stop() == (0, output, "")


def test_port_may_be_used_again_at_once() -> None:
    with Server("tcp_recv.py") as server, server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        assert client.recv(100) == b""
        assert server.stop().status == 0
    with Command(EXAMPLES / "tcp_recv.py", server.port) as second:
        assert second.read_line() == f"listening on port {server.port}"
