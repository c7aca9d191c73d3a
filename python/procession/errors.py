"""What procession raises beyond the exceptions of :mod:`multiprocessing`."""

from __future__ import annotations

from multiprocessing import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal


class WorkerDiedError(ProcessError):
    """A pool's worker died while it ran a task; the task has failed, the worker is replaced.

    Attributes
    ----------
    pid : int
        The worker's process number.
    exitcode : int
        As `Process.exitcode`: negative for a signal.
    task : int
        The task's number in its pool, counted from 0.
    """

    def __init__(self, pid: int, exitcode: int, task: int) -> None:
        super().__init__(pid, exitcode, task)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the worker, or None if it left by itself."""
        from signal import Signals

        try:
            return Signals(-self.exitcode)
        except ValueError:
            return None

    def __str__(self) -> str:
        how = f"was ended by {self.signal.name}" if self.signal else f"left with {self.exitcode}"
        return f"worker {self.pid} {how} while it ran task {self.task}"


class PoolTerminatedError(ProcessError):
    """The pool was terminated before the task was done."""
