"""Functions over XML-RPC, on the server class of `xmlrpc.server` that the argument names."""

import sys
import xmlrpc.server


def divide(left: float, right: float) -> float:
    """Divide `left` by `right`."""
    return left / right


def run() -> None:
    """Serve until Ctrl-C."""
    server_class = getattr(xmlrpc.server, sys.argv[1])
    with server_class(("127.0.0.1", 0), allow_none=True) as server:
        server.register_introspection_functions()
        server.register_multicall_functions()
        server.register_function(divide)
        server.register_function(len, "length")
        print("port", server.server_address[1])
        server.serve_forever()


try:
    run()
except KeyboardInterrupt:
    print("interrupted")
