"""No child can be forked for a request."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from server_process import HERE, ServerProcess, needs_proc, on_both
from test_thread_exhaustion import CLIENTS, LIMIT_USER, SERVE, THREADS, ask_all

if TYPE_CHECKING:
    from conftest import Figures

FAILURES = CLIENTS // 2

FAIL_AT_FIRST = f"""
import errno
forking, left = os.fork, {FAILURES}
def fork():
    global left
    if left:
        left -= 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return forking()
os.fork = fork
"""


@needs_proc
@pytest.mark.parametrize("fault", ["EAGAIN", "RLIMIT_NPROC"])
@on_both("forks")
def test_no_client_is_lost_for_want_of_a_process(
    module: str, dispatch: str, fault: str, figures: Figures
) -> None:
    if fault == "RLIMIT_NPROC" and os.geteuid() != 0:
        pytest.skip("only root can become a user that runs nothing else")
    source = FAIL_AT_FIRST if fault == "EAGAIN" else LIMIT_USER
    with ServerProcess(source + SERVE, module, dispatch) as server:
        address = server.read_address()
        before = server.descriptors_at_rest()
        answered = ask_all(address)
        again = ask_all(address)
        server.wait_for_descriptors(before + 2)  # the loop's own, made by the first request
        if module == HERE:
            server.stop()
    what = f"the first {FAILURES} forks fail" if fault == "EAGAIN" else f"{THREADS} processes"
    figures.note_for(
        module, f"{what} ({fault}): clients answered", f"{answered + again} of {2 * CLIENTS}"
    )
    if module == HERE:
        assert answered == again == CLIENTS
