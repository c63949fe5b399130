"""A WebSocket server that tells everybody what anybody says."""

import logging
import sys
from typing import Any

from websocket_server import WebsocketServer

Client = dict[str, Any]

server = WebsocketServer(port=0, loglevel=logging.INFO)


def joined(client: Client, _: WebsocketServer) -> None:
    """Tell everybody who has come."""
    server.send_message_to_all(f"client {client['id']} joined")
    print(f"client {client['id']} was announced")


def said(client: Client, _: WebsocketServer, message: str) -> None:
    """Tell everybody what was said."""
    server.send_message_to_all(f"client {client['id']}: {message}")


def left(client: Client, _: WebsocketServer) -> None:
    """Note who has gone."""
    print(f"client {client['id']} left")


server.set_fn_new_client(joined)
server.set_fn_message_received(said)
server.set_fn_client_left(left)
server.run_forever(threaded=True)
print("port", server.port)
sys.stdin.readline()
server.shutdown_gracefully()
print("shut down")
