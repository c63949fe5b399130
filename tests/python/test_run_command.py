"""`python -m fastsocketserver run`: a program behaves as it does when it is run directly."""

from __future__ import annotations

import os
import py_compile
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from typing import TYPE_CHECKING

import pytest
from conftest import DEADLINE
from test_serve_command import Command, Outcome

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)

RUN = ("-m", "fastsocketserver", "run")
"""What the direct command line has in front of the program, when it is run on the package."""

SAFE_PATH = pytest.param(
    "-P", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="-P came with Python 3.11")
)


def write(path: Path, source: str) -> Path:
    """Write a program, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def run_both(
    folder: Path, *program: str | Path, options: tuple[str, ...] = (), stdin: str = ""
) -> list[Outcome]:
    """Run a program twice in `folder`: directly, and on the package."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *options, *runner, *map(str, program)],
            cwd=folder,
            env={**os.environ, "PYTHON_COLORS": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
        )
        for runner in ((), RUN)
    ]
    outcomes = []
    try:
        for process in processes:
            output, errors = process.communicate(stdin, timeout=DEADLINE)
            # Addresses in memory are the only thing that may differ.
            parts = (re.sub("0x[0-9a-f]+", "0x", part) for part in (output, errors))
            outcomes.append(Outcome(process.returncode, *parts))
    finally:
        for process in processes:
            process.kill()
            with process:
                pass
    return outcomes


def run_alike(
    folder: Path, *program: str | Path, options: tuple[str, ...] = (), stdin: str = ""
) -> Outcome:
    """Run a program both ways, require the same outcome, and return it."""
    direct, ours = run_both(folder, *program, options=options, stdin=stdin)
    assert ours == direct
    return ours


def run_source(
    folder: Path, source: str, *args: str, options: tuple[str, ...] = (), stdin: str = ""
) -> Outcome:
    """Run a script both ways, require the same outcome, and return it."""
    write(folder / "program.py", source)
    return run_alike(folder, "program.py", *args, options=options, stdin=stdin)


def zip_of(path: Path, source: str) -> Path:
    """Write a zip file with a program in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", textwrap.dedent(source))
        archive.writestr("beside.py", "NAME = __name__\n")
    return path


# The swap


SHOW_SOCKETSERVER = """
    import http.server
    import socketserver

    print(socketserver.TCPServer.__module__, "_core" in vars(socketserver))
    print(issubclass(http.server.HTTPServer, socketserver.TCPServer))
"""


def test_the_program_finds_the_package_as_socketserver(tmp_path: Path) -> None:
    write(tmp_path / "program.py", SHOW_SOCKETSERVER)
    direct, ours = run_both(tmp_path, "program.py")
    assert direct == (0, "socketserver False\nTrue\n", "")
    assert ours == (0, "socketserver True\nTrue\n", "")


def test_the_module_finds_the_package_as_socketserver(tmp_path: Path) -> None:
    write(tmp_path / "program.py", SHOW_SOCKETSERVER)
    direct, ours = run_both(tmp_path, "-m", "program")
    assert direct == (0, "socketserver False\nTrue\n", "")
    assert ours == (0, "socketserver True\nTrue\n", "")


# What the program sees of itself


ARGUMENTS = ("a b", "-m", "--bind", "--", "", "-h", "ünï", "run")


def test_arguments_of_a_script(tmp_path: Path) -> None:
    outcome = run_source(tmp_path, "import sys; print(sys.argv)", *ARGUMENTS)
    assert outcome.output == f"{['program.py', *ARGUMENTS]}\n"


def test_arguments_of_a_module(tmp_path: Path) -> None:
    path = write(tmp_path / "program.py", "import sys; print(sys.argv)")
    outcome = run_alike(tmp_path, "-m", "program", *ARGUMENTS)
    assert outcome.output == f"{[str(path), *ARGUMENTS]}\n"


def test_arguments_while_the_package_of_a_module_is_imported(tmp_path: Path) -> None:
    write(tmp_path / "package/__init__.py", "import sys; print(sys.argv)")
    write(tmp_path / "package/__main__.py", "")
    assert run_alike(tmp_path, "-m", "package", "a").output == "['-m', 'a']\n"


@pytest.mark.parametrize(
    "path", ["program.py", "./program.py", "sub/../program.py", "{folder}/program.py", "link.py"]
)
def test_globals_of_a_script(tmp_path: Path, path: str) -> None:
    """Every global, in the same order; the search path; and that `__main__` is this module."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.py").symlink_to(tmp_path / "program.py")
    write(
        tmp_path / "program.py",
        """
        '''What it is for.'''
        for name, value in list(globals().items()):
            print(name, vars(value) if name == "__loader__" else value)
        import __main__, sys
        print(type(__loader__), vars(__main__) is globals(), sys.modules["__main__"] is __main__)
        """,
    )
    outcome = run_alike(tmp_path, path.format(folder=tmp_path))
    assert outcome.output.endswith(" True True\n")


@pytest.mark.parametrize("module", ["program", "package", "package.inner"])
def test_globals_of_a_module(tmp_path: Path, module: str) -> None:
    source = """
        for name, value in list(globals().items()):
            print(name, vars(value) if name == "__loader__" else value)
        import __main__
        print(vars(__main__) is globals())
    """
    for path in ("program.py", "package/__init__.py", "package/__main__.py", "package/inner.py"):
        write(tmp_path / path, source)
    assert run_alike(tmp_path, "-m", module).output.endswith("\nTrue\n")


def test_relative_imports_of_a_module(tmp_path: Path) -> None:
    write(tmp_path / "package/__init__.py", "")
    write(tmp_path / "package/beside.py", "NAME = __name__")
    write(tmp_path / "package/__main__.py", "from .beside import NAME; print(NAME, __package__)")
    assert run_alike(tmp_path, "-m", "package").output == "package.beside package\n"


@pytest.mark.parametrize("option", ["-E", SAFE_PATH, "-I"])
@pytest.mark.parametrize("program", ["link.py", "sub", "app.zip", "-m sub.program"])
def test_search_path(tmp_path: Path, program: str, option: str) -> None:
    source = "import sys; print(*sys.path, sys.argv[0], sep='\\n')"
    write(tmp_path / "sub/program.py", source)
    write(tmp_path / "sub/__main__.py", source)
    (tmp_path / "link.py").symlink_to(tmp_path / "sub/program.py")
    zip_of(tmp_path / "app.zip", source)
    outcome = run_alike(tmp_path, *program.split(), options=(option,))
    if program.startswith("-m") and option in ("-I", "-P"):
        # The current folder is not searched.
        assert outcome.status == 1
        assert "No module named 'sub'" in outcome.errors
    else:
        assert outcome.status == 0
        assert outcome.output


def test_modules_beside_the_script_come_before_the_standard_librarys(tmp_path: Path) -> None:
    names = ("argparse", "csv", "email", "random", "shutil", "string", "textwrap", "zipfile")
    for name in names:
        write(tmp_path / f"{name}.py", "")
    outcome = run_source(
        tmp_path,
        f"""
        import {", ".join(names)}
        for module in ({", ".join(names)}):
            print(module.__file__)
        """,
    )
    assert outcome == (0, "".join(f"{tmp_path / name}.py\n" for name in names), "")


def test_flags_of_the_interpreter(tmp_path: Path) -> None:
    outcome = run_source(
        tmp_path,
        """
        import sys
        assert False
        print(sys.flags, sys.warnoptions, sys._xoptions, __debug__)
        """,
        options=("-O", "-bb", "-X", "dev", "-X", "something=1"),
    )
    assert outcome.status == 0
    assert outcome.output.endswith("False\n")
    assert outcome.errors == ""


def test_hooks_of_the_interpreter_are_untouched(tmp_path: Path) -> None:
    outcome = run_source(
        tmp_path,
        """
        import signal, sys, threading
        print(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
        print(sys.unraisablehook is sys.__unraisablehook__)
        print(threading.excepthook is threading.__excepthook__)
        print(sys.gettrace(), sys.getprofile(), sys.exc_info(), sys.getrecursionlimit())
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        print(signal.getsignal(signal.SIGTERM), threading.active_count())
        """,
    )
    assert outcome.output.startswith("True True\nTrue\nTrue\nNone None (None, None, None)")


def test_source_of_the_script_can_be_looked_up(tmp_path: Path) -> None:
    outcome = run_source(
        tmp_path,
        """
        import doctest, inspect

        def double(number: "int") -> "int":
            '''Double it.

            >>> double(4)
            8
            '''
            return 2 * number

        print(inspect.getsource(double), inspect.getfile(double), inspect.getmodule(double))
        print(doctest.testmod())
        """,
    )
    assert outcome.output.endswith("TestResults(failed=0, attempted=1)\n")


def test_standard_input(tmp_path: Path) -> None:
    source = "import sys; print([input(), sys.stdin.read()])"
    outcome = run_source(tmp_path, source, stdin="one\ntwo\nthree")
    assert outcome.output == "['one', 'two\\nthree']\n"


def test_script_on_standard_input(tmp_path: Path) -> None:
    outcome = run_alike(tmp_path, "/dev/stdin", stdin="print(__name__, __file__)")
    assert outcome.output == "__main__ /dev/stdin\n"


def test_interactive_after_the_script(tmp_path: Path) -> None:
    outcome = run_source(tmp_path, "value = 7", options=("-i",), stdin="print(value, __name__)\n")
    assert outcome.output == "7 __main__\n"


def test_interactive_after_an_exception(tmp_path: Path) -> None:
    stdin = "import sys; print(sys.last_type, sys.last_traceback.tb_frame.f_code.co_name)\n"
    outcome = run_source(tmp_path, "1 / 0", options=("-i",), stdin=stdin)
    assert outcome.output == "<class 'ZeroDivisionError'> <module>\n"


# How the program ends


DERIVED_INTERRUPT = "raise type('Derived', (KeyboardInterrupt,), {})"
STATUSES = {
    "pass": 0,
    "sys.exit()": 0,
    "sys.exit(None)": 0,
    "sys.exit(3)": 3,
    "sys.exit(-1)": 255,
    "sys.exit(263)": 7,
    "sys.exit('text')": 1,
    "sys.exit((1, 2))": 1,
    "exit(4)": 4,
    "os._exit(5)": 5,
    "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "1 / 0": 1,
    "raise KeyboardInterrupt": -signal.SIGINT,
    DERIVED_INTERRUPT: -signal.SIGINT if sys.version_info >= (3, 14) else 1,
    "raise type('Own', (BaseException,), {})('text')": 1,
}


def program_that_ends(statement: str) -> str:
    """Return a program that prints something, and ends in a function, and at its exit."""
    return f"""
        import atexit, os, signal, sys

        def end():
            {statement}

        atexit.register(print, "last words")
        print("before", flush=True)
        end()
    """


@pytest.mark.parametrize(("statement", "status"), STATUSES.items())
def test_exit_status_of_a_script(tmp_path: Path, statement: str, status: int) -> None:
    assert run_source(tmp_path, program_that_ends(statement)).status == status


@pytest.mark.parametrize(
    "statement",
    [
        "sys.exit(3)",
        "sys.exit('text')",
        "1 / 0",
        "raise KeyboardInterrupt",
        DERIVED_INTERRUPT,
    ],
)
def test_exit_status_of_a_module(tmp_path: Path, statement: str) -> None:
    write(tmp_path / "program.py", program_that_ends(statement))
    assert run_alike(tmp_path, "-m", "program").status == STATUSES[statement]


@pytest.mark.parametrize("runner", [(), RUN], ids=["directly", "run"])
@pytest.mark.parametrize("program", ["program.py", "-m program"])
def test_interrupt(tmp_path: Path, program: str, runner: tuple[str, ...]) -> None:
    path = write(
        tmp_path / "program.py",
        """
        import signal
        try:
            print("waiting", flush=True)
            while True:
                signal.pause()
        finally:
            print("interrupted")
        """,
    )
    with Command(*runner, *program.split(), cwd=tmp_path) as command:
        assert command.read_line() == "waiting"
        outcome = command.stop(signal.SIGINT)
    assert outcome.status == -signal.SIGINT
    assert outcome.output == "interrupted\n"
    assert outcome.errors.startswith("Traceback (most recent call last):\n")
    assert f'File "{path}", line 6, in <module>' in outcome.errors
    assert outcome.errors.endswith("KeyboardInterrupt\n")
    assert "fastsocketserver" not in outcome.errors


def test_threads_and_exit_functions_outlive_the_program(tmp_path: Path) -> None:
    outcome = run_source(
        tmp_path,
        """
        import atexit, threading

        class Farewell:
            def __del__(self):
                print("deleted", name)

        def outlive():
            threading.main_thread().join()
            print("thread", name, __name__)

        @atexit.register
        def leave():
            print("exit", name)
            raise ValueError(name)

        name = "a global"
        farewell = Farewell()
        threading.Thread(target=outlive).start()
        print("end")
        """,
    )
    assert outcome.status == 0
    assert outcome.output.splitlines() == [
        "end",
        "thread a global __main__",
        "exit a global",
        "deleted a global",
    ]


def test_pickles_find_the_classes_of_the_program(tmp_path: Path) -> None:
    outcome = run_source(
        tmp_path,
        """
        import pickle, typing

        class Point(typing.NamedTuple):
            x: "Number"
        Number = int

        print(Point.__module__, pickle.loads(pickle.dumps(Point(2))), typing.get_type_hints(Point))
        """,
    )
    assert outcome.output == "__main__ Point(x=2) {'x': <class 'int'>}\n"


@pytest.mark.parametrize("program", ["program.py", "-m program"])
def test_processes_that_are_spawned_find_the_program(tmp_path: Path, program: str) -> None:
    write(
        tmp_path / "program.py",
        """
        import multiprocessing

        def child(number):
            print(__name__, number)

        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=child, args=(7,))
            process.start()
            process.join()
            print("joined", process.exitcode)
        """,
    )
    assert run_alike(tmp_path, *program.split()).output == "__mp_main__ 7\njoined 0\n"


# What it says of errors


ERRORS = {
    "nested": """
        def outer():
            inner(
                1,
            )
        def inner(number):
            raise ValueError(number)
        outer()
    """,
    "context": """
        try:
            {}["key"]
        except KeyError:
            int("no number")
    """,
    "cause": """
        def convert():
            try:
                int("no number")
            except ValueError as error:
                raise RuntimeError("as a consequence") from error
        try:
            convert()
        except RuntimeError as error:
            raise OSError(5, "text") from error
    """,
    "no cause": """
        try:
            1 / 0
        except ZeroDivisionError:
            raise ValueError from None
    """,
    "exit in a handler": """
        import sys
        try:
            1 / 0
        except ZeroDivisionError:
            sys.exit("text")
    """,
    "raised again": """
        try:
            1 / 0
        except ZeroDivisionError as error:
            kept = error
        raise kept
    """,
    "no traceback": """
        raise ValueError("bare").with_traceback(None)
    """,
    "in an imported module": """
        import json
        json.loads("{")
    """,
    "in compiled text": """
        exec(compile("1 / 0", "text", "exec"))
    """,
    "in a coroutine": """
        import asyncio
        async def main():
            await asyncio.sleep(0)
            raise ValueError("text")
        asyncio.run(main())
    """,
    "in a thread": """
        import threading
        thread = threading.Thread(target=lambda: 1 / 0, name="other")
        thread.start()
        thread.join()
        print("goes on")
    """,
    "in a destructor": """
        class Failing:
            def __repr__(self):
                return "Failing"
            def __del__(self):
                1 / 0
        Failing()
    """,
    "a warning": """
        import warnings
        def check():
            warnings.warn("text", DeprecationWarning, stacklevel=2)
        check()
    """,
    "unknown name": """
        value = 1
        print(valve)
    """,
}
if sys.version_info >= (3, 11):
    ERRORS |= {
        "group": """
            try:
                1 / 0
            except ZeroDivisionError as error:
                group = ExceptionGroup("several", [error, ValueError("text")])
                group.add_note("a note")
                raise group
        """,
    }


@pytest.mark.parametrize("source", ERRORS.values(), ids=ERRORS)
def test_traceback_of_a_script(tmp_path: Path, source: str) -> None:
    assert run_source(tmp_path, source).errors


@pytest.mark.parametrize("name", ["nested", "cause", "in a coroutine", "a warning"])
def test_traceback_of_a_module(tmp_path: Path, name: str) -> None:
    write(tmp_path / "program.py", ERRORS[name])
    assert run_alike(tmp_path, "-m", "program").errors


@pytest.mark.parametrize("program", ["app.zip", "folder"])
def test_traceback_of_an_archive(tmp_path: Path, program: str) -> None:
    source = "def fail():\n    raise ValueError\nfail()"
    zip_of(tmp_path / "app.zip", source)
    write(tmp_path / "folder/__main__.py", source)
    outcome = run_alike(tmp_path, program)
    assert outcome.status == 1
    assert outcome.errors.endswith("ValueError\n")


def test_warnings_are_shown_as_by_default(tmp_path: Path) -> None:
    source = """
        import warnings
        warnings.warn("old", DeprecationWarning)
        warnings.warn("odd")
    """
    path = write(tmp_path / "program.py", source)
    outcome = run_alike(tmp_path, path.name, options=("-W", "default"))
    assert outcome.errors.startswith(f"{path}:3: DeprecationWarning: old\n")


SYNTAX_ERRORS = {
    "keyword": b"print('before')\nclass = 1\n",
    "end of file": b"def function():\n",
    "no newline": b"if True:",
    "open bracket": b"call(1,\n  2\n",
    "open string": b"text = '''\nand so on\n",
    "indent": b"if True:\npass\n",
    "dedent": b"if True:\n        pass\n    pass\n",
    "tabs": b"if True:\n        pass\n\tpass\n",
    "misplaced return": b"return 1\n",
    "future": b"import os\nfrom __future__ import annotations\n",
    "no such future": b"from __future__ import antigravity\n",
    "encoding": b"# a latin letter\ntext = '\xe9'\n",
    "unknown encoding": b"# coding: no-such\n",
    "not ascii": "näme = €\n".encode(),
    "null": b"value = 1\n\0\n",
}


@pytest.mark.parametrize("source", SYNTAX_ERRORS.values(), ids=SYNTAX_ERRORS)
def test_syntax_error_in_a_script(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "program.py").write_bytes(source)
    outcome = run_alike(tmp_path, "program.py")
    assert outcome.output == ""


def test_syntax_error_in_a_module(tmp_path: Path) -> None:
    write(tmp_path / "program.py", "class = 1")
    assert run_alike(tmp_path, "-m", "program").status == 1


OWN_HOOKS = {
    "that formats": """
        import sys, traceback
        def hook(kind, value, tb):
            print("own hook", kind, value.__traceback__ is tb)
            print(*traceback.format_exception(kind, value, tb), *traceback.format_tb(tb))
        sys.excepthook = hook
        {}["key"]
    """,
    "that calls the original": """
        import sys
        def hook(*info):
            print("own hook")
            sys.__excepthook__(*info)
        sys.excepthook = hook
        {}["key"]
    """,
    "that calls the former": """
        import sys
        former = sys.excepthook
        sys.excepthook = lambda *info: (print("own hook"), former(*info))
        {}["key"]
    """,
    "that raises": """
        import sys
        def hook(*info):
            raise ValueError("in the hook")
        sys.excepthook = hook
        {}["key"]
    """,
    "that exits": """
        import sys
        sys.excepthook = lambda *info: sys.exit(9)
        {}["key"]
    """,
    "that is none": """
        import sys
        del sys.excepthook
        {}["key"]
    """,
    "that is set and reset": """
        import sys
        sys.excepthook = None
        sys.excepthook = sys.__excepthook__
        {}["key"]
    """,
    "that is called by hand": """
        import sys
        try:
            {}["key"]
        except KeyError:
            sys.excepthook(*sys.exc_info())
    """,
}


@pytest.mark.parametrize("source", OWN_HOOKS.values(), ids=OWN_HOOKS)
def test_own_excepthook_of_a_script(tmp_path: Path, source: str) -> None:
    assert run_source(tmp_path, source) != (0, "", "")


@pytest.mark.parametrize("name", ["that formats", "that raises", "that exits"])
def test_own_excepthook_of_a_module(tmp_path: Path, name: str) -> None:
    write(tmp_path / "program.py", OWN_HOOKS[name])
    assert run_alike(tmp_path, "-m", "program") != (0, "", "")


def test_last_exception_is_known_at_exit(tmp_path: Path) -> None:
    outcome = run_source(
        tmp_path,
        """
        import atexit, sys, traceback

        @atexit.register
        def leave():
            print(sys.last_type, sys.last_value, *traceback.format_tb(sys.last_traceback))

        {}["key"]
        """,
    )
    assert outcome.output.startswith("<class 'KeyError'> 'key'")


# Kinds of programs


@pytest.mark.parametrize("name", ["app.zip", "app.pyz", "app"])
def test_zip_file(tmp_path: Path, name: str) -> None:
    zip_of(tmp_path / name, "import sys, beside; print(beside.NAME, __name__, __file__, sys.argv)")
    outcome = run_alike(tmp_path, name, "a")
    path = tmp_path / name / "__main__.py"
    assert outcome == (0, f"beside __main__ {path} {[name, 'a']}\n", "")


def test_zip_file_behind_a_shebang(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "app", "import beside; print(beside.NAME)")
    path.write_bytes(b"#!/usr/bin/env python3\n" + path.read_bytes())
    assert run_alike(tmp_path, "app") == (0, "beside\n", "")


def test_folder(tmp_path: Path) -> None:
    write(tmp_path / "folder/beside.py", "NAME = __name__")
    write(
        tmp_path / "folder/__main__.py",
        "import sys, beside; print(beside.NAME, __name__, __file__, __package__ == '', sys.argv)",
    )
    assert run_alike(tmp_path, "folder", "a").output.startswith("beside __main__ ")
    assert run_alike(tmp_path, "folder/").status == 0


def test_compiled_script(tmp_path: Path) -> None:
    path = write(tmp_path / "program.py", "import sys; print(__name__, __file__, sys.argv)\n1 / 0")
    py_compile.compile(str(path), str(tmp_path / "program.pyc"))
    path.unlink()
    outcome = run_alike(tmp_path, "program.pyc", "a")
    assert outcome.status == 1
    assert outcome.output == f"__main__ {tmp_path / 'program.pyc'} {['program.pyc', 'a']}\n"


@pytest.mark.parametrize(
    "source",
    [
        b"#!/usr/bin/env python3\nprint('shebang')\n",
        b"\xef\xbb\xbfprint('byte order mark')\n",
        b"# coding: latin-1\nprint(ascii('\xe9'))\n",
        b"if True:\r\n\tprint('carriage''' \\\r\n'return')\r\n",
        b"from __future__ import annotations\nx: a.b = 1\nprint('future')",
        b"x: print('annotation evaluated') = 1\nprint(__annotations__ != {})"
        if sys.version_info < (3, 14)
        else b"print()",
    ],
    ids=["shebang", "byte order mark", "latin-1", "carriage return", "future", "annotations"],
)
def test_forms_of_source(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "program").write_bytes(source)
    outcome = run_alike(tmp_path, "program")
    assert outcome.status == 0
    assert outcome.output


# Programs that cannot be run


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("no_such", "No module named no_such"),
        ("package.no_such", "No module named package.no_such"),
        ("no_such.module", "No module named 'no_such'"),
        ("empty", "is a package and cannot be directly executed"),
        ("math", "No code object available for math"),
        ("package/__main__.py", "Try using 'package/__main__' instead"),
        (".relative", "Relative module names not supported"),
    ],
)
def test_module_that_cannot_be_run(tmp_path: Path, module: str, reason: str) -> None:
    write(tmp_path / "package/__init__.py", "")
    write(tmp_path / "package/__main__.py", "")
    write(tmp_path / "empty/__init__.py", "")
    outcome = run_alike(tmp_path, "-m", module)
    assert outcome.status == 1
    assert reason in outcome.errors


def test_module_whose_package_cannot_be_imported(tmp_path: Path) -> None:
    write(tmp_path / "package/__init__.py", "import no_such")
    write(tmp_path / "package/__main__.py", "")
    outcome = run_alike(tmp_path, "-m", "package")
    assert outcome.status == 1
    assert "No module named 'no_such'" in outcome.errors


def test_folder_without_a_program(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    outcome = run_alike(tmp_path, "folder")
    assert outcome.status == 1
    assert "can't find '__main__' module in" in outcome.errors


@pytest.mark.parametrize("script", ["no_such.py", "no/such.py", "program.py/more"])
def test_script_that_cannot_be_opened(tmp_path: Path, script: str) -> None:
    write(tmp_path / "program.py", "")
    direct, ours = run_both(tmp_path, script)
    assert (ours.status, ours.output) == (direct.status, direct.output) == (2, "")
    reason = direct.errors.rpartition("] ")[2]
    assert re.fullmatch(f".*{script}.*{reason}", ours.errors)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "a script, or -m MODULE, is missing"),
        ("--dispatch greenlets", "a script, or -m MODULE, is missing"),
        ("-m", "argument -m: expected one argument"),
        ("--dispatch greenlets -m", "argument -m: expected one argument"),
        ("--dispatch", "argument --dispatch: expected one argument"),
        ("--dispatch forks program.py", "argument --dispatch: invalid choice: 'forks' .*"),
        ("--dispatch=forks program.py", "argument --dispatch: invalid choice: 'forks' .*"),
        ("-x program.py", "unrecognized arguments: -x.*"),
        ("--module program", "unrecognized arguments: --module.*"),
        ("--disp threads program.py", "unrecognized arguments: --disp.*"),
        ("-", r"expects \[--dispatch .*"),
        ("-- program.py", r"expects \[--dispatch .*"),
    ],
)
def test_wrong_command_line(tmp_path: Path, arguments: str, complaint: str) -> None:
    write(tmp_path / "program.py", "")
    with Command(*RUN, *arguments.split(), cwd=tmp_path) as command:
        status, output, errors = command.wait()
    assert (status, output) == (2, "")
    assert re.fullmatch(f"fastsocketserver(?: run)?: {complaint}\n", errors), errors


# In greenlets

THREADED = """
import socket, sys, threading
import socketserver

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(threading.current_thread().name.encode() + b" " + self.rfile.readline())

class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True

    def process_request_thread(self, request, client_address):
        print("process_request_thread")
        super().process_request_thread(request, client_address)

for server_class in (Server, socketserver.ThreadingTCPServer):
    with server_class(("127.0.0.1", 0), Handler) as server:
        loop = threading.Thread(target=server.serve_forever, name="the loop")
        loop.start()
        silent, client = (socket.create_connection(server.server_address) for _ in range(2))
        client.sendall(b"hello\\n")
        print(client.makefile().readline().strip())
        client.close()
        server.shutdown()
        silent.close()
        loop.join()
"""


def test_requests_run_in_greenlets_in_place_of_threads(tmp_path: Path) -> None:
    pytest.importorskip("greenlet", reason="greenlet is not installed")
    write(tmp_path / "program.py", THREADED)
    with Command(*RUN, "--dispatch", "greenlets", "program.py", cwd=tmp_path) as command:
        output = "process_request_thread\n" * 2 + "the loop hello\n" * 2
        assert command.wait() == (0, output, "")


def test_dispatch_of_a_module(tmp_path: Path) -> None:
    pytest.importorskip("greenlet", reason="greenlet is not installed")
    write(
        tmp_path / "program.py",
        "import socketserver; print(socketserver.ThreadingMixIn.__mro__[1])",
    )
    with Command(*RUN, "--dispatch=greenlets", "-m", "program", cwd=tmp_path) as command:
        assert command.wait() == (0, "<class 'socketserver.GreenletMixIn'>\n", "")


def test_dispatch_without_what_it_takes(tmp_path: Path) -> None:
    write(tmp_path / "greenlet.py", "raise ImportError('not here')")
    write(tmp_path / "program.py", "print('runs')")
    with Command(*RUN, "--dispatch", "greenlets", "program.py", cwd=tmp_path) as command:
        status, output, errors = command.wait()
    assert (status, output) == (2, "")
    assert "pip install 'fastsocketserver[greenlet]'" in errors
    assert errors.count("\n") == 1
