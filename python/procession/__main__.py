"""The command `procession`."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader

from . import _native
from .replacement import install


def _as_main(path: str | None) -> types.ModuleType:
    """Return a fresh main module, which lives as long as the process does."""
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    if path is not None:
        main.__file__ = path
        main.__loader__ = SourceFileLoader("__main__", path)
    sys.modules["__main__"] = main
    return main


def _run_script(path: str) -> None:
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        import runpy

        sys.path[0] = path
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
    sys.path[0] = os.path.dirname(path)
    exec(compile(source, path, "exec"), _as_main(path).__dict__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says; the program's exit status is this process's.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; `sys.argv` if left out.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    what, program, rest, status = _native.parse_command(given)
    if what in {"stdout", "stderr"}:
        getattr(sys, what).write(program)
        sys.exit(status)
    install()
    if what == "script":
        sys.argv = [program, *rest]
        _run_script(program)
    elif what == "module":
        import runpy

        sys.argv = [program, *rest]
        sys.path[0] = os.getcwd()
        runpy._run_module_as_main(program)  # type: ignore[attr-defined]
    else:
        sys.argv = ["-c", *rest]
        sys.path[0] = ""
        exec(compile(program, "<string>", "exec"), _as_main(None).__dict__)


if __name__ == "__main__":
    main()
