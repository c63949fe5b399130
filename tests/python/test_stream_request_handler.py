"""`StreamRequestHandler`: the files over a connection, their buffers, timeouts and lifetimes."""

from __future__ import annotations

import array
import io
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import serving, wait_until
from peers import TIMEOUT, ask_once, client, read_to_end, reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

pytestmark = pytest.mark.in_greenlets


class Session:
    """One connection with a `StreamRequestHandler` on this thread and its client's socket."""

    def __init__(self, ss: Variant, **attributes: Any) -> None:
        self.ss = ss
        self.attributes = attributes
        self.here, self.peer = socket.socketpair()
        self.here.settimeout(TIMEOUT)
        self.peer.settimeout(TIMEOUT)

    def run(self, handle: Callable[[Any], Any]) -> Any:
        """Run `handle` as the handler's method of that name; return what it returns."""
        results = []

        def method(handler: Any) -> None:
            results.append(handle(handler))

        names = {**self.attributes, "handle": method}
        type("Handler", (self.ss.StreamRequestHandler,), names)(self.here, "peer", "server")
        return results.pop()

    def close(self) -> None:
        self.here.close()
        self.peer.close()


@pytest.fixture
def session(ss: Variant) -> Iterator[Session]:
    """Return a session with the default buffer sizes."""
    session = Session(ss)
    yield session
    session.close()


# --- reading ---------------------------------------------------------------------------------


def test_defaults(ss: Variant) -> None:
    handler = ss.StreamRequestHandler
    assert issubclass(handler, ss.module.BaseRequestHandler)
    assert (handler.rbufsize, handler.wbufsize) == (-1, 0)
    assert handler.timeout is None
    assert handler.disable_nagle_algorithm is False


def test_connection_is_the_request(session: Session) -> None:
    def handle(handler: Any) -> None:
        assert handler.connection is handler.request is session.here

    session.run(handle)


@pytest.mark.parametrize("rbufsize", [-1, 1, 2, 512, 1 << 20])
def test_lines_are_read_whole_whatever_the_buffer_size(session: Session, rbufsize: int) -> None:
    session.attributes["rbufsize"] = rbufsize
    session.peer.sendall(b"one\ntwo two\n\nlast")
    session.peer.shutdown(socket.SHUT_WR)
    lines = session.run(lambda h: [h.rfile.readline() for _ in range(5)])
    assert lines == [b"one\n", b"two two\n", b"\n", b"last", b""]


def test_line_that_arrives_in_pieces_is_joined(session: Session) -> None:
    def handle(handler: Any) -> bytes:
        session.peer.sendall(b"one ")
        assert handler.rfile.peek()[:4] == b"one "
        threading.Timer(0.01, session.peer.sendall, (b"line\nmore",)).start()
        return handler.rfile.readline()

    assert session.run(handle) == b"one line\n"


def test_readline_stops_at_its_limit(session: Session) -> None:
    session.peer.sendall(b"a long line\n")
    read = session.run(lambda h: (h.rfile.readline(3), h.rfile.readline(100), h.rfile.readline(0)))
    assert read == (b"a l", b"ong line\n", b"")


def test_line_longer_than_the_buffer(session: Session) -> None:
    line = b"x" * 100_000 + b"\n"
    sender = threading.Thread(target=session.peer.sendall, args=(line + b"rest\n",))
    sender.start()
    lines = session.run(lambda h: [h.rfile.readline(), h.rfile.readline()])
    sender.join(TIMEOUT)
    assert lines == [line, b"rest\n"]


def test_read_of_a_count_waits_for_all_of_it(session: Session) -> None:
    def handle(handler: Any) -> bytes:
        session.peer.sendall(b"12345")
        threading.Timer(0.01, session.peer.sendall, (b"67890rest",)).start()
        return handler.rfile.read(10)

    assert session.run(handle) == b"1234567890"


def test_read_of_a_count_returns_less_at_the_end_only(session: Session) -> None:
    session.peer.sendall(b"12345")
    session.peer.shutdown(socket.SHUT_WR)
    assert session.run(lambda h: [h.rfile.read(3), h.rfile.read(3), h.rfile.read(3)]) == [
        b"123",
        b"45",
        b"",
    ]


@pytest.mark.parametrize("count", [(), (-1,), (None,)], ids=str)
def test_read_without_a_count_reads_to_the_end(session: Session, count: tuple[Any, ...]) -> None:
    session.peer.sendall(b"head\nbody " * 3)
    session.peer.shutdown(socket.SHUT_WR)
    read = session.run(lambda h: (h.rfile.readline(), h.rfile.read(*count)))
    assert read == (b"head\n", b"body head\nbody head\nbody ")


def test_read_of_zero_bytes_does_not_wait(session: Session) -> None:
    assert session.run(lambda h: h.rfile.read(0)) == b""


def test_read1_returns_what_there_is(session: Session) -> None:
    session.peer.sendall(b"first part")
    assert session.run(lambda h: (h.rfile.read1(5), h.rfile.read1(100))) == (b"first", b" part")


def test_read1_without_a_count(session: Session) -> None:
    session.peer.sendall(b"all of it")
    assert session.run(lambda h: h.rfile.read1()) == b"all of it"


def test_read1_returns_nothing_at_the_end(session: Session) -> None:
    session.peer.shutdown(socket.SHUT_WR)
    assert session.run(lambda h: h.rfile.read1(10)) == b""


def test_peek_takes_nothing_away(session: Session) -> None:
    session.peer.sendall(b"look")
    peeked = session.run(lambda h: (h.rfile.peek(1), h.rfile.peek(), h.rfile.read(4)))
    assert peeked == (b"look", b"look", b"look")


def test_peek_at_the_end_is_empty(session: Session) -> None:
    session.peer.shutdown(socket.SHUT_WR)
    assert session.run(lambda h: h.rfile.peek(1)) == b""


@pytest.mark.parametrize("kind", [bytearray, lambda n: memoryview(bytearray(n))], ids=["ba", "mv"])
def test_readinto_fills_the_whole_buffer(session: Session, kind: Callable[[int], Any]) -> None:
    session.peer.sendall(b"12345678")
    buffer = kind(5)
    assert session.run(lambda h: h.rfile.readinto(buffer)) == 5
    assert bytes(buffer) == b"12345"


def test_readinto_counts_bytes_not_items(session: Session) -> None:
    session.peer.sendall(b"12345678")
    buffer = array.array("H", [0, 0])
    assert session.run(lambda h: h.rfile.readinto(buffer)) == 4
    assert buffer.tobytes() == b"1234"


def test_readinto1_takes_what_there_is(session: Session) -> None:
    session.peer.sendall(b"123")
    buffer = bytearray(10)
    assert session.run(lambda h: h.rfile.readinto1(buffer)) == 3
    assert buffer[:3] == b"123"


def test_readinto_refuses_a_read_only_buffer(session: Session) -> None:
    def handle(handler: Any) -> None:
        with pytest.raises(TypeError):
            handler.rfile.readinto(b"constant")

    session.run(handle)


def test_iteration_gives_lines_to_the_end(session: Session) -> None:
    session.peer.sendall(b"a\nb\nc")
    session.peer.shutdown(socket.SHUT_WR)
    assert session.run(lambda h: list(h.rfile)) == [b"a\n", b"b\n", b"c"]


def test_next_and_readlines(session: Session) -> None:
    session.peer.sendall(b"a\nb\nc\nd\n")
    session.peer.shutdown(socket.SHUT_WR)
    read = session.run(lambda h: (next(h.rfile), h.rfile.readlines(1), h.rfile.readlines()))
    assert read == (b"a\n", [b"b\n"], [b"c\n", b"d\n"])


def test_large_body_arrives_whole(session: Session) -> None:
    body = os.urandom(1 << 16) * 64
    sender = threading.Thread(target=session.peer.sendall, args=(b"head\n" + body + b"tail\n",))
    sender.start()
    read = session.run(lambda h: (h.rfile.readline(), h.rfile.read(len(body)), h.rfile.readline()))
    sender.join(TIMEOUT)
    assert read == (b"head\n", body, b"tail\n")


def test_rfile_is_a_readable_buffered_file(session: Session) -> None:
    def handle(handler: Any) -> None:
        assert isinstance(handler.rfile, io.BufferedIOBase)
        assert handler.rfile.readable()
        assert not handler.rfile.writable()
        assert not handler.rfile.seekable()
        assert not handler.rfile.isatty()
        assert not handler.rfile.closed
        assert handler.rfile.fileno() == session.here.fileno()

    session.run(handle)


def test_rfile_does_not_write(session: Session) -> None:
    def handle(handler: Any) -> None:
        with pytest.raises(io.UnsupportedOperation):
            handler.rfile.write(b"data")

    session.run(handle)


def test_text_wrapper_over_rfile(session: Session) -> None:
    session.peer.sendall("käse\r\nbröt\n".encode())
    session.peer.shutdown(socket.SHUT_WR)

    def handle(handler: Any) -> list[str]:
        with io.TextIOWrapper(handler.rfile, encoding="utf-8") as text:
            return list(text)

    assert session.run(handle) == ["käse\n", "bröt\n"]


def test_text_wrapper_returns_a_line_before_the_stream_ends(session: Session) -> None:
    session.peer.sendall(b"at once\n")
    wrapper = session.run(lambda h: io.TextIOWrapper(h.rfile).readline())
    assert wrapper == "at once\n"


def test_buffered_reader_over_an_unbuffered_rfile(session: Session) -> None:
    session.attributes["rbufsize"] = 0
    session.peer.sendall(b"line\nrest")
    assert session.run(lambda h: io.BufferedReader(h.rfile).readline()) == b"line\n"


def test_rbufsize_zero_gives_the_raw_file_of_the_socket(session: Session) -> None:
    session.attributes["rbufsize"] = 0
    session.peer.sendall(b"line\nrest")

    def handle(handler: Any) -> tuple[bytes, bytes]:
        assert type(handler.rfile) is socket.SocketIO
        return handler.rfile.readline(), session.here.recv(10)

    assert session.run(handle) == (b"line\n", b"rest")


def test_buffered_rfile_leaves_unread_what_it_did_not_ask_for(session: Session) -> None:
    def handle(handler: Any) -> bytes:
        session.peer.sendall(b"line\n")
        assert handler.rfile.readline() == b"line\n"
        session.peer.sendall(b"straight from the socket")
        return session.here.recv(100)

    assert session.run(handle) == b"straight from the socket"


def test_read_after_close_is_a_value_error(session: Session) -> None:
    def handle(handler: Any) -> None:
        handler.rfile.close()
        assert handler.rfile.closed
        for read in (handler.rfile.read, handler.rfile.readline, handler.rfile.peek):
            with pytest.raises(ValueError, match="closed"):
                read()

    session.run(handle)


def test_rfile_as_a_context_manager_is_closed(session: Session) -> None:
    session.peer.sendall(b"line\n")

    def handle(handler: Any) -> bytes:
        with handler.rfile as rfile:
            return rfile.readline()

    assert session.run(handle) == b"line\n"


def test_rfile_goes_through_the_makefile_of_a_request_that_is_no_socket(ss: Variant) -> None:
    class Fake:
        """The least that programs hand to a stream handler by hand."""

        def __init__(self) -> None:
            self.sent = b""
            self.modes: list[Any] = []
            self.timeouts: list[Any] = []

        def makefile(self, *args: Any) -> io.BytesIO:
            self.modes.append(args)
            return io.BytesIO(b"request\n")

        def sendall(self, data: bytes) -> None:
            self.sent += bytes(data)

        def settimeout(self, value: float) -> None:
            self.timeouts.append(value)

    class Handler(ss.StreamRequestHandler):
        timeout = 3

        def handle(self) -> None:
            self.wfile.write(b"answer to " + self.rfile.readline())

    fake = Fake()
    Handler(fake, "nobody", None)
    assert fake.sent == b"answer to request\n"
    assert fake.modes == [("rb", -1)]
    assert fake.timeouts == [3]


def test_makefile_of_a_socket_subclass_is_used(ss: Variant) -> None:
    class Shouting(socket.socket):
        def makefile(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            return io.BytesIO(super().makefile(*args, **kwargs).readline().upper())

        def sendall(self, data: Any, flags: int = 0) -> None:
            super().sendall(bytes(data) + b"!", flags)

    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    here, peer = socket.socketpair()
    with peer, Shouting(fileno=here.detach()) as shouting:
        peer.sendall(b"hello\n")
        Handler(shouting, None, None)
        peer.settimeout(TIMEOUT)
        assert peer.recv(100) == b"HELLO\n!"


# --- writing ---------------------------------------------------------------------------------


def test_wbufsize_zero_gives_a_socket_writer(session: Session) -> None:
    def handle(handler: Any) -> None:
        assert type(handler.wfile) is session.ss.module._SocketWriter
        assert isinstance(handler.wfile, io.BufferedIOBase)
        assert handler.wfile.writable()
        assert not handler.wfile.readable()
        assert not handler.wfile.seekable()
        assert handler.wfile.fileno() == session.here.fileno()

    session.run(handle)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"bytes", 5),
        (b"", 0),
        (bytearray(b"bytearray"), 9),
        (memoryview(b"view"), 4),
        (array.array("H", [1, 2, 3]), 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_write_returns_the_number_of_bytes(session: Session, data: Any, count: int) -> None:
    assert session.run(lambda h: h.wfile.write(data)) == count
    session.here.shutdown(socket.SHUT_WR)
    assert read_to_end(session.peer) == bytes(memoryview(data).cast("B"))


@pytest.mark.parametrize("wbufsize", [0, -1])
def test_write_of_text_is_a_type_error(session: Session, wbufsize: int) -> None:
    session.attributes["wbufsize"] = wbufsize

    def handle(handler: Any) -> None:
        with pytest.raises(TypeError):
            handler.wfile.write("text")

    session.run(handle)


def test_unbuffered_write_is_sent_at_once(session: Session) -> None:
    def handle(handler: Any) -> bytes:
        handler.wfile.write(b"now")
        return session.peer.recv(10)

    assert session.run(handle) == b"now"


def test_writelines_and_print(session: Session) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.writelines([b"a\n", b"b\n"])
        print("c", file=io.TextIOWrapper(handler.wfile, write_through=True))

    session.run(handle)
    session.here.shutdown(socket.SHUT_WR)
    assert read_to_end(session.peer) == b"a\nb\nc\n"


@pytest.mark.parametrize("wbufsize", [0, -1])
def test_large_answer_arrives_whole(session: Session, wbufsize: int) -> None:
    session.attributes["wbufsize"] = wbufsize
    body = os.urandom(1 << 16) * 64
    received: list[bytes] = []

    def read() -> None:
        received.append(read_to_end(session.peer))

    reader = threading.Thread(target=read)
    reader.start()
    assert session.run(lambda h: h.wfile.write(body)) == len(body)
    session.here.shutdown(socket.SHUT_WR)
    reader.join(TIMEOUT)
    assert received == [body]


@pytest.mark.parametrize("wbufsize", [-1, 4096])
def test_buffered_write_is_kept_until_flush(session: Session, wbufsize: int) -> None:
    session.attributes["wbufsize"] = wbufsize

    def handle(handler: Any) -> bytes:
        assert isinstance(handler.wfile, io.BufferedIOBase)
        handler.wfile.write(b"kept")
        session.peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            session.peer.recv(10)
        session.peer.settimeout(TIMEOUT)
        handler.wfile.flush()
        return session.peer.recv(10)

    assert session.run(handle) == b"kept"


def test_finish_flushes_a_buffered_wfile(session: Session) -> None:
    session.attributes["wbufsize"] = -1
    session.run(lambda h: h.wfile.write(b"flushed by finish"))
    assert session.peer.recv(100) == b"flushed by finish"


def test_write_after_close_is_refused_by_a_buffered_wfile(session: Session) -> None:
    session.attributes["wbufsize"] = -1

    def handle(handler: Any) -> None:
        handler.wfile.close()
        with pytest.raises(ValueError, match="closed"):
            handler.wfile.write(b"late")

    session.run(handle)


def test_finish_closes_both_files_and_leaves_the_connection_open(session: Session) -> None:
    handler = session.run(lambda handler: handler)
    assert handler.rfile.closed
    assert handler.wfile.closed
    session.here.sendall(b"still open")
    assert session.peer.recv(100) == b"still open"


def test_finish_accepts_a_wfile_that_the_handler_closed(session: Session) -> None:
    def handle(handler: Any) -> None:
        handler.wfile.write(b"done")
        handler.wfile.close()

    session.run(handle)
    assert session.peer.recv(100) == b"done"


def test_finish_flushes_then_closes_the_wfile(session: Session) -> None:
    class Recorder(io.BytesIO):
        def flush(self) -> None:
            calls.append("flush")

        def close(self) -> None:
            calls.append("close")
            super().close()

    def handle(handler: Any) -> None:
        handler.wfile = Recorder()

    calls: list[str] = []
    session.run(handle)
    assert calls == ["flush", "close"]


def test_finish_swallows_an_error_of_the_last_flush(ss: Variant) -> None:
    class Broken(io.BytesIO):
        def flush(self) -> None:
            raise ConnectionAbortedError("gone")

    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile = Broken()
            self.wfile.write(b"lost")

    here, peer = socket.socketpair()
    with here, peer:
        Handler(here, None, None)


def test_write_after_the_peer_is_gone_is_a_broken_pipe(session: Session) -> None:
    def handle(handler: Any) -> None:
        session.peer.close()
        with pytest.raises(BrokenPipeError):
            handler.wfile.write(b"to nobody")

    session.run(handle)


def test_writer_is_made_of_whatever_the_module_holds(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []

    class Recorder(io.BytesIO):
        def __init__(self, sock: socket.socket) -> None:
            super().__init__()
            self.sock = sock

        def write(self, data: Any) -> int:
            written.append(bytes(data))
            return len(data)

    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            assert type(self.wfile) is Recorder
            assert self.wfile.sock is self.request
            self.wfile.write(b"recorded")

    monkeypatch.setattr(ss.module, "_SocketWriter", Recorder)
    with ss.TCPServer(("127.0.0.1", 0), Handler) as server:
        assert ask_once(server) == b""
    assert written == [b"recorded"]


# --- timeouts and errors ---------------------------------------------------------------------


def test_timeout_of_the_handler_is_set_on_the_connection(session: Session) -> None:
    session.attributes["timeout"] = 7.5
    assert session.run(lambda h: h.connection.gettimeout()) == 7.5


def test_without_a_timeout_the_connection_keeps_its_own(session: Session) -> None:
    session.here.settimeout(3.5)
    assert session.run(lambda h: h.connection.gettimeout()) == 3.5


@pytest.mark.parametrize("rbufsize", [-1, 0])
@pytest.mark.parametrize("method", ["readline", "read"])
def test_silent_client_times_out(session: Session, rbufsize: int, method: str) -> None:
    session.attributes.update(timeout=0.01, rbufsize=rbufsize)

    def handle(handler: Any) -> None:
        with pytest.raises(TimeoutError) as caught:
            getattr(handler.rfile, method)(10)
        assert caught.type is socket.timeout

    session.run(handle)


def test_file_that_timed_out_once_stays_unusable(session: Session) -> None:
    session.attributes["timeout"] = 0.01

    def handle(handler: Any) -> None:
        with pytest.raises(TimeoutError):
            handler.rfile.readline()
        session.peer.sendall(b"too late\n")
        with pytest.raises(OSError, match="timed out"):
            handler.rfile.readline()

    session.run(handle)


def test_timeout_set_later_counts_for_an_open_rfile(session: Session) -> None:
    def handle(handler: Any) -> None:
        session.peer.sendall(b"line\n")
        assert handler.rfile.readline() == b"line\n"
        handler.connection.settimeout(0.01)
        with pytest.raises(TimeoutError):
            handler.rfile.readline()

    session.run(handle)


@pytest.mark.parametrize("wbufsize", [0, -1])
def test_write_to_a_client_that_does_not_read_times_out(session: Session, wbufsize: int) -> None:
    session.attributes.update(timeout=0.01, wbufsize=wbufsize)

    def handle(handler: Any) -> None:
        with pytest.raises(TimeoutError):
            handler.wfile.write(b"x" * (8 << 20))
        handler.wfile = io.BytesIO()

    session.run(handle)


def test_timeout_in_a_served_request_goes_to_handle_error(ss: Variant) -> None:
    errors: list[BaseException | None] = []

    class Server(ss.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(sys.exc_info()[1])

    class Handler(ss.StreamRequestHandler):
        timeout = 0.01

        def handle(self) -> None:
            self.rfile.readline()

    with Server(("127.0.0.1", 0), Handler) as server, client(server) as sock:
        server.handle_request()
        assert read_to_end(sock) == b""
    assert [type(error) for error in errors] == [TimeoutError]


def test_reset_by_the_client_is_a_connection_reset_error(ss: Variant) -> None:
    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            with pytest.raises(ConnectionResetError):
                self.rfile.read()
            done.append(True)

    done: list[bool] = []
    with ss.TCPServer(("127.0.0.1", 0), Handler) as server:
        sock = socket.create_connection(server.server_address, TIMEOUT)
        reset(sock)
        server.handle_request()
    assert done == [True]


def test_disable_nagle_algorithm_sets_tcp_nodelay(ss: Variant) -> None:
    seen: list[int] = []

    class Handler(ss.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            seen.append(self.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    with ss.TCPServer(("127.0.0.1", 0), Handler) as server:
        server.disable_nagle_algorithm = False
        ask_once(server)
    assert seen[0] != 0


# --- the life of the descriptor --------------------------------------------------------------


@pytest.mark.parametrize("wbufsize", [0, -1])
def test_rfile_reads_on_after_the_request_is_closed(session: Session, wbufsize: int) -> None:
    session.attributes["wbufsize"] = wbufsize

    def handle(handler: Any) -> tuple[bytes, int]:
        handler.request.close()
        session.peer.sendall(b"after close\n")
        return handler.rfile.readline(), handler.rfile.fileno()

    line, descriptor = session.run(handle)
    assert line == b"after close\n"
    assert descriptor >= 0
    assert session.here.fileno() == -1


def test_descriptor_is_closed_with_the_last_file_over_it(session: Session) -> None:
    session.attributes["wbufsize"] = -1

    def handle(handler: Any) -> None:
        descriptor = handler.request.fileno()
        handler.request.close()
        os.fstat(descriptor)
        handler.rfile.close()
        os.fstat(descriptor)
        assert handler.request.fileno() == descriptor
        handler.wfile.close()
        assert handler.request.fileno() == -1

    session.run(handle)
    assert session.peer.recv(10) == b""


def test_unbuffered_wfile_does_not_keep_the_descriptor(session: Session) -> None:
    def handle(handler: Any) -> None:
        handler.request.close()
        handler.rfile.close()
        assert handler.request.fileno() == -1

    session.run(handle)


def test_rfile_left_open_keeps_the_descriptor_and_lets_go_when_freed(session: Session) -> None:
    def handle(handler: Any) -> Any:
        kept = handler.rfile
        handler.rfile = io.BytesIO()
        return kept

    kept = [session.run(handle)]
    session.here.close()
    session.peer.sendall(b"still there\n")
    assert kept[0].readline() == b"still there\n"
    kept.clear()
    wait_until(lambda: session.here.fileno() == -1, "the freed file to close the socket")


def test_detach_takes_the_descriptor_from_under_the_files(session: Session) -> None:
    def handle(handler: Any) -> None:
        taken = socket.socket(fileno=handler.request.detach())
        with taken, pytest.raises(OSError, match=r"closed|Bad file descriptor"):
            handler.rfile.readline()

    session.run(handle)


def test_read_does_not_touch_a_descriptor_that_was_given_away(session: Session) -> None:
    """After a detach, a socket with the same number must keep what was sent to it."""

    def handle(handler: Any) -> None:
        number = handler.request.detach()
        here, peer = socket.socketpair()
        os.dup2(here.fileno(), number)
        here.close()
        with peer, socket.socket(fileno=number) as other:
            peer.sendall(b"for someone else\n")
            with pytest.raises(OSError, match=r"closed|Bad file descriptor"):
                handler.rfile.readline()
            assert other.recv(100) == b"for someone else\n"

    session.run(handle)


def test_close_from_another_thread_leaves_the_served_connection_usable(ss: Variant) -> None:
    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            closer = threading.Thread(target=self.request.close)
            closer.start()
            closer.join(TIMEOUT)
            lines.append(self.rfile.readline())

    lines: list[bytes] = []
    server = ss.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with serving(server, 0.01), client(server) as sock:
        sock.sendall(b"line\n")
        assert read_to_end(sock) == b""
    assert lines == [b"line\n"]
