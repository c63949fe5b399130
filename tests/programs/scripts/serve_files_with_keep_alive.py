"""Serve the current folder as `python -m http.server --protocol HTTP/1.1` does; 3.10 lacks it."""

import http.server
import sys

http.server.test(  # type: ignore[attr-defined]
    HandlerClass=http.server.SimpleHTTPRequestHandler,
    ServerClass=getattr(http.server, sys.argv[1]),
    protocol="HTTP/1.1",
    port=0,
    bind="127.0.0.1",
)
