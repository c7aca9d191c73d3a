"""The command `procession`."""

from __future__ import annotations

import builtins
import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, SourceFileLoader

from . import _native
from ._install import install

_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_AGAIN = f"""
import sys
sys.path.append({_HOME!r})
from procession.__main__ import main
sys.path.pop()
main()
"""
"""The program of an interpreter that may not find this package by itself."""


def _run_source(source: bytes | str, name: str, path: str | None = None) -> None:
    """Run source text as the main module, which lives as long as the process does."""
    main = types.ModuleType("__main__")
    if "__annotate__" not in vars(types.ModuleType):
        # Newer versions make them when they are asked for.
        main.__annotations__ = {}
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    main.__loader__ = BuiltinImporter
    if path is not None:
        main.__file__ = path
        if "__cached__" in globals():
            # Newer versions have no such name.
            main.__cached__ = None  # type: ignore[attr-defined]
        main.__loader__ = SourceFileLoader("__main__", path)
    # The second name is the main module's in a child, by which objects from there are pickled.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    # This module's `from __future__` imports must not apply to the program.
    exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)


def _begin_path(entry: str) -> None:
    """Replace the command's folder on `sys.path` by the program's."""
    if not sys.flags.safe_path:
        sys.path[0] = entry


def _run_script(path: str) -> None:
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        import runpy

        # Whatever the interpreter's options say of the path, as the interpreter does.
        sys.path[: not sys.flags.safe_path] = [path]
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        # As the interpreter has it.
        sys.stderr.write(f"procession: can't open file {path!r}: {error.strerror}\n")
        sys.exit(2)
    path = os.path.abspath(path)
    _begin_path(os.path.dirname(path))
    _run_source(source, path, path)


def _run_stdin() -> None:
    _begin_path("")
    if sys.stdin is not None and sys.stdin.isatty():
        import code

        _run_source("", "<stdin>")
        code.interact(local=sys.modules["__main__"].__dict__, exitmsg="")
    else:
        _run_source(sys.stdin.buffer.read() if sys.stdin is not None else b"", "<stdin>")


def _begin_again(options: list[str], arguments: list[str]) -> None:
    """Replace this interpreter by one with more options."""
    *_, own, _ = _native.parse_command(["run", *sys.orig_argv[1:]])
    command = [sys.executable, *own, *options, "-c", _AGAIN, "run", *arguments]
    try:
        os.execv(sys.executable, command)
    except OSError as error:
        sys.stderr.write(
            f"procession: can't start {sys.executable!r} with {options}: {error.strerror}\n"
        )
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says; the program's exit status is this process's.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; `sys.argv` if left out.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    what, program, rest, options, status = _native.parse_command(given)
    if what in {"stdout", "stderr"}:
        getattr(sys, what).write(program)
        sys.exit(status)
    if options:
        how = {"script": ["--"], "stdin": [], "module": ["-m"], "code": ["-c"]}[what]
        _begin_again(options, [*how, program, *rest])
    install()
    if what == "script":
        sys.argv = [program, *rest]
        _run_script(program)
    elif what == "stdin":
        sys.argv = [program, *rest]
        _run_stdin()
    elif what == "module":
        import runpy

        sys.argv = [program, *rest]
        _begin_path(os.getcwd())
        runpy._run_module_as_main(program)  # type: ignore[attr-defined]
    else:
        sys.argv = ["-c", *rest]
        _begin_path("")
        _run_source(program, "<string>")


if __name__ == "__main__":
    main()
