"""prometheus_client's exporter: a WSGI server in a daemon thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from http_answers import Request, dial, dial_tls, fetch
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")

OPEN_METRICS = ("Accept", "application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_scrape_and_shutdown(both: Both, request: pytest.FixtureRequest, tls: bool) -> None:
    """Both text formats, compression, a filter; then the returned server is shut down."""
    program = SCRIPTS / "serve_prometheus.py"
    if tls:
        certificate = request.getfixturevalue("certificate")
        both.start(program, certificate, ready=r"port (\d+)")
        connect = dial_tls(certificate)
    else:
        both.start(program, ready=r"port (\d+)")
        connect = dial

    plain, open_metrics, filtered, compressed, icon = both.ask(
        lambda program: fetch(
            program,
            "/metrics",
            Request("/metrics", headers=(OPEN_METRICS,)),
            "/metrics?name[]=temperature",
            Request("/metrics", headers=(("Accept-Encoding", "gzip"),)),
            "/favicon.ico",
            dial=connect,
        )
    )
    assert b'temperature{room="kitchen"} 21.5' in plain.body
    assert open_metrics.body.endswith(b"# EOF\n")
    assert b"size" not in filtered.body
    assert compressed.header("Content-Encoding") == "gzip"
    assert compressed.body == plain.body
    assert (icon.status, icon.body) == (200, b"")

    both.say("stop")
    assert both.wait() == 0
    assert both.ask(lambda program: program.wait_for("closed (.*)")[1]) == "-1 False"
