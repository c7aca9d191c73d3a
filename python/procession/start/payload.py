"""The payload of a child that is not forked, and the command that starts it.

The payload is a memfd: first what the child needs before it can unpickle anything (the main module,
paths, keys), then the process object.
"""

from __future__ import annotations

import io
import os
import sys
from multiprocessing import process as _process, util
from multiprocessing.context import set_spawning_popen
from multiprocessing.process import BaseProcess, current_process

from .. import _native
from .._default import default_context
from .._lazy import reduction
from .._stdlib import standard
from .popen import PreparedPopen
from .tracker import pipe_for_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEAVES_METHOD_OPEN = sys.version_info >= (3, 14)
"""Whether the start of a child by a specific context leaves the default method open."""


def write_payload(
    popen: PreparedPopen, process_obj: BaseProcess, preparation: dict[str, Any]
) -> int:
    """Write down what a child is to do; return the memfd.

    Parameters
    ----------
    popen : PreparedPopen
        The object that starts it and passes descriptors to it.
    process_obj : BaseProcess
        What it is to run.
    preparation : dict
        The argument of `prepare`, to which descriptors are added.

    Raises
    ------
    Exception
        What pickling raises, with a note of what could not be pickled.
    """
    preparation = dict(preparation)
    preparation["tracker"] = popen.DupFd(popen.duplicate_for_child(pipe_for_child()))
    if popen._verdict is not None:
        preparation["verdict"] = popen.DupFd(popen.duplicate_for_child(popen._verdict))
    pickled = io.BytesIO()
    set_spawning_popen(popen)  # type: ignore[arg-type]
    try:
        reduction.dump(preparation, pickled)
        try:
            reduction.dump(process_obj, pickled)
        except Exception as error:
            note_what_fails(process_obj, popen.method, error)
            raise
    finally:
        set_spawning_popen(None)
    return memfd_of(pickled)


def memfd_of(pickled: io.BytesIO) -> int:
    """Return a memfd with these bytes, at its beginning."""
    fd = os.memfd_create("procession start", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(pickled.getbuffer())
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def note_what_fails(process_obj: BaseProcess, method: str, error: Exception) -> None:
    """Add a note to an error of pickling: which attribute of the process it comes from."""
    try:
        reduced = process_obj.__reduce_ex__(4)
    except Exception:
        return
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    for name, value in state.items() if isinstance(state, dict) else ():
        try:
            reduction.dump(value, io.BytesIO())
        except Exception:
            error.add_note(
                f"{process_obj!r} can't be started by {method!r}: its attribute {name!r} can't be "
                "pickled"
            )
            return


def get_preparation_data(name: str) -> dict[str, Any]:
    """Return what a child of this process needs before it can unpickle its process object.

    Raises
    ------
    RuntimeError
        If this process is itself still being prepared.
    """
    standard("spawn")._check_not_importing_main()
    data: dict[str, Any] = {
        "name": name,
        "authkey": current_process().authkey,
        "log_to_stderr": util._log_to_stderr,  # type: ignore[attr-defined]
        "sys_path": list(sys.path),
        "sys_argv": sys.argv,
        "orig_dir": _process.ORIGINAL_DIR,  # type: ignore[attr-defined]
        "dir": os.getcwd(),
        "start_method": default_context().get_start_method(_LEAVES_METHOD_OPEN),
        "installed": sys.modules.get("multiprocessing") is sys.modules["procession"],
    }
    if util._logger is not None:  # type: ignore[attr-defined]
        data["log_level"] = util._logger.getEffectiveLevel()  # type: ignore[attr-defined]
    if "" in sys.path:
        data["sys_path"][sys.path.index("")] = data["orig_dir"]

    main = sys.modules["__main__"]
    main_name = getattr(main.__spec__, "name", None)
    main_path = getattr(main, "__file__", None)
    if main_name is not None:
        data["init_main_from_name"] = main_name
    elif main_path is not None:
        if not os.path.isabs(main_path) and data["orig_dir"] is not None:
            main_path = os.path.join(data["orig_dir"], main_path)
        data["init_main_from_path"] = os.path.normpath(main_path)
    return data


def get_command_line(**arguments: int) -> list[str | bytes]:
    """Return the command that starts a child, with arguments for `spawn_main`."""
    given = [f"{name}={value!r}" for name, value in arguments.items()]
    if getattr(sys, "frozen", False):
        return [sys.executable, "--multiprocessing-fork", *given]
    return interpreter_command(
        f"procession.start.child import spawn_main; spawn_main({', '.join(given)})"
    )


def interpreter_command(code: str) -> list[str | bytes]:
    """Return the command that runs ``from <code>``, with this interpreter's flags."""
    # Only this process may know where this package is.
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = f"import sys; sys.path.append({home!r}); from {code}"
    flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [standard("spawn").get_executable(), *flags, "-c", program, "--multiprocessing-fork"]


def start_program(command: list[str | bytes], slot: int, fds: list[int]) -> _native.Child:
    """Start an interpreter that is to take a reserved slot."""
    return _native.start_program([os.fsencode(word) for word in command], slot, fds)
