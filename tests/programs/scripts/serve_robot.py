"""A Robot Framework library, served remotely."""

import sys

from robotremoteserver import RobotRemoteServer


class Library:
    """Keywords of every outcome."""

    def add(self, left: int, right: int) -> int:
        """Add two numbers."""
        print("*INFO* adding", left, right)
        return left + right

    def fail(self, reason: str) -> None:
        """Fail for the reason given."""
        raise AssertionError(reason)

    def greet(self, name: str = "world", *more: str) -> list[str]:
        """Greet by name."""
        return [f"hello {each}" for each in (name, *more)]


server = RobotRemoteServer(Library(), port=0, serve=False)
server.serve()
print("served", file=sys.stderr)
