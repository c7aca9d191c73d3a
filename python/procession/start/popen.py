"""A started process, as its parent follows it."""

from __future__ import annotations

import os
import sys
from _signal import SIGINT, SIGKILL, SIGTERM
from multiprocessing import util
from multiprocessing.process import BaseProcess

from .. import _native
from .child import PassedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..states import ProcessState


class Popen:
    """A started process. Subclasses start it in their own way.

    Parameters
    ----------
    process_obj : BaseProcess
        What to run in the child.
    """

    method: str
    """The name of the start method."""

    def __init__(self, process_obj: BaseProcess) -> None:
        util._flush_std_streams()  # type: ignore[attr-defined]
        self.returncode: int | None = None
        # Whether this process sent it a signal by these methods. Then its end says little about it.
        self.was_signalled = False
        try:
            self._child = self._launch(process_obj)
            self.pid = self._child.pid
            self.sentinel = self._child.fileno()
        except BaseException:
            # A signal handler has raised. The exception keeps this object alive, but the child must
            # end at once.
            self.__dict__.pop("_child", None)
            raise

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        raise NotImplementedError

    def keep(self) -> None:
        """Note that the start has succeeded: the child outlives this object."""
        self._child.keep()

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child get a descriptor; return its number there."""
        return fd

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the process runs; 0 as `flag` waits for its end."""
        if self.returncode is None:
            self.returncode = self._child.wait(0 if flag & os.WNOHANG else None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, for `timeout` seconds at most; return the exit code, or None."""
        if self.returncode is None:
            self.returncode = self._child.wait(timeout)
        return self.returncode

    def _send_signal(self, number: int) -> None:
        if self.returncode is None:
            self.was_signalled = True
            self._child.signal(number)

    def terminate(self) -> None:
        """Send SIGTERM, unless the process is known to have ended."""
        self._send_signal(SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless the process is known to have ended."""
        self._send_signal(SIGKILL)

    def interrupt(self) -> None:
        """Send SIGINT, unless the process is known to have ended."""
        self._send_signal(SIGINT)

    def close(self) -> None:
        """Do nothing: the descriptor goes with this object."""

    def terminate_tree(self) -> None:
        """Send SIGTERM to the process and its descendants."""
        if self.returncode is None:
            self.was_signalled = True
            self._child.signal_tree(SIGTERM)

    def kill_tree(self) -> None:
        """Send SIGKILL to the process and its descendants."""
        if self.returncode is None:
            self.was_signalled = True
            self._child.signal_tree(SIGKILL)

    def state(self) -> ProcessState:
        """Return what the process is doing."""
        from ..states import ProcessState, state_of

        return (
            ProcessState("ended") if self.returncode is not None else state_of(self._child.state())
        )

    def task(self) -> int | None:
        """Return the task that a pool's worker has not finished, alive or dead."""
        return self._child.task()


class PreparedPopen(Popen):
    """A process that imports the main module before it begins.

    A main module that starts processes without the guard ``if __name__ == "__main__":`` would have
    each of them start others. They are refused that, so none of them can begin. The parent raises
    this as one error. Where the guard seems to be missing, `start` waits for the child's verdict.

    Raises
    ------
    RuntimeError
        If the main module does not leave the start of processes to the main process.
    """

    DupFd = PassedFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: list[int] = []
        self._verdict: int | None = None
        """The descriptor on which a child reports that the guard is missing."""
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
        """Wait until the child is prepared, or can't be, or waits for something."""
        import select

        poll = select.poll()
        poll.register(reader, select.POLLIN)
        # A process that is forked meanwhile keeps the pipe open.
        poll.register(self.sentinel, select.POLLIN)
        slept = 0.0
        try:
            while not poll.poll(_LOOK * 1000):
                slept += _LOOK if self._sleeps() else 0
                if slept >= _MAX_SLEEP:
                    return
            os.set_blocking(reader, False)
            try:
                text = os.read(reader, select.PIPE_BUF)
            except BlockingIOError:
                text = b""
            if text:
                self.wait()
        except BaseException:
            # A signal handler has raised; nothing else refers to the child.
            self.kill()
            self.wait()
            raise
        if text:
            raise RuntimeError(text.decode())

    def _sleeps(self) -> bool:
        """Return whether the child waits for something else than a processor or a disk."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            # Its state can't be read.
            return True
        return fields[0] not in (b"R", b"D")


_LOOK = 0.02
"""Seconds between two looks at a child that is being prepared."""

_MAX_SLEEP = 0.5
"""Seconds that a child may sleep while it is being prepared, and be waited for."""


def main_seems_unguarded() -> bool:
    """Return whether the main module, while it is run, starts a process outside of a guard.

    It guesses by the line that is being run: whether the outermost statement of that line is an
    ``if`` about ``__name__``.
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
    # Up to the statement's first line, only its clauses begin without a blank.
    for line in reversed(lines):
        if line.startswith((b"if", b"el")) and b"__name__" in line:
            return False
        if line[:1] not in b" \t#)]}" and not line.startswith((b"el", b"except", b"finally")):
            return True
    return True
