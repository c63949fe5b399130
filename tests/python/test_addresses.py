"""Addresses, good and bad: what the constructor makes of them, raises, audits and leaves open."""

from __future__ import annotations

import gc
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from conftest import DEADLINE
from probes import LOOPBACK, connect, echo_handler, open_descriptors, read_all
from program import Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from variants import Variant

INET, STREAM, DATAGRAM = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
INET6, UNIX = getattr(socket, "AF_INET6", None), getattr(socket, "AF_UNIX", None)
VSOCK, NETLINK = getattr(socket, "AF_VSOCK", None), getattr(socket, "AF_NETLINK", None)


class Index:
    """A number to those who ask by `__index__` alone."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


class Pair(NamedTuple):
    """An address with named parts."""

    host: str
    port: int


class Text(str):
    """A string of a class of its own."""

    __slots__ = ()


def has(family: int | None, kind: int = STREAM) -> bool:
    """Say whether sockets of a family can be had here."""
    if family is None:
        return False
    try:
        socket.socket(family, kind).close()
    except OSError:
        return False
    return True


def has_inet6() -> bool:
    """Say whether the loopback interface has an address of version 6."""
    if not has(INET6):
        return False
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_inet6 = pytest.mark.skipif(not has_inet6(), reason="there is no IPv6 here")
needs_unix = pytest.mark.skipif(UNIX is None, reason="there are no Unix sockets here")
needs_abstract = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these names")


def server_class(ss: Variant, family: int, kind: int, **attributes: Any) -> Any:
    """Return a server class for a family and a kind of sockets."""
    base = ss.TCPServer if kind == STREAM else ss.UDPServer
    return type("Server", (base,), {"address_family": family, **attributes})


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call raises, as something to compare; what it returns otherwise."""
    try:
        return call()
    except Exception as error:
        names = ("errno", "strerror", "filename", "filename2")
        return type(error), error.args, [getattr(error, name, None) for name in names], str(error)


def bind(family: int, kind: int, address: Any) -> Any:
    """Return the address that a socket has after binding it to `address`."""
    with socket.socket(family, kind) as sock:
        sock.bind(address)
        return sock.getsockname()


def check_failure(ss: Variant, family: int, kind: int, address: Any) -> None:
    """Require that a server fails as its socket does, in the right call, leaving nothing open."""
    expected = outcome(lambda: bind(family, kind, address))
    assert isinstance(expected[0], type), f"{address!r} can be bound to"
    cls = server_class(ss, family, kind)
    before = open_descriptors()
    assert outcome(lambda: cls(address, None)) == expected
    assert open_descriptors() == before
    server = cls(address, None, bind_and_activate=False)
    try:
        assert server.server_address is address
        assert outcome(server.server_bind) == expected
        assert server.server_address is address
    finally:
        server.server_close()
    assert open_descriptors() == before


# Bad addresses

BAD_INET: list[Any] = [
    None,
    0,
    "127.0.0.1:0",
    b"127.0.0.1",
    [*LOOPBACK],
    {},
    (),
    ("127.0.0.1",),
    ("127.0.0.1", 0, 0),
    ("127.0.0.1", None),
    ("127.0.0.1", "80"),
    ("127.0.0.1", 1.5),
    ("127.0.0.1", -1),
    ("127.0.0.1", 65536),
    ("127.0.0.1", 2**31),
    ("127.0.0.1", 2**64),
    ("127.0.0.1", -(2**64)),
    ("127.0.0.1", Index(65536)),
    (None, 0),
    (5, 0),
    (["127.0.0.1"], 0),
    ("127.0.0.1\0", 0),
    (b"127.0.0.1\0", 0),
    ("::1", 0),
    ("a" * 64, 0),
    ("\udcff", 0),
    ("192.0.2.1", 0),
]


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("address", BAD_INET, ids=repr)
def test_bad_inet_addresses(ss: Variant, kind: int, address: Any) -> None:
    check_failure(ss, INET, kind, address)


BAD_INET6: list[Any] = [
    None,
    (),
    ("::1",),
    ("::1", 0, 0, 0, 0),
    ("::1", -1),
    ("::1", 65536),
    ("::1", 0, -1),
    ("::1", 0, 1 << 20),
    ("::1", 0, "0"),
    ("::1", 0, 0, "0"),
    ("127.0.0.1", 0),
    ("2001:db8::1", 0),
    ("fe80::1%no-such-interface", 0),
]


@needs_inet6
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("address", BAD_INET6, ids=repr)
def test_bad_inet6_addresses(ss: Variant, kind: int, address: Any) -> None:
    check_failure(ss, socket.AF_INET6, kind, address)


BAD_UNIX: list[Any] = [
    None,
    0,
    (),
    ("path",),
    LOOPBACK,
    "long" * 100,
    b"long" * 100,
    "\0" + "long" * 100,
    "\ud800",
    "no/such/directory",
    ".",
]


@needs_unix
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("address", BAD_UNIX, ids=lambda address: repr(address)[:30])
def test_bad_unix_addresses(
    ss: Variant, kind: int, address: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_failure(ss, socket.AF_UNIX, kind, address)


@needs_unix
def test_a_file_in_the_way_of_a_unix_address(ss: Variant, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    check_failure(ss, socket.AF_UNIX, STREAM, str(path))
    assert path.read_text() == "precious"


def test_addresses_of_other_families(ss: Variant) -> None:
    tried = 0
    for family, kind, addresses in (
        (VSOCK, STREAM, [None, (1,), ("x", 1), (1, 0), (1, 2, 3), LOOPBACK]),
        (NETLINK, DATAGRAM, [None, (1,), ("x", 1), (1, 2, 3), LOOPBACK]),
    ):
        for address in addresses if has(family, kind) else ():
            assert family is not None
            check_failure(ss, family, kind, address)
            tried += 1
    if not tried:
        pytest.skip("there are no other families here")


@pytest.mark.parametrize("reused", [False, True])
def test_a_port_in_use(ss: Variant, reused: bool) -> None:
    with ss.TCPServer(LOOPBACK, None) as first:
        cls = server_class(ss, INET, STREAM, allow_reuse_address=reused)
        expected = outcome(lambda: bind(INET, STREAM, first.server_address))
        before = open_descriptors()
        assert outcome(lambda: cls(first.server_address, None)) == expected
        assert open_descriptors() == before
        assert expected[0] is OSError


def test_a_unix_address_in_use(ss: Variant, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with server_class(ss, socket.AF_UNIX, STREAM)(path, None) as server:
        check_failure(ss, socket.AF_UNIX, STREAM, path)
        assert server.server_address == path


@needs_abstract
def test_an_abstract_address_in_use(ss: Variant) -> None:
    with server_class(ss, socket.AF_UNIX, STREAM)("", None) as server:
        check_failure(ss, socket.AF_UNIX, STREAM, server.server_address)


# Bad families, kinds and queues


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (9999, STREAM),
        (-2, STREAM),
        ("inet", STREAM),
        (None, STREAM),
        (2**64, STREAM),
        (INET, 9999),
        (INET, "stream"),
        (INET, None),
        (INET, 2**64),
        (INET, socket.SOCK_SEQPACKET),
    ],
)
def test_bad_families_and_kinds(ss: Variant, family: Any, kind: Any) -> None:
    closed: list[None] = []
    attributes = {
        "address_family": family,
        "socket_type": kind,
        "server_close": lambda self: closed.append(None),
    }
    cls = type("Server", (ss.TCPServer,), attributes)
    expected = outcome(lambda: socket.socket(family, kind))
    assert isinstance(expected[0], type), "there are such sockets here"
    before = open_descriptors()
    assert outcome(lambda: cls(LOOPBACK, None)) == expected
    assert outcome(lambda: cls(LOOPBACK, None, bind_and_activate=False)) == expected
    assert open_descriptors() == before
    assert closed == [], "there was nothing to close"


@pytest.mark.parametrize("size", ["5", None, 1.5, 2**64, Index(5), -1, 0, 2**31])
def test_the_size_of_the_queue_is_what_listen_takes(ss: Variant, size: Any) -> None:
    def listen() -> str:
        with socket.socket() as sock:
            sock.bind(LOOPBACK)
            sock.listen(size)
        return "listens"

    def serve() -> str:
        with server_class(ss, INET, STREAM, request_queue_size=size)(LOOPBACK, None):
            return "listens"

    before = open_descriptors()
    assert outcome(serve) == outcome(listen)
    assert open_descriptors() == before


@pytest.mark.parametrize("size", ["8192", None, 1.5, 2**64, -1])
def test_the_size_of_a_packet_is_what_recvfrom_takes(ss: Variant, size: Any) -> None:
    def receive() -> str:
        with socket.socket(INET, DATAGRAM) as sock, socket.socket(INET, DATAGRAM) as client:
            sock.bind(LOOPBACK)
            client.sendto(b"hello", sock.getsockname())
            sock.recvfrom(size)
        return "received"

    def serve() -> str:
        cls = server_class(ss, INET, DATAGRAM, max_packet_size=size, timeout=DEADLINE)
        with (
            cls(LOOPBACK, ss.BaseRequestHandler) as server,
            connect(server.server_address, kind=DATAGRAM) as client,
        ):
            client.sendall(b"hello")
            server.handle_request()
        return "received"

    assert outcome(serve) == outcome(receive)


def test_a_packet_larger_than_memory_is_an_error_and_not_the_end(ss: Variant) -> None:
    source = """
import sys
with ss.UDPServer(("127.0.0.1", 0), ss.BaseRequestHandler) as server:
    print(server.server_address[1], flush=True)
    server.max_packet_size = sys.maxsize // 2
    try:
        server.handle_request()
    except MemoryError:
        print("no such memory")
"""
    with (
        Program(ss, source) as program,
        connect(program.read_port(), kind=DATAGRAM) as client,
    ):
        client.sendall(b"hello")
        assert program.read_line() == "no such memory"
        program.end()


def test_many_failures_leave_nothing_open(ss: Variant) -> None:
    cls = server_class(ss, INET, STREAM)

    class Failing(cls):  # type: ignore[misc, valid-type]
        def server_activate(self) -> None:
            raise RuntimeError("from a hook")

    bad: list[tuple[Any, Any]] = [
        (cls, ("127.0.0.1", -1)),
        (cls, ("192.0.2.1", 0)),
        (cls, ("::1", 0)),
        (cls, None),
        (cls, ("127.0.0.1", 2**64)),
        (server_class(ss, INET, DATAGRAM), ("127.0.0.1", "0")),
        (Failing, LOOPBACK),
        (server_class(ss, socket.AF_UNIX, STREAM), "no/such/directory/socket"),
    ]
    gc.disable()
    try:
        before = open_descriptors()
        for _ in range(1024 // len(bad)):
            for failing, address in bad:
                with pytest.raises((OSError, OverflowError, TypeError, RuntimeError)):
                    failing(address, None)
        assert open_descriptors() == before
    finally:
        gc.enable()


# Good addresses


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize(
    "address",
    [
        ("127.0.0.1", 0),
        (b"127.0.0.1", 0),
        (bytearray(b"127.0.0.1"), 0),
        (Text("127.0.0.1"), 0),
        ("127.1", 0),
        ("localhost", 0),
        ("127.0.0.1", Index(0)),
        ("127.0.0.1", False),
        Pair("127.0.0.1", 0),
    ],
    ids=repr,
)
def test_good_inet_addresses(ss: Variant, kind: int, address: Any) -> None:
    with server_class(ss, INET, kind)(address, None) as server:
        assert server.server_address == server.socket.getsockname()
        assert type(server.server_address) is tuple
        host, port = server.server_address
        assert host == "127.0.0.1"
        assert port > 0


@needs_inet6
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("address", [("::1", 0), ("::1", 0, 0), ("::1", 0, 0, 0), (b"::1", 0)])
def test_good_inet6_addresses(ss: Variant, kind: int, address: Any) -> None:
    with server_class(ss, socket.AF_INET6, kind)(address, None) as server:
        assert server.server_address == server.socket.getsockname()
        host, port, flow, scope = server.server_address
        assert (host, flow, scope) == ("::1", 0, 0)
        assert port > 0


@needs_unix
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("name", ["name", b"name", "n\xe4me", b"n\xff", "cut\0short"], ids=repr)
def test_good_unix_addresses(
    ss: Variant, kind: int, name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = outcome(lambda: bind(socket.AF_UNIX, kind, name))
    for path in tmp_path.iterdir():
        path.unlink()
    with server_class(ss, socket.AF_UNIX, kind)(name, None) as server:
        assert server.server_address == expected
        assert type(server.server_address) is type(expected)
        assert len(list(tmp_path.iterdir())) == 1


@needs_abstract
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
@pytest.mark.parametrize("name", ["\0fastsocketserver-a", b"\0fastsocketserver\0\xff\0"], ids=repr)
def test_abstract_addresses(ss: Variant, kind: int, name: Any) -> None:
    expected = bind(socket.AF_UNIX, kind, name)
    with server_class(ss, socket.AF_UNIX, kind)(name, None) as server:
        assert server.server_address == expected
        assert type(server.server_address) is bytes


@needs_abstract
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["stream", "datagram"])
def test_an_empty_unix_address_is_one_of_the_kernels_choice(ss: Variant, kind: int) -> None:
    with server_class(ss, socket.AF_UNIX, kind)("", None) as server:
        assert server.server_address == server.socket.getsockname()
        assert type(server.server_address) is bytes
        assert server.server_address.startswith(b"\0")
        assert len(server.server_address) > 1


@needs_abstract
def test_a_server_of_an_abstract_name_serves(ss: Variant) -> None:
    with (
        server_class(ss, socket.AF_UNIX, STREAM)("", echo_handler(ss)) as server,
        connect(server.server_address, socket.AF_UNIX) as client,
    ):
        client.sendall(b"hello\n")
        server.handle_request()
        assert read_all(client) == b"HELLO\n"


@needs_inet6
def test_a_server_of_version_6_serves_and_says_the_whole_address(ss: Variant) -> None:
    seen: list[Any] = []

    class Handler(ss.BaseRequestHandler):  # type: ignore[misc, name-defined]
        def handle(self) -> None:
            seen.append(self.client_address)

    for kind in (STREAM, DATAGRAM):
        with (
            server_class(ss, socket.AF_INET6, kind)(("::1", 0), Handler) as server,
            connect(server.server_address, socket.AF_INET6, kind) as client,
        ):
            if kind == DATAGRAM:
                client.sendall(b"hello")
            server.handle_request()
            assert seen.pop() == client.getsockname()


@pytest.mark.skipif(not has(VSOCK), reason="there are no vsock sockets here")
def test_vsock_addresses_reach_the_sockets_own_bind(ss: Variant) -> None:
    anyone = (socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY)
    cls = server_class(ss, socket.AF_VSOCK, STREAM)
    with cls(anyone, None, bind_and_activate=False) as server:
        server.server_bind()
        assert server.server_address == server.socket.getsockname()
        assert server.server_address[0] == socket.VMADDR_CID_ANY
        assert server.server_address[1] != socket.VMADDR_PORT_ANY


@pytest.mark.skipif(not has(NETLINK, DATAGRAM), reason="there are no netlink sockets here")
def test_netlink_addresses_reach_the_sockets_own_bind(ss: Variant) -> None:
    with server_class(ss, socket.AF_NETLINK, DATAGRAM)((0, 0), None) as server:
        assert server.server_address == server.socket.getsockname()
        assert server.server_address[0] != 0


def test_the_address_is_that_of_the_caller_until_it_is_bound(ss: Variant) -> None:
    address = ["anything"]
    with ss.TCPServer(address, None, bind_and_activate=False) as server:
        assert server.server_address is address


# Audit events

AUDITED = """
import os, socket, sys
events = []
def hook(event, arguments):
    if event.startswith("socket."):
        events.append((event, [a for a in arguments if not isinstance(a, socket.socket)]))
class Stream(ss.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
class Datagram(ss.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())
class Family:
    def __init_subclass__(cls, family):
        cls.address_family = family
class TCP6(Family, ss.TCPServer, family=socket.AF_INET6):
    pass
class Raw(Family, ss.UDPServer, family=getattr(socket, "AF_NETLINK", None)):
    pass
sys.addaudithook(hook)
"""

AUDITED_SCENES = {
    "inet": 'ss.TCPServer(("127.0.0.1", 0), Stream).server_close()',
    "datagram": 'ss.UDPServer(("127.0.0.1", 0), Datagram).server_close()',
    "name": 'ss.TCPServer(("localhost", 0), Stream).server_close()',
    "inet6": 'TCP6(("::1", 0), Stream).server_close()',
    "unix": 'ss.UnixStreamServer("audited", Stream).server_close()',
    "abstract": 'ss.UnixStreamServer("\\0fastsocketserver-b", Stream).server_close()',
    "netlink": "Raw((0, 0), Datagram).server_close()",
    "overflow": 'ss.TCPServer(("127.0.0.1", -1), Stream)',
    "type": 'ss.TCPServer("127.0.0.1", Stream)',
    "unix path": 'ss.UnixStreamServer("no/such/directory", Stream)',
    "threading": 'ss.ThreadingTCPServer(("127.0.0.1", 0), Stream).server_close()',
}


@pytest.fixture
def reference(ss: Variant) -> Variant:
    """Return the reference with the same hooks overridden."""
    return type(ss)("socketserver", pass_through=ss.pass_through)


def test_audit_events_of_construction(
    ss: Variant, reference: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = AUDITED
    for scene, code in AUDITED_SCENES.items():
        source += f"""
try:
    {code}
except Exception as error:
    events.append(repr(error))
print({scene!r}, events)
events.clear()
"""
    lines = []
    for number, module in enumerate((reference, ss)):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        with Program(module, source) as program:
            lines.append([program.read_line() for _ in AUDITED_SCENES])
            program.end()
    assert lines[0] == lines[1]
    assert all("socket.__new__" in line for line in lines[0])
    assert "socket.bind" in lines[0][0]


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_audit_events_of_a_request(ss: Variant, reference: Variant, kind: str) -> None:
    datagrams = kind == "UDPServer"
    source = f"""
server = ss.{kind}(("127.0.0.1", 0), {"Datagram" if datagrams else "Stream"})
print(server.server_address[1], flush=True)
server.handle_request()
server.server_close()
print(sorted(map(repr, ((name, [a for a in arguments if not isinstance(a, tuple)])
                        for name, arguments in events))))
"""
    lines = []
    for module in (reference, ss):
        with Program(module, AUDITED + source) as program:
            address = program.read_port()
            with connect(address, kind=DATAGRAM if datagrams else STREAM) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"hello\n"
            lines.append(program.read_line())
            program.end()
    assert lines[0] == lines[1]


def test_an_audit_hook_that_raises_ends_the_construction(ss: Variant) -> None:
    source = """
import os, sys
def refuse(event, arguments):
    if event == "socket.bind":
        seen.append(arguments[1])
        raise PermissionError(f"not {event}")
seen = []
sys.addaudithook(refuse)
before = len(os.listdir("/dev/fd"))
address = ("127.0.0.1", 0)
try:
    ss.TCPServer(address, None)
except PermissionError as error:
    print(error, seen[0] is address, len(os.listdir("/dev/fd")) - before)
"""
    with Program(ss, source) as program:
        assert program.read_line() == "not socket.bind True 0"
        program.end()


def test_an_audit_hook_that_refuses_sockets_ends_the_construction(ss: Variant) -> None:
    source = """
import sys
def refuse(event, arguments):
    if event == "socket.__new__":
        raise PermissionError(f"not {event} {arguments[1:]}")
sys.addaudithook(refuse)
try:
    ss.TCPServer(("127.0.0.1", 0), None)
except PermissionError as error:
    print(error)
"""
    with Program(ss, source) as program:
        assert program.read_line().startswith("not socket.__new__ (")
        program.end()
