"""`BaseRequestHandler`: what a handler is given, and the order of its three methods."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from conftest import serving
from peers import answer, ask, ask_once, question

if TYPE_CHECKING:
    from variants import Variant

pytestmark = pytest.mark.in_greenlets


def test_constructor_sets_the_attributes_and_runs_the_three_methods(ss: Variant) -> None:
    calls: list[str] = []

    class Handler(ss.BaseRequestHandler):
        def setup(self) -> None:
            assert (self.request, self.client_address, self.server) == ("r", "c", "s")
            calls.append("setup")

        def handle(self) -> None:
            calls.append("handle")

        def finish(self) -> None:
            calls.append("finish")

    handler = Handler("r", "c", "s")
    assert calls == ["setup", "handle", "finish"]
    assert vars(handler) == {"request": "r", "client_address": "c", "server": "s"}


def test_constructor_takes_its_arguments_by_name(ss: Variant) -> None:
    handler = ss.BaseRequestHandler(request=1, client_address=2, server=3)
    assert (handler.request, handler.client_address, handler.server) == (1, 2, 3)


def test_default_methods_do_nothing(ss: Variant) -> None:
    handler = ss.BaseRequestHandler(None, None, None)
    assert handler.setup() is handler.handle() is handler.finish() is None


def test_finish_runs_when_handle_raises(ss: Variant) -> None:
    calls: list[str] = []

    class Handler(ss.BaseRequestHandler):
        def handle(self) -> None:
            raise ArithmeticError("from handle")

        def finish(self) -> None:
            calls.append("finish")

    with pytest.raises(ArithmeticError, match="from handle"):
        Handler(None, None, None)
    assert calls == ["finish"]


def test_nothing_runs_after_a_setup_that_raises(ss: Variant) -> None:
    calls: list[str] = []

    class Handler(ss.BaseRequestHandler):
        def setup(self) -> None:
            raise ArithmeticError("from setup")

        def handle(self) -> None:
            calls.append("handle")

        def finish(self) -> None:
            calls.append("finish")

    with pytest.raises(ArithmeticError, match="from setup"):
        Handler(None, None, None)
    assert calls == []


def test_exception_of_finish_replaces_that_of_handle(ss: Variant) -> None:
    class Handler(ss.BaseRequestHandler):
        def handle(self) -> None:
            raise ArithmeticError("from handle")

        def finish(self) -> None:
            raise LookupError("from finish")

    with pytest.raises(LookupError, match="from finish") as caught:
        Handler(None, None, None)
    assert isinstance(caught.value.__context__, ArithmeticError)


def test_attributes_may_be_set_before_the_base_constructor(ss: Variant) -> None:
    class Handler(ss.BaseRequestHandler):
        def __init__(self, *args: Any) -> None:
            self.greeting = b"hello "
            super().__init__(*args)

        def handle(self) -> None:
            answer(self.request, self.client_address, self.greeting + question(self.request))

    with ss.TCPServer(("127.0.0.1", 0), Handler) as server:
        assert ask_once(server, b"you") == b"hello you"


def test_base_constructor_may_be_called_explicitly(ss: Variant) -> None:
    class Handler(ss.BaseRequestHandler):
        def __init__(self, request: Any, client_address: Any, server: Any) -> None:
            ss.BaseRequestHandler.__init__(self, request, client_address, server)
            self.request.sendall(b", then the rest")

        def handle(self) -> None:
            self.request.sendall(b"handled")

    with ss.TCPServer(("127.0.0.1", 0), Handler) as server:
        assert ask_once(server) == b"handled, then the rest"


@pytest.mark.parametrize("first", [True, False], ids=["base-first", "base-last"])
@pytest.mark.parametrize("base", ["BaseRequestHandler", "StreamRequestHandler"])
def test_handler_may_inherit_from_other_classes(ss: Variant, base: str, first: bool) -> None:
    class Greeter:
        def handle(self: Any) -> None:
            self.request.sendall(self["greeting"])

    bases = (Greeter, getattr(ss, base), dict) if first else (Greeter, dict, getattr(ss, base))

    def construct(self: Any, *args: Any) -> None:
        self["greeting"] = b"hello"
        getattr(ss, base).__init__(self, *args)

    handler = type("Handler", bases, {"__init__": construct})
    with ss.TCPServer(("127.0.0.1", 0), handler) as server:
        assert ask_once(server) == b"hello"


def test_handler_may_have_slots_and_properties(ss: Variant) -> None:
    class Handler(ss.BaseRequestHandler):
        __slots__ = ("seen",)

        @property
        def peer(self) -> Any:
            return self.client_address

        def handle(self) -> None:
            self.seen = question(self.request)
            answer(self.request, self.peer, self.seen)

    with ss.UDPServer(("127.0.0.1", 0), Handler) as server:
        assert ask_once(server, b"slots") == b"slots"


@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_handler_class_may_be_a_partial(ss: Variant, family: str) -> None:
    class Handler(ss.BaseRequestHandler):
        def __init__(self, *args: Any, suffix: bytes) -> None:
            self.suffix = suffix
            super().__init__(*args)

        def handle(self) -> None:
            answer(self.request, self.client_address, question(self.request) + self.suffix)

    factory = functools.partial(Handler, suffix=b"!")
    with getattr(ss, family)(("127.0.0.1", 0), factory) as server:
        assert ask_once(server, b"partial") == b"partial!"


@pytest.mark.parametrize("family", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_handler_class_may_be_a_lambda_called_with_three_positions(
    ss: Variant, family: str
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def handle(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        answer(args[0], args[1], b"seen")

    factory = lambda *args, **kwargs: handle(*args, **kwargs)  # noqa: E731
    server = getattr(ss, family)(("127.0.0.1", 0), factory)
    with serving(server, 0.01):
        assert ask(server) == b"seen"
    [(args, kwargs)] = calls
    assert len(args) == 3
    assert args[2] is server
    assert kwargs == {}


def test_handler_class_may_be_replaced_while_the_server_runs(ss: Variant) -> None:
    def later(request: Any, client_address: Any, server: Any) -> None:
        request.sendall(b"later")

    def first(request: Any, client_address: Any, server: Any) -> None:
        request.sendall(b"first")
        server.RequestHandlerClass = later

    server = ss.TCPServer(("127.0.0.1", 0), first)
    with serving(server, 0.01):
        assert [ask(server), ask(server)] == [b"first", b"later"]


def test_methods_replaced_on_the_handler_class_while_running_are_used(ss: Variant) -> None:
    class Handler(ss.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"first")

    def handle(self: Any) -> None:
        self.wfile.write(b"later")

    def finish(self: Any) -> None:
        self.wfile.write(b", finished")
        ss.StreamRequestHandler.finish(self)

    server = ss.TCPServer(("127.0.0.1", 0), Handler)
    with serving(server, 0.01):
        assert ask(server) == b"first"
        Handler.handle = handle
        Handler.finish = finish
        assert ask(server) == b"later, finished"
