"""Robot Framework's remote server, asked over XML-RPC as Robot Framework does."""

from __future__ import annotations

import xmlrpc.client
from typing import TYPE_CHECKING, Any

import pytest
from program import SCRIPTS

if TYPE_CHECKING:
    from program import Both, Program

robotremoteserver = pytest.importorskip(
    "robotremoteserver", reason="robotremoteserver is not installed"
)


@pytest.mark.parametrize("ending", ["ctrl-c", "remote"])
def test_keywords(both: Both, ending: str) -> None:
    """Keywords pass and fail; the server stops on Ctrl-C and when its client asks for it."""
    ready = r"remote server at 127\.0\.0\.1:(\d+) started"
    both.start(SCRIPTS / "serve_robot.py", ready=ready)

    def run(program: Program) -> list[Any]:
        library: Any
        with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{program.port}/") as library:
            return [
                library.get_keyword_names(),
                library.get_keyword_arguments("greet"),
                library.run_keyword("add", [1, 2]),
                library.run_keyword("fail", ["on purpose"])["error"],
                library.run_keyword("greet", ["a", "b"])["return"],
            ]

    names, arguments, added, error, greeted = both.ask(run)
    assert names == ["add", "fail", "greet", "stop_remote_server"]
    assert arguments == ["name=world", "*more"]
    assert added == {"status": "PASS", "return": 3, "output": "*INFO* adding 1 2\n"}
    assert error == "on purpose"
    assert greeted == ["hello a", "hello b"]

    if ending == "ctrl-c":
        assert both.interrupt() == 0
    else:
        stop = robotremoteserver.stop_remote_server
        assert both.ask(lambda program: stop(f"http://127.0.0.1:{program.port}", log=False))
        assert both.wait() == 0
    both.ask(lambda program: bool(program.wait_for("stopped\\.\nserved")))
