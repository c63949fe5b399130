"""Offer metrics until a line arrives on standard input; over TLS where given a certificate."""

import sys

from prometheus_client import CollectorRegistry, Gauge, start_http_server

registry = CollectorRegistry()
Gauge("temperature", "Of the room", ["room"], registry=registry).labels("kitchen").set(21.5)
for room in range(1000):
    Gauge(f"size_{room}", "Of a room", registry=registry).set(room)

certificate = sys.argv[1] if sys.argv[1:] else None
server, thread = start_http_server(
    0, "127.0.0.1", registry, certfile=certificate, keyfile=certificate
)
print(f"port {server.server_port}")
sys.stdin.readline()
server.shutdown()
thread.join()
server.server_close()
print("closed", server.fileno(), thread.is_alive())
