"""Processes: those of :mod:`multiprocessing`, started and followed by procession.

A child is followed by pidfd, so `Process.sentinel` is a descriptor that becomes readable when the
process has ended, and no other process can be taken for it.
"""

from __future__ import annotations

import _thread
import os
import sys
from _signal import SIGINT, SIGKILL, SIGTERM
from multiprocessing import process as _stdlib
from multiprocessing import util
from multiprocessing.process import (
    BaseProcess,
    active_children,
    current_process,
    parent_process,
)

from . import _native
from ._default import force_start_method
from ._stdlib import loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BaseProcess", "Popen", "active_children", "current_process", "parent_process"]


class Popen:
    """A started process. Subclasses start it in their own way.

    Parameters
    ----------
    process_obj : BaseProcess
        What to run in the child.
    """

    method: str

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()  # type: ignore[attr-defined]
        self.returncode: int | None = None
        # Whether this process sent it a signal by these methods: then its end says little about it.
        self.was_signalled = False
        try:
            self._child = self._launch(process_obj)
            self.pid = self._child.pid
            self.sentinel = self._child.fileno()
        except BaseException:
            # A handler of a signal has raised. The exception holds this object, which is to end the
            # child at once.
            self.__dict__.pop("_child", None)
            raise

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        raise NotImplementedError

    def keep(self) -> None:
        """Let the process live on when nobody refers to this object: its start has succeeded."""
        self._child.keep()

    def duplicate_for_child(self, fd: int) -> int:
        return fd

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            self.returncode = self._child.wait(0 if flag & os.WNOHANG else None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            self.returncode = self._child.wait(timeout)
        return self.returncode

    def _send_signal(self, number: int) -> None:
        if self.returncode is None:
            self.was_signalled = True
            self._child.signal(number)

    def terminate(self) -> None:
        self._send_signal(SIGTERM)

    def kill(self) -> None:
        self._send_signal(SIGKILL)

    def interrupt(self) -> None:
        self._send_signal(SIGINT)

    def close(self) -> None:
        # The descriptor goes with the child's object.
        pass

    def terminate_tree(self) -> None:
        if self.returncode is None:
            self.was_signalled = True
            self._child.signal_tree(SIGTERM)

    def kill_tree(self) -> None:
        if self.returncode is None:
            self.was_signalled = True
            self._child.signal_tree(SIGKILL)

    def state(self) -> Any:
        from .states import ProcessState, state_of

        return (
            ProcessState("ended") if self.returncode is not None else state_of(self._child.state())
        )

    def task(self) -> int | None:
        """Return the task that a pool's worker has not finished, alive or dead."""
        return self._child.task()


class ForkPopen(Popen):
    """A process that was started by fork."""

    method = "fork"

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        parent = os.getpid()
        by_main_thread = _thread.get_native_id() == parent

        def be_the_copy() -> int:
            share_tracker(False)
            return run(process_obj, Parent(parent, by_main_thread))

        shared = share_tracker(True)
        try:
            return _native.fork(lambda: serve_as_copy(be_the_copy))
        finally:
            # A signal handler or a hook may start a process while this one is being started.
            share_tracker(shared)


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
            # It has ended, and its number may be another's: an end of a pipe without the other
            # end says the same as the pidfd of a process that is over.
            os.close(sentinel)
            sentinel, writer = os.pipe()
            os.close(writer)
        return sentinel

    def take_along(self) -> None:
        """Have this process end when the parent does."""
        _native.die_with_parent(self.pid, self.by_main_thread)


def share_tracker(shared: bool) -> bool:
    """Choose whether what this thread forks keeps the resource tracker; return what was chosen.

    Newer versions of Python have a copy close its descriptor of the tracker if this is not said.
    The copy would start a tracker of its own, which deletes the named shared memory that the copy
    has attached when that ends.
    """
    intent = getattr(loaded("resource_tracker"), "_fork_intent", None)
    before = bool(getattr(intent, "preserve_fd", False))
    if intent is not None:
        intent.preserve_fd = shared
    return before


def reap_unjoined() -> None:
    """Take the status of children that have ended: nobody may ever join them.

    As `start` and `active_children` do; called as well by whoever waits for something of ours.
    """
    if _stdlib._children:  # type: ignore[attr-defined]
        _stdlib._cleanup()  # type: ignore[attr-defined]


def dies_with_parent(process_obj: BaseProcess) -> bool:
    """Return whether a process is to end when the one that starts it does."""
    asked = process_obj._config.get("die_with_parent")  # type: ignore[attr-defined]
    return bool(process_obj.daemon or asked)


def run(process_obj: BaseProcess, parent: Any) -> int:
    """Be the child that a process object stands for; return the exit status.

    Parameters
    ----------
    process_obj : BaseProcess
        What to run.
    parent : Parent
        Or what has its `sentinel` and `take_along`.
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
    """Be the copy of a process, as this Python's versions have it; return the exit status.

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


def __getattr__(name: str) -> Any:
    # Private names of the standard library's module, which the public relies on.
    return getattr(_stdlib, name)
