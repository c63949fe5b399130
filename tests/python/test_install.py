"""Standing in for the standard library's module, and leaving its place again.

Each test is a program of its own, for what it does concerns the whole process.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest
from test_serve_command import Command, Outcome

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def run(folder: Path, source: str, *options: str) -> Outcome:
    """Run a program; warnings are errors unless the options say otherwise."""
    (folder / "program.py").write_text(textwrap.dedent(source))
    with Command(*options, "program.py", cwd=folder) as command:
        return command.wait()


def check(folder: Path, source: str) -> None:
    """Run a program that has nothing to say unless something is wrong."""
    assert run(folder, source) == (0, "", "")


# The place in sys.modules


def test_import_alone_installs_nothing(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import sys
        import fastsocketserver

        assert "socketserver" not in sys.modules
        import socketserver
        assert socketserver is not fastsocketserver
        assert not issubclass(fastsocketserver.BaseServer, socketserver.BaseServer)
        """,
    )


def test_install_and_uninstall(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver

        assert fastsocketserver.install() is None
        import socketserver
        assert socketserver is fastsocketserver
        from socketserver import TCPServer
        assert TCPServer is fastsocketserver.TCPServer

        assert fastsocketserver.uninstall() is None
        import socketserver
        assert socketserver is not fastsocketserver
        assert socketserver.TCPServer is not TCPServer
        """,
    )


def test_uninstall_restores_the_very_module(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import sys
        import socketserver as original
        import fastsocketserver

        contents = dict(vars(original))
        for _ in range(3):
            fastsocketserver.install()
            assert sys.modules["socketserver"] is fastsocketserver
            fastsocketserver.uninstall()
            assert sys.modules["socketserver"] is original
        assert vars(original) == contents
        """,
    )


def test_install_twice_is_undone_by_one_uninstall(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import sys
        import socketserver as original
        import fastsocketserver

        fastsocketserver.install()
        fastsocketserver.install()
        assert sys.modules["socketserver"] is fastsocketserver
        fastsocketserver.uninstall()
        assert sys.modules["socketserver"] is original
        """,
    )


def test_uninstall_twice_is_the_same_as_once(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import sys
        import fastsocketserver

        fastsocketserver.uninstall()
        assert "socketserver" not in sys.modules
        fastsocketserver.install()
        fastsocketserver.uninstall()
        fastsocketserver.uninstall()
        assert "socketserver" not in sys.modules

        import socketserver as original
        fastsocketserver.uninstall()
        assert sys.modules["socketserver"] is original
        """,
    )


def test_module_of_another_kind_is_restored(tmp_path: Path) -> None:
    """A test's stand-in, for one, which need not have the names of the original."""
    check(
        tmp_path,
        """
        import sys, types
        import fastsocketserver

        stand_in = sys.modules["socketserver"] = types.ModuleType("socketserver")
        fastsocketserver.install()
        assert sys.modules["socketserver"] is fastsocketserver
        fastsocketserver.uninstall()
        assert sys.modules["socketserver"] is stand_in
        """,
    )


def test_module_that_has_displaced_the_package_is_left(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import sys, types
        import fastsocketserver

        fastsocketserver.install()
        other = sys.modules["socketserver"] = types.ModuleType("socketserver")
        fastsocketserver.uninstall()
        assert sys.modules["socketserver"] is other
        """,
    )


# What the classes say of themselves


def test_module_of_the_public_classes(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver

        def check(name):
            said = {
                public: getattr(value, "__module__", None)
                for public, value in vars(fastsocketserver).items()
                if not public.startswith("_")
            }
            assert {public for public in said if said[public] == name} == set(
                fastsocketserver.__all__
            ), (name, said)

        check("fastsocketserver")
        fastsocketserver.install()
        check("socketserver")
        fastsocketserver.install()
        check("socketserver")
        fastsocketserver.uninstall()
        check("fastsocketserver")
        fastsocketserver.uninstall()
        check("fastsocketserver")
        """,
    )


def test_classes_can_be_pickled_by_name(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import pickle
        import fastsocketserver

        for name in (b"fastsocketserver", b"socketserver"):
            for public in fastsocketserver.__all__:
                cls = getattr(fastsocketserver, public)
                pickled = pickle.dumps(cls)
                assert pickle.loads(pickled) is cls
                assert (b"fastsocketserver" in pickled) is (name == b"fastsocketserver")
            fastsocketserver.install()
        """,
    )


def test_derived_classes_keep_their_bases(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver

        fastsocketserver.install()
        import socketserver

        class Server(socketserver.TCPServer):
            pass

        fastsocketserver.uninstall()
        import socketserver
        assert Server.__bases__ == (fastsocketserver.TCPServer,)
        assert not issubclass(Server, socketserver.TCPServer)
        """,
    )


# The modules of the standard library that stand on it


def test_http_server(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver
        fastsocketserver.install()

        import socket, threading, urllib.request
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(self.path.upper().encode())

            def log_message(self, *args):
                pass

        assert issubclass(ThreadingHTTPServer, fastsocketserver.ThreadingMixIn)
        assert issubclass(ThreadingHTTPServer, fastsocketserver.TCPServer)
        assert issubclass(Handler, fastsocketserver.StreamRequestHandler)
        socket.getfqdn = str  # looks for a name server
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            loop = threading.Thread(target=server.serve_forever)
            loop.start()
            url = f"http://127.0.0.1:{server.server_port}/path"
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.read() == b"/PATH"
            server.shutdown()
            loop.join()
        """,
    )


def test_xmlrpc_server(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver
        fastsocketserver.install()

        import threading
        from xmlrpc.client import Fault, ServerProxy
        from xmlrpc.server import SimpleXMLRPCServer

        assert issubclass(SimpleXMLRPCServer, fastsocketserver.TCPServer)
        with SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
            server.register_function(pow)
            loop = threading.Thread(target=server.serve_forever)
            loop.start()
            with ServerProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
                assert proxy.pow(2, 10) == 1024
                try:
                    proxy.pow("2", 10)
                except Fault as fault:
                    assert "TypeError" in fault.faultString
                else:
                    assert False, "no fault"
            server.shutdown()
            loop.join()
        """,
    )


def test_wsgiref_simple_server(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver
        fastsocketserver.install()

        import socket, threading, urllib.request
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, demo_app, make_server

        class Handler(WSGIRequestHandler):
            def log_message(self, *args):
                pass

        assert issubclass(WSGIServer, fastsocketserver.TCPServer)
        socket.getfqdn = str  # looks for a name server
        with make_server("127.0.0.1", 0, demo_app, handler_class=Handler) as server:
            loop = threading.Thread(target=server.serve_forever)
            loop.start()
            url = f"http://127.0.0.1:{server.server_port}/?a=b"
            with urllib.request.urlopen(url, timeout=10) as response:
                text = response.read().decode()
            assert text.startswith("Hello world!"), text
            assert "QUERY_STRING = 'a=b'" in text, text
            server.shutdown()
            loop.join()
        """,
    )


def test_logging_config(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import fastsocketserver
        fastsocketserver.install()

        import json, logging, logging.config, socket, struct

        listener = logging.config.listen(0)
        listener.start()
        assert listener.ready.wait(10)
        assert isinstance(logging.config._listener, fastsocketserver.ThreadingTCPServer)
        config = {"version": 1, "loggers": {"a": {"level": "CRITICAL"}}}
        data = json.dumps(config).encode()
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as client:
            client.sendall(struct.pack(">L", len(data)) + data)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        logging.config.stopListening()
        listener.join()
        assert logging.getLogger("a").level == logging.CRITICAL
        """,
    )


# What came too early


def warning_for(line: int, modules: str) -> str:
    """Return what is printed when line `line` of the program installs the package too late."""
    return (
        f"program.py:{line}: RuntimeWarning: fastsocketserver.install() came too late for {modules}"
        ": already derived from the standard library's socketserver\n"
        "  fastsocketserver.install()\n"
    )


def warnings_of(folder: Path, source: str) -> str:
    """Return the warnings that a program prints, the folder left out of the file's name."""
    status, output, errors = run(folder, source, "-W", "always")
    assert (status, output) == (0, "")
    return errors.replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("imported", "warned"),
    [
        ("http.server", "http.server"),
        ("xmlrpc.server", "http.server, xmlrpc.server"),
        ("wsgiref.simple_server, http.server", "http.server, wsgiref.simple_server"),
    ],
)
def test_modules_that_have_derived_already_are_named(
    tmp_path: Path, imported: str, warned: str
) -> None:
    source = f"""\
        import {imported}
        import fastsocketserver

        fastsocketserver.install()
        assert http.server.HTTPServer.__base__ is not fastsocketserver.TCPServer
    """
    assert warnings_of(tmp_path, source.replace("import", "import http.server,", 1)) == (
        warning_for(4, warned)
    )


def test_modules_that_have_derived_from_derived_classes_are_named(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("import socketserver\nclass A(socketserver.TCPServer): ...")
    (tmp_path / "second.py").write_text("import first\nclass B(first.A): ...\nclass C(B): ...")
    source = """\
        import second
        import fastsocketserver

        class D(second.C):
            pass

        fastsocketserver.install()
    """
    assert warnings_of(tmp_path, source) == warning_for(7, "__main__, first, second")


def test_the_warning_is_attributed_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("from fastsocketserver import install\n\ninstall()\n")
    errors = warnings_of(tmp_path, "import http.server, other")
    assert errors.startswith("other.py:3: RuntimeWarning: ")


def test_warns_anew_after_an_uninstall(tmp_path: Path) -> None:
    source = """\
        import http.server
        import fastsocketserver

        fastsocketserver.install()
        fastsocketserver.install()
        fastsocketserver.uninstall()
        fastsocketserver.install()
    """
    warned = warning_for(4, "http.server") + warning_for(7, "http.server")
    assert warnings_of(tmp_path, source) == warned


def test_nothing_is_warned_of_otherwise(tmp_path: Path) -> None:
    source = """\
        import socketserver
        from socketserver import TCPServer
        import fastsocketserver

        fastsocketserver.install()
        import http.server, wsgiref.simple_server, xmlrpc.server
        fastsocketserver.install()
        fastsocketserver.uninstall()
        fastsocketserver.install()
    """
    assert warnings_of(tmp_path, source) == ""


def test_nothing_changes_when_the_warning_is_an_error(tmp_path: Path) -> None:
    check(
        tmp_path,
        """
        import sys
        import http.server
        import fastsocketserver

        original = sys.modules["socketserver"]
        for _ in range(2):
            try:
                fastsocketserver.install()
            except RuntimeWarning:
                pass
            else:
                assert False, "no warning"
            assert sys.modules["socketserver"] is original
            assert fastsocketserver.TCPServer.__module__ == "fastsocketserver"
        """,
    )
