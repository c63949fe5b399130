"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
from conftest import serving
from dispatching import Lines, say, served, server_of, settled, wait_for
from fastsocketserver import ThreadingUDPServer
from fastsocketserver.prometheus import ServerCollector, register, text
from probes import LOOPBACK, client_of
from prometheus_client import CollectorRegistry, generate_latest


def values(data: bytes) -> dict[str, float]:
    """Return the value of each sample."""
    lines = [line for line in data.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_all_that_is_counted() -> None:
    with served("threads", parking=True) as server, client_of(server) as client:
        wait_for(server, parked=1)
        found = values(text(server))
        assert found['fastsocketserver_connections_accepted_total{server=""}'] == 1
        assert found['fastsocketserver_connections_parked{server=""}'] == 1
        assert say(client) == b"HELLO\n"
        found = values(text(server))
        assert found['fastsocketserver_requests_active{server=""}'] == 1
        client.close()
        settled(server)
        found = values(text(server))
        assert found['fastsocketserver_requests_finished_total{server=""}'] == 1
        assert found['fastsocketserver_requests_failed_total{server=""}'] == 0
    assert {name.partition("{")[0] for name in found} == {
        f"fastsocketserver_{name}"
        for name in (
            *("connections_accepted_total", "datagrams_received_total"),
            *("datagrams_truncated_total", "datagrams_dropped_total"),
            *("requests_finished_total", "requests_failed_total", "requests_refused_total"),
            *("requests_active", "connections_parked", "threads_idle", "queue_age_seconds"),
        )
    }


def test_errors_by_name() -> None:
    def get_request(self: Any) -> Any:
        raise OSError(24, "Too many open files")

    with server_of("inline", get_request=get_request) as server, client_of(server):
        server.handle_request()
        errors = 'fastsocketserver_accept_errors_total{errno="EMFILE",server=""}'
        assert values(text(server))[errors] == 1


def test_datagrams() -> None:
    with serving(server := ThreadingUDPServer(LOOPBACK, lambda *_: None)), client_of(server) as c:
        c.send(b"hello")
        wait_for(server, finished=1)
        assert values(text(server))['fastsocketserver_datagrams_received_total{server=""}'] == 1


@pytest.mark.parametrize("auto_describe", [False, True])
def test_several_servers_in_one_registry(auto_describe: bool) -> None:
    """The default one describes what it has: each name may be there but once."""
    registry = CollectorRegistry(auto_describe=auto_describe)
    name = 'fastsocketserver_connections_accepted_total{server="%s"}'
    with served("threads") as first, served("greenlets") as second:
        collectors = [register(first, "first", registry), register(second, "second", registry)]
        with client_of(second) as client:
            assert say(client) == b"HELLO\n"
        data = generate_latest(registry)
        found = values(data)
        assert (found[name % "first"], found[name % "second"]) == (0, 1)
        helps = [line for line in data.splitlines() if line.startswith(b"# HELP")]
        assert len(helps) == len(set(helps)) == 12
        one = registry.restricted_registry(["fastsocketserver_requests_failed_total"])
        assert len(values(generate_latest(one))) == 2
        for collector, left in zip(collectors, ({name % "second"}, set()), strict=True):
            registry.unregister(collector)
            found = values(generate_latest(registry))
            assert {sample for sample in found if "accepted" in sample} == left
            with pytest.raises(KeyError):
                registry.unregister(collector)
        assert generate_latest(registry) == b""
        register(first, "second", registry)
        assert values(generate_latest(registry))[name % "second"] == 0


def test_two_servers_of_one_name() -> None:
    registry = CollectorRegistry()
    with server_of("threads") as first, server_of("threads") as second:
        collector = register(first, "same", registry)
        with pytest.raises(ValueError, match="another server is registered as 'same'"):
            register(second, "same", registry)
        registry.unregister(collector)
        register(second, "same", registry)


def test_a_registry_that_has_such_metrics_already() -> None:
    registry = CollectorRegistry(auto_describe=True)
    with server_of("threads") as server:
        registry.register(collector := ServerCollector(server))
        with pytest.raises(ValueError, match="Duplicated"):
            register(server, "other", registry)
        registry.unregister(collector)
        register(server, "other", registry)


def test_a_registry_is_not_kept_alive() -> None:
    with server_of("threads") as server:
        registry = CollectorRegistry()
        register(server, registry=registry)
        reference = weakref.ref(registry)
        del registry
        gc.collect()
        assert reference() is None


def test_a_closed_server_can_be_asked() -> None:
    with server_of("threads", Lines) as server:
        pass
    assert b"fastsocketserver_requests_active" in text(server)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("prometheus_client", "fastsocketserver.prometheus needs the package prometheus_client: "),
        ("prometheus_client.core", "fastsocketserver.prometheus needs the package"),
        ("decimal", "'decimal'"),
    ],
)
def test_a_package_that_is_missing(missing: str, expected: str) -> None:
    if missing == "decimal":
        # What the package itself misses is its own affair: a module that it imports is blocked.
        source = f"""
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "prometheus_client":
            raise ModuleNotFoundError("No module named {missing!r}", name={missing!r})
sys.meta_path.insert(0, Finder())
import fastsocketserver.prometheus
"""
    else:
        source = f"""
import sys
sys.modules[{missing!r}] = None
import fastsocketserver.prometheus
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert done.returncode == 1
    assert expected in done.stderr.decode().splitlines()[-1]
