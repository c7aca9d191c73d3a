"""The child's side: from its first step to the run of its process object.

A child that is not forked from its parent reads what to do from a payload
(`procession.start.payload`). It gets the descriptor of the family's arena, and a slot. The parent
reserved that slot with a share in all objects that it held at that time. So an object that the
parent passes on still exists when the child opens it, even if the parent drops it meanwhile.
"""

from __future__ import annotations

import io
import os
import sys
from _pickle import load
from multiprocessing import process as _process, util
from multiprocessing.process import BaseProcess, current_process

from .. import _native
from .._default import default_context, force_start_method
from .._install import install
from .._stdlib import standard
from .tracker import use_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

ARENA, PAYLOAD, FIRST_OTHER = 3, 4, 5
"""The descriptors that a program is started with."""

inherited_fds: list[int] | None = None
"""The descriptors that came with the request for this process, if it is a copy of the template."""


class PassedFd:
    """A descriptor that goes to the child.

    Parameters
    ----------
    number : int
        Its number in the child: the descriptor, or its index in `inherited_fds`.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def detach(self) -> int:
        """Return the descriptor, in the child."""
        return self.number if inherited_fds is None else inherited_fds[self.number]


class Parent:
    """The process that started this one.

    Parameters
    ----------
    pid : int
        Its number.
    by_main_thread : bool
        Whether its main thread started this process.
    """

    def __init__(self, pid: int, by_main_thread: bool) -> None:
        self.pid = pid
        self.by_main_thread = by_main_thread
        self.sentinel = self._sentinel()

    def _sentinel(self) -> int | None:
        """Return a descriptor that is readable once the parent has ended."""
        try:
            sentinel = os.pidfd_open(self.pid)
        except OSError:
            sentinel = None
        if os.getppid() != self.pid and sentinel is not None:
            # The parent has ended, and another process may have its number. The reading end of a
            # pipe without a writer is readable, like the pidfd of a process that has ended.
            os.close(sentinel)
            sentinel, writer = os.pipe()
            os.close(writer)
        return sentinel

    def take_along(self) -> None:
        """Have this process end when the parent does."""
        _native.die_with_parent(self.pid, self.by_main_thread)


def dies_with_parent(process_obj: BaseProcess) -> bool:
    """Return whether a process is to end when its parent does."""
    asked = process_obj._config.get("die_with_parent")  # type: ignore[attr-defined]
    return bool(process_obj.daemon or asked)


def run(process_obj: BaseProcess, parent: Any) -> int:
    """Be the child that a process object stands for; return the exit status.

    Parameters
    ----------
    process_obj : BaseProcess
        What to run.
    parent : Parent
        Or an object with its `sentinel` and `take_along`.
    """
    _native.begin(process_obj.name)
    if dies_with_parent(process_obj):
        parent.take_along()
    method = getattr(process_obj, "_start_method", None)
    if method is not None:
        force_start_method(method)
    code: int = process_obj._bootstrap(parent_sentinel=parent.sentinel)  # type: ignore[attr-defined]
    return code


def serve_as_copy(serve: Any) -> int:
    """Be the copy of a process, as `multiprocessing` of this version does; return its status.

    Parameters
    ----------
    serve : callable
        What the copy is for; returns its exit status.
    """
    code = 1
    if sys.version_info >= (3, 13):
        import atexit

        atexit._clear()
        atexit.register(util._exit_function)  # type: ignore[attr-defined]
    try:
        code = serve()
    except Exception:
        sys.excepthook(*sys.exc_info())
        util._flush_std_streams()  # type: ignore[attr-defined]
    finally:
        if sys.version_info >= (3, 13):
            atexit._run_exitfuncs()
    return code


def prepare(data: dict[str, Any]) -> None:
    """Make this process ready to unpickle its process object.

    Parameters
    ----------
    data : dict
        What `get_preparation_data` returned in the parent; all keys are optional.
    """
    if data.get("installed"):
        install()
    if "tracker" in data:
        use_pipe(data["tracker"].detach())
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

    Does nothing if the main module is already that program's.
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


old_main_modules: list[ModuleType] = []
"""Main modules that are kept, since their objects may still be in use."""


def is_forking(argv: list[str]) -> bool:
    """Return whether a command line starts a child."""
    return len(argv) >= 2 and argv[1] == "--multiprocessing-fork"


def freeze_support() -> None:
    """Do what this process was started for, if it is a child of a frozen program."""
    if is_forking(sys.argv):
        spawn_main(**{name: int(value) for name, value in (w.split("=") for w in sys.argv[2:])})


def spawn_main(slot: int, parent: int, main_thread: int) -> None:
    """Be a child: join the family, unpickle the process object, run it, and leave.

    Parameters
    ----------
    slot : int
        What `_native.reserve` returned in the parent.
    parent : int
        The parent's pid.
    main_thread : int
        Whether the parent's main thread starts this process.
    """
    assert is_forking(sys.argv), "Not forking"
    try:
        _native.inherit(ARENA, slot)
    except Exception as error:
        sys.exit(
            f"Process {os.getpid()}, started by {parent}, can't map the shared memory of its "
            f"family: {error}"
        )
    started_by = Parent(parent, bool(main_thread))
    # The other descriptors are for this process, and not for programs that it starts.
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > PAYLOAD:
            try:
                os.set_inheritable(int(entry), False)
            except OSError:
                # The descriptor by which the directory was read.
                continue
    sys.exit(serve(PAYLOAD, started_by))


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
        # The process exits before its target began. It says so, also if it exits by itself.
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
