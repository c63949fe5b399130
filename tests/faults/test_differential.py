"""Random handlers and clients, on the standard library's module and on this: all see the same.

Each program follows from its seed. What is left out by construction is what README says under
"Differences": whatever comes after an error of the system in the middle of reading, and times.
Each connection's bytes are there before its handler looks, or else the handler only reads what
does not depend on the pieces in which they come. `FAULTS_SEED` runs that one seed.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clients import reset
from lengths import LONG, SECONDS
from server_process import HERE, PATIENCE, REFERENCE, needs_proc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from conftest import Figures

SEEDS = range(300)
"""Of a short run."""

STREAMS = ("TCPServer", "ThreadingTCPServer", "UnixStreamServer", "ThreadingUnixStreamServer")
DATAGRAMS = (
    *("UDPServer", "ThreadingUDPServer", "UnixDatagramServer", "ThreadingUnixDatagramServer"),
)
SIZES = (0, 1, 2, 3, 7, 16, 100, 1000, 8191, 8192, 8193, 20_000)
LIMITS = (-1, 0, 1, 2, 5, 10, 64, 100, 8192, 10_000)


def make_data(chance: random.Random) -> str:
    """Return bytes, as text of as many characters, some of which are lines."""
    pieces = []
    for _ in range(chance.randrange(6)):
        length = chance.choice((0, 1, 2, 5, 9, 30, 200, 5000))
        pieces.append(chance.choice("abcdef\x00\xff\r") * length)
        pieces.append(chance.choice(("\n", "\n", "\n", "\r\n", "")))
    return "".join(pieces)


def make_reads(chance: random.Random, *, of_pieces: bool, unbuffered: bool) -> Iterator[list[Any]]:
    """Give steps that read; with `of_pieces`, those that do not depend on how the bytes come."""
    whole = [
        lambda: ["rfile.readline"],
        lambda: ["rfile.readline", chance.choice(LIMITS)],
        lambda: ["rfile.iterate", chance.randrange(5)],
        lambda: ["rfile.readlines"],
        lambda: ["rfile.readlines", chance.choice((0, 1, 20, 1000))],
    ]
    if not (of_pieces and unbuffered):
        whole += [
            lambda: ["rfile.read", chance.choice(LIMITS)],
            lambda: ["rfile.read"],
            lambda: ["rfile.readinto", chance.choice(SIZES)],
        ]
    in_parts = [
        lambda: ["rfile.read1"],
        lambda: ["rfile.read1", chance.choice(LIMITS)],
        lambda: ["rfile.peek"],
        lambda: ["rfile.peek", chance.choice(LIMITS)],
        lambda: ["rfile.readinto1", chance.choice(SIZES)],
        lambda: ["request.recv", chance.choice(SIZES)],
        lambda: ["request.recv", chance.choice(SIZES), socket.MSG_PEEK],
        lambda: ["request.recv_into", chance.choice(SIZES)],
        lambda: ["request.makefile", chance.choice((-1, 0, 16))],
    ]
    kinds = whole if of_pieces else whole + in_parts
    while True:
        yield chance.choice(kinds)()


def make_writes(chance: random.Random) -> Iterator[list[Any]]:
    kinds = [
        lambda: ["wfile.write", "w" * chance.choice(SIZES)],
        lambda: ["wfile.write", "small\n"],
        lambda: ["wfile.write", "small"],
        lambda: ["wfile.write_view", "viewed" * 20, chance.randrange(100)],
        lambda: ["wfile.writelines", "line\n", chance.randrange(5)],
        lambda: ["wfile.flush"],
        lambda: ["wfile.write_text"],
        lambda: ["request.sendall", "sent"],
        lambda: ["request.send", "sent"],
    ]
    while True:
        yield chance.choice(kinds)()


def make_oddities(chance: random.Random, *, of_pieces: bool) -> Iterator[list[Any]]:
    # What comes after the end that the handler itself has made depends on the pieces.
    directions = (socket.SHUT_WR,) if of_pieces else (socket.SHUT_WR, socket.SHUT_RD)
    kinds: list[Callable[[], list[Any]]] = [
        *((lambda name=name: [name]) for name in ODD_CALLS),
        lambda: ["request.settimeout", chance.choice((None, 20, 30.5))],
        lambda: ["request.shutdown", chance.choice(directions)],
        lambda: ["raise", chance.choice(("ValueError", "OSError", "EOFError"))],
    ]
    while True:
        yield chance.choice(kinds)()


ODD_CALLS = (
    *("rfile.readable", "rfile.writable", "rfile.seekable", "rfile.isatty", "rfile.closed"),
    *("wfile.readable", "wfile.writable", "wfile.seekable", "wfile.isatty", "wfile.closed"),
    *("rfile.close", "wfile.close", "request.close", "rfile.flush", "request.gettimeout"),
    "request.getblocking",
)


def make_script(chance: random.Random, *, of_pieces: bool, unbuffered: bool) -> list[list[Any]]:
    """Return what a handler does with one connection."""
    reads = make_reads(chance, of_pieces=of_pieces, unbuffered=unbuffered)
    writes, oddities = make_writes(chance), make_oddities(chance, of_pieces=of_pieces)
    script = []
    for _ in range(chance.randrange(9)):
        kind = chance.choices((reads, writes, oddities), (6, 4, 1))[0]
        script.append(next(kind))
    return script


def make_stream_program(chance: random.Random) -> dict[str, Any]:
    server = chance.choice(STREAMS)
    # From 3.14 on the default is 128 KiB there, and 8 KiB here: `peek()` tells.
    default = -1 if sys.version_info < (3, 14) else 8192
    rbufsize = chance.choice((default, default, 0, 1, 2, 16, 100, 8192))
    of_pieces = chance.random() < 0.4
    clients, scripts = [], []
    for _ in range(chance.randrange(1, 4)):
        ways = ["half-close", "half-close", "half-close", "late half-close", "close"]
        if server.endswith("TCPServer"):
            ways.append("reset")
        pieces = [make_data(chance) for _ in range(chance.randrange(4))]
        way = "half-close" if of_pieces else chance.choice(ways)
        script = make_script(chance, of_pieces=of_pieces, unbuffered=rbufsize == 0)
        clients.append({"pieces": pieces, "ends": way, "while_handled": of_pieces})
        scripts.append(script)
    return {
        "server": server,
        "handler": "StreamRequestHandler",
        "handler_attributes": {
            "rbufsize": rbufsize,
            "wbufsize": chance.choice((0, 0, 0, -1, 1, 16, 8192, 65536)),
            "timeout": chance.choice((None, None, 30, 30.5)),
            "disable_nagle_algorithm": "TCP" in server and chance.random() < 0.3,
        },
        "server_attributes": {"daemon_threads": False, "allow_reuse_address": True},
        # Who has gone away cannot see that the handler has done its work.
        "tells_when_done": not of_pieces
        and (
            chance.random() < 0.7 or any(client["ends"] in ("close", "reset") for client in clients)
        ),
        "loops": chance.random() < 0.7,
        "scripts": scripts,
        "clients": clients,
    }


def make_datagram_program(chance: random.Random) -> dict[str, Any]:
    handler = chance.choice(("DatagramRequestHandler", "BaseRequestHandler"))
    clients, scripts = [], []
    for _ in range(chance.randrange(1, 5)):
        script: list[list[Any]] = []
        for _ in range(chance.randrange(5)):
            if handler == "BaseRequestHandler":
                step = chance.choice(
                    (["request.packet"], ["request.sendto_client", "a" * chance.choice(SIZES)])
                )
            else:
                reads = make_reads(chance, of_pieces=True, unbuffered=False)
                step = next(reads)
                if chance.random() < 0.4:
                    step = ["wfile.write", "w" * chance.choice(SIZES)]
            script.append(step)
        if chance.random() < 0.1:
            script.append(["raise", "ValueError"])
        clients.append({"pieces": [make_data(chance)], "is_bound": chance.random() < 0.9})
        scripts.append(script)
    return {
        "server": chance.choice(DATAGRAMS),
        "handler": handler,
        "handler_attributes": {},
        "server_attributes": {"max_packet_size": chance.choice((1, 10, 100, 8192, 8192, 65536))},
        "tells_when_done": True,
        "loops": chance.random() < 0.7,
        "scripts": scripts,
        "clients": clients,
    }


def make_program(seed: int) -> dict[str, Any]:
    """Return the program of that seed."""
    chance = random.Random(seed)
    make = make_stream_program if chance.random() < 0.8 else make_datagram_program
    return make(chance)


class Runner:
    """A process that runs programs on one module."""

    def __init__(self, module: str, folder: Path) -> None:
        self.module = module
        self._folder = folder
        self._numbers = itertools.count()
        self._stderr = (folder / f"errors-{module}").open("w+b")
        program = str(Path(__file__).with_name("differential_server.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "faulthandler", program, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait(PATIENCE)
            pytest.fail(f"{self.module} has ended with status {status}: {self.errors}")
        return json.loads(line)

    def _let_go(self) -> None:
        """Let the handler of this connection begin, once it is there."""
        assert self._hear() == "begun"
        self._say("go")

    @property
    def errors(self) -> str:
        """What it wrote to its standard error so far."""
        return os.pread(self._stderr.fileno(), 10**6, 0).decode(errors="replace")

    def run(self, program: dict[str, Any]) -> dict[str, Any]:
        """Return what the handlers and the clients of a program have seen."""
        path = str(self._folder / f"{self.module}-{next(self._numbers)}")
        address = path if "Unix" in program["server"] else ["127.0.0.1", 0]
        self._say(json.dumps({**program, "address": address}))
        where = self._hear()
        where = tuple(where) if isinstance(where, list) else where
        is_stream = program["handler"] == "StreamRequestHandler"
        talk = self._talk if is_stream else self._exchange
        seen = [talk(where, client, program["tells_when_done"]) for client in program["clients"]]
        self._say("")
        log = self._hear()
        if isinstance(address, str):
            Path(address).unlink()
        return {"handlers": log, "clients": seen, "errors": [self.errors]}

    def _talk(self, address: Any, client: dict[str, Any], tells: bool) -> list[Any]:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(address)
            if client["while_handled"]:
                self._let_go()
            # Who has nothing more to read may have closed before all is sent.
            with contextlib.suppress(OSError) if client["while_handled"] else _nothing():
                for piece in client["pieces"]:
                    sock.sendall(piece.encode("latin-1"))
                if client["ends"] == "half-close":
                    sock.shutdown(socket.SHUT_WR)
            if client["ends"] == "reset":
                reset(sock)
            elif client["ends"] == "close":
                sock.close()
            if not client["while_handled"]:
                self._let_go()
            if client["ends"] == "late half-close":
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            if tells:
                assert self._hear() == "done"
            if sock.fileno() == -1:
                return ["gone"]
            received = b""
            end = "end"
            try:
                while data := sock.recv(65536):
                    received += data
            except ConnectionError:
                # Unread bytes make a reset; before or after the end is a matter of moments.
                end = "reset" if tells else "end"
            return [received.decode("latin-1"), end]

    def _exchange(self, address: Any, client: dict[str, Any], tells: bool) -> list[Any]:
        is_unix = isinstance(address, str)
        with socket.socket(
            socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_DGRAM
        ) as sock:
            sock.settimeout(PATIENCE)
            if is_unix and client["is_bound"]:
                sock.bind("")
            sock.connect(address)
            for piece in client["pieces"]:
                sock.send(piece.encode("latin-1"))
            self._let_go()
            assert self._hear() == "done"
            sock.setblocking(False)
            received = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    received.append(sock.recv(100_000).decode("latin-1"))
            return received

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def shortened(text: str) -> str:
    return text if len(text) < 300 else f"{text[:100]} … {text[-100:]}"


def comparison(program: dict[str, Any], reference: dict[str, Any], here: dict[str, Any]) -> str:
    """Return both logs, line by line, and what they are logs of."""
    there, ours = [
        [
            shortened(json.dumps(one))
            for part in ("handlers", "clients", "errors")
            for one in log[part]
        ]
        for log in (reference, here)
    ]
    difference = difflib.unified_diff(there, ours, "the standard library", "here", n=1000)
    return f"{program}\n" + "\n".join(difference)


def seeds() -> Iterable[int]:
    """Give the seeds of this run."""
    if "FAULTS_SEED" in os.environ:
        yield int(os.environ["FAULTS_SEED"])
    elif LONG:
        end = time.monotonic() + SECONDS
        yield from itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())
    else:
        yield from SEEDS


@needs_proc
def test_random_programs_see_the_same_on_both_modules(tmp_path: Path, figures: Figures) -> None:
    runners = [Runner(REFERENCE, tmp_path), Runner(HERE, tmp_path)]
    number = 0
    try:
        for seed in seeds():
            program = make_program(seed)
            reference, here = [runner.run(program) for runner in runners]
            if reference != here:
                pytest.fail(f"seed {seed} differs\n{comparison(program, reference, here)}")
            number += 1
    finally:
        for runner in runners:
            runner.close()
    figures.note("random programs with the same outcome", here=f"{number:,} of {number:,}")
