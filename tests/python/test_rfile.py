"""`rfile` of a stream handler, method by method, beside the file that `makefile()` gives."""

from __future__ import annotations

import array
import copy
import csv
import email
import gc
import http.client
import io
import json
import pickle
import shutil
import signal
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from conftest import DEADLINE
from peers import (
    END,
    Raised,
    assert_like_plain_files,
    fed,
    handled,
    outcome,
    play,
    reset,
)
from probes import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from variants import Variant

pytestmark = pytest.mark.in_greenlets

TINY = 0.005
"""Seconds of a timeout that is to expire."""
EVERY_BYTE = bytes(range(256))


def rfile(*steps: Any) -> Callable[[Any], list[Any]]:
    """Return an act that takes `steps` with `rfile`."""
    return play("rfile", *steps)


def left(handler: Any) -> bytes:
    """Return what `rfile` has left in the socket, and leave it there."""
    return handler.request.recv(1 << 20, socket.MSG_DONTWAIT | socket.MSG_PEEK)


def into(buffer: Any, method: str = "readinto") -> Callable[[Any], Any]:
    """Return a step that fills a buffer and returns the count and all of the buffer."""

    def step(handler: Any) -> Any:
        copied = copy.copy(buffer)
        count = getattr(handler.rfile, method)(copied)
        return count, bytes(copied)

    return step


def into_view(handler: Any) -> Any:
    buffer = bytearray(8)
    return handler.rfile.readinto(memoryview(buffer)[2:6]), bytes(buffer)


def lines(handler: Any) -> list[bytes]:
    return list(handler.rfile)


def kinds(outcomes: list[Any]) -> list[Any]:
    """Return the outcomes with each exception reduced to its type."""
    return [item.kind if isinstance(item, Raised) else item for item in outcomes]


# --- results ---------------------------------------------------------------------------------

READS: dict[str, tuple[Any, ...]] = {
    "read-short-at-the-end": (b"12345", END, ("read", 3), ("read", 10), ("read", 10)),
    "read-joins-segments": ([b"12", b"345", b"6789", END], ("read", 7), ("read", 7)),
    "read-all": ([b"12", b"345", END], ("read",), ("read",)),
    "read-minus-one": ([b"12", b"345", END], ("read", -1), ("read", -1)),
    "read-none": ([b"12", b"345", END], ("read", None), ("read", None)),
    "read-all-after-a-line": ([b"1\n2", b"3", END], ("readline",), ("read",)),
    "read-zero": (b"12", ("read", 0), ("read", 2), ("read", 0)),
    "read-zero-at-the-end": (END, ("read", 0), ("read", 1), ("read", 0)),
    "read-true-is-one": (b"12", ("read", True), ("read", 1)),
    "read-more-than-any-buffer": ([b"x" * 300_000, END], ("read", 250_000), ("read", 250_000)),
    "read1-one-segment": ([b"12", b"345", END], ("read1",), ("read1",), ("read1",)),
    "read1-limit": ([b"12345", b"678", END], ("read1", 2), ("read1", 9), ("read1", 9)),
    "read1-zero": (b"12", ("read1", 0), ("read1", 1), ("read1", 0), ("read1", 1)),
    "read1-minus-one": (b"12", END, ("read1", -1), ("read1", -1)),
    "read1-minus-two": (b"12", END, ("read1", -2), ("read1", -2)),
    "read1-after-peek": ([b"123", b"45", END], ("peek",), ("read1", 2), ("read1", 9), ("read1",)),
    "read1-of-much": (b"x" * 100_000, END, ("read1",), ("read1", 50_000), ("read1",)),
    "readinto-joins-segments": ([b"12", b"34567", END], into(bytearray(5)), into(bytearray(5))),
    "readinto-nothing": (b"12", into(bytearray()), ("read", 2)),
    "readinto-slice-of-a-view": ([b"12", b"345", END], into_view, into_view, into_view),
    "readinto-array": (b"12345678", into(array.array("H", [0, 0, 0])), ("read", 2)),
    "readinto-larger-than-any-buffer": ([b"x" * 300_000, END], into(bytearray(250_000)), lines),
    "readinto1-one-segment": (
        [b"12", b"345", END],
        into(bytearray(4), "readinto1"),
        into(bytearray(2), "readinto1"),
        into(bytearray(2), "readinto1"),
        into(bytearray(2), "readinto1"),
    ),
    "readinto1-nothing": (b"12", into(bytearray(), "readinto1"), ("read", 2)),
    "readinto1-after-peek": ([b"12", b"345"], ("peek",), into(bytearray(9), "readinto1")),
    "readline-over-segments": ([b"a", b"b\r", b"\nc", b"d\n", END], *[("readline",)] * 3),
    "readline-without-newline": (b"a\nb", END, ("readline",), ("readline",), ("readline",)),
    "readline-of-8191": (b"x" * 8190 + b"\nb\n", ("readline",), ("readline",)),
    "readline-of-8192": (b"x" * 8191 + b"\nb\n", ("readline",), ("readline",)),
    "readline-of-8193": (b"x" * 8192 + b"\nb\n", ("readline",), ("readline",)),
    "readline-of-70000": ([b"x" * 70_000 + b"\nb\n", END], ("readline",), ("readline",)),
    "readline-limit-zero": (b"ab\n", ("readline", 0), ("readline",)),
    "readline-limit-less": (b"ab\ncd\n", *[("readline", 1)] * 4),
    "readline-limit-equal": (b"ab\ncd\n", ("readline", 3), ("readline", 3)),
    "readline-limit-more": (b"ab\ncd\n", ("readline", 5), ("readline", 5)),
    "readline-limit-none": (b"ab\ncd\n", ("readline", None), ("readline", None)),
    "readline-limit-minus-one": (b"ab\ncd\n", ("readline", -1), ("readline",)),
    "readline-limit-minus-two": (b"ab\ncd\n", ("readline", -2), ("readline",)),
    "readline-limit-over-segments": ([b"ab", b"cd", b"ef\n"], ("readline", 5), ("readline", 5)),
    "readline-limit-of-65537": ([b"x" * 70_000 + b"\n"], ("readline", 65537), ("readline", 65537)),
    "readlines": ([b"a\nb", b"c\n\nd", END], ("readlines",), ("readlines",)),
    "readlines-hint": (b"a\nb\nc\nd\n", END, ("readlines", 3), ("readlines", 1), ("readlines",)),
    "readlines-hint-just-reached": (b"a\nb\nc\nd\n", END, ("readlines", 4), ("readlines",)),
    "readlines-hint-zero": (b"a\nb\n", END, ("readlines", 0)),
    "readlines-hint-negative": (b"a\nb\n", END, ("readlines", -1)),
    "readlines-hint-none": (b"a\nb\n", END, ("readlines", None)),
    "readlines-hint-leaves-the-rest": (b"a\nb\nc\n", ("readlines", 3), ("read", 2)),
    "iteration": ([b"a\nb", b"c\n\nd", END], lines, lines),
    "next-to-the-end": (
        b"a\nb",
        END,
        *[lambda h: next(h.rfile)] * 4,
    ),
    "iter-is-the-file": (lambda h: iter(h.rfile) is h.rfile,),
    "iteration-mixed-with-reads": (
        b"a\nbc\nd\ne\n",
        END,
        lambda h: next(h.rfile),
        ("read", 1),
        lambda h: next(h.rfile),
        ("read1", 1),
        ("readline",),
        lines,
    ),
    "peek-takes-nothing": ([b"abc", b"d"], ("peek",), ("peek",), ("read", 3), ("peek",)),
    "peek-size-is-no-limit": (b"abc", *[("peek", n) for n in (0, 1, 2, 3, 100, -1)]),
    "peek-after-part": (b"abc", ("read", 1), ("peek", 1), ("read", 1), ("peek", 100)),
    "peek-of-much": (b"x" * 200_000, ("peek",), ("read", 10), ("peek",)),
    "peek-size-beyond-the-buffer": (b"x" * 20_000, ("peek", 10_000)),
    "peek-at-the-end": (b"a", END, ("peek",), ("read", 1), ("peek",), ("peek", 5)),
    "only-newlines": (b"\n\r\n\r\n\r\r\n", END, lines),
    "only-carriage-returns": (b"\r\r\r", END, ("readline",), ("readline",)),
    "nul-bytes": (b"\0\n\0\0\n\0", END, ("readline", 1), lines),
    "every-byte-read": (EVERY_BYTE, END, ("read",)),
    "every-byte-in-lines": (EVERY_BYTE * 3, END, lines),
    "end-is-seen-twice": (b"a\n", END, *[("read",), ("read", 1), ("readline",), ("read1",)] * 2),
    "end-into-a-buffer": (END, into(bytearray(2)), into(bytearray(2), "readinto1"), lines),
    "pipelined-lines": (b"a\nbb\nccc\n", *[("readline",)] * 3),
    "line-without-more-to-follow": ([b"a", b"\n"], ("readline",)),
    "read-of-all-that-there-is": ([b"ab", b"c"], ("read", 3)),
}


@pytest.mark.parametrize("steps", READS.values(), ids=READS.keys())
def test_results_are_those_of_makefile(ss: Variant, steps: tuple[Any, ...]) -> None:
    assert_like_plain_files(ss, rfile(*steps), rbufsize=8192)


def test_results_are_bytes(ss: Variant) -> None:
    act = rfile(b"a\nb\nc\nd", END, ("readline",), ("peek",), ("read1", 1), ("read", 1), ("read",))
    assert [type(value) for value in handled(ss, act)] == [bytes] * 5


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
def test_request_is_read_as_a_server_does(ss: Variant, family: int) -> None:
    act = rfile(
        [b"POST / HT", b"TP/1.0\r\nContent-Len", b"gth: 5\r\n\r\nhel", b"lo", b"next\n", END],
        ("readline", 65537),
        ("readline",),
        ("readline",),
        ("read", 5),
        ("read",),
    )
    assert handled(ss, act, family) == [
        b"POST / HTTP/1.0\r\n",
        b"Content-Length: 5\r\n",
        b"\r\n",
        b"hello",
        b"next\n",
    ]


# --- what is read ahead ----------------------------------------------------------------------

READ_AHEAD: dict[str, tuple[Any, ...]] = {
    "readline": (b"ab\ncd\nef", ("readline",), left, ("readline",), left),
    "readline-limit": (b"abcdefghijklmnopqrstuvwxyz", ("readline", 3), left, ("peek",)),
    "readline-limit-zero": (b"abc", ("readline", 0), left),
    "read": (b"abcdefghijklmnopqrstuvwxyz", ("read", 3), left),
    "read-zero": (b"abc", ("read", 0), left),
    "read1": (b"abcdefghijklmnopqrstuvwxyz", ("read1", 3), left),
    "read1-zero": (b"abc", ("read1", 0), left),
    "read1-without-a-count": (b"abcdefghijklmnopqrstuvwxyz", ("read1",), left),
    "readinto": (b"abcdefghijklmnopqrstuvwxyz", into(bytearray(3)), left),
    "readinto-of-a-buffer": (b"abcdefghijklmnopqrstuvwxyz", into(bytearray(16)), left),
    "readinto1": (b"abcdefghijklmnopqrstuvwxyz", into(bytearray(3), "readinto1"), left),
    "peek": (b"abcdefghijklmnopqrstuvwxyz", ("peek", 2), left, ("read", 2), left),
    "next": (b"ab\ncd\nef", lambda h: next(h.rfile), left),
    "drained": (b"ab\n", ("readline",), left, b"cd", left, b"ef", ("read", 2), left),
    "a-line-that-fills-the-buffer": (b"a\n" * 8 + b"b\n", *[("readline",)] * 8, left),
}


@pytest.mark.parametrize("rbufsize", [-1, 1, 16])
@pytest.mark.parametrize("steps", READ_AHEAD.values(), ids=READ_AHEAD.keys())
def test_as_much_is_left_in_the_socket(ss: Variant, steps: tuple[Any, ...], rbufsize: int) -> None:
    assert_like_plain_files(ss, rfile(*steps), rbufsize=rbufsize)


@pytest.mark.parametrize("rbufsize", [8192, 65536])
@pytest.mark.parametrize("count", [8191, 8192, 8193, 10_000, 65535, 65536, 65537])
def test_a_large_read_leaves_as_much_in_the_socket(ss: Variant, count: int, rbufsize: int) -> None:
    for method in (("read", count), ("read1", count), into(bytearray(count)), ("peek", count)):
        act = rfile(b"x" * 100_000, method, lambda h: len(left(h)), END, ("read",))
        assert_like_plain_files(ss, act, rbufsize=rbufsize)


@pytest.mark.parametrize("rbufsize", [-1, 0, 1, 2, 16, 65536, -5, None])
def test_lines_and_bodies_with_any_buffer_size(ss: Variant, rbufsize: int | None) -> None:
    act = rfile(
        [b"one\ntw", b"o\n\n", b"body", b"body", b"rest", b"\nlast", END],
        ("readline",),
        ("readline",),
        ("readline",),
        into(bytearray(4)),
        ("read", 2),
        ("readline",),
        ("read",),
        ("readline",),
    )
    assert_like_plain_files(ss, act, rbufsize=rbufsize)


def test_unbuffered_read_may_be_short(ss: Variant) -> None:
    act = rfile([b"ab", b"cde", END], ("read", 9), into(bytearray(9)), ("read", 1), ("read",))
    assert handled(ss, act, rbufsize=0) == [b"ab", (3, b"cde" + bytes(6)), b"", b""]


def test_unbuffered_line_leaves_the_rest_to_recv(ss: Variant) -> None:
    act = rfile([b"li", b"ne\nrest"], ("readline",), left)
    assert handled(ss, act, rbufsize=0) == [b"line\n", b"rest"]


@pytest.mark.parametrize("method", ["peek", "read1", "readinto1"])
def test_unbuffered_file_has_no_buffered_methods(ss: Variant, method: str) -> None:
    assert handled(ss, lambda h: hasattr(h.rfile, method), rbufsize=0) is False


def test_recv_reads_on_where_a_drained_rfile_ended(ss: Variant) -> None:
    act = rfile(
        b"line\n",
        ("readline",),
        b"for recv",
        lambda h: h.request.recv(100),
        b"line again\nand more",
        ("readline",),
        ("read", 8),
        b"for recv again",
        lambda h: h.request.recv(100),
    )
    assert handled(ss, act) == [
        b"line\n",
        b"for recv",
        b"line again\n",
        b"and more",
        b"for recv again",
    ]


# --- wrong arguments -------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, ...]] = {
    "read-text": ("read", "x"),
    "read-float": ("read", 1.0),
    "read-minus-two": ("read", -2),
    "read-huge": ("read", 1 << 70),
    "read-most": ("read", -1 << 70),
    "read1-huge": ("read1", 1 << 70),
    "readlines-huge": ("readlines", 1 << 70),
    "peek-huge": ("peek", 1 << 70),
    "seek-from-nowhere": ("seek", 0, 9),
    "seek-without": ("seek",),
    "seek-text": ("seek", "x"),
    "truncate-text": ("truncate", "x"),
    "writelines-none": ("writelines", None),
    "read-two-arguments": ("read", 1, 2),
    "read1-text": ("read1", "x"),
    "read1-none": ("read1", None),
    "readinto-bytes": ("readinto", b"constant"),
    "readinto-text": ("readinto", "text"),
    "readinto-list": ("readinto", [0]),
    "readinto-none": ("readinto", None),
    "readinto-without": ("readinto",),
    "readinto-read-only-view": ("readinto", memoryview(b"constant")),
    "readinto-strided-view": ("readinto", memoryview(bytearray(8))[::2]),
    "readinto1-bytes": ("readinto1", b"constant"),
    "readline-text": ("readline", "x"),
    "readline-float": ("readline", 1.5),
    "readline-huge": ("readline", 1 << 70),
    "readlines-text": ("readlines", "x"),
    "peek-text": ("peek", "x"),
    "peek-none": ("peek", None),
    "readable-argument": ("readable", 1),
    "read-size-by-name": (lambda h: h.rfile.read(size=1),),
    "readline-size-by-name": (lambda h: h.rfile.readline(size=1),),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_wrong_argument_is_refused_alike(ss: Variant, call: Any) -> None:
    step = call[0] if callable(call[0]) else call
    assert_like_plain_files(ss, rfile(b"abc\n", END, step, ("readline",)))


def test_kinds_of_refusal(ss: Variant) -> None:
    act = rfile(
        b"abc\n",
        ("read", "x"),
        ("read", -2),
        ("readinto", b"constant"),
        ("readline", "x"),
        ("readline",),
    )
    refused = kinds(handled(ss, act))
    assert refused == [TypeError, ValueError, TypeError, TypeError, b"abc\n"]


class Index:
    """An integer by `__index__()` alone."""

    def __index__(self) -> int:
        return 2


@pytest.mark.parametrize("method", ["read", "read1", "readline", "readlines", "peek"])
def test_count_may_be_any_index(ss: Variant, method: str) -> None:
    assert_like_plain_files(ss, rfile(b"ab\ncd", END, (method, Index()), ("read",)))


# --- what kind of file it is -----------------------------------------------------------------

TRAITS: dict[str, Any] = {
    "readable": ("readable",),
    "writable": ("writable",),
    "seekable": ("seekable",),
    "isatty": ("isatty",),
    "fileno": lambda h: h.rfile.fileno() == h.request.fileno(),
    "closed": lambda h: h.rfile.closed,
    "mode": lambda h: h.rfile.mode,
    "name": lambda h: h.rfile.name == h.request.fileno(),
    "raw": lambda h: (isinstance(h.rfile.raw, io.RawIOBase), h.rfile.raw.readable()),
    "raw-fileno": lambda h: h.rfile.raw.fileno() == h.request.fileno(),
    "flush": ("flush",),
    "seek": ("seek", 0),
    "seek-from-the-end": ("seek", 0, 2),
    "tell": ("tell",),
    "truncate": ("truncate",),
    "truncate-size": ("truncate", 3),
    "write": ("write", b"x"),
    "writelines": ("writelines", [b"x"]),
    "writelines-of-nothing": ("writelines", []),
    "encoding": lambda h: hasattr(h.rfile, "encoding"),
    "io-classes": lambda h: [
        isinstance(h.rfile, kind) for kind in (io.IOBase, io.BufferedIOBase, io.TextIOBase)
    ],
    "repr": lambda h: type(repr(h.rfile)),
    "truth": lambda h: bool(h.rfile),
    "hash": lambda h: hash(h.rfile) == hash(h.rfile),
    "equal-to-itself-only": lambda h: (h.rfile == h.rfile, h.rfile == h.wfile),
    "length": lambda h: len(h.rfile),
    "weak-reference": lambda h: weakref.ref(h.rfile)() is h.rfile,
    "attribute": lambda h: (setattr(h.rfile, "x", 1), h.rfile.x, vars(h.rfile)),
    "attribute-deleted": lambda h: (setattr(h.rfile, "x", 1), delattr(h.rfile, "x")),
    "attribute-missing": lambda h: h.rfile.y,
    "closed-is-read-only": lambda h: setattr(h.rfile, "closed", True),
    "pickle": lambda h: pickle.dumps(h.rfile),
    "copy": lambda h: copy.copy(h.rfile),
    "deepcopy": lambda h: copy.deepcopy(h.rfile),
    "closed-below": lambda h: (h.rfile.raw.close(), h.rfile.closed),
    "context-gives-itself": lambda h: h.rfile.__enter__() is h.rfile,
    "exit-without-arguments": lambda h: h.rfile.__exit__(),
    "exit-of-an-error-is-passed-on": lambda h: h.rfile.__exit__(OSError, None, None),
}


@pytest.mark.parametrize("step", TRAITS.values(), ids=TRAITS.keys())
def test_trait_is_that_of_makefile(ss: Variant, step: Any) -> None:
    act = rfile(b"ab\n", ("readline",), step, lambda h: h.rfile.closed)
    assert_like_plain_files(ss, act)


@pytest.mark.parametrize(
    "call", [("seek", 0), ("tell",), ("truncate",), ("write", b"x")], ids=lambda c: c[0]
)
def test_unsupported_operation_is_an_os_error_and_a_value_error(ss: Variant, call: Any) -> None:
    def act(handler: Any) -> None:
        method, *args = call
        with pytest.raises(io.UnsupportedOperation) as caught:
            getattr(handler.rfile, method)(*args)
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, ValueError)

    handled(ss, act)


def test_file_is_freed_with_its_last_reference(ss: Variant) -> None:
    def act(handler: Any) -> Any:
        reference = weakref.ref(handler.rfile)
        handler.rfile = io.BytesIO()
        return reference

    assert handled(ss, act)() is None


CYCLES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda h: setattr(h.rfile, "itself", h.rfile),
    "handler": lambda h: setattr(h.rfile, "owner", h),
}


@pytest.mark.parametrize("cycle", CYCLES.values(), ids=CYCLES.keys())
def test_cycle_through_an_attribute_is_collected(ss: Variant, cycle: Callable[[Any], Any]) -> None:
    def act(handler: Any) -> Any:
        cycle(handler)
        return weakref.ref(handler.rfile)

    reference = handled(ss, act)
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("wbufsize", [0, -1])
def test_files_are_made_while_garbage_is_collected(ss: Variant, wbufsize: int) -> None:
    """An object that is visited before it is filled ends the process."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(20):
            lines = handled(ss, rfile(b"line\n", ("readline",)), wbufsize=wbufsize)
            assert lines == [b"line\n"]
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.parametrize("touch", [lambda f: None, lambda f: f.raw], ids=["buffered", "raw"])
@pytest.mark.parametrize("close", [lambda f: f.close(), lambda f: None], ids=["closed", "freed"])
def test_last_file_closes_the_descriptor_of_a_closed_request(
    ss: Variant, touch: Callable[[Any], Any], close: Callable[[Any], Any]
) -> None:
    def act(handler: Any) -> tuple[bool, bytes]:
        handler.wfile.close()
        touch(handler.rfile)
        handler.request.close()
        before = handler.request.fileno() >= 0
        close(handler.rfile)
        handler.rfile = io.BytesIO()
        assert handler.request.fileno() == -1
        return before, handler.peer.recv(1)

    assert handled(ss, act) == (True, b"")


# --- closed ----------------------------------------------------------------------------------

AFTER_CLOSE: dict[str, Any] = {
    "read": ("read",),
    "read-count": ("read", 1),
    "read-zero": ("read", 0),
    "read-minus-two": ("read", -2),
    "read1": ("read1",),
    "read1-zero": ("read1", 0),
    "readinto": ("readinto", bytearray(1)),
    "readinto-nothing": ("readinto", bytearray()),
    "readinto1": ("readinto1", bytearray(1)),
    "readline": ("readline",),
    "readline-zero": ("readline", 0),
    "readlines": ("readlines",),
    "iter": lambda h: iter(h.rfile),
    "next": lambda h: next(h.rfile),
    "peek": ("peek",),
    "write": ("write", b"x"),
    "writelines": ("writelines", [b"x"]),
    "writelines-of-nothing": ("writelines", []),
    "flush": ("flush",),
    "fileno": ("fileno",),
    "isatty": ("isatty",),
    "readable": ("readable",),
    "writable": ("writable",),
    "seekable": ("seekable",),
    "seek": ("seek", 0),
    "seek-from-nowhere": ("seek", 0, 9),
    "tell": ("tell",),
    "truncate": ("truncate",),
    "enter": lambda h: h.rfile.__enter__(),
    "exit": lambda h: h.rfile.__exit__(None, None, None),
    "closed": lambda h: h.rfile.closed,
    "close": ("close",),
    "mode": lambda h: h.rfile.mode,
    "name": lambda h: h.rfile.name,
    "repr": lambda h: type(repr(h.rfile)),
    "raw": lambda h: h.rfile.raw and h.rfile.raw.closed,
    "detach": lambda h: h.rfile.detach().closed,
}


@pytest.mark.parametrize("step", AFTER_CLOSE.values(), ids=AFTER_CLOSE.keys())
def test_call_after_close_ends_alike(ss: Variant, step: Any) -> None:
    def act(handler: Any) -> list[Any]:
        outcomes = rfile(b"ab\ncd\n", ("readline",), ("close",), step, ("close",))(handler)
        handler.rfile = io.BytesIO()
        return outcomes

    assert_like_plain_files(ss, act)


@pytest.mark.parametrize(
    "step",
    [("read",), ("read1",), ("readinto", bytearray(1)), ("readline",), ("peek",), ("fileno",)],
    ids=lambda step: step[0],
)
def test_call_after_close_is_a_value_error(ss: Variant, step: Any) -> None:
    assert kinds(handled(ss, rfile(b"ab\n", ("close",), step))) == [None, ValueError]


def test_close_lets_the_request_stay_open(ss: Variant) -> None:
    act = rfile(b"a\n", ("readline",), ("close",), ("close",), b"b\n", lambda h: h.request.recv(9))
    assert handled(ss, act) == [b"a\n", None, None, b"b\n"]


def test_context_manager_closes_and_passes_the_error_on(ss: Variant) -> None:
    def act(handler: Any) -> tuple[bool, bool]:
        with pytest.raises(KeyError), handler.rfile as file:
            raise KeyError
        return file is handler.rfile, file.closed

    assert handled(ss, act) == (True, True)


# --- detached --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", AFTER_CLOSE.values(), ids=AFTER_CLOSE.keys())
def test_call_after_detach_ends_alike(ss: Variant, step: Any) -> None:
    def act(handler: Any) -> list[Any]:
        with handler.rfile.detach():
            outcomes = rfile(b"ab\ncd\n", step)(handler)
            handler.rfile = io.BytesIO()
            return outcomes

    assert_like_plain_files(ss, act)


def test_detach_gives_the_unbuffered_file(ss: Variant) -> None:
    def act(handler: Any) -> Any:
        handler.peer.sendall(b"line\n")
        first = handler.rfile.readline()
        file, handler.rfile = handler.rfile, handler.rfile.detach()
        with pytest.raises(ValueError, match="detached"):
            file.read(1)
        handler.peer.sendall(b"next\nrest")
        return first, handler.rfile.readline(), handler.rfile.read(100)

    assert handled(ss, act) == (b"line\n", b"next\n", b"rest")


def test_finish_fails_on_a_detached_rfile(ss: Variant) -> None:
    def act(handler: Any) -> Any:
        return handler.rfile.detach()

    errors: list[BaseException] = []
    handled(ss, act, errors=errors).close()
    assert [type(error) for error in errors] == [ValueError]


# --- under the library's readers -------------------------------------------------------------

READERS: dict[str, tuple[Any, ...]] = {
    "text": ("käse\r\nbröt\nx".encode(), lambda h: list(io.TextIOWrapper(h.rfile, "utf-8"))),
    "text-newlines-kept": (
        "käse\r\nbröt\nx".encode(),
        lambda h: list(io.TextIOWrapper(h.rfile, "utf-8", newline="")),
    ),
    "text-carriage-return-newline": (
        b"a\nb\r\nc",
        lambda h: list(io.TextIOWrapper(h.rfile, "utf-8", newline="\r\n")),
    ),
    "text-read": ("käse".encode() * 5000, lambda h: io.TextIOWrapper(h.rfile, "utf-8").read()),
    "text-wrong-encoding": (b"\xff\n", lambda h: io.TextIOWrapper(h.rfile, "ascii").read()),
    "csv": (
        b'a,"b\r\nc"\r\nd,e\r\n',
        lambda h: list(csv.reader(io.TextIOWrapper(h.rfile, "utf-8", newline=""))),
    ),
    "json": (b'{"a": [1, "\xc3\xa4"]}', lambda h: json.load(h.rfile)),
    "headers": (
        b"Host: a\r\nX: 1\r\n  2\r\n\r\nbody",
        lambda h: (http.client.parse_headers(h.rfile).items(), h.rfile.read()),
    ),
    "message": (
        b"Subject: s\r\n\r\nbody\r\n",
        lambda h: email.message_from_binary_file(h.rfile).get_payload(),
    ),
    "copyfileobj": (
        b"x" * 100_000,
        lambda h: (shutil.copyfileobj(h.rfile, copied := io.BytesIO()), copied.getvalue()),
    ),
    "buffered-reader": (b"a\nb\n", lambda h: io.BufferedReader(h.rfile).readlines()),
    "pair": (b"a\nb\n", lambda h: io.BufferedRWPair(h.rfile, h.wfile).readline()),
    "unpickler": (pickle.dumps([1, "a"]), lambda h: pickle.load(h.rfile)),
    "unpickler-out-of-frames": (pickle.dumps([b"x" * 70_000], 2), lambda h: pickle.load(h.rfile)),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_reader_over_rfile_ends_alike(ss: Variant, reader: tuple[Any, ...]) -> None:
    data, read = reader
    assert_like_plain_files(ss, rfile([data, END], read))


def test_text_wrapper_is_detached_without_closing_rfile(ss: Variant) -> None:
    def act(handler: Any) -> tuple[str, bool, bytes]:
        handler.peer.sendall(b"text\n")
        text = io.TextIOWrapper(handler.rfile, "utf-8")
        line = text.readline()
        same = text.detach() is handler.rfile
        handler.peer.sendall(b"bytes\n")
        return line, same, handler.rfile.readline()

    assert handled(ss, act) == ("text\n", True, b"bytes\n")


# --- errors of the connection ----------------------------------------------------------------

READING: dict[str, Any] = {
    "read": ("read",),
    "read-count": ("read", 5),
    "read1": ("read1",),
    "read1-count": ("read1", 5),
    "readinto": ("readinto", bytearray(5)),
    "readinto1": ("readinto1", bytearray(5)),
    "readline": ("readline",),
    "readline-limit": ("readline", 5),
    "readlines": ("readlines",),
    "next": lambda h: next(h.rfile),
    "peek": ("peek",),
}


def reset_by_peer(handler: Any) -> None:
    reset(handler.peer)


@pytest.mark.parametrize("step", READING.values(), ids=READING.keys())
def test_reset_is_raised_by_each_reading_method(ss: Variant, step: Any) -> None:
    act = rfile(b"line\n", ("readline",), reset_by_peer, step, ("read", 5))
    first, _, second, third = handled(ss, act, socket.AF_INET)
    assert (first, second.kind, third) == (b"line\n", ConnectionResetError, b"")


def until_it_fails(step: Any) -> Callable[[Any], list[Any]]:
    """Return an act that takes `step` until it fails, or three times; lists the outcomes."""

    def act(handler: Any) -> list[Any]:
        outcomes: list[Any] = []
        while len(outcomes) < 3 and not (outcomes and isinstance(outcomes[-1], Raised)):
            outcomes += rfile(step)(handler)
        return outcomes

    return act


TAKES_WHAT_IS_THERE = {"read1", "read1-count", "readinto1"}
"""Of `READING`, those that return what has come before they wait for more."""


def test_data_comes_before_the_reset(ss: Variant) -> None:
    act = rfile(
        b"abc\nde",
        ("readline",),
        ("peek",),
        reset_by_peer,
        ("read", 1),
        ("read", 9),
        ("peek",),
        ("read", 9),
    )
    kept = b"" if ss.is_reference else b"e"
    outcomes = kinds(handled(ss, act, socket.AF_INET))
    assert outcomes == [b"abc\n", b"de", None, b"d", ConnectionResetError, kept, kept]


@pytest.mark.parametrize("rbufsize", [-1, 16])
@pytest.mark.parametrize("name", READING.keys())
def test_data_then_reset_ends_alike(ss: Variant, name: str, rbufsize: int) -> None:
    """Ours still has afterwards what the reference has lost."""
    act = rfile(b"abc", ("peek",), reset_by_peer, until_it_fails(READING[name]))
    assert_like_plain_files(ss, act, family=socket.AF_INET, rbufsize=rbufsize)
    if ss.is_reference:
        return
    failing = until_it_fails(READING[name])
    act = rfile(b"abc", ("peek",), reset_by_peer, failing, ("read",), ("read",))
    *_, before, after = kinds(handled(ss, act, socket.AF_INET, rbufsize=rbufsize))
    kept = b"" if name in TAKES_WHAT_IS_THERE else b"abc"
    assert [before, after] == ([ConnectionResetError, kept] if name == "peek" else [kept, b""])


@pytest.mark.parametrize("rbufsize", [-1, 2])
@pytest.mark.parametrize("step", READING.values(), ids=READING.keys())
def test_timeout_ends_each_reading_method_alike(ss: Variant, step: Any, rbufsize: int) -> None:
    act = rfile(step, b"late\n", ("readline",), ("read", 1), ("read", 0), left)
    assert_like_plain_files(ss, act, timeout=TINY, rbufsize=rbufsize)


@pytest.mark.parametrize("data", [b"a\nbc", b"a\nb\nc"], ids=["part-of-a-line", "line-and-part"])
@pytest.mark.parametrize("name", READING.keys())
def test_timeout_after_part_of_the_data_ends_alike(ss: Variant, name: str, data: bytes) -> None:
    """Ours still has afterwards what the reference has lost, but receives no more either."""
    act = rfile(data, ("readline",), until_it_fails(READING[name]), left)
    assert_like_plain_files(ss, act, timeout=TINY)
    if ss.is_reference:
        return
    act = rfile(data, ("readline",), until_it_fails(READING[name]), b"late\n", ("read1",), left)
    _, failing, kept, rest = handled(ss, act, timeout=TINY)
    taken = [line for line in failing if isinstance(line, bytes)]
    if name in TAKES_WHAT_IS_THERE:
        assert kept == Raised(OSError, ("cannot read from timed out object",))
    else:
        assert (b"" if name == "peek" else b"".join(taken)) + kept == data[2:]
    assert rest == b"late\n"


def test_file_that_timed_out_refuses_to_read_on(ss: Variant) -> None:
    act = rfile(("readline",), b"late\n", ("readline",), ("read", 1), left)
    first, second, third, rest = handled(ss, act, timeout=TINY)
    assert (first.kind, first.args) == (TimeoutError, ("timed out",))
    assert second == third == Raised(OSError, ("cannot read from timed out object",))
    assert rest == b"late\n"


def test_bytes_in_the_buffer_are_read_after_a_timeout_set_meanwhile(ss: Variant) -> None:
    act = rfile(
        b"ab\ncd\n",
        ("readline",),
        lambda h: h.request.settimeout(TINY),
        ("readline",),
        ("readline",),
        lambda h: h.request.settimeout(None),
        ("read", 1),
    )
    outcomes = kinds(handled(ss, act))
    assert outcomes == [b"ab\n", None, b"cd\n", TimeoutError, None, OSError]


def test_timeout_taken_away_between_reads_is_honoured(ss: Variant) -> None:
    act = rfile(
        b"a\n",
        ("readline",),
        lambda h: h.request.settimeout(None),
        [b"b", b"c", b"\n"],
        ("readline",),
    )
    assert handled(ss, act, timeout=DEADLINE) == [b"a\n", None, b"bc\n"]


# --- non-blocking ----------------------------------------------------------------------------


@pytest.mark.parametrize("rbufsize", [-1, 2])
@pytest.mark.parametrize("step", READING.values(), ids=READING.keys())
def test_non_blocking_read_ends_alike(ss: Variant, step: Any, rbufsize: int) -> None:
    """With nothing there, with less than is asked for, with a line, and at the end."""
    act = rfile(
        lambda h: h.request.setblocking(False),
        step,
        b"ab",
        step,
        step,
        b"cd\nefghijk\n",
        *[step] * 3,
        END,
        *[step] * 5,
        left,
    )
    assert_like_plain_files(ss, act, rbufsize=rbufsize)


def test_timeout_of_zero_is_non_blocking(ss: Variant) -> None:
    act = rfile(
        lambda h: h.request.settimeout(0),
        ("read", 4),
        ("read1", 4),
        ("readinto", bytearray(4)),
        b"ab",
        ("read", 4),
        ("read", 4),
        lambda h: h.request.settimeout(None),
        [b"cd", b"ef"],
        ("read", 4),
    )
    assert_like_plain_files(ss, act)


def test_handler_with_a_timeout_of_zero_reads_without_waiting(ss: Variant) -> None:
    act = rfile(("read", 4), ("peek",), b"ab\n", ("readline",), ("read", 4), END, ("read", 4))
    assert_like_plain_files(ss, act, timeout=0)


# --- the life of the socket below ------------------------------------------------------------


@pytest.mark.parametrize("rbufsize", [-1, 0])
def test_reading_goes_on_after_the_request_is_closed(ss: Variant, rbufsize: int) -> None:
    act = rfile(
        b"a\nb\n",
        ("readline",),
        lambda h: h.request.close(),
        b"c\n",
        END,
        ("readline",),
        ("readline",),
        ("readline",),
    )
    assert_like_plain_files(ss, act, rbufsize=rbufsize)


@pytest.mark.parametrize("step", READING.values(), ids=READING.keys())
def test_reading_after_the_request_is_detached_ends_alike(ss: Variant, step: Any) -> None:
    def act(handler: Any) -> list[Any]:
        handler.peer.sendall(b"a\n")
        first = handler.rfile.readline()
        with socket.socket(fileno=handler.request.detach()) as taken:
            handler.peer.sendall(b"b\n")
            return [first, rfile(step)(handler), taken.recv(9)]

    assert_like_plain_files(ss, act)


def test_bytes_in_the_buffer_are_read_after_the_request_is_detached(ss: Variant) -> None:
    def act(handler: Any) -> list[Any]:
        handler.peer.sendall(b"a\nb\nc")
        first = handler.rfile.readline()
        with socket.socket(fileno=handler.request.detach()):
            return [first, *rfile(("readline",), ("read", 1), ("read", 1), ("fileno",))(handler)]

    assert_like_plain_files(ss, act)


def test_iteration_ends_when_another_thread_shuts_the_socket_down(ss: Variant) -> None:
    def act(handler: Any) -> list[bytes]:
        handler.peer.sendall(b"a\n")
        first = next(handler.rfile)
        shutdown = Call(handler.request.shutdown, socket.SHUT_RD)
        rest = list(handler.rfile)
        shutdown.outcome("shutdown()")
        return [first, *rest]

    assert handled(ss, act) == [b"a\n"]


# --- threads ---------------------------------------------------------------------------------


def test_line_is_returned_before_more_arrives(ss: Variant) -> None:
    """The client sends the next line only when it has seen the answer to the one before."""

    def act(handler: Any) -> None:
        for line in handler.rfile:
            handler.wfile.write(line.upper())

    def converse(handler: Any) -> list[bytes]:
        answers = []
        reading = Call(act, handler)
        for line in (b"one\n", b"two\n", b"three\n"):
            handler.peer.sendall(line)
            answers.append(handler.peer.recv(100))
        handler.peer.shutdown(socket.SHUT_WR)
        reading.outcome("the iteration")
        return answers

    assert handled(ss, converse) == [b"ONE\n", b"TWO\n", b"THREE\n"]


def test_two_threads_share_the_records_between_them(ss: Variant) -> None:
    """Of `read()` only: a line that two threads wait for is torn by the reference."""
    sent = [b"%07d\n" % number for number in range(8000)]

    def take(file: Any) -> list[bytes]:
        return list(iter(lambda: file.read(8), b""))

    def act(handler: Any) -> list[bytes]:
        calls = [Call(take, handler.rfile) for _ in range(2)]
        handler.peer.sendall(b"".join(sent))
        handler.peer.shutdown(socket.SHUT_WR)
        return [record for call in calls for record in call.outcome("the reader")]

    assert sorted(handled(ss, act)) == sent


def test_two_threads_read_lines_in_turn(ss: Variant) -> None:
    def act(handler: Any) -> list[bytes]:
        with fed(handler, [b"a\nb", b"\nc\n", b"d", b"\n"]):
            return [Call(handler.rfile.readline).outcome("readline()") for _ in range(4)]

    assert handled(ss, act) == [b"a\n", b"b\n", b"c\n", b"d\n"]


def test_reading_in_one_thread_while_another_writes(ss: Variant) -> None:
    body = EVERY_BYTE * 2048

    def act(handler: Any) -> tuple[bytes, bytes]:
        sending = Call(handler.peer.sendall, body + b"\n")
        reading = Call(handler.rfile.read, len(body))
        writing = Call(handler.wfile.write, body)
        received = b""
        while len(received) < len(body):
            received += handler.peer.recv(1 << 16)
        sending.outcome("the client's sendall()")
        assert writing.outcome("write()") == len(body)
        return reading.outcome("read()"), received

    assert handled(ss, act) == (body, body)


def test_file_answers_while_another_thread_reads(ss: Variant) -> None:
    def act(handler: Any) -> tuple[Any, ...]:
        reading = Call(handler.rfile.readline)
        assert reading.still_waits()
        asked = Call(
            lambda: (handler.rfile.closed, handler.rfile.readable(), handler.rfile.fileno())
        ).outcome("the questions")
        handler.peer.sendall(b"line\n")
        return asked[:2], asked[2] == handler.request.fileno(), reading.outcome("readline()")

    assert handled(ss, act) == ((False, True), True, b"line\n")


def test_second_reader_waits_for_the_first(ss: Variant) -> None:
    def act(handler: Any) -> list[bytes]:
        first = Call(handler.rfile.read, 4)
        assert first.still_waits()
        second = Call(handler.rfile.read, 4)
        assert second.still_waits()
        handler.peer.sendall(b"abcd")
        got = first.outcome("the first read()")
        handler.peer.sendall(b"efgh")
        return [got, second.outcome("the second read()")]

    assert handled(ss, act) == [b"abcd", b"efgh"]


def test_close_waits_for_the_reader(ss: Variant) -> None:
    def act(handler: Any) -> tuple[bytes, list[bool]]:
        reading = Call(handler.rfile.read, 4)
        assert reading.still_waits()
        closing = Call(handler.rfile.close)
        waits = closing.still_waits()
        closed = [waits, handler.rfile.closed]
        handler.peer.sendall(b"abcd")
        got = reading.outcome("read()")
        closing.outcome("close()")
        return got, [*closed, handler.rfile.closed]

    assert handled(ss, act) == (b"abcd", [True, False, True])


def test_reader_that_waited_finds_the_file_closed(ours: Variant) -> None:
    def act(handler: Any) -> Any:
        first = Call(handler.rfile.read, 4)
        assert first.still_waits()
        closing = Call(handler.rfile.close)
        assert closing.still_waits()
        second = Call(outcome, handler.rfile.readline)
        assert second.still_waits()
        handler.peer.sendall(b"abcdline\n")
        handler.peer.shutdown(socket.SHUT_WR)
        first.outcome("the first read()")
        closing.outcome("close()")
        return second.outcome("readline()")

    found = handled(ours, act)
    assert found in (b"line\n", Raised(ValueError, ("readline of closed file",)))


# --- signals ---------------------------------------------------------------------------------


@pytest.fixture
def interrupting() -> Iterator[Any]:
    """Return a function that has a signal of the main thread run another function, once.

    The signal is repeated until then: one that comes in the moment before a system call does
    not interrupt it.
    """
    before = signal.getsignal(signal.SIGUSR1)

    def interrupt_with(function: Callable[[], None]) -> Callable[[], None]:
        ran = []

        def run(*_: Any) -> None:
            if not ran:
                ran.append(True)
                function()

        def send() -> None:
            while not ran:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                time.sleep(0.002)

        signal.signal(signal.SIGUSR1, run)
        return send

    yield interrupt_with
    signal.signal(signal.SIGUSR1, before)


def interrupt() -> None:
    raise LookupError("interrupted")


SIGNALLED = {
    "read": lambda f: f.read(4),
    "read-all": lambda f: f.read(),
    "readline": lambda f: f.readline(),
    "readinto": lambda f: (f.readinto(buffer := bytearray(4)), bytes(buffer))[1],
    "next": next,
    "read1": lambda f: f.read1(4),
    "peek": lambda f: f.peek(),
}


@pytest.mark.parametrize(("rbufsize", "timeout"), [(-1, None), (-1, DEADLINE), (0, None)])
@pytest.mark.parametrize("method", ["read", "read-all", "readline", "readinto", "next"])
def test_read_goes_on_after_a_signal(
    ss: Variant, interrupting: Any, method: str, rbufsize: int, timeout: float | None
) -> None:
    def act(handler: Any) -> bytes:
        def finish() -> None:
            handler.peer.sendall(b"cd\n")
            handler.peer.shutdown(socket.SHUT_WR)

        with fed(handler, [*first, interrupting(finish)]):
            return SIGNALLED[method](handler.rfile).rstrip(b"\0")

    # A raw read is satisfied by one segment, and would not wait for the signal after it.
    first = [] if rbufsize == 0 and method in ("read", "readinto") else [b"a"]
    read = handled(ss, act, rbufsize=rbufsize, timeout=timeout)
    assert read == b"".join([*first, b"cd\n"])


# Where requests are greenlets, a signal's error belongs to the loop, not to the one that waits.
@pytest.mark.in_greenlets(False)
@pytest.mark.parametrize("rbufsize", [-1, 0])
@pytest.mark.parametrize("method", list(SIGNALLED))
def test_error_of_a_signal_handler_ends_the_read(
    ss: Variant, interrupting: Any, method: str, rbufsize: int
) -> None:
    if rbufsize == 0 and method in ("peek", "read1"):
        pytest.skip("the unbuffered file has no such method")

    def act(handler: Any) -> bytes:
        armed = threading.Event()
        send = interrupting(interrupt)

        def send_when_armed() -> None:
            armed.wait(DEADLINE)
            time.sleep(0.005)  # as a rule, the read waits by then; before it, all holds as well
            send()

        with fed(handler, [send_when_armed]):
            with pytest.raises(LookupError, match="interrupted"):
                SIGNALLED[method]((armed.set(), handler.rfile)[1])
            handler.peer.sendall(b"read on\n")
            return handler.rfile.readline()

    assert handled(ss, act, rbufsize=rbufsize) == b"read on\n"


@pytest.mark.in_greenlets(False)
@pytest.mark.parametrize("method", ["read", "read-all", "readline", "readinto", "next"])
def test_error_of_a_signal_handler_in_mid_read_leaves_the_file_readable(
    ss: Variant, interrupting: Any, method: str
) -> None:
    """What the reference may have lost, ours still has."""

    def act(handler: Any) -> tuple[bytes, bytes]:
        with fed(handler, [b"abc", interrupting(interrupt)]):
            with pytest.raises(LookupError, match="interrupted"):
                SIGNALLED[method](handler.rfile)
            handler.peer.sendall(b"\nwhole\n")
            return handler.rfile.readline(), handler.rfile.readline()

    first, second = handled(ss, act)
    assert second == b"whole\n"
    assert first == b"abc\n" or (ss.is_reference and first == b"\n")


def test_read_inside_a_read_of_the_same_thread_is_a_runtime_error(
    ss: Variant, interrupting: Any
) -> None:
    errors = []

    def act(handler: Any) -> bytes:
        def read_inside() -> None:
            errors.append(outcome(handler.rfile.read, 1).kind)
            handler.peer.sendall(b"ne\n")

        with fed(handler, [b"li", interrupting(read_inside)]):
            return handler.rfile.readline()

    assert handled(ss, act) == b"line\n"
    assert errors == [RuntimeError]
