"""Exceptions of every kind, from every hook of a handler and of a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from server_process import HERE, REFERENCE, ServerProcess, dispatches, needs_proc

if TYPE_CHECKING:
    from conftest import Figures

SOURCE = """
import errno, select, socket, time, warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)

class Odd(BaseException):
    pass

ERRORS = {
    "ValueError": ValueError, "OSError": OSError, "StopIteration": StopIteration,
    "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "Odd": Odd,
}
OF_HANDLER = ("__init__", "setup", "handle", "finish")
OF_SERVER = (
    "get_request", "verify_request", "process_request", "finish_request", "shutdown_request",
    "close_request", "service_actions", "handle_error",
)
# Where these raise, the request is closed here, and in the reference is not.
OPEN_IN_REFERENCE = ("verify_request", "handle_error")

def raising(base, place, error, armed):
    def hook(self, *args):
        if armed:
            armed.clear()
            raise error("on purpose")
        return getattr(super(cls, self), place)(*args)
    cls = type(base.__name__, (base,), {place: hook})
    return cls

def ask_first(address, loop):
    with socket.create_connection(address, 20) as client:
        answer = b""
        try:
            client.sendall(b"first\\n")
            client.shutdown(socket.SHUT_WR)
            while True:
                alive = loop.is_alive()
                if select.select([client], [], [], 0.01)[0]:
                    if not (data := client.recv(100)):
                        break
                    answer += data
                elif not alive:
                    break  # nobody will answer
        except OSError:
            pass  # closed already
        return answer.decode()

def ask_second(address, loop):
    try:
        client = socket.create_connection(address, 20)
    except ConnectionError:
        return "refused"
    with client:
        try:
            client.sendall(b"second\\n")
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if select.select([client], [], [], 0.005)[0]:
                try:
                    return client.recv(100).decode()
                except ConnectionError:
                    return "reset"
            if not loop.is_alive():
                return "the loop has ended"
        return "hangs"

def observe(place, error):
    handled, in_threads, outcome = [], [], []
    armed, failing = ["armed"], []
    handler, server_base = Upper, server_class()

    def handle_error(self, request, client_address):
        handled.append(sys.exc_info()[0].__name__)
    attributes = {"handle_error": handle_error}
    if place in OF_HANDLER:
        handler = raising(Upper, place, error, armed)
    elif place == "handle_error":
        failing = ["armed"]
        handler = raising(Upper, "handle", ValueError, failing)
        server_base = type("Server", (server_base,), attributes)
        attributes = {}
    elif place == "service_actions":
        armed.clear()
        class handler(Upper):
            def handle(self):
                super().handle()
                if DISPATCH != "forks" and not handled:
                    armed.append("armed")
                    handled.append("served")
    server_base = type("Server", (server_base,), attributes)
    if place in OF_SERVER:
        server_base = raising(server_base, place, error, armed)
    threading.excepthook = lambda args: in_threads.append(args.exc_type.__name__)
    server = server_base(LOOPBACK, handler)

    def run():
        try:
            server.serve_forever(0.02)
            outcome.append("returned")
        except BaseException as error:
            outcome.append(type(error).__name__)
    loop = threading.Thread(target=run, daemon=True)
    loop.start()
    if place in OPEN_IN_REFERENCE:
        client = socket.create_connection(server.server_address, 20)
        try:
            client.sendall(b"first\\n")
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already
        first = None
        # The other client must not be the first in its thread; in a child, nobody is seen to be.
        end = time.monotonic() + 20
        while (armed or failing) and DISPATCH != "forks" and time.monotonic() < end:
            time.sleep(0.001)
    else:
        client = None
        first = ask_first(server.server_address, loop)
    if place == "close_request" and DISPATCH == "forks":
        first = None  # the parent ends the connection while the child answers, or after that
    if place == "service_actions" and DISPATCH != "forks":
        loop.join(20)
    second = ask_second(server.server_address, loop)
    if second in ("refused", "reset", "the loop has ended"):
        second = "the loop has ended"
        loop.join(20)
    if loop.is_alive():
        server.shutdown()
        loop.join(20)
    server.server_close()
    if client is not None:
        client.close()
    return [first, second, outcome, handled, in_threads, loop.is_alive()]

# In a child a handler's SystemExit prints nothing, and others print what nobody reads here.
silent = os.open(os.devnull, os.O_WRONLY)
if DISPATCH == "forks":
    os.dup2(silent, 2)
for place in (*OF_HANDLER, *OF_SERVER):
    for name, error in ERRORS.items():
        say_json([place, name, observe(place, error)])
say_json(None)
"""


def observe(module: str, dispatch: str) -> dict[tuple[str, str], Any]:
    """Return what each case has led to: by the hook and the exception that it raises."""
    found = {}
    with ServerProcess(SOURCE, module, dispatch) as server:
        while (line := json.loads(server.read_line())) is not None:
            place, error, outcome = line
            found[place, error] = outcome
        assert server.wait() == 0, server.errors
    return found


@needs_proc
@dispatches()
def test_whatever_raises_has_the_reference_s_outcome(dispatch: str, figures: Figures) -> None:
    # There, all that greenlets do happens on the thread that serves, as with one at a time.
    expected = observe(REFERENCE, "inline" if dispatch == "greenlets" else dispatch)
    here = observe(HERE, dispatch)
    differing = {
        f"{error} from {place}": f"{expected[place, error]} there, {outcome} here"
        for (place, error), outcome in here.items()
        if outcome != expected[place, error]
    }
    assert differing == {}
    figures.note(
        f"exceptions from hooks, {dispatch}: same outcome", here=f"{len(here)} of {len(here)}"
    )
