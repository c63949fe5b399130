"""TLS clients that connect and then say nothing."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from clients import connect, milliseconds, percentile, read_all
from lengths import count
from server_process import HERE, PATIENCE, REFERENCE, ServerProcess, dispatches, needs_proc

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Figures

SILENT = 5
HANDSHAKE_TIMEOUT = count(short=4, long=10)
"""Seconds; load must not make the handshakes of those who do speak take so long."""
ANSWERS = count(short=20, long=500)

SOURCE = """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE)
server = server_class(**ATTRIBUTES)(LOOPBACK, Upper)
if LISTENS:
    server.socket = context.wrap_socket(server.socket, server_side=True)
else:
    server.ssl_context = context
serve(server)
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return what signs the server's certificate."""
    return trustme.CA()


def ask(address: Any, context: ssl.SSLContext, patience: float = PATIENCE) -> bytes:
    """Return what is answered to one line over TLS."""
    plain = connect(address)
    plain.settimeout(patience)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as client:
        client.sendall(b"hello\n")
        return client.recv(100)


def start(
    authority: trustme.CA, folder: Path, module: str, dispatch: str, *, listens: bool
) -> tuple[ServerProcess, ssl.SSLContext]:
    """Return a server with a certificate, and what its clients need."""
    certificate = folder / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    attributes = {"handshake_timeout": HANDSHAKE_TIMEOUT} if module == HERE else {}
    head = f"CERTIFICATE, ATTRIBUTES, LISTENS = {str(certificate)!r}, {attributes!r}, {listens}\n"
    return ServerProcess(head + SOURCE, module, dispatch), context


@needs_proc
@pytest.mark.parametrize("listens", [False, True], ids=["ssl_context", "SSLSocket"])
@dispatches("threads", "forks", "greenlets")
def test_silent_clients_keep_nobody_waiting(
    dispatch: str, listens: bool, authority: trustme.CA, tmp_path: Path, figures: Figures
) -> None:
    server, context = start(authority, tmp_path, HERE, dispatch, listens=listens)
    with server:
        address = server.read_address()
        assert ask(address, context) == b"HELLO\n"
        before = server.descriptors_at_rest()
        begin = time.monotonic()
        silent = [connect(address) for _ in range(SILENT)]
        silent[0].sendall(b"\x16\x03\x01")  # the beginning of a handshake
        took = []
        for _ in range(ANSWERS):
            since = time.perf_counter()
            assert ask(address, context) == b"HELLO\n"
            took.append(time.perf_counter() - since)
        ends = []
        for client in silent:
            with client:
                try:
                    # An alert may come before the end.
                    read_all(client)
                except ConnectionResetError:
                    pass
                ends.append(time.monotonic() - begin)
        assert min(ends) > HANDSHAKE_TIMEOUT / 2
        server.wait_for_descriptors(before)
        server.stop()
    way = "an SSLSocket listens" if listens else "ssl_context"
    figures.note(
        f"{SILENT} silent TLS clients, {way}, {dispatch}: others served in (median)",
        here=milliseconds(percentile(took, 0.5)),
    )
    figures.note(
        f"{SILENT} silent TLS clients, {way}, {dispatch}: closed after "
        f"(handshake_timeout = {HANDSHAKE_TIMEOUT} s)",
        here=f"{max(ends):.1f} s",
    )


@needs_proc
def test_silent_clients_keep_everybody_waiting_in_the_reference(
    authority: trustme.CA, tmp_path: Path, figures: Figures
) -> None:
    server, context = start(authority, tmp_path, REFERENCE, "threads", listens=True)
    with server:
        address = server.read_address()
        assert ask(address, context) == b"HELLO\n"
        with connect(address):
            try:
                ask(address, context, patience=1)
            except TimeoutError:
                served = "nobody"
            else:
                served = "served"
    figures.note(
        f"{SILENT} silent TLS clients, an SSLSocket listens, threads: others served in (median)",
        reference=served,
    )
