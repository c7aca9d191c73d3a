"""Processes: those of :mod:`multiprocessing`, started and followed by procession.

A child is followed by pidfd, so `Process.sentinel` is a descriptor that becomes readable when the
process has ended, and no other process can be taken for it.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import util
from multiprocessing.process import (
    BaseProcess,
    active_children,
    current_process,
    parent_process,
)
from typing import Any

from . import _native

__all__ = ["BaseProcess", "Popen", "active_children", "current_process", "parent_process"]


class Popen:
    """A process that was started by fork.

    Parameters
    ----------
    process_obj : BaseProcess
        What to run in the child.
    """

    method = "fork"

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()  # type: ignore[attr-defined]
        self.returncode: int | None = None
        parent = os.getpid()
        by_main_thread = threading.get_native_id() == parent
        try:
            pid = os.fork()
        except BaseException:
            _native.not_forked()
            raise
        if pid == 0:
            code = 1
            try:
                _native.begin(process_obj.name)
                if process_obj.daemon:
                    _native.die_with_parent(parent, by_main_thread)
                code = process_obj._bootstrap(parent_sentinel=self._parent(parent))  # type: ignore[attr-defined]
            finally:
                os._exit(code)
        self.pid = pid
        self._child = _native.forked(pid)
        self.sentinel = self._child.fileno()

    @staticmethod
    def _parent(pid: int) -> int | None:
        try:
            sentinel = os.pidfd_open(pid)
        except OSError:
            sentinel = None
        if os.getppid() != pid and sentinel is not None:
            # The parent has ended, and its number may be another's by now: an end of a pipe without
            # the other end says the same as the pidfd of a process that is over.
            os.close(sentinel)
            sentinel, writer = os.pipe()
            os.close(writer)
        return sentinel

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
            self._child.signal(number)

    def terminate(self) -> None:
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._send_signal(signal.SIGKILL)

    def interrupt(self) -> None:
        self._send_signal(signal.SIGINT)

    def close(self) -> None:
        # The descriptor goes with the child's object.
        pass

    def task(self) -> int | None:
        """Return the task that a pool's worker has not finished, alive or dead."""
        return self._child.task()


def __getattr__(name: str) -> Any:
    # Private names of the standard library's module, which the public relies on.
    from multiprocessing import process

    return getattr(process, name)
