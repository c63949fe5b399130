"""The module as programs see it: its names, classes, signatures, and what an instance holds."""

from __future__ import annotations

import gc
import inspect
import io
import os
import pickle
import selectors
import signal
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import trustme
from conftest import DEADLINE, serving, wait_until
from peers import TIMEOUT, answer, ask, ask_once, client, wait_for_single_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from variants import Variant

HOST = ("127.0.0.1", 0)
EVENT, FLAG = "_BaseServer__is_shut_down", "_BaseServer__shutdown_request"
CLASSES = [name for name in socketserver.__all__ if inspect.isclass(getattr(socketserver, name))]
FORKING_UNIX = {"ForkingUnixStreamServer", "ForkingUnixDatagramServer"}
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def greet(request: Any, client_address: Any, server: Any) -> None:
    """Answer a request."""
    answer(request, client_address, b"hello")


# --- names -----------------------------------------------------------------------------------


def test_every_name_of_the_running_versions_all_is_there(ss: Variant) -> None:
    assert set(socketserver.__all__) <= set(ss.module.__all__)
    assert len(set(ss.module.__all__)) == len(ss.module.__all__)
    for name in ss.module.__all__:
        assert hasattr(ss.module, name)


def test_every_public_name_of_the_running_version_is_there(ss: Variant) -> None:
    public = {name for name in dir(socketserver) if not name.startswith("_")}
    assert {name for name in public if not hasattr(ss.module, name)} == set()


def test_modules_that_the_module_holds(ss: Variant) -> None:
    module = ss.module
    assert module.BufferedIOBase is io.BufferedIOBase
    assert module.os is os
    assert module.selectors is selectors
    assert module.socket is socket
    assert module.sys is sys
    assert module.threading is threading
    assert module.time is time.monotonic


def test_private_names_in_public_use(ss: Variant) -> None:
    module = ss.module
    assert issubclass(module._ServerSelector, selectors.BaseSelector)
    assert module._ServerSelector is socketserver._ServerSelector
    assert issubclass(module._Threads, list)
    assert inspect.isclass(module._NoThreads)
    assert issubclass(module._SocketWriter, io.BufferedIOBase)
    assert callable(module.BaseServer._handle_request_noblock)


def test_star_import_gives_what_all_names(ss: Variant) -> None:
    names: dict[str, Any] = {}
    exec(f"from {ss.name} import *", names)
    assert set(ss.module.__all__) == set(names) - {"__builtins__"}


@FORK
def test_forking_unix_servers_follow_the_version(ss: Variant) -> None:
    expected = not ss.is_reference or sys.version_info >= (3, 12)
    for name in FORKING_UNIX:
        assert hasattr(ss.module, name) is expected
        assert (name in ss.module.__all__) is expected


def test_version_attribute(ss: Variant) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        version = ss.module.__version__
    assert isinstance(version, str)
    if sys.version_info >= (3, 15):
        assert [(w.category, w.filename) for w in caught] == [(DeprecationWarning, __file__)]
    else:
        assert caught == []


def test_unknown_name_is_an_attribute_error(ss: Variant) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ss.module.no_such_name


def test_public_names_that_belong_to_the_reference_equal_all() -> None:
    assert public_names_of(socketserver) == set(socketserver.__all__)


def test_names_when_it_stands_in_for_the_standard_module() -> None:
    program = """
        import fastsocketserver
        fastsocketserver.install()
        import socketserver

        assert socketserver.TCPServer is fastsocketserver.TCPServer
        for name in socketserver.__all__:
            value = getattr(socketserver, name)
            if isinstance(value, type):
                assert value.__module__ == "socketserver", (name, value.__module__)
        named = {
            name
            for name in dir(socketserver)
            if not name.startswith("_")
            and getattr(getattr(socketserver, name), "__module__", None) == "socketserver"
        }
        assert named == set(socketserver.__all__), named ^ set(socketserver.__all__)
    """
    run_python(program)


def test_http_server_runs_on_it_once_it_stands_in() -> None:
    program = """
        import threading, urllib.request
        import fastsocketserver
        fastsocketserver.install()
        import http.server

        assert issubclass(http.server.HTTPServer, fastsocketserver.TCPServer)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello")
            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def server_bind(self):
                fastsocketserver.TCPServer.server_bind(self)

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            url = "http://127.0.0.1:%d/" % server.server_address[1]
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.read() == b"hello"
            server.shutdown()
            thread.join(10)
    """
    run_python(program)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in 3.14")
def test_https_server_runs_on_it_once_it_stands_in(tmp_path: Path) -> None:
    program = """
        import http.server, ssl, sys, threading, urllib.request
        import fastsocketserver

        assert issubclass(http.server.HTTPSServer, fastsocketserver.TCPServer)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"hello")
            def log_message(self, *args):
                pass

        class Server(http.server.HTTPSServer):
            def server_bind(self):
                fastsocketserver.TCPServer.server_bind(self)

        authority, certificate = sys.argv[1:]
        with Server(("127.0.0.1", 0), Handler, certfile=certificate) as server:
            assert isinstance(server.socket, ssl.SSLSocket)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            url = "https://127.0.0.1:%d/" % server.server_address[1]
            context = ssl.create_default_context(cafile=authority)
            with urllib.request.urlopen(url, timeout=10, context=context) as response:
                assert response.read() == b"hello"
            server.shutdown()
            thread.join(10)
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    chain = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    chain.write_to_path(tmp_path / "certificate.pem")
    installed = "import fastsocketserver\nfastsocketserver.install()\n" + textwrap.dedent(program)
    run_python(installed, tmp_path / "authority.pem", tmp_path / "certificate.pem")


def public_names_of(module: Any) -> set[str]:
    """Return the public names of a module that say that they were defined there."""
    return {
        name
        for name in dir(module)
        if not name.startswith("_")
        and getattr(getattr(module, name), "__module__", None) == module.__name__
    }


def run_python(program: str, *arguments: Any) -> None:
    """Run a program in an interpreter of its own; fail with its output if it fails."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- classes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_ordinary_and_mutable(ss: Variant, name: str) -> None:
    cls = getattr(ss.module, name)
    assert type(cls) is type
    assert cls.__name__ == cls.__qualname__ == name
    assert cls.__flags__ & (1 << 9), "a class of Python, made on the heap"
    cls.added_by_a_test = 1
    assert cls.added_by_a_test == 1
    del cls.added_by_a_test


@pytest.mark.parametrize("name", CLASSES)
def test_bases_are_those_of_the_reference_in_order(ss: Variant, name: str) -> None:
    ours = [cls.__name__ for cls in getattr(ss.module, name).__mro__]
    expected = [cls.__name__ for cls in getattr(socketserver, name).__mro__]
    assert [cls for cls in ours if cls in expected] == expected


@pytest.mark.parametrize("name", [*CLASSES, "_SocketWriter", "_Threads", "_NoThreads"])
def test_signatures_are_those_of_the_running_version_but_for_what_may_be_left_out(
    ss: Variant, name: str
) -> None:
    cls, reference = getattr(ss.module, name), getattr(socketserver, name)
    methods = {
        method
        for method, value in inspect.getmembers(reference, inspect.isfunction)
        if not method.startswith("__") or method in {"__init__", "__enter__", "__exit__"}
    }
    for method in sorted(methods):
        own, expected = (bare(getattr(owner, method)) for owner in (cls, reference))
        added = list(own.parameters.values())[len(expected.parameters) :]
        assert all(parameter.default is not parameter.empty for parameter in added), method
        kept = [own.parameters[name] for name in expected.parameters]
        assert own.replace(parameters=kept) == expected, method
        assert (added != []) == (method == "shutdown" and not ss.is_reference), method
        assert not isinstance(inspect.getattr_static(cls, method), staticmethod)


@pytest.mark.parametrize("name", CLASSES)
def test_constructor_signatures_are_those_of_the_running_version(ss: Variant, name: str) -> None:
    reference = getattr(socketserver, name)
    assert bare(getattr(ss.module, name)) == bare(reference)


def bare(function: Any) -> inspect.Signature:
    """Return a signature without its annotations."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


@pytest.mark.parametrize("name", CLASSES)
def test_class_attributes_are_those_of_the_running_version(ss: Variant, name: str) -> None:
    cls, reference = getattr(ss.module, name), getattr(socketserver, name)
    for attribute in dir(reference):
        value = getattr(reference, attribute)
        if attribute.startswith("_") or callable(value) or attribute == "request_queue_size":
            continue
        assert getattr(cls, attribute) == value, attribute
        assert type(getattr(cls, attribute)) is type(value), attribute


def test_attributes_of_the_mixins(ss: Variant) -> None:
    threading_mixin = ss.ThreadingMixIn
    assert threading_mixin.daemon_threads is False
    assert threading_mixin.block_on_close is True
    assert type(threading_mixin._threads) is ss.module._NoThreads


@FORK
def test_attributes_of_the_forking_mixin(ss: Variant) -> None:
    forking = ss.ForkingMixIn
    assert forking.block_on_close is True
    assert (forking.timeout, forking.max_children) == (300, 40)
    assert forking.active_children is None


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_pickled_by_name(ss: Variant, name: str) -> None:
    cls = getattr(ss.module, name)
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_mixins_have_no_base(ss: Variant) -> None:
    for name in ("ThreadingMixIn", "ForkingMixIn"):
        if hasattr(ss.module, name):
            assert getattr(ss.module, name).__bases__ == (object,)


def test_public_methods_have_a_docstring(ss: Variant) -> None:
    for name in ("BaseServer", "TCPServer", "UDPServer", "BaseRequestHandler", "ThreadingMixIn"):
        assert getattr(ss.module, name).__doc__


# --- subclasses ------------------------------------------------------------------------------


class Plain:
    """A class of a program, with an attribute and nothing to do with servers."""

    plain = "plain"


ODD_BASES: dict[str, tuple[type, ...]] = {
    "plain": (Plain,),
    "dict": (dict,),
    "exception": (Exception,),
    "thread": (threading.Thread,),
    "slots": (type("Slots", (), {"__slots__": ("one", "two")}),),
    "two": (type("Other", (Plain,), {}), Plain),
}


@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
@pytest.mark.parametrize("odd", sorted(ODD_BASES))
@pytest.mark.parametrize("server_first", [True, False])
def test_servers_mix_with_arbitrary_classes(
    ss: Variant, family: str, odd: str, server_first: bool
) -> None:
    server_base = getattr(ss, family)
    bases = (server_base, *ODD_BASES[odd]) if server_first else (*ODD_BASES[odd], server_base)

    def construct(self: Any) -> None:
        if odd == "thread":
            threading.Thread.__init__(self)
        server_base.__init__(self, HOST, greet)

    names = {"__init__": construct, "__hash__": object.__hash__}
    with type("Server", bases, names)() as server:
        assert ask_once(server) == b"hello"


def test_thread_that_is_a_server(ss: Variant) -> None:
    class Server(threading.Thread, ss.TCPServer):
        def __init__(self) -> None:
            ss.TCPServer.__init__(self, HOST, greet)
            threading.Thread.__init__(self)

        def run(self) -> None:
            self.serve_forever(0.01)

    with Server() as server:
        server.start()
        assert ask(server) == b"hello"
        server.shutdown()
        server.join(DEADLINE)
        assert not server.is_alive()


@pytest.mark.parametrize(
    ("first", "second", "socket_type"),
    [
        ("UDPServer", "TCPServer", socket.SOCK_DGRAM),
        ("ThreadingTCPServer", "TCPServer", socket.SOCK_STREAM),
        ("ThreadingTCPServer", "ThreadingUDPServer", socket.SOCK_DGRAM),
    ],
)
def test_diamonds_of_two_server_classes(
    ss: Variant, first: str, second: str, socket_type: int
) -> None:
    server_class = type("Diamond", (getattr(ss, first), getattr(ss, second)), {})
    server = server_class(HOST, greet)
    assert server.socket.type == socket_type
    with serving(server, 0.01):
        assert ask(server) == b"hello"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
def test_diamond_of_two_families(ss: Variant) -> None:
    class Diamond(ss.UnixStreamServer, ss.ThreadingTCPServer):
        pass

    with Diamond("", greet) as server:
        assert ask_once(server) == b"hello"


@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_class_between_a_server_and_the_base_is_not_in_the_way(ss: Variant, family: str) -> None:
    """Servers construct and close themselves without asking the next class in line."""

    class Between(ss.module.BaseServer):
        def __init__(self) -> None:
            pytest.fail("not a server's to call")

        def server_close(self) -> None:
            pytest.fail("not a server's to call")

    class Server(getattr(ss, family), Between):
        pass

    with Server(HOST, greet) as server:
        assert ask_once(server) == b"hello"
    assert server.fileno() == -1


def test_mixin_added_to_a_running_programs_class(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TCPServer.process_request = ThreadingMixIn.process_request`, as patches do."""

    class Server(ss.TCPServer):
        pass

    for name in ("process_request", "process_request_thread"):
        monkeypatch.setattr(Server, name, vars(ss.module.ThreadingMixIn)[name], raising=False)
    for name in ("daemon_threads", "block_on_close", "_threads"):
        monkeypatch.setattr(Server, name, getattr(ss.module.ThreadingMixIn, name), raising=False)
    names: list[int] = []
    with Server(HOST, lambda *args: names.append(threading.get_ident())) as server:
        ask_once(server)
        for thread in server._threads:
            thread.join(DEADLINE)
    assert names != [threading.get_ident()]


def test_subclass_with_its_own_attributes_and_getattr(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"asked for {name}")

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

    server = Server(HOST, greet)
    with serving(server, 0.01):
        assert ask(server) == b"hello"


# --- instances -------------------------------------------------------------------------------

TCP_STATE = {"RequestHandlerClass", "server_address", "socket", EVENT, FLAG}


@pytest.mark.parametrize(
    "family", ["TCPServer", "UDPServer", "ThreadingTCPServer", "ThreadingUDPServer"]
)
@pytest.mark.parametrize("bind_and_activate", [True, False])
def test_instance_dictionary_after_construction(
    ss: Variant, family: str, bind_and_activate: bool
) -> None:
    with getattr(ss, family)(HOST, greet, bind_and_activate) as server:
        state = vars(server)
        assert set(state) == TCP_STATE
        assert state["RequestHandlerClass"] is greet
        assert type(state["socket"]) is socket.socket
        assert isinstance(state[EVENT], threading.Event)
        assert not state[EVENT].is_set()
        assert state[FLAG] is False


@FORK
def test_instance_dictionary_of_a_forking_server(ss: Variant) -> None:
    with ss.ForkingTCPServer(HOST, greet) as server:
        assert set(vars(server)) == TCP_STATE


def test_instance_dictionary_of_a_base_server(ss: Variant) -> None:
    assert set(vars(ss.BaseServer(HOST, greet))) == TCP_STATE - {"socket"}


@pytest.mark.parametrize("run", ["handle_request", "serve_forever"])
def test_instance_dictionary_after_serving(ss: Variant, run: str) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        server._BaseServer__shutdown_request = True

    with ss.TCPServer(HOST, handle) as server, client(server):
        getattr(server, run)()
        assert set(vars(server)) - {"_core_engine"} == TCP_STATE
        assert vars(server)[FLAG] is (run == "handle_request")


def test_private_names_are_none_that_programs_have(ours: Variant) -> None:
    """Those that the reference does not have: a program's class has an `_engine` of its own."""
    for name in ours.module.__all__:
        cls, known = getattr(ours.module, name), dir(getattr(socketserver, name, object))
        private = [attribute for attribute in dir(cls) if attribute.startswith("_")]
        mangled = tuple(f"_{base.__name__}__" for base in cls.__mro__)
        assert [
            attribute
            for attribute in set(private).difference(known, dir(object))
            if not attribute.startswith(("__", "_core_", "_threads", *mangled))
            and attribute not in dir(socketserver.ThreadingTCPServer)
        ] == []


def test_threads_appear_with_the_first_threaded_request(ss: Variant) -> None:
    with ss.ThreadingTCPServer(HOST, greet) as server:
        assert "_threads" not in vars(server)
        assert ask_once(server) == b"hello"
        assert set(vars(server)) - {"_core_engine"} == {*TCP_STATE, "_threads"}
        assert type(server._threads) is ss.module._Threads


def test_threads_do_not_appear_without_block_on_close(ss: Variant) -> None:
    with ss.ThreadingTCPServer(HOST, greet) as server:
        server.block_on_close = False
        assert ask_once(server) == b"hello"
        assert "_threads" not in vars(server)


def test_finished_threads_are_reaped_and_running_ones_kept(ss: Variant) -> None:
    threads: list[threading.Thread] = []
    release = threading.Event()

    def handle(request: Any, client_address: Any, server: Any) -> None:
        threads.append(threading.current_thread())
        if len(threads) == 3:
            release.wait(DEADLINE)

    with ss.ThreadingTCPServer(HOST, handle) as server:
        for _ in range(2):
            ask_once(server)
            wait_until(lambda: not threads[-1].is_alive(), "the request's thread to end")
        with client(server):
            server.handle_request()
            wait_until(lambda: len(threads) == 3, "the third request to start")
            assert list(server._threads) == [threads[2]]
            release.set()


def test_daemon_threads_are_not_tracked(ss: Variant) -> None:
    threads: list[threading.Thread] = []
    release = threading.Event()

    def handle(request: Any, client_address: Any, server: Any) -> None:
        threads.append(threading.current_thread())
        release.wait(DEADLINE)

    with ss.ThreadingTCPServer(HOST, handle) as server, client(server):
        server.daemon_threads = True
        server.handle_request()
        wait_until(lambda: threads, "the request to start")
        assert threads[0].daemon
        assert list(vars(server)["_threads"]) == []
        release.set()
        threads[0].join(DEADLINE)


def test_server_close_waits_for_threads(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        wait_until(lambda: server.fileno() == -1, "server_close() to begin")
        finished.append(True)

    finished: list[bool] = []
    with client_of(ss.ThreadingTCPServer(HOST, handle)) as server:
        server.handle_request()
        server.server_close()
        assert finished == [True]


@FORK
def test_server_close_waits_for_children(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        release, ready = server.pipes
        os.close(ready)
        os.read(release, 1)

    wait_for_single_thread()
    with client_of(ss.ForkingTCPServer(HOST, handle)) as server:
        server.pipes = os.pipe()
        server.handle_request()
        [child] = server.active_children
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        for descriptor in server.pipes:
            os.close(descriptor)
        server.server_close()
        assert server.active_children == set()
        with pytest.raises(ChildProcessError):
            os.waitpid(child, 0)


class client_of:
    """Connect a client to a server for the length of a block, then close both."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.sock = socket.create_connection(server.server_address, TIMEOUT)

    def __enter__(self) -> Any:
        return self.server

    def __exit__(self, *args: object) -> None:
        self.sock.close()
        self.server.server_close()


def test_servers_compare_and_hash_by_identity(ss: Variant) -> None:
    one, two = ss.BaseServer(HOST, greet), ss.BaseServer(HOST, greet)
    assert one != two
    assert len({one, two, one}) == 2


# --- the two flags ---------------------------------------------------------------------------


def test_handler_stops_the_server_through_the_flag(ss: Variant) -> None:
    def handle(request: Any, client_address: Any, server: Any) -> None:
        server._BaseServer__shutdown_request = True
        seen.append(vars(server)[FLAG])

    seen: list[bool] = []
    with ss.TCPServer(HOST, handle) as server, client(server):
        server.serve_forever(60)
        assert seen == [True]
        assert vars(server)[FLAG] is False
        assert vars(server)[EVENT].is_set()


def test_service_actions_stop_the_server_through_the_flag(ss: Variant) -> None:
    class Server(ss.TCPServer):
        rounds = 0

        def service_actions(self) -> None:
            self.rounds += 1
            if self.rounds == 3:
                vars(self)[FLAG] = True

    with Server(HOST, greet) as server:
        server.serve_forever(0.01)
        assert server.rounds == 3


def test_other_thread_stops_the_server_through_the_flag(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        assert ask(server) == b"hello"
        server._BaseServer__shutdown_request = True
        thread.join(DEADLINE)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals for threads")
def test_signal_handler_stops_the_server_through_the_flag(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:

        def stop(*args: Any) -> None:
            server._BaseServer__shutdown_request = True

        def send() -> None:
            assert ask(server) == b"hello"
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        previous = signal.signal(signal.SIGUSR1, stop)
        try:
            thread = threading.Thread(target=send)
            thread.start()
            server.serve_forever(0.01)
            thread.join(DEADLINE)
        finally:
            signal.signal(signal.SIGUSR1, previous)


def test_flag_set_before_serving_ends_the_loop_at_once(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        server._BaseServer__shutdown_request = True
        server.service_actions = lambda: pytest.fail("the loop went round")
        server.serve_forever(60)
        assert server._BaseServer__shutdown_request is False


def test_event_is_clear_while_serving_and_set_afterwards(ss: Variant) -> None:
    states: list[bool] = []

    def handle(request: Any, client_address: Any, server: Any) -> None:
        states.append(vars(server)[EVENT].is_set())

    server = ss.TCPServer(HOST, handle)
    event = vars(server)[EVENT]
    event.set()
    with serving(server, 0.01):
        ask(server)
        assert not event.wait(0)
        server._BaseServer__shutdown_request = True
        assert event.wait(DEADLINE)
    assert states == [False]
    assert vars(server)[EVENT] is event


def test_event_set_by_hand_lets_shutdown_return(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        server._BaseServer__is_shut_down.set()
        server.shutdown()
        assert server._BaseServer__shutdown_request is True


def test_event_cleared_by_hand_makes_shutdown_wait(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        server._BaseServer__is_shut_down.set()
        server._BaseServer__is_shut_down.clear()
        thread = threading.Thread(target=server.shutdown)
        thread.start()
        wait_until(lambda: vars(server)[FLAG], "the request to be noted")
        assert thread.is_alive()
        server._BaseServer__is_shut_down.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_event_may_be_replaced(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        mine = server._BaseServer__is_shut_down = threading.Event()
        server._BaseServer__shutdown_request = True
        server.serve_forever(0.01)
        assert mine.is_set()


# --- without the base constructor ------------------------------------------------------------


class Fake:
    """A request with only what programs give it that call `finish_request` by hand."""

    def __init__(self, data: bytes = b"question\n") -> None:
        self.data = data
        self.sent = b""
        self.calls: list[Any] = []

    def makefile(self, *args: Any) -> io.BytesIO:
        return io.BytesIO(self.data)

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)

    def settimeout(self, timeout: float) -> None:
        self.calls.append(("settimeout", timeout))

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")

    def close(self) -> None:
        self.calls.append("close")


def upper(ss: Variant) -> type:
    """Return a stream handler that answers a line in capitals."""

    class Upper(ss.StreamRequestHandler):
        timeout = 5

        def handle(self) -> None:
            self.wfile.write(self.rfile.readline().upper())

    return Upper


def test_finish_request_by_hand_after_the_base_constructor_alone(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def __init__(self) -> None:
            ss.module.BaseServer.__init__(self, ("made up", 0), upper(ss))

    server, fake = Server(), Fake()
    server.finish_request(fake, ("nobody", 0))
    assert fake.sent == b"QUESTION\n"
    assert fake.calls == [("settimeout", 5)]


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
def test_process_request_by_hand_after_the_base_constructor_alone(ss: Variant, family: str) -> None:
    class Server(getattr(ss, family)):
        def __init__(self) -> None:
            ss.module.BaseServer.__init__(self, ("made up", 0), upper(ss))

    server, fake = Server(), Fake()
    server.process_request(fake, ("nobody", 0))
    wait_until(lambda: "close" in fake.calls, "the request to be closed")
    assert fake.sent == b"QUESTION\n"
    assert fake.calls == [("settimeout", 5), "shutdown", "close"]


@pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer", "UDPServer"])
def test_subclass_that_never_calls_the_base_constructor(ss: Variant, family: str) -> None:
    class Server(getattr(ss, family)):
        def __init__(self) -> None:
            self.RequestHandlerClass = greet
            self.socket = socket.socket(self.address_family, self.socket_type)
            self.server_address = HOST
            self.server_bind()
            self.server_activate()

    with Server() as server:
        assert ask_once(server) == b"hello"
        with client(server) as sock:
            sock.send(b"")
            server._handle_request_noblock()
            assert sock.recv(100) == b"hello"
        assert FLAG not in vars(server)
        assert EVENT not in vars(server)


def test_serve_forever_without_the_base_constructor_lacks_the_event(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def __init__(self) -> None:
            self.socket = socket.create_server(HOST)

    with Server() as server, pytest.raises(AttributeError, match="is_shut_down"):
        server.serve_forever()


def test_serve_forever_with_the_two_flags_set_by_hand(ss: Variant) -> None:
    class Server(ss.TCPServer):
        def __init__(self) -> None:
            self.socket = socket.create_server(HOST)
            self.RequestHandlerClass = greet
            self._BaseServer__is_shut_down = threading.Event()
            self._BaseServer__shutdown_request = False

    server = Server()
    with serving(server, 0.01):
        assert ask(server) == b"hello"


def test_object_made_without_any_constructor(ss: Variant) -> None:
    server = ss.TCPServer.__new__(ss.TCPServer)
    assert vars(server) == {}
    server.RequestHandlerClass = upper(ss)
    fake = Fake()
    server.process_request(fake, None)
    assert fake.sent == b"QUESTION\n"
    server.socket = socket.create_server(HOST)
    with server:
        assert server.fileno() == server.socket.fileno()


# --- private helpers -------------------------------------------------------------------------


def test_server_selector_may_be_replaced(ss: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    class Selector(selectors.SelectSelector):
        def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
            registered.append((fileobj, events))
            return super().register(fileobj, events, data)

        def select(self, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return super().select(timeout)

        def close(self) -> None:
            closed.append(self)
            super().close()

    registered: list[Any] = []
    waits: list[Any] = []
    closed: list[Any] = []
    monkeypatch.setattr(ss.module, "_ServerSelector", Selector)
    server = ss.TCPServer(HOST, greet)
    with serving(server, 0.01):
        assert ask(server) == b"hello"
    assert registered == [(server, selectors.EVENT_READ)]
    assert set(waits) == {0.01}
    assert len(closed) == 1


def test_server_selector_is_used_by_handle_request(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Selector(ss.module._ServerSelector):
        def select(self, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return super().select(timeout)

    waits: list[Any] = []
    monkeypatch.setattr(ss.module, "_ServerSelector", Selector)
    with ss.TCPServer(HOST, greet) as server:
        assert ask_once(server) == b"hello"
        server.timeout = 30
        assert ask_once(server) == b"hello"
    assert waits == [None, 30]


def test_early_return_of_the_selector_is_not_a_timeout(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Selector(ss.module._ServerSelector):
        def select(self, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return [] if len(waits) < 3 else super().select(timeout)

    waits: list[Any] = []
    monkeypatch.setattr(ss.module, "_ServerSelector", Selector)
    with ss.TCPServer(HOST, greet) as server:
        server.timeout = 30
        server.handle_timeout = lambda: pytest.fail("30 s have not passed")
        assert ask_once(server) == b"hello"
    assert len(waits) == 3
    assert waits[0] == 30 > waits[1] >= waits[2] > 0


def test_socket_writer_writes_with_sendall(ss: Variant) -> None:
    fake = Fake()
    fake.fileno = lambda: 77
    writer = ss.module._SocketWriter(fake)
    assert writer.write(b"abc") == 3
    assert writer.write(memoryview(bytearray(b"def"))) == 3
    assert fake.sent == b"abcdef"
    assert writer.writable()
    assert writer.fileno() == 77
    assert writer.flush() is None
    assert not writer.closed
    writer.close()
    assert writer.closed
    assert fake.calls == []


def test_socket_writer_gives_the_very_object_to_sendall(ss: Variant) -> None:
    given: list[Any] = []
    fake = Fake()
    fake.sendall = given.append
    data = bytearray(b"abc")
    ss.module._SocketWriter(fake).write(data)
    assert given[0] is data


def test_socket_writer_may_be_patched(ss: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    original = ss.module._SocketWriter.write

    def write(self: Any, data: Any) -> int:
        written.append(bytes(data))
        return original(self, data)

    monkeypatch.setattr(ss.module._SocketWriter, "write", write)
    with ss.TCPServer(HOST, upper(ss)) as server:
        assert ask_once(server, b"line\n") == b"LINE\n"
    assert written == [b"LINE\n"]


def test_socket_writer_may_be_subclassed(ss: Variant) -> None:
    class Prefixing(ss.module._SocketWriter):
        def write(self, data: Any) -> int:
            return super().write(b"> " + data)

    fake = Fake()
    assert Prefixing(fake).write(b"abc") == 5
    assert fake.sent == b"> abc"


def test_threads_list(ss: Variant) -> None:
    release = threading.Event()
    daemon = threading.Thread(target=release.wait, daemon=True)
    ended, running = threading.Thread(), threading.Thread(target=release.wait)
    threads = ss.module._Threads()
    assert threads == []
    ended.start()
    ended.join(DEADLINE)
    for thread in (daemon, running):
        thread.start()
    threads.append(daemon)
    assert list(threads) == []
    threads.append(ended)
    threads.append(running)
    assert list(threads) == [running], "what has ended is reaped by the next append"
    assert threads.pop_all() == [running]
    assert list(threads) == []
    threads.append(running)
    release.set()
    threads.join()
    assert not running.is_alive()
    assert list(threads) == []
    daemon.join(DEADLINE)


def test_threads_list_reaps_on_demand(ss: Variant) -> None:
    threads = ss.module._Threads()
    thread = threading.Thread()
    thread.start()
    threads.append(thread)
    thread.join(DEADLINE)
    threads.reap()
    assert list(threads) == []


def test_no_threads(ss: Variant) -> None:
    none = ss.module._NoThreads()
    assert none.append(threading.Thread()) is None
    assert none.join() is None


def test_threads_object_may_be_given_by_a_program(ss: Variant) -> None:
    class Counting(ss.module._Threads):
        appended = 0

        def append(self, thread: threading.Thread) -> None:
            type(self).appended += 1
            assert isinstance(thread, threading.Thread)
            super().append(thread)

    with ss.ThreadingTCPServer(HOST, greet) as server:
        server._threads = Counting()
        assert [ask_once(server), ask_once(server)] == [b"hello", b"hello"]
    assert Counting.appended == 2


# --- patched modules -------------------------------------------------------------------------


def test_socket_module_may_be_mocked(ss: Variant) -> None:
    with mock.patch.object(ss.module, "socket") as fake:
        listener = fake.socket.return_value
        listener.getsockname.return_value = ("mocked", 1)
        server = ss.TCPServer(("somewhere", 0), greet)
        assert server.socket is listener
        assert server.server_address == ("mocked", 1)
        fake.socket.assert_called_once_with(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind.assert_called_once_with(("somewhere", 0))
        listener.listen.assert_called_once_with(ss.module.TCPServer.request_queue_size)
        server.server_close()
        listener.close.assert_called_once_with()


def test_get_request_of_a_mocked_socket(ss: Variant) -> None:
    with mock.patch.object(ss.module, "socket") as fake:
        server = ss.TCPServer(("somewhere", 0), greet)
        fake.socket.return_value.accept.return_value = ("request", "address")
        assert server.get_request() == ("request", "address")
        datagram = ss.UDPServer(("somewhere", 0), greet)
        fake.socket.return_value.recvfrom.return_value = (b"data", "address")
        assert datagram.get_request() == ((b"data", datagram.socket), "address")
        fake.socket.return_value.recvfrom.assert_called_with(8192)


def test_request_from_a_mocked_socket_is_handled(ss: Variant) -> None:
    request = mock.Mock()
    with mock.patch.object(ss.module, "socket") as fake:
        server = ss.TCPServer(("somewhere", 0), greet)
        fake.socket.return_value.accept.return_value = (request, "address")
        server._handle_request_noblock()
    assert [call[0] for call in request.method_calls] == ["sendall", "shutdown", "close"]


def test_socket_class_of_the_module_may_be_replaced(
    ss: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener(socket.socket):
        made = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            type(self).made += 1
            super().__init__(*args, **kwargs)

    class Patched:
        """The socket module, but for one class."""

        socket = Listener

        def __getattr__(self, name: str) -> Any:
            return getattr(socket, name)

    monkeypatch.setattr(ss.module, "socket", Patched())
    with ss.TCPServer(HOST, greet) as server:
        assert type(server.socket) is Listener
        assert Listener.made == 1
        assert ask_once(server) == b"hello"


@FORK
def test_os_module_may_be_mocked(ss: Variant) -> None:
    request = mock.Mock()
    with mock.patch.object(ss.module, "os") as fake:
        fake.fork.return_value = 1234567
        server = ss.ForkingTCPServer(HOST, greet, bind_and_activate=False)
        server.process_request(request, "address")
        assert server.active_children == {1234567}
        assert [call[0] for call in request.method_calls] == ["close"]
        fake.waitpid.return_value = (1234567, 0)
        server.server_close()
        fake.waitpid.assert_called_with(1234567, 0)
        assert server.active_children == set()


@FORK
def test_mocked_fork_that_plays_the_child(ss: Variant) -> None:
    class Exit(BaseException):
        pass

    request = mock.Mock()
    with mock.patch.object(ss.module, "os") as fake:
        fake.fork.return_value = 0
        fake._exit.side_effect = Exit
        server = ss.ForkingTCPServer(HOST, greet, bind_and_activate=False)
        with pytest.raises(Exit):
            server.process_request(request, "address")
        fake._exit.assert_called_once_with(0)
    assert [call[0] for call in request.method_calls] == ["sendall", "shutdown", "close"]
    server.server_close()


def test_method_of_an_instance_may_be_mocked(ss: Variant) -> None:
    with ss.TCPServer(HOST, greet) as server:
        with mock.patch.object(server, "finish_request") as finish_request:
            assert ask_once(server) == b""
        assert finish_request.call_count == 1
        assert ask_once(server) == b"hello"


# --- freed without the cycle collector -------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch the cycle collector off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
class TestFreedWithoutTheCollector:
    """What the reference frees by counting references alone."""

    @pytest.mark.parametrize("run", [None, "handle_request", "serve_forever"])
    @pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
    def test_server_and_its_socket(self, ss: Variant, family: str, run: str | None) -> None:
        def handle(request: Any, client_address: Any, server: Any) -> None:
            server._BaseServer__shutdown_request = True

        server = getattr(ss, family)(HOST, handle)
        freed = [weakref.ref(server), weakref.ref(server.socket)]
        if run:
            with client(server) as sock:
                sock.send(b"")
                getattr(server, run)(*([0.01] if run == "serve_forever" else []))
        server.server_close()
        del server
        wait_until(lambda: [ref() for ref in freed] == [None, None], "the server to be freed")

    def test_server_that_was_served_in_a_thread(self, ss: Variant) -> None:
        server = ss.TCPServer(HOST, greet)
        freed = weakref.ref(server)
        with serving(server, 0.01):
            assert ask(server) == b"hello"
        del server
        wait_until(lambda: freed() is None, "the server to be freed")

    def test_server_whose_construction_fails(self, ss: Variant) -> None:
        class Server(ss.TCPServer):
            def server_activate(self) -> None:
                made.append(weakref.ref(self))
                raise OSError("no")

        made: list[Any] = []
        with pytest.raises(OSError, match="no"):
            Server(HOST, greet)
        assert made[0]() is None

    @pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer", "UDPServer"])
    @pytest.mark.parametrize("fails", [False, True])
    def test_handler_after_its_request(self, ss: Variant, family: str, fails: bool) -> None:
        class Handler(ss.BaseRequestHandler):
            def handle(self) -> None:
                freed.append(weakref.ref(self))
                if not isinstance(self.request, tuple):
                    freed.append(weakref.ref(self.request))
                if fails:
                    raise ArithmeticError("from the handler")

        class Server(getattr(ss, family)):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        freed: list[Any] = []
        with Server(HOST, Handler) as server:
            with client(server) as sock:
                sock.send(b"")
                server.handle_request()
            wait_until(lambda: freed and not any(ref() for ref in freed), "the handler to be freed")

    @pytest.mark.parametrize("family", ["TCPServer", "ThreadingTCPServer"])
    def test_handler_while_the_server_goes_on(self, ss: Variant, family: str) -> None:
        class Handler(ss.StreamRequestHandler):
            def handle(self) -> None:
                self.line = self.rfile.readline()
                self.wfile.write(self.line)
                freed.extend(weakref.ref(each) for each in (self, self.request, self.rfile))

        freed: list[Any] = []
        server = getattr(ss, family)(HOST, Handler)
        with serving(server, 0.01):
            assert ask(server, b"line\n") == b"line\n"
            wait_until(lambda: not any(ref() for ref in freed), "the handler to be freed")
        assert len(freed) == 3
