"""What the tests of real programs share: the pair of programs, and a certificate."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("program")

from program import Both  # noqa: E402 (its assertions explain themselves only from here on)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


TAKE_GREENLETS = {
    "test_http_server",
    "test_logging_config",
    "test_prometheus_client",
    "test_pymodbustcp",
    "test_pynetdicom",
    "test_pytest_httpserver",
    "test_rangehttpserver",
    "test_werkzeug",
}
"""The tests of programs whose threads do no more than answer requests: they run in greenlets too.

Not among them is websocket-server, which sends from threads of its own to sockets of others.
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_threads(why): not with requests in greenlets")


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """Let the programs inherit a SIGINT that works, also where a shell started us with `&`."""
    inherited = signal.getsignal(signal.SIGINT)
    if inherited is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a file with a key for 127.0.0.1, its certificate, and who signed that."""
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    path = tmp_path / "certificate.pem"
    blobs = [issued.private_key_pem, *issued.cert_chain_pems, authority.cert_pem]
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "both" in metafunc.fixturenames:
        needs_threads = metafunc.definition.get_closest_marker("needs_threads")
        takes_greenlets = metafunc.module.__name__ in TAKE_GREENLETS and not needs_threads
        dispatches = ["threads", "greenlets"] if takes_greenlets else ["threads"]
        metafunc.parametrize("both", dispatches, indirect=True)


@pytest.fixture
def both(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Both]:
    """Return the pair to start a program with; both are gone when the test is over."""
    pair = Both(tmp_path, request.param)
    yield pair
    pair.kill()
