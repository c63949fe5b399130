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
from typing import TYPE_CHECKING

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
    from collections.abc import Iterator

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
        stats = self._server.stats()
        for field, (name, documentation) in _COUNTERS.items():
            counter = CounterMetricFamily(
                f"fastsocketserver_{name}", documentation, labels=["server"]
            )
            counter.add_metric([self._name], getattr(stats, field))
            yield counter
        for field, (name, documentation) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"fastsocketserver_{name}", documentation, labels=["server"])
            gauge.add_metric([self._name], getattr(stats, field))
            yield gauge
        errors = CounterMetricFamily(
            "fastsocketserver_accept_errors",
            "How often no request could be taken.",
            labels=["server", "errno"],
        )
        for number, count in stats.accept_errors.items():
            errors.add_metric([self._name, errno.errorcode.get(number, str(number))], count)
        yield errors


def register(
    server: BaseServer, name: str = "", registry: CollectorRegistry = REGISTRY
) -> ServerCollector:
    """Have `registry` ask `server` for its figures from now on.

    Returns:
        What to give to ``registry.unregister()`` when the server is closed.
    """
    collector = ServerCollector(server, name)
    registry.register(collector)
    return collector


def text(server: BaseServer) -> bytes:
    """What Prometheus would read of `server` alone, in its text format."""
    registry = CollectorRegistry()
    register(server, registry=registry)
    return generate_latest(registry)
