"""A TCP client: sends its arguments as one line, and prints the line that is answered.

    python examples/tcp_client.py PORT some words

For `tcp_recv.py`, `tcp_readline.py`, `explicit_fork.py` and `access_control.py`.
"""

import socket
import sys


def ask(port: int, text: str) -> str:
    """Return the answer to one line; "" if the server closes the connection without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(f"{text}\n".encode())
            with connection.makefile(encoding="utf-8") as answers:
                return answers.readline().rstrip("\n")
        except ConnectionError:
            return ""


if __name__ == "__main__":
    question = " ".join(sys.argv[2:])
    print("sent:    ", question)
    print("received:", ask(int(sys.argv[1]), question))
