"""`server_close()` while the server serves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from lengths import count
from server_process import ServerProcess, dispatches, needs_proc

if TYPE_CHECKING:
    from conftest import Figures

ROUNDS = count(short=40, long=200)

SOURCE = """
import errno, gc, random, socket, time
chance = random.Random(10)

class Handler(Upper):
    def handle(self):
        if FROM == "handler" and chance.random() < 0.2:
            self.server.server_close()
        super().handle()

# A handler's thread cannot wait for itself.
attributes = {"block_on_close": False} if FROM == "handler" and DISPATCH == "threads" else {}
outcomes = {"answered": 0, "closed": 0, "refused": 0}

def ask(address):
    try:
        with socket.create_connection(address, 30) as client:
            client.sendall(b"hello\\n")
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(100), b""))
            assert answer in (b"HELLO\\n", b""), answer
            return "answered" if answer else "closed"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        # Where the reset has come already, there is nothing to shut down.
        assert isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN, error
        return "closed"

def clients(address):
    while (outcome := ask(address)) != "refused":
        outcomes[outcome] += 1

def live():
    server = server_class(**attributes)(LOOPBACK, Handler)
    loop = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    loop.start()
    asking = [
        threading.Thread(target=clients, args=(server.server_address,), daemon=True)
        for _ in range(2)
    ]
    if FROM == "thread":
        # Closed before the loop begins, it would have nothing to serve: a ValueError.
        assert ask(server.server_address) == "answered"
    for thread in asking:
        thread.start()
    if FROM == "thread":
        time.sleep(chance.random() / 100)
        server.server_close()
    for thread in [loop, *asking]:
        thread.join(30)
        assert not thread.is_alive(), f"hangs: {thread}"
    server.server_close()

def count_descriptors():
    gc.collect()
    return len(os.listdir("/dev/fd"))

live()
before = count_descriptors()
for number in range(ROUNDS):
    live()
    say("round", number)
end = time.monotonic() + 20
while (
    (after := count_descriptors()) > before or len(threading.enumerate()) > 1
) and time.monotonic() < end:
    time.sleep(0.01)
say_json([before, after, len(threading.enumerate()), outcomes])
"""


@needs_proc
@pytest.mark.parametrize("origin", ["thread", "handler"])
@dispatches("inline", "threads", "greenlets")
def test_the_loop_ends_and_leaves_nothing(dispatch: str, origin: str, figures: Figures) -> None:
    source = f"FROM, ROUNDS = {origin!r}, {ROUNDS}\n{SOURCE}"
    with ServerProcess(source, "fastsocketserver", dispatch) as server:
        while (line := server.read_line()).startswith("round"):
            pass
        before, after, threads, outcomes = json.loads(line)
        assert (server.wait(), server.errors) == (0, "")
    assert (after, threads) == (before, 1)
    figures.note(
        f"server_close() while serving, from a {origin}, {dispatch}: rounds, "
        "answered, closed, hung",
        here=f"{ROUNDS}, {outcomes['answered']:,}, {outcomes['closed']:,}, 0",
    )
