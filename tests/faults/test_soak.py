"""A million requests, with faults of all kinds among them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import ask
from lengths import LONG, count
from server_process import HERE, ServerProcess, dispatches, needs_proc, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Figures

REQUESTS = count(short=3_000, long=1_000_000)
AT_ONCE = 50

GROWTH = 8 * 2**20
"""Bytes of memory that may be added between the first third of a long run and its end."""

SOURCE = """
class Limited(Upper):
    def handle(self):
        while line := self.rfile.readline(10_000):
            if not line.endswith(b"\\n"):
                self.wfile.write(b"TOO LONG\\n" if len(line) == 10_000 else b"")
                return
            self.wfile.write(line.upper())
serve(server_class()(LOOPBACK, Limited))
"""


@needs_proc
@pytest.mark.timeout(3000)
@dispatches("threads", "greenlets", "forks")
def test_nothing_is_lost_wrong_or_left_behind(
    dispatch: str, figures: Figures, progress: Callable[[str], None]
) -> None:
    requests = REQUESTS // (20 if dispatch == "forks" else 1)
    with ServerProcess(SOURCE, HERE, dispatch) as server:
        address = server.read_address()
        assert ask(address) == b"HELLO\n"
        before = server.descriptors_at_rest()
        memory = [server.rss()]
        begin = time.monotonic()
        program = str(Path(__file__).with_name("soak_clients.py"))
        command = [sys.executable, program, *map(str, (address[1], requests, AT_ONCE, 14))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as clients:
            assert clients.stdout is not None
            faults = []
            counts: dict[str, int] = {}
            for line in clients.stdout:
                said = json.loads(line)
                if "fault" in said:
                    faults.append(said["fault"])
                    continue
                counts = said
                memory.append(server.rss())
                if LONG:
                    progress(
                        f"{dispatch}: {counts['answered']:,} of {requests:,} answered, "
                        f"{memory[-1] / 2**20:.1f} MiB, {server.belongings()}"
                    )
            assert clients.wait() == 0
        took = time.monotonic() - begin
        assert counts.pop("end", None), "the clients have ended early"
        assert (counts["lost"], counts["wrong"], faults) == (0, 0, [])
        assert counts["answered"] == counts["asked"] >= requests
        server.wait_for_descriptors(before)
        if LONG:
            wait_until(lambda: server.threads() <= 2, "idle threads to end")
            assert memory[-1] - memory[len(memory) // 3] < GROWTH
        server.stop()
    figures.note(
        f"{counts['answered']:,} requests with faults among them, {dispatch}: "
        "lost, wrong, memory before and after, s",
        here=f"{counts['lost']}, {counts['wrong']}, {memory[0] / 2**20:.1f} and "
        f"{memory[-1] / 2**20:.1f} MiB, {took:.0f}",
    )
