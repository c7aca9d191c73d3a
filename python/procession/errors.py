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
    name : str
        The worker's name.
    call : str
        The function with its module, and the start of its arguments.
    """

    def __init__(self, pid: int, exitcode: int, task: int, name: str = "", call: str = "") -> None:
        super().__init__(pid, exitcode, task, name, call)
        self.pid = pid
        self.exitcode = exitcode
        self.task = task
        self.name = name
        self.call = call

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the worker, or None if it left by itself."""
        from signal import Signals

        try:
            return Signals(-self.exitcode)
        except ValueError:
            return None

    def __str__(self) -> str:
        worker = f"worker {self.pid} ({self.name})" if self.name else f"worker {self.pid}"
        what = f"task {self.task}, {self.call}" if self.call else f"task {self.task}"
        return f"{worker} {ending(self.exitcode)} while it ran {what}; {_advice(self.exitcode)}"


def ending(exitcode: int) -> str:
    """Return how a process ended, as part of a sentence."""
    from signal import Signals

    if exitcode >= 0:
        return f"left with exit code {exitcode}"
    try:
        return f"was ended by {Signals(-exitcode).name}"
    except ValueError:
        return f"was ended by signal {-exitcode}"


def _advice(exitcode: int) -> str:
    from signal import Signals

    crashes = (Signals.SIGSEGV, Signals.SIGBUS, Signals.SIGABRT, Signals.SIGILL, Signals.SIGFPE)
    if exitcode >= 0:
        return "look for what ends the process in it, as sys.exit() and os._exit() do"
    if exitcode == -Signals.SIGKILL:
        return "if it was not killed on purpose, memory ran out: see the kernel's log (dmesg)"
    if -exitcode in crashes:
        return "native code crashed: faulthandler.enable() in the pool's initializer shows where"
    return "look for the process that sent the signal"


class RemoteExceptionError(ProcessError):
    """A task raised an exception that can't be unpickled in this process.

    Its ``__cause__`` is a `multiprocessing.pool.RemoteTraceback` with the worker's traceback as
    text.

    Attributes
    ----------
    exception : str
        The exception's type, with its module, and its text, as at the end of a traceback.
    reason : str
        Why it can't be unpickled.
    """

    def __init__(self, exception: str, reason: str) -> None:
        super().__init__(exception, reason)
        self.exception = exception
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.exception} (the exception itself can't be unpickled here: {self.reason})"


class PoolTerminatedError(ProcessError):
    """The pool was terminated before the task was done.

    If it gave up because the initializer raised an exception in a worker, that exception is the
    ``__cause__``, with the worker's traceback.
    """


class PoolGaveUpError(PoolTerminatedError, ValueError):
    """A task was given to a pool that has given up.

    Whether that is found out before or after the task was submitted is a matter of time, so it is
    a `PoolTerminatedError`; a `ValueError`, as for every pool that is not running.
    """
