"""Processes that begin with a fresh interpreter, and what all that are not forked have in common.

Such a child is told what to do in a memfd: first what it needs before it can unpickle anything
(the main module, paths, keys), then the process object. It has the family's arena by its
descriptor, and a slot that its parent reserved with a share in all that the parent held at that
time: so what the parent passes on is there when the child comes to open it, whatever the parent
does meanwhile.
"""

from __future__ import annotations

import _thread
import io
import os
import sys
from _pickle import load
from multiprocessing import process as _process
from multiprocessing import util
from multiprocessing.context import set_spawning_popen
from multiprocessing.process import BaseProcess, current_process

from . import _native
from ._default import default_context
from ._lazy import reduction
from ._stdlib import loaded, standard
from .process import Parent, Popen, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "freeze_support",
    "get_command_line",
    "get_preparation_data",
    "import_main_path",
    "is_forking",
    "old_main_modules",
    "prepare",
    "spawn_main",
]

_ARENA, _PAYLOAD, _FIRST_OTHER = 3, 4, 5
"""The descriptors that a program is started with."""

_LEAVES_METHOD_OPEN = sys.version_info >= (3, 14)
"""Whether a process that is started by a context of its own leaves the default method open."""


class PassedFd:
    """A descriptor that goes to the child."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        return self.fd


class PreparedPopen(Popen):
    """A process that imports the main module before it begins.

    A main module that starts processes without the guard ``if __name__ == "__main__":`` would have
    each of them start others. They are refused that, so none of them can begin; which is told
    here, once, instead of by each. Only where the guard seems to be missing it is waited for.

    Raises
    ------
    RuntimeError
        If the main module does not leave the start of processes to the main process.
    """

    DupFd: Any

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        self._verdict: int | None = None
        """Where a child tells that the guard is missing."""
        if not main_seems_unguarded():
            super().__init__(process_obj)
            return
        reader, self._verdict = os.pipe()
        try:
            try:
                super().__init__(process_obj)
            finally:
                os.close(self._verdict)
            self._await_verdict(reader)
        finally:
            os.close(reader)

    def _await_verdict(self, reader: int) -> None:
        """Wait until the child is prepared, or can't be."""
        import select

        poll = select.poll()
        poll.register(reader, select.POLLIN)
        # What is forked meanwhile keeps the pipe open.
        poll.register(self.sentinel, select.POLLIN)
        try:
            poll.poll()
            os.set_blocking(reader, False)
            try:
                text = os.read(reader, select.PIPE_BUF)
            except BlockingIOError:
                text = b""
            if text:
                self.wait()
        except BaseException:
            # A signal handler has raised; nobody else knows of the child.
            self.kill()
            self.wait()
            raise
        if text:
            raise RuntimeError(text.decode())


class SpawnPopen(PreparedPopen):
    """A process that was started as a fresh interpreter."""

    method = "spawn"
    DupFd = PassedFd

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return _FIRST_OTHER + len(self._fds) - 1

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        payload = write_payload(self, process_obj)
        try:
            slot = _native.reserve()
            main_thread = _thread.get_native_id() == os.getpid()
            command = get_command_line(slot=slot, parent=os.getpid(), main_thread=int(main_thread))
            return start_program(command, slot, [payload, *self._fds])
        finally:
            os.close(payload)


def start_program(command: list[str | bytes], slot: int, fds: list[int]) -> _native.Child:
    """Start an interpreter that is to take a reserved slot."""
    return _native.start_program([os.fsencode(word) for word in command], slot, fds)


def main_seems_unguarded() -> bool:
    """Return whether the main module starts a process while it is run, and not under its guard.

    That is a guess by the line that it is at: whether the outermost statement to which that belongs
    is an ``if`` about ``__name__``.
    """
    frame: Any = sys._getframe(1)
    main = sys.modules["__main__"]
    while frame.f_globals is not main.__dict__ or frame.f_code.co_name != "<module>":
        frame = frame.f_back
        if frame is None:
            return False
    try:
        with open(frame.f_code.co_filename, "rb") as file:
            lines = file.read().splitlines()[: frame.f_lineno]
    except OSError:
        return False
    # From the line up to the statement's first, all that begins without a blank are its clauses.
    for line in reversed(lines):
        if line.startswith((b"if", b"el")) and b"__name__" in line:
            return False
        if line[:1] not in b" \t#)]}" and not line.startswith((b"el", b"except", b"finally")):
            return True
    return True


def write_payload(popen: PreparedPopen, process_obj: BaseProcess, **more: Any) -> int:
    """Write down what a child is to do, with `more` for `prepare`; return the memfd.

    Raises
    ------
    RuntimeError
        In a process whose main module is still being imported.
    Exception
        What pickling raises, with a note of what could not be pickled.
    """
    preparation = get_preparation_data(process_obj.name) | more
    tracker = loaded("resource_tracker")
    tracker_fd = tracker and tracker._resource_tracker._fd
    if tracker_fd is not None:
        # It deletes the named shared memory of all whose descriptor it is.
        preparation["tracker"] = popen.DupFd(popen.duplicate_for_child(tracker_fd))
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
    """Add to an error of pickling which of the process's attributes it comes from."""
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


# What a child has to know before it can unpickle anything.


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


def prepare(data: dict[str, Any]) -> None:
    """Make this process ready to unpickle its process object.

    Parameters
    ----------
    data : dict
        What `get_preparation_data` returned in the parent; all keys are optional.
    """
    if data.get("installed"):
        from ._install import install

        install()
    if "tracker" in data:
        standard("resource_tracker")._resource_tracker._fd = data["tracker"].detach()
    if "name" in data:
        current_process().name = data["name"]
    if "authkey" in data:
        current_process().authkey = data["authkey"]
    if data.get("log_to_stderr"):
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])
    if "environment" in data and data["environment"] != dict(os.environ):
        os.environ.clear()
        os.environ.update(data["environment"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        os.chdir(data["dir"])
    if "orig_dir" in data:
        _process.ORIGINAL_DIR = data["orig_dir"]  # type: ignore[attr-defined]
    if "start_method" in data:
        default_context().set_start_method(data["start_method"], force=True)
    if "init_main_from_name" in data:
        standard("spawn")._fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        import_main_path(data["init_main_from_path"])


def import_main_path(path: str) -> None:
    """Run the program at a path as ``__mp_main__``, and make that the main module.

    Does nothing where the main module is that program's already.
    """
    if not path.endswith(".py") or not os.path.isfile(path):
        # A folder, an archive, or something like that.
        standard("spawn").import_main_path(path)
        return
    before = sys.modules["__main__"]
    if os.path.basename(path) == "ipython.py" or getattr(before, "__file__", None) == path:
        return
    old_main_modules.append(before)
    main = type(sys)("__mp_main__")
    main.__dict__.update(__file__=path, __package__="", __builtins__=__builtins__)
    if "__cached__" in globals():
        # Newer versions have no such name.
        main.__dict__["__cached__"] = None
    sys.modules["__mp_main__"] = main
    argument, sys.argv[0] = sys.argv[0], path
    try:
        with io.open_code(path) as file:
            exec(compile(file.read(), path, "exec", dont_inherit=True), main.__dict__)
    finally:
        sys.argv[0] = argument
    sys.modules["__main__"] = main


old_main_modules: list[Any] = []
"""They must not go while something of them may be in use."""


def is_forking(argv: list[str]) -> bool:
    """Return whether a command line is that of a child that is to be."""
    return len(argv) >= 2 and argv[1] == "--multiprocessing-fork"


# The child's side.


def get_command_line(**arguments: int) -> list[str | bytes]:
    """Return the command that starts a child, with arguments for `spawn_main`."""
    given = [f"{name}={value!r}" for name, value in arguments.items()]
    if getattr(sys, "frozen", False):
        return [sys.executable, "--multiprocessing-fork", *given]
    return interpreter_command(
        f"procession.spawn import spawn_main; spawn_main({', '.join(given)})"
    )


def interpreter_command(code: str) -> list[str | bytes]:
    """Return the command that runs ``from <code>``, with this interpreter's flags."""
    # Where this package is found may be known to this process alone.
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = f"import sys; sys.path.append({home!r}); from {code}"
    flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [standard("spawn").get_executable(), *flags, "-c", program, "--multiprocessing-fork"]


def freeze_support() -> None:
    """Do what this process was started for, if it is a child of a frozen program."""
    if is_forking(sys.argv):
        spawn_main(**{name: int(value) for name, value in (w.split("=") for w in sys.argv[2:])})


def spawn_main(slot: int, parent: int, main_thread: int) -> None:
    """Be a child: join the family, unpickle the process object, run it, and leave.

    Parameters
    ----------
    slot : int
        What `_native.reserve` gave in the parent.
    parent : int
        The parent's pid.
    main_thread : int
        Whether the parent's main thread starts this process.
    """
    assert is_forking(sys.argv), "Not forking"
    try:
        _native.inherit(_ARENA, slot)
    except Exception as error:
        sys.exit(
            f"Process {os.getpid()}, started by {parent}, can't map the shared memory of its "
            f"family: {error}"
        )
    started_by = Parent(parent, bool(main_thread))
    # What else was passed is for this process, and not for programs that it starts.
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > _PAYLOAD:
            try:
                os.set_inheritable(int(entry), False)
            except OSError:
                # The one by which the directory was read.
                continue
    sys.exit(serve(_PAYLOAD, started_by))


def serve(payload: int, parent: Any) -> int:
    """Run what a payload says; return the exit status."""
    name = current_process().name
    verdict: int | None = None
    current_process()._inheriting = True  # type: ignore[attr-defined]
    try:
        with open(payload, "rb") as file:
            data = load(file)
            name = data["name"]
            if "verdict" in data:
                verdict = data["verdict"].detach()
                os.set_inheritable(verdict, False)
            prepare(data)
            if verdict is not None:
                os.close(verdict)
                verdict = None
            process_obj = load(file)
    except BaseException as error:
        if verdict is not None and _is_told(error, verdict):
            return 1
        # It has left before it began, whatever status it left with.
        sys.stderr.write(f"Process {name}, while it was being prepared:\n")
        import traceback

        traceback.print_exc()
        util._flush_std_streams()  # type: ignore[attr-defined]
        status = error.code if isinstance(error, SystemExit) else None
        return status & 0xFF or 1 if isinstance(status, int) else 1
    finally:
        del current_process()._inheriting  # type: ignore[attr-defined]
    _native.drop_unopened()
    code = run(process_obj, parent)
    _native.leave_with(code & 0xFF)
    return code


def _is_told(error: BaseException, verdict: int) -> bool:
    """Tell the parent that the main module has no guard, if that is what an error says."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None or at.tb_frame.f_code.co_name != "_check_not_importing_main":
        return False
    try:
        os.write(verdict, str(error).encode())
    except OSError:
        return False
    return True


def __getattr__(name: str) -> Any:
    # Where the interpreter is chosen, and private names that the public relies on.
    if name.startswith("__"):
        # The import system looks whether there is this and that.
        raise AttributeError(name)
    return getattr(standard("spawn"), name)
