"""No thread can be started for a request."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest
from clients import connect, read_all
from lengths import count
from server_process import HERE, ServerProcess, needs_proc, on_both

if TYPE_CHECKING:
    from conftest import Figures

CLIENTS = count(short=40, long=400)

THREADS = 6
"""Threads and processes that the server may have."""

UNUSED = 50_000 + os.getpid() % 10_000
"""A user that runs nothing else: the limit is for all that a user runs, other tests' included."""

LIMIT_USER = f"""
# That user may not be able to read the modules, which are imported before therefore.
import contextvars, linecache, logging, resource, traceback, zlib
os.setresgid({UNUSED}, {UNUSED}, {UNUSED})
os.setresuid({UNUSED}, {UNUSED}, {UNUSED})
resource.setrlimit(resource.RLIMIT_NPROC, ({THREADS}, {THREADS}))
"""

LIMIT_MEMORY = f"""
import resource
threading.stack_size(512 * 2**20)
with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
limit = size + {THREADS} * 512 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""

SERVE = """
import logging
logging.getLogger("fastsocketserver").addHandler(logging.NullHandler())
# What the reference says of each request that it has lost.
serve(server_class(handle_error=lambda *_: None, request_queue_size=1000)(LOOPBACK, Upper))
"""


def ask_all(address: tuple[str, int]) -> int:
    """Return how many clients are answered that all come before one has finished its line."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(CLIENTS)]
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"half a li")
        time.sleep(0.1)  # so that as many are begun as can be
        answered = 0
        for client in clients:
            try:
                client.sendall(b"ne\n")
                client.shutdown(socket.SHUT_WR)
                answer = read_all(client)
            except OSError:  # a reset, or no longer connected when it is to be shut down
                answer = b""
            assert answer in (b"HALF A LINE\n", b"")
            answered += bool(answer)
            client.close()
    return answered


@needs_proc
@pytest.mark.parametrize("limit", ["RLIMIT_NPROC", "RLIMIT_AS"])
@on_both("threads")
def test_no_client_is_lost_for_want_of_a_thread(
    module: str, dispatch: str, limit: str, figures: Figures
) -> None:
    if limit == "RLIMIT_NPROC" and os.geteuid() != 0:
        pytest.skip("only root can become a user that runs nothing else")
    source = LIMIT_USER if limit == "RLIMIT_NPROC" else LIMIT_MEMORY
    with ServerProcess(source + SERVE, module, dispatch) as server:
        address = server.read_address()
        before = server.descriptors_at_rest()
        answered = ask_all(address)
        again = ask_all(address)
        server.wait_for_descriptors(before + 2)  # the loop's own, made by the first request
        if module == HERE:
            server.stop()
    figures.note_for(
        module,
        f"no more than {THREADS} threads ({limit}): clients answered",
        f"{answered + again} of {2 * CLIENTS}",
    )
    if module == HERE:
        assert answered == again == CLIENTS
