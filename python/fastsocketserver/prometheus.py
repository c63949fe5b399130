"""What a server has done, for Prometheus.

Needs the package `prometheus_client`: ``pip install 'fastsocketserver[prometheus]'``.

```python
from prometheus_client import start_http_server
from fastsocketserver.prometheus import register

register(server)
start_http_server(9100)
```
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

try:
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ImportError(
        "fastsocketserver.prometheus needs the package prometheus_client: "
        "pip install 'fastsocketserver[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from ._base import BaseServer

_COUNTERS = {
    "accepted": ("connections_accepted", "Connections that were accepted."),
    "received": ("datagrams_received", "Datagrams that were received."),
    "truncated": ("datagrams_truncated", "Datagrams that were longer than max_packet_size."),
    "dropped": ("datagrams_dropped", "Datagrams that the kernel had no room for."),
    "finished": ("requests_finished", "Requests that were handled without an exception."),
    "failed": ("requests_failed", "Requests whose handler raised, or never got to run."),
    "refused": ("requests_refused", "Requests that were not to be handled."),
}
_GAUGES = {
    "active": ("requests_active", "Requests that are being handled."),
    "parked": ("connections_parked", "Connections that wait for their first bytes."),
    "idle_threads": ("threads_idle", "Threads that wait for the next request."),
    "queue_age": ("queue_age_seconds", "For how long requests have been kept waiting."),
}


class ServerCollector(Collector):
    """Collects what `server.stats()` says, each time that Prometheus asks.

    Args:
        server: The server.
        name: The value of the label `server`, which tells several servers of one program apart.
    """

    def __init__(self, server: BaseServer, name: str = "") -> None:
        self._server = server
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """All metrics, each called ``fastsocketserver_...``."""
        return _metrics([self])


def _metrics(collectors: Iterable[ServerCollector]) -> Iterator[Metric]:
    """Each metric once, with the figures of all these servers."""
    all_stats = [(collector._name, collector._server.stats()) for collector in collectors]
    for field, (name, documentation) in _COUNTERS.items():
        counter = CounterMetricFamily(f"fastsocketserver_{name}", documentation, labels=["server"])
        for server, stats in all_stats:
            counter.add_metric([server], getattr(stats, field))
        yield counter
    for field, (name, documentation) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"fastsocketserver_{name}", documentation, labels=["server"])
        for server, stats in all_stats:
            gauge.add_metric([server], getattr(stats, field))
        yield gauge
    errors = CounterMetricFamily(
        "fastsocketserver_accept_errors",
        "How often no request could be taken.",
        labels=["server", "errno"],
    )
    for server, stats in all_stats:
        for number, count in stats.accept_errors.items():
            errors.add_metric([server, errno.errorcode.get(number, str(number))], count)
    yield errors


class _Registered(Collector):
    """Stands in a registry for a collector, and is gone when that is unregistered."""

    def __init__(self, collector: ServerCollector) -> None:
        self.collector = collector

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.collector

    def __hash__(self) -> int:
        return hash(self.collector)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the metrics are those of `_Servers`."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Nothing, as above."""
        return ()


class _Servers(Collector):
    """The metrics of all servers of one registry, which has room for each metric but once."""

    def __init__(self) -> None:
        self._registered: WeakKeyDictionary[_Registered, None] = WeakKeyDictionary()

    def add(self, registered: _Registered) -> None:
        """Ask one more server, as long as the registry holds what stands for it."""
        name = registered.collector._name
        if any(other._name == name for other in self._collectors()):
            raise ValueError(f"another server is registered as {name!r}")
        self._registered[registered] = None

    def describe(self) -> Iterator[Metric]:
        """All metrics, without figures."""
        return _metrics([])

    def collect(self) -> Iterable[Metric]:
        """All metrics, if there is a server."""
        collectors = self._collectors()
        return _metrics(collectors) if collectors else ()

    def _collectors(self) -> list[ServerCollector]:
        found = [reference() for reference in self._registered.keyrefs()]
        return [registered.collector for registered in found if registered is not None]


_servers: WeakKeyDictionary[CollectorRegistry, _Servers] = WeakKeyDictionary()
_registering = threading.Lock()


def register(
    server: BaseServer, name: str = "", registry: CollectorRegistry = REGISTRY
) -> ServerCollector:
    """Have `registry` ask `server` for its figures from now on.

    Returns:
        What to give to ``registry.unregister()`` when the server is closed.

    Raises:
        ValueError: `registry` has another server of this name, or other metrics of these names.
    """
    collector = ServerCollector(server, name)
    registered = _Registered(collector)
    with _registering:
        servers = _servers.get(registry)
        if servers is None:
            servers = _Servers()
            registry.register(servers)
            _servers[registry] = servers
        servers.add(registered)
        registry.register(registered)
    return collector


def text(server: BaseServer) -> bytes:
    """What Prometheus would read of `server` alone, in its text format."""
    registry = CollectorRegistry()
    register(server, registry=registry)
    return generate_latest(registry)
