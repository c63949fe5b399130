"""An application on Werkzeug's `run_simple`, whose arguments are those of the command line."""

import argparse
import os
import threading
import warnings

from werkzeug import Request, Response, run_simple

MAIN_PROCESS = os.getpid()
MEETING = threading.Barrier(3)


@Request.application
def application(request: Request) -> Response:
    """Answer by path."""
    if request.path == "/echo":
        return Response(request.method.encode() + b" " + request.get_data(), status=201)
    if request.path == "/stream":
        return Response(b"piece %d\n" % number for number in range(1000))
    if request.path == "/fail":
        raise RuntimeError("this application fails")
    if request.path == "/meet":
        MEETING.wait(20)
        return Response("three requests met")
    if request.path == "/process":
        return Response("main" if os.getpid() == MAIN_PROCESS else "child")
    return Response("hello", headers={"X-Query": request.query_string.decode()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--threaded", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--use-reloader", action="store_true")
    parser.add_argument("--certificate", dest="ssl_context", type=lambda path: (path, path))
    options = vars(parser.parse_args())
    if options["use_reloader"]:
        # Ctrl-C ends the reloader and its child at the same time: the one that is first may leave
        # a child that still runs, or sockets of the thread that serves.
        warnings.simplefilter("ignore", ResourceWarning)
    run_simple(options.pop("host"), 0, application, **options)
