"""`wfile` of a stream handler: without a buffer as the module has it, and beside `makefile()`."""

from __future__ import annotations

import array
import copy
import csv
import io
import json
import pickle
import shutil
import socket
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from peers import (
    TIMEOUT,
    Raised,
    assert_like_plain_files,
    handled,
    outcome,
    play,
    read_to_end,
    reset,
)
from probes import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from variants import Variant

pytestmark = pytest.mark.in_greenlets

TINY = 0.005
"""Seconds of a timeout that is to expire."""

BUFSIZES = [0, 1, 16, 8192, -1]
MUCH = 4 << 20
"""Bytes that no pair of socket buffers holds."""

every_bufsize = pytest.mark.parametrize("wbufsize", BUFSIZES)
every_buffer = pytest.mark.parametrize("wbufsize", BUFSIZES[1:])


def wfile(*steps: Any) -> Callable[[Any], list[Any]]:
    """Return an act that takes `steps` with `wfile`."""
    return play("wfile", *steps)


def arrived(handler: Any) -> bytes:
    """Return what the client has by now."""
    received = b""
    handler.peer.setblocking(False)
    try:
        while data := handler.peer.recv(1 << 20):
            received += data
    except BlockingIOError:
        return received
    finally:
        handler.peer.settimeout(TIMEOUT)
    return received + b"<end>"


def reading(handler: Any) -> Call:
    """Start to read all that the client gets, beyond the end of the act."""

    def read(peer: socket.socket) -> bytes:
        with peer:
            return read_to_end(peer)

    return Call(read, handler.peer.dup())


def client_leaves(handler: Any) -> None:
    handler.peer.close()


def unblock(handler: Any) -> None:
    handler.request.setblocking(False)


def without_finish(act: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `act` with `wfile` closed, as far as that goes, and out of the way of `finish()`."""

    def wrapped(handler: Any) -> Any:
        result = act(handler)
        outcome(lambda: handler.wfile.close())
        handler.wfile = io.BytesIO()
        return result

    return wrapped


# --- what is written and when it is sent -----------------------------------------------------

WRITES: dict[str, tuple[Any, ...]] = {
    "bytes": (("write", b"bytes"), arrived, ("flush",), arrived),
    "bytearray": (("write", bytearray(b"array")), arrived, ("flush",), arrived),
    "view": (("write", memoryview(b"a view")[2:]), ("flush",), arrived),
    "items-of-an-array": (("write", array.array("I", [1, 2, 3])), ("flush",), arrived),
    "view-of-items": (("write", memoryview(array.array("Q", [1, 2]))), ("flush",), arrived),
    "nothing": (("write", b""), ("flush",), arrived),
    "empty-view": (("write", memoryview(b"")), ("flush",), arrived),
    "nothing-between": (("write", b"a"), ("write", b""), ("write", b"b"), ("flush",), arrived),
    "every-byte": (("write", bytes(range(256))), ("flush",), arrived),
    "flush-of-nothing": (("flush",), ("flush",), arrived),
    "flush-twice": (("write", b"ab"), ("flush",), ("flush",), arrived),
    "one-byte-short-of-16": (("write", b"x" * 15), arrived, ("write", b"yz"), arrived),
    "just-16": (("write", b"x" * 16), arrived, ("write", b"y"), arrived, ("flush",), arrived),
    "more-than-16": (("write", b"x" * 17), arrived, ("write", b"y" * 40), arrived),
    "buffer-and-more-than-16": (("write", b"x" * 10), ("write", b"y" * 10), arrived),
    "part-and-more-than-32": (("write", b"x" * 3), ("write", b"y" * 40), arrived),
    "just-8192": (("write", b"x" * 8192), arrived, ("write", b"y"), arrived),
    "more-than-8192": (("write", b"x" * 8193), arrived, ("write", b"y"), arrived),
    "part-and-8192": (("write", b"x"), ("write", b"y" * 8192), arrived, ("flush",), arrived),
    "part-and-20000": (("write", b"x"), ("write", b"y" * 20_000), arrived),
    "writelines": (("writelines", [b"a\n", b"b\n"]), arrived, ("flush",), arrived),
    "writelines-of-nothing": (("writelines", []), ("flush",), arrived),
    "writelines-of-a-generator": (
        lambda h: h.wfile.writelines(b"%d\n" % n for n in range(12)),
        arrived,
        ("flush",),
        arrived,
    ),
    "writelines-stops-at-text": (("writelines", [b"a", "b", b"c"]), ("flush",), arrived),
    "close-sends": (("write", b"ab"), ("close",), arrived),
    "exit-sends": (("write", b"ab"), lambda h: h.wfile.__exit__(None, None, None), arrived),
    "before-and-after-the-client-writes": (("write", b"ab"), b"in", ("flush",), arrived),
}


@pytest.mark.parametrize("wbufsize", [0, 16, 8192])
@pytest.mark.parametrize("steps", WRITES.values(), ids=WRITES.keys())
def test_writes_arrive_as_with_plain_files(
    ss: Variant, steps: tuple[Any, ...], wbufsize: int
) -> None:
    assert_like_plain_files(ss, wfile(*steps), wbufsize=wbufsize)


def test_unbuffered_write_arrives_at_once(ss: Variant) -> None:
    act = wfile(("write", b"a"), arrived, ("writelines", [b"b", b"c"]), arrived)
    assert handled(ss, act) == [1, b"a", None, b"bc"]


@pytest.mark.parametrize("wbufsize", [16, 8192, -1])
def test_buffered_write_arrives_with_flush(ss: Variant, wbufsize: int) -> None:
    act = wfile(("write", b"a"), ("write", b"bc"), arrived, ("flush",), arrived)
    assert handled(ss, act, wbufsize=wbufsize) == [1, 2, b"", None, b"abc"]


def test_full_buffer_is_sent_for_the_write_that_does_not_fit(ss: Variant) -> None:
    act = wfile(("write", b"x" * 10), arrived, ("write", b"y" * 10), ("flush",), arrived)
    outcomes = handled(ss, act, wbufsize=16)
    assert outcomes == [10, b"", 10, None, b"x" * 10 + b"y" * 10]


@every_bufsize
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
def test_client_sees_all_after_finish(ss: Variant, wbufsize: int, family: int) -> None:
    received: list[Call] = []

    def act(handler: Any) -> None:
        received.append(reading(handler))
        for number in range(100):
            handler.wfile.write(b"%d\n" % number)

    handled(ss, act, family, wbufsize=wbufsize)
    assert received[0].outcome("the client") == b"".join(b"%d\n" % n for n in range(100))


@every_bufsize
def test_written_buffer_may_be_changed_afterwards(ss: Variant, wbufsize: int) -> None:
    def act(handler: Any) -> bytes:
        data = bytearray(b"before")
        handler.wfile.write(data)
        data[:] = b"after"
        handler.wfile.flush()
        return arrived(handler)

    assert handled(ss, act, wbufsize=wbufsize) == b"before"


@every_bufsize
def test_much_arrives_whole_at_a_client_that_reads_in_bits(ss: Variant, wbufsize: int) -> None:
    body = bytes(range(256)) * (MUCH // 256)

    def act(handler: Any) -> bytes:
        writing = Call(lambda: (handler.wfile.write(body), handler.wfile.flush()))
        received = bytearray()
        while len(received) < MUCH:
            received += handler.peer.recv(50_001)
        assert writing.outcome("write()") == (MUCH, None)
        return bytes(received)

    assert handled(ss, act, wbufsize=wbufsize) == body


def test_two_threads_write_whole_pieces(ss: Variant) -> None:
    def write(file: Any, piece: bytes) -> None:
        for _ in range(500):
            file.write(piece)

    def act(handler: Any) -> bytes:
        calls = [Call(write, handler.wfile, piece) for piece in (b"aaaaaaa\n", b"bbbbbbb\n")]
        for call in calls:
            call.outcome("the writer")
        handler.wfile.flush()
        return arrived(handler)

    received = handled(ss, act, wbufsize=100)
    assert sorted(received.splitlines()) == [b"aaaaaaa"] * 500 + [b"bbbbbbb"] * 500


# --- wrong arguments -------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "write-text": ("write", "text"),
    "write-none": ("write", None),
    "write-number": ("write", 1),
    "write-list": ("write", [1]),
    "write-without": ("write",),
    "write-two": ("write", b"a", b"b"),
    "write-strided-view": ("write", memoryview(b"abcdef")[::2]),
    "writelines-text": ("writelines", "text"),
    "writelines-bytes": ("writelines", b"ab"),
    "writelines-none": ("writelines", None),
    "writelines-without": ("writelines",),
    "flush-argument": ("flush", 1),
}


@pytest.mark.parametrize("wbufsize", [0, -1])
@pytest.mark.parametrize("step", WRONG.values(), ids=WRONG.keys())
def test_wrong_argument_is_refused_alike(ss: Variant, step: Any, wbufsize: int) -> None:
    act = wfile(("write", b"a"), step, ("write", b"b"), ("flush",), arrived)
    assert_like_plain_files(ss, act, wbufsize=wbufsize)


@every_bufsize
def test_text_is_a_type_error(ss: Variant, wbufsize: int) -> None:
    assert handled(ss, wfile(("write", "text")), wbufsize=wbufsize) == [Raised(TypeError)]


# --- what kind of file it is -----------------------------------------------------------------

TRAITS: dict[str, Any] = {
    "readable": ("readable",),
    "writable": ("writable",),
    "seekable": ("seekable",),
    "isatty": ("isatty",),
    "fileno": lambda h: h.wfile.fileno() == h.request.fileno(),
    "closed": lambda h: h.wfile.closed,
    "mode": lambda h: h.wfile.mode,
    "name": lambda h: h.wfile.name == h.request.fileno(),
    "raw": lambda h: isinstance(h.wfile.raw, io.RawIOBase),
    "raw-fileno": lambda h: h.wfile.raw.fileno() == h.request.fileno(),
    "seek": ("seek", 0),
    "tell": ("tell",),
    "truncate": ("truncate",),
    "truncate-size": ("truncate", 3),
    "read": ("read",),
    "read-count": ("read", 1),
    "read1": ("read1", 1),
    "readinto": ("readinto", bytearray(1)),
    "readinto-constant": ("readinto", b"x"),
    "readinto1": ("readinto1", bytearray(1)),
    "readline": ("readline",),
    "readline-text": ("readline", "x"),
    "readlines": ("readlines",),
    "readlines-huge": ("readlines", 1 << 70),
    "seek-from-nowhere": ("seek", 0, 9),
    "peek": ("peek",),
    "iter": lambda h: iter(h.wfile) is h.wfile,
    "next": lambda h: next(h.wfile),
    "io-classes": lambda h: [
        isinstance(h.wfile, kind) for kind in (io.IOBase, io.BufferedIOBase, io.TextIOBase)
    ],
    "repr": lambda h: type(repr(h.wfile)),
    "truth": lambda h: bool(h.wfile),
    "hash": lambda h: hash(h.wfile) == hash(h.wfile),
    "weak-reference": lambda h: weakref.ref(h.wfile)() is h.wfile,
    "attribute": lambda h: (setattr(h.wfile, "x", 1), h.wfile.x),
    "attribute-missing": lambda h: h.wfile.y,
    "closed-is-read-only": lambda h: setattr(h.wfile, "closed", True),
    "pickle": lambda h: pickle.dumps(h.wfile),
    "deepcopy": lambda h: copy.deepcopy(h.wfile),
    "context-gives-itself": lambda h: h.wfile.__enter__() is h.wfile,
    "exit-of-an-error-is-passed-on": lambda h: h.wfile.__exit__(OSError, None, None),
}


@pytest.mark.parametrize("wbufsize", [0, -1])
@pytest.mark.parametrize("step", TRAITS.values(), ids=TRAITS.keys())
def test_trait_is_that_of_a_plain_file(ss: Variant, step: Any, wbufsize: int) -> None:
    act = wfile(step, lambda h: h.wfile.closed, arrived)
    assert_like_plain_files(ss, act, wbufsize=wbufsize)


@every_bufsize
@pytest.mark.parametrize("call", [("seek", 0), ("tell",), ("read", 1)], ids=lambda call: call[0])
def test_unsupported_operation_is_an_os_error_and_a_value_error(
    ss: Variant, call: Any, wbufsize: int
) -> None:
    def act(handler: Any) -> None:
        method, *args = call
        with pytest.raises(io.UnsupportedOperation) as caught:
            getattr(handler.wfile, method)(*args)
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, ValueError)

    handled(ss, act, wbufsize=wbufsize)


@every_bufsize
def test_file_is_freed_with_its_last_reference_and_sends_what_it_holds(
    ss: Variant, wbufsize: int
) -> None:
    def act(handler: Any) -> tuple[bool, bytes]:
        handler.wfile.write(b"held")
        reference = weakref.ref(handler.wfile)
        handler.wfile = io.BytesIO()
        return reference() is None, arrived(handler)

    assert handled(ss, act, wbufsize=wbufsize) == (True, b"held")


# --- closed and detached ---------------------------------------------------------------------

AFTER_CLOSE: dict[str, Any] = {
    "write": ("write", b"late"),
    "write-nothing": ("write", b""),
    "write-text": ("write", "late"),
    "writelines": ("writelines", [b"late"]),
    "writelines-of-nothing": ("writelines", []),
    "flush": ("flush",),
    "fileno": lambda h: type(h.wfile.fileno()),
    "isatty": ("isatty",),
    "readable": ("readable",),
    "writable": ("writable",),
    "seekable": ("seekable",),
    "seek": ("seek", 0),
    "tell": ("tell",),
    "truncate": ("truncate",),
    "read": ("read",),
    "readline": ("readline",),
    "readlines": ("readlines",),
    "raw": lambda h: h.wfile.raw and h.wfile.raw.closed,
    "iter": lambda h: iter(h.wfile),
    "next": lambda h: next(h.wfile),
    "enter": lambda h: h.wfile.__enter__(),
    "exit": lambda h: h.wfile.__exit__(None, None, None),
    "closed": lambda h: h.wfile.closed,
    "close": ("close",),
    "mode": lambda h: h.wfile.mode,
    "name": lambda h: h.wfile.name,
    "repr": lambda h: type(repr(h.wfile)),
    "detach": lambda h: h.wfile.detach().closed,
}


@pytest.mark.parametrize("wbufsize", [0, -1])
@pytest.mark.parametrize("step", AFTER_CLOSE.values(), ids=AFTER_CLOSE.keys())
def test_call_after_close_ends_alike(ss: Variant, step: Any, wbufsize: int) -> None:
    act = without_finish(wfile(("write", b"a"), ("close",), step, ("close",), arrived))
    assert_like_plain_files(ss, act, wbufsize=wbufsize)


@pytest.mark.parametrize("step", AFTER_CLOSE.values(), ids=AFTER_CLOSE.keys())
def test_call_after_detach_ends_alike(ss: Variant, step: Any) -> None:
    def act(handler: Any) -> list[Any]:
        handler.wfile.write(b"a")
        with handler.wfile.detach():
            return wfile(arrived, step, arrived)(handler)

    assert_like_plain_files(ss, without_finish(act), wbufsize=-1)


def test_closed_unbuffered_wfile_still_writes(ss: Variant) -> None:
    act = wfile(("close",), lambda h: h.wfile.closed, ("write", b"late"), arrived)
    assert handled(ss, act) == [None, True, 4, b"late"]


def test_detach_sends_what_is_held_and_gives_the_unbuffered_file(ss: Variant) -> None:
    def act(handler: Any) -> tuple[bytes, int, bytes]:
        handler.wfile.write(b"held")
        handler.wfile = handler.wfile.detach()
        return arrived(handler), handler.wfile.write(b"now"), arrived(handler)

    assert handled(ss, act, wbufsize=-1) == (b"held", 3, b"now")


def test_unbuffered_wfile_has_nothing_to_detach(ss: Variant) -> None:
    act = wfile(("detach",), ("write", b"a"), arrived)
    unsupported, *rest = handled(ss, act)
    assert (unsupported.kind, rest) == (io.UnsupportedOperation, [1, b"a"])


@every_bufsize
def test_context_manager_sends_closes_and_passes_the_error_on(ss: Variant, wbufsize: int) -> None:
    def act(handler: Any) -> tuple[bool, bytes]:
        handler.wfile.write(b"held")
        with pytest.raises(KeyError), handler.wfile:
            raise KeyError
        return handler.wfile.closed, arrived(handler)

    assert handled(ss, act, wbufsize=wbufsize) == (True, b"held")


@every_bufsize
@pytest.mark.parametrize("times", [0, 1, 2])
def test_finish_closes_both_files_whether_wfile_is_closed_or_not(
    ss: Variant, wbufsize: int, times: int
) -> None:
    def act(handler: Any) -> list[Any]:
        wfile(("write", b"a"), *[("close",)] * times)(handler)
        return [handler.wfile, handler.rfile]

    assert [file.closed for file in handled(ss, act, wbufsize=wbufsize)] == [True, True]


# --- under the library's writers -------------------------------------------------------------


def print_to_text(handler: Any) -> None:
    text = io.TextIOWrapper(handler.wfile, "utf-8", newline="\r\n")
    print("käse", 1, file=text)
    print("now", file=text, flush=True)
    text.detach()


def write_csv(handler: Any) -> None:
    text = io.TextIOWrapper(handler.wfile, "utf-8", newline="", write_through=True)
    csv.writer(text).writerows([["a", "b\nc"], [1, 2]])
    text.detach()


def dump_json(handler: Any) -> None:
    with io.TextIOWrapper(handler.wfile, "utf-8") as text:
        json.dump({"a": [1, 2]}, text)


def line_buffered(handler: Any) -> bytes:
    text = io.TextIOWrapper(handler.wfile, "utf-8", line_buffering=True)
    text.write("whole\n")
    first = arrived(handler)
    text.write("part")
    second = arrived(handler)
    text.detach()
    return first + b"|" + second


WRITERS: dict[str, Callable[[Any], Any]] = {
    "print": print_to_text,
    "csv": write_csv,
    "json": dump_json,
    "text-by-lines": line_buffered,
    "pickle": lambda h: pickle.dump([1, "a", b"x" * 70_000], h.wfile),
    "copyfileobj": lambda h: shutil.copyfileobj(io.BytesIO(b"x" * 70_000), h.wfile),
    "buffered-writer": lambda h: io.BufferedWriter(h.wfile).write(b"a"),
    "print-of-text-alone": lambda h: print("text", file=h.wfile),
}


@pytest.mark.parametrize("wbufsize", [0, 16, 8192])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_writer_over_wfile_ends_alike(
    ss: Variant, write: Callable[[Any], Any], wbufsize: int
) -> None:
    assert_like_plain_files(ss, wfile(write, arrived, ("flush",), arrived), wbufsize=wbufsize)


def test_print_through_a_text_wrapper_arrives(ss: Variant) -> None:
    act = wfile(print_to_text, ("flush",), arrived)
    assert handled(ss, act)[-1] == "käse 1\r\nnow\r\n".encode()


# --- errors of the connection ----------------------------------------------------------------


@pytest.mark.parametrize("wbufsize", [0, 1, 16, 8192])
def test_client_that_left_ends_write_and_flush_alike(ss: Variant, wbufsize: int) -> None:
    act = wfile(client_leaves, ("write", b"a"), ("flush",), ("write", b"b" * 20_000), ("flush",))
    assert_like_plain_files(ss, without_finish(act), wbufsize=wbufsize)


@pytest.mark.parametrize("wbufsize", [0, 8192])
def test_client_that_left_is_a_broken_pipe(ss: Variant, wbufsize: int) -> None:
    act = wfile(client_leaves, ("write", b"x" * 20_000), ("write", b"x" * 20_000))
    outcomes = handled(ss, without_finish(act), wbufsize=wbufsize)
    assert [item.kind for item in outcomes[1:]] == [BrokenPipeError] * 2


@every_bufsize
def test_reset_by_the_client_is_a_connection_error(ss: Variant, wbufsize: int) -> None:
    def act(handler: Any) -> tuple[Any, Any]:
        reset(handler.peer)
        with pytest.raises(ConnectionResetError):
            handler.request.recv(1)
        first = outcome(handler.wfile.write, b"x" * (1 << 20))
        return first.kind, outcome(handler.wfile.write, b"x" * (1 << 20)).kind

    errors = handled(ss, without_finish(act), socket.AF_INET, wbufsize=wbufsize)
    assert errors == (BrokenPipeError, BrokenPipeError)


@every_bufsize
def test_client_that_does_not_read_is_a_timeout(ss: Variant, wbufsize: int) -> None:
    act = without_finish(wfile(("write", b"x" * MUCH), ("write", b"x" * MUCH)))
    outcomes = handled(ss, act, timeout=TINY, wbufsize=wbufsize)
    assert outcomes == [Raised(TimeoutError, ("timed out",))] * 2


@every_bufsize
def test_writing_goes_on_after_a_timeout(ss: Variant, wbufsize: int) -> None:
    def act(handler: Any) -> bytes:
        outcome(handler.wfile.write, b"x" * MUCH)
        while arrived(handler):
            outcome(handler.wfile.flush)
        handler.wfile.write(b"more")
        handler.wfile.flush()
        return arrived(handler)[-4:]

    assert handled(ss, act, timeout=TINY, wbufsize=wbufsize) == b"more"


@every_buffer
def test_flush_that_timed_out_loses_nothing(ss: Variant, wbufsize: int) -> None:
    """What fits the buffer stays in it until a flush succeeds."""

    def act(handler: Any) -> bytes:
        unblock(handler)
        with pytest.raises(BlockingIOError):
            handler.request.sendall(b"x" * MUCH)
        handler.request.settimeout(TINY)
        outcomes = wfile(("write", b"held"), ("flush",), ("flush",))(handler)
        assert outcomes[1] == outcomes[2] == Raised(TimeoutError, ("timed out",))
        arrived(handler)
        handler.wfile.flush()
        return arrived(handler)

    assert handled(ss, act, wbufsize=max(wbufsize, 16)) == b"held"


def test_close_that_timed_out_closes_and_sends_nothing_later(ss: Variant) -> None:
    def act(handler: Any) -> list[Any]:
        unblock(handler)
        with pytest.raises(BlockingIOError):
            handler.request.sendall(b"x" * MUCH)
        handler.request.settimeout(TINY)
        outcomes = wfile(("write", b"held"), ("close",), lambda h: h.wfile.closed)(handler)
        arrived(handler)
        handler.wfile = io.BytesIO()
        return [*outcomes, arrived(handler)]

    timed_out = Raised(TimeoutError, ("timed out",))
    assert handled(ss, act, wbufsize=16) == [4, timed_out, True, b""]


# --- non-blocking ----------------------------------------------------------------------------


@every_buffer
def test_full_non_blocking_socket_tells_how_much_was_taken(ss: Variant, wbufsize: int) -> None:
    body = bytes(range(256)) * (MUCH // 256)

    def act(handler: Any) -> tuple[type, int, bytes]:
        unblock(handler)
        with pytest.raises(BlockingIOError) as caught:
            handler.wfile.write(body)
        received = arrived(handler)
        while outcome(handler.wfile.flush) is not None:
            received += arrived(handler)
        received += arrived(handler)
        return caught.value.errno, caught.value.characters_written, received

    code, taken, received = handled(ss, act, wbufsize=wbufsize)
    assert code == BlockingIOError(socket.EAGAIN, "").errno
    assert 0 < taken < len(body)
    assert received == body[:taken]


def test_full_non_blocking_socket_ends_an_unbuffered_write_as_sendall(ss: Variant) -> None:
    def act(handler: Any) -> tuple[Any, Any, bool]:
        unblock(handler)
        written = outcome(handler.wfile.write, b"x" * MUCH)
        again = outcome(handler.wfile.write, b"x")
        return written, again, 0 < len(arrived(handler)) < MUCH

    assert_like_plain_files(ss, act)


@pytest.mark.parametrize("wbufsize", [1, 16, 8192])
def test_flush_of_a_full_non_blocking_socket_ends_alike(ss: Variant, wbufsize: int) -> None:
    def fill(handler: Any) -> None:
        with pytest.raises(BlockingIOError):
            handler.request.sendall(b"x" * MUCH)

    act = wfile(
        unblock,
        fill,
        ("write", b"a"),
        ("write", b"b" * 5),
        ("write", b"c" * 20),
        ("flush",),
        ("write", b"d" * 10_000),
        ("flush",),
        lambda h: set(arrived(h)) == {ord("x")},
        ("flush",),
        arrived,
    )
    assert_like_plain_files(ss, without_finish(act), wbufsize=wbufsize)


# --- finish() and the life of the socket below -----------------------------------------------


@pytest.mark.parametrize("wbufsize", [16, -1])
def test_finish_passes_on_the_error_of_closing_a_file_that_cannot_flush(
    ss: Variant, wbufsize: int
) -> None:
    """The flush's own error is swallowed, but `close()` flushes again."""
    files: list[Any] = []

    def act(handler: Any) -> None:
        files.extend([handler.wfile, handler.rfile])
        handler.wfile.write(b"held")
        handler.peer.close()

    errors: list[BaseException] = []
    handled(ss, act, errors=errors, wbufsize=wbufsize)
    assert [type(error) for error in errors] == [BrokenPipeError]
    assert [file.closed for file in files] == [True, False]
    files[1].close()


def test_finish_of_an_unbuffered_file_does_not_mind_that_the_client_left(ss: Variant) -> None:
    errors: list[BaseException] = []
    handled(ss, wfile(("write", b"sent"), client_leaves), errors=errors)
    assert errors == []


@every_bufsize
def test_write_after_the_request_is_closed_ends_alike(ss: Variant, wbufsize: int) -> None:
    act = wfile(
        ("write", b"a"),
        lambda h: h.request.close(),
        ("write", b"b"),
        ("flush",),
        arrived,
        ("close",),
        arrived,
    )
    assert_like_plain_files(ss, without_finish(act), wbufsize=wbufsize)


@every_bufsize
def test_rest_is_sent_by_finish_after_the_request_is_closed(ss: Variant, wbufsize: int) -> None:
    received: list[Call] = []

    def act(handler: Any) -> None:
        received.append(reading(handler))
        handler.wfile.write(b"begin ")
        handler.request.close()
        handler.wfile.write(b"end")

    handled(ss, act, wbufsize=wbufsize)
    assert received[0].outcome("the client") == b"begin end"


@every_bufsize
def test_write_after_the_request_is_detached_ends_alike(ss: Variant, wbufsize: int) -> None:
    def act(handler: Any) -> list[Any]:
        handler.wfile.write(b"a")
        with socket.socket(fileno=handler.request.detach()):
            return wfile(("write", b"b"), ("flush",), ("close",), arrived)(handler)

    assert_like_plain_files(ss, without_finish(act), wbufsize=wbufsize)


@every_bufsize
def test_write_after_the_socket_was_shut_down_ends_alike(ss: Variant, wbufsize: int) -> None:
    act = wfile(
        ("write", b"a"),
        lambda h: h.request.shutdown(socket.SHUT_WR),
        ("write", b"b"),
        ("flush",),
        arrived,
    )
    assert_like_plain_files(ss, without_finish(act), wbufsize=wbufsize)


def test_send_and_wfile_alternate(ss: Variant) -> None:
    act = wfile(
        ("write", b"a"),
        lambda h: h.request.send(b"b"),
        ("write", b"c"),
        ("flush",),
        lambda h: h.request.send(b"d"),
        arrived,
    )
    assert handled(ss, act)[-1] == b"abcd"
    assert handled(ss, act, wbufsize=-1)[-1] == b"bacd"
