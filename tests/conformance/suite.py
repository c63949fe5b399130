"""Which test modules of the interpreter's own `test` package are run, and what proves each one."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Suite:
    """One test module that starts servers built on `socketserver`, or a part of one.

    Attributes:
        name: What the command line and the report call it.
        through: The modules by which its servers come about. After a swapped run each of them
            must have been seen to use the replacement, or the run proves nothing.
        match: Patterns, as regrtest's `--match` takes them, where only a part is of interest.
        network: Whether the module asks for regrtest's network resource although it stays on the
            loopback interface. Elsewhere that resource means hosts on the internet: left out.
    """

    name: str
    through: tuple[str, ...]
    match: tuple[str, ...] = ()
    network: bool = False

    @property
    def module(self) -> str:
        """The full name, which every version's regrtest takes for a module or a package."""
        return f"test.{self.name}"

    def is_installed(self) -> bool:
        """Whether this interpreter has the test module; distributions leave some of them out."""
        package = importlib.util.find_spec("test")
        folders = package.submodule_search_locations if package else None
        # Nothing is imported to find out: test packages may refuse to be imported.
        paths = [Path(folder, *self.name.split(".")) for folder in folders or ()]
        return any(path.with_suffix(".py").exists() or path.is_dir() for path in paths)


# The slowest come first, so that parallel jobs end together.
SUITES = (
    Suite("test_pydoc", through=("http.server",)),
    Suite("test_imaplib", through=("test.test_imaplib",)),
    Suite("test_xmlrpc", through=("xmlrpc.server", "http.server")),
    Suite("test_logging", through=("test.test_logging", "logging.config")),
    Suite("test_asyncio.test_events", through=("test.test_asyncio.utils", "wsgiref.simple_server")),
    Suite("test_asyncio.test_sock_lowlevel", through=("test.test_asyncio.utils",)),
    Suite("test_asyncio.test_streams", through=("test.test_asyncio.utils",)),
    Suite("test_docxmlrpc", through=("xmlrpc.server",)),
    Suite("test_urllib2_localnet", through=("http.server", "test.ssl_servers")),
    Suite("test___all__", through=("http.server", "wsgiref.simple_server")),
    Suite("test_httpservers", through=("http.server",)),
    Suite("test_socketserver", through=("test.test_socketserver",), network=True),
    Suite("test_httplib", through=("test.ssl_servers",)),
    Suite("test_wsgiref", through=("wsgiref.simple_server",)),
    Suite("test_robotparser", through=("http.server",)),
    Suite("test_ssl", through=("test.ssl_servers",), match=("test_socketserver",)),
    Suite("test_idle", through=("idlelib.rpc",), match=("idlelib.idle_test.test_rpc.*",)),
)
