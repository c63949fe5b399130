"""Runs programs of `test_differential.py` on one module: `differential_server.py MODULE`.

A program is a line of JSON. What the handlers have seen is printed when it is over.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from typing import Any

MODULE = sys.argv[1]
ss = importlib.import_module(MODULE)
PATIENCE = 20.0


def say(value: Any) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def shown(value: Any) -> Any:
    """Return something that can be compared and printed."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value)
        return repr(value) if len(value) < 60 else f"{value[:20]!r}… {len(value)} {hash_of(value)}"
    if isinstance(value, (list, tuple)):
        return [shown(one) for one in value]
    return repr(value)


def hash_of(value: bytes) -> int:
    import zlib

    return zlib.crc32(value)


def perform(handler: Any, step: list[Any]) -> Any:
    """Do one step of a handler's script, and return what it has led to."""
    name, *arguments = step
    data = [one.encode("latin-1") if isinstance(one, str) else one for one in arguments]
    where, _, method = name.partition(".")
    target = getattr(handler, where)
    match method:
        case "iterate":
            return [line for _, line in zip(range(data[0]), target, strict=False)]
        case "readinto" | "readinto1" | "recv_into":
            buffer = bytearray(data[0])
            return getattr(target, method)(buffer), buffer
        case "closed":
            return target.closed
        case "write_view":
            return target.write(memoryview(bytearray(data[0]))[: data[1]])
        case "write_text":
            return target.write("text")
        case "writelines":
            return target.writelines([data[0]] * data[1])
        case "makefile":
            with target.makefile("rb", data[0]) as file:
                return file.readline()
        case "sendto_client":
            return target[1].sendto(data[0], handler.client_address)
        case "packet":
            return target[0]
    return getattr(target, method)(*data)


current = threading.local()
"""The connection that this thread handles, by its `number`."""


def handler_of(program: dict[str, Any], logs: list[list[Any]], goes: list[threading.Event]) -> type:
    base = getattr(ss, program["handler"])
    numbers = iter(range(len(logs)))

    class Handler(base):  # type: ignore[misc]
        def handle(self) -> None:
            number = current.number = next(numbers)
            log = logs[number]
            say("begun")
            if not goes[number].wait(PATIENCE):
                log.append("no go")
            for step in program["scripts"][number]:
                if step[0] == "raise":
                    log.append("raises")
                    raise {"ValueError": ValueError, "OSError": OSError, "EOFError": EOFError}[
                        step[1]
                    ]("on purpose")
                try:
                    log.append([step[0], shown(perform(self, step))])
                except Exception as error:
                    log.append([step[0], type(error).__name__, getattr(error, "errno", None)])
                    if isinstance(error, OSError):
                        return  # what comes after an error of the system is documented otherwise

        def finish(self) -> None:
            super().finish()
            logs[current.number].append("finished")

    for name, value in program["handler_attributes"].items():
        setattr(Handler, name, value)
    return Handler


def run(program: dict[str, Any]) -> None:
    logs: list[list[Any]] = [[] for _ in program["scripts"]]
    goes = [threading.Event() for _ in program["scripts"]]
    base = getattr(ss, program["server"])

    class Server(base):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            logs[current.number].append(["handle_error", type(sys.exc_info()[1]).__name__])

    if program["tells_when_done"]:

        def close_request(self: Any, request: Any) -> None:
            base.close_request(self, request)
            say("done")

        Server.close_request = close_request
    for name, value in program["server_attributes"].items():
        setattr(Server, name, value)
    with Server(
        tuple(program["address"]) if isinstance(program["address"], list) else program["address"],
        handler_of(program, logs, goes),
    ) as server:

        def serve() -> None:
            try:
                if program["loops"]:
                    server.serve_forever(0.005)
                else:
                    for _ in program["scripts"]:
                        server.handle_request()
            except BaseException as error:
                logs.append(["the loop", type(error).__name__])

        loop = threading.Thread(target=serve)
        loop.start()
        say(server.server_address)
        for go in goes:
            sys.stdin.readline()
            go.set()
        sys.stdin.readline()
        if program["loops"]:
            server.shutdown()
        loop.join()
    say(logs)


if __name__ == "__main__":
    for line in sys.stdin:
        if line.strip():
            run(json.loads(line))
