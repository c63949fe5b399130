"""Functions over JSON-RPC, on the server class of jsonrpclib that the argument names."""

import sys

from jsonrpclib import SimpleJSONRPCServer as servers


def divide(left: float, right: float) -> float:
    """Divide `left` by `right`."""
    return left / right


server = getattr(servers, sys.argv[1])(("127.0.0.1", 0), logRequests=False)
server.register_function(divide)
server.register_function(len, "length")
print("port", server.server_address[1])
try:
    server.serve_forever()
except KeyboardInterrupt:
    server.server_close()
    print("interrupted")
