"""Fixtures shared by the Python tests."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from variants import Variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """End the threads of `to_thread()`: later tests fork."""
    yield
    cooperative = sys.modules.get("fastsocketserver._cooperative")
    if cooperative is not None and cooperative._pool is not None:
        cooperative._pool.shutdown()
        cooperative._forget_pool()


DEADLINE = 20.0
"""Seconds after which a wait in a test is a failure; only ever reached by a broken build."""


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`; fail, naming `what`, after `DEADLINE` seconds."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {DEADLINE:.0f} s in vain for {what}")
        time.sleep(0.002)
    return value


@contextlib.contextmanager
def serving(server: Any, poll_interval: float = 0.05) -> Iterator[threading.Thread]:
    """Run `server.serve_forever()` in a thread; on leaving, shut it down and close it."""
    thread = threading.Thread(target=server.serve_forever, args=(poll_interval,))
    thread.start()
    try:
        yield thread
    finally:
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()
        assert not thread.is_alive(), "serve_forever() did not return"


VARIANTS = {
    "reference": ("socketserver", False, False),
    "reference-overridden": ("socketserver", True, False),
    "ours": ("fastsocketserver", False, False),
    "ours-overridden": ("fastsocketserver", True, False),
}
IN_GREENLETS = {
    "greenlets": ("fastsocketserver", False, True),
    "greenlets-overridden": ("fastsocketserver", True, True),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Say what the parity tests run on; those marked so run in greenlets too."""
    if "ss" in metafunc.fixturenames:
        variants = dict(VARIANTS)
        marker = metafunc.definition.get_closest_marker("in_greenlets")
        if marker and marker.args != (False,):
            variants |= IN_GREENLETS
        metafunc.parametrize("ss", list(variants.values()), ids=list(variants), indirect=True)


@pytest.fixture
def ss(request: pytest.FixtureRequest) -> Variant:
    """Return the module under test; a test that takes it is a parity test."""
    module, pass_through, in_greenlets = request.param
    return Variant(module, pass_through=pass_through, in_greenlets=in_greenlets)


@pytest.fixture(params=[False, True], ids=["ours", "ours-overridden"])
def ours(request: pytest.FixtureRequest) -> Variant:
    """Return `fastsocketserver`, for what it does better than the reference; runs twice."""
    return Variant("fastsocketserver", pass_through=request.param)
