"""An application on Paste's server; the argument says whether requests run in its thread pool."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from paste.httpserver import serve


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the method, the path and the body, or fail."""
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("this application fails")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer = b" ".join([environ["REQUEST_METHOD"].encode(), environ["PATH_INFO"].encode(), body])
    start_response("200 OK", [("Content-Length", str(len(answer))), ("X-Served-By", "Paste")])
    return [answer]


serve(
    application,
    host="127.0.0.1",
    port=0,
    protocol_version="HTTP/1.1",
    use_threadpool=sys.argv[1] == "pool",
    threadpool_workers=5,
)
