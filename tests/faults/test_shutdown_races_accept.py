"""`shutdown()` at the same moment as connections are accepted, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients import Honest, ask
from lengths import count
from server_process import ServerProcess, needs_proc, on_both

if TYPE_CHECKING:
    from conftest import Figures

ROUNDS = count(short=400, long=10_000)
ROUNDS_OF_THE_REFERENCE = count(short=100, long=1000)

SOURCE = """
import random, time
chance = random.Random(9)
server = server_class()(LOOPBACK, Upper)
say(server.server_address[1], WITHOUT_SERVER)
def serve_and_stop(rounds):
    for number in range(rounds):
        loop = threading.Thread(target=server.serve_forever, args=(0.002,), daemon=True)
        loop.start()
        if number % 2:
            time.sleep(chance.random() / 500)
        server.shutdown()
        loop.join(30)
        assert not loop.is_alive(), f"round {number} hangs"
        if number % 20 == 0:
            say("round", number)
sys.stdin.readline()
serve_and_stop(ROUNDS)
say("rounds")
serve(server)
"""


@needs_proc
@on_both("inline", "threads", "greenlets")
def test_no_client_is_lost_between_two_loops(module: str, dispatch: str, figures: Figures) -> None:
    rounds = ROUNDS if module == "fastsocketserver" else ROUNDS_OF_THE_REFERENCE
    with ServerProcess(f"ROUNDS = {rounds}\n{SOURCE}", module, dispatch) as server:
        address = server.read_address()
        server.send_line()
        with Honest(address, "one") as one, Honest(address, "two") as two:
            line = ""
            while line != "rounds":
                line = server.read_line()
            assert server.read_address() == address
        assert ask(address) == b"HELLO\n"  # by the last loop, which has its descriptors then
        before = server.descriptors_at_rest()
        server.wait_for_descriptors(before)
        server.stop()
    answers = len(one.latencies) + len(two.latencies)
    figures.note_for(
        module,
        f"shutdown() racing accept, {dispatch}: rounds, clients answered",
        f"{rounds:,}, {answers:,} of {answers:,}",
    )
