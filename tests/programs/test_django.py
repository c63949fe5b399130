"""Django's development server, with and without its reloader."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from http_answers import Request, fetch, fetch_on_one_connection
from program import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from program import Both

pytest.importorskip("django", reason="Django is not installed")

INSTALL = """
import os

if os.environ["SOCKETSERVER_IMPLEMENTATION"] == "fastsocketserver":
    import fastsocketserver

    fastsocketserver.install()
"""
"""What a program that restarts itself by its file's name needs: `run` is not in that command."""

READY = r"development server at http://127\.0\.0\.1:(\d+)/"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the project's own copy of its one file, beside a folder of static files."""
    root = tmp_path / "site"
    (root / "static").mkdir(parents=True)
    (root / "static" / "style.css").write_text("body { color: red }")
    shutil.copy(SCRIPTS / "django_site.py", root / "manage.py")
    return root


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "no-threads"])
def test_views(both: Both, site: Path, threads: bool) -> None:
    """Views, static files, errors; a connection is kept only where a thread serves it."""
    options = ["--noreload"] if threads else ["--noreload", "--nothreading"]
    both.start("manage.py", "runserver", *options, "127.0.0.1:0", cwd=site, ready=READY)
    greeting, echo, stream, style, no_style, missing = both.ask(
        lambda program: fetch(
            program,
            "/",
            Request("/echo", "POST", b"the body" * 10000),
            "/stream",
            "/static/style.css",
            "/static/missing.css",
            "/missing",
        )
    )
    assert (greeting.version, greeting.status, greeting.body) == (11, 200, b"first edition")
    assert (echo.status, echo.body) == (201, b"POST " + b"the body" * 10000)
    assert stream.body.count(b"piece") == 1000
    assert (style.status, style.body) == (200, b"body { color: red }")
    assert no_style.status == missing.status == 404
    failure = Request("/fail", headers=(("Accept", "text/plain"),))
    page = both.ask(lambda program: fetch(program, failure)[0].body[:50])
    assert page.startswith(b"RuntimeError at /fail\nthis view fails\n")
    if threads:
        kept = both.ask(lambda program: fetch_on_one_connection(program, "/", "/echo", "/"))
        assert [answer.status for answer in kept] == [200, 201, 200]
    else:
        assert greeting.header("Connection") == "close"
    assert both.interrupt() == 0


def test_reloader(both: Both, site: Path) -> None:
    """The server runs in a child, which is replaced when a file changes."""
    project = site / "manage.py"
    project.write_text(INSTALL + project.read_text())
    both.start("manage.py", "runserver", "127.0.0.1:0", cwd=site, ready=READY)
    (greeting,) = both.ask(lambda program: fetch(program, "/"))
    assert greeting.body == b"first edition"
    both.ask(lambda program: bool(program.wait_for(r"manage\.py first seen")))

    project.write_text(project.read_text().replace("first edition", "second edition"))
    both.wait_for_port(READY, times=2)
    (greeting,) = both.ask(lambda program: fetch(program, "/"))
    assert greeting.body == b"second edition"
    assert both.interrupt() == 0


def test_live_server(both: Both) -> None:
    """Django's own test server is started and shut down for each class of tests."""
    both.start(SCRIPTS / "django_live_suite.py")
    assert both.wait() == 0
    both.ask(lambda program: bool(program.wait_for(r"Ran 4 tests in .*\n\nOK")))
