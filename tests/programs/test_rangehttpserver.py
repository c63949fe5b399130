"""RangeHTTPServer, which extends `http.server` by requests for a part of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from http_answers import Request, fetch

if TYPE_CHECKING:
    from pathlib import Path

    from program import Both

pytest.importorskip("RangeHTTPServer", reason="RangeHTTPServer is not installed")


def test_ranges(both: Both, tmp_path: Path) -> None:
    """The whole, a part, and a part that is not there."""
    (tmp_path / "file.bin").write_bytes(bytes(range(256)) * 4096)
    ready = r"Serving HTTP on 127\.0\.0\.1 port (\d+)"
    both.start("-m", "RangeHTTPServer", "0", "--bind", "127.0.0.1", ready=ready)
    whole, part, beyond = both.ask(
        lambda program: fetch(
            program,
            "/file.bin",
            Request("/file.bin", headers=(("Range", "bytes=256000-256015"),)),
            Request("/file.bin", headers=(("Range", "bytes=2000000-"),)),
        )
    )
    assert (whole.status, len(whole.body)) == (200, 1048576)
    assert (part.status, part.body) == (206, bytes(range(16)))
    assert part.header("Content-Range") == "bytes 256000-256015/1048576"
    assert beyond.status == 416
    assert both.interrupt() == 0
