"""A UDP client: sends its arguments as one packet, and prints the packet that is answered.

    python examples/udp_client.py PORT some words

For `udp_server.py`.
"""

import socket
import sys


def ask(port: int, text: str) -> str:
    """Return the answer to one packet.

    Raises:
        TimeoutError: There was none; packets may get lost, and nobody says so.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(10)
        # The first packet binds the socket to a port, where the answer will arrive.
        sender.sendto(text.encode(), ("127.0.0.1", port))
        answer, _ = sender.recvfrom(1024)
        return answer.decode()


if __name__ == "__main__":
    question = " ".join(sys.argv[2:])
    print("sent:    ", question)
    print("received:", ask(int(sys.argv[1]), question))
