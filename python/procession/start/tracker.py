"""The standard library's resource tracker, which a family shares and starts when it is needed.

The tracker is a program. It reads from a pipe which named shared memory exists. When no process has
the pipe's other end any more, it unlinks the memory that is left. So a process and its child need
the same pipe, also if the child is the first to make shared memory: when a child with a tracker of
its own ends, that tracker unlinks the memory that the child has attached, or made for its parent.

Most programs need no tracker. So a process that starts a child only makes the pipe, and passes it
on. The first process that has something to write starts the program:

1. It checks by `poll` whether the pipe has a reader.
2. If not, it locks the pipe like a file. The kernel unlocks it when the process dies.
3. If there is still no reader, it opens the other end. From now on other processes write, too; the
   pipe keeps what they write.
4. It starts the program with that end, and closes it.

A process that is killed between 3 and 4 leaves a pipe without a reader, and the next process starts
the program. What other processes had written is lost then, as when the program itself is killed.
"""

from __future__ import annotations

import os
import sys

from .._stdlib import REPLACED, STANDARD, loaded, standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

_MODULE = "resource_tracker"

_kept: dict[str, tuple[int, tuple[int, int] | None]] = {}
"""The pipe, and which file it is, until the standard library's module is used and takes it."""

_made: tuple[int, int] | None = None
"""The pipe that a process has made, and the process's pid."""


def pipe_for_child() -> int:
    """Return the descriptor of the pipe, which is to go to a child.

    A fork copies the descriptor, and also what makes the copy use it.
    """
    if loaded(_MODULE) is None:
        fd = _keep(None)
        # Another thread may have loaded it meanwhile.
        if loaded(_MODULE) is None:
            return fd
    # Without the tracker's lock, which may be taken in a copy.
    tracker = _join(standard(_MODULE))
    if tracker._fd is None:
        fd = _keep(None)
        if tracker._fd is None:
            return fd
    used: int = tracker._fd
    return used


def use_pipe(fd: int) -> None:
    """Use the pipe of the process that has started this one."""
    if loaded(_MODULE) is None:
        _keep(fd)
    else:
        module = standard(_MODULE)
        module._resource_tracker._fd = fd
        _join(module)


def _keep(given: int | None) -> int:
    """Keep a pipe ready until the module is used; return its descriptor.

    Parameters
    ----------
    given : int or None
        The pipe to use. None stands for the pipe that exists, or for a new one.
    """
    pipe = _kept.get("pipe")
    if given is not None:
        pipe = _kept["pipe"] = given, _file(given)
    elif pipe is None or not _is_there(pipe):
        if pipe is not None:
            _kept.pop("pipe", None)
        fd = _make()
        pipe = _kept.setdefault("pipe", (fd, _file(fd)))
        if pipe[0] != fd:
            # Another thread was faster.
            os.close(fd)
    if _finder not in sys.meta_path and loaded(_MODULE) is None:
        sys.meta_path.insert(0, _finder)
    return pipe[0]


def _file(fd: int) -> tuple[int, int] | None:
    """Return which file a descriptor is of, None if it is of none."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_there(pipe: tuple[int, tuple[int, int] | None]) -> bool:
    """Return whether a descriptor is still the pipe's: a program may close what it doesn't know."""
    return _file(pipe[0]) == pipe[1]


def _make() -> int:
    """Make a pipe that has no reader yet; return its descriptor."""
    global _made
    reader, writer = os.pipe()
    os.close(reader)
    # If two threads make one, neither knows which is used: its tracker will not be a child.
    _made = writer, os.getpid()
    return writer


def _join(module: Any) -> Any:
    """Have the standard library's module use the family's pipe; return its tracker."""
    tracker = module._resource_tracker
    # The method that each of its operations on shared memory calls first.
    name = "_ensure_running_and_write"
    if not hasattr(tracker, name):
        name = "ensure_running"
    original = getattr(tracker, name)
    if not isinstance(original, _Ensure):
        ensure = _Ensure(tracker, original)
        setattr(tracker, name, ensure)
        if module.ensure_running == original:
            module.ensure_running = ensure
    return tracker


class _Ensure:
    """Makes sure that a tracker reads the pipe, before the standard library looks for that.

    Parameters
    ----------
    tracker : ResourceTracker
        The standard library's, of this process.
    original : callable
        What it does then.
    """

    def __init__(self, tracker: Any, original: Callable[..., Any]) -> None:
        self.tracker = tracker
        self.original = original
        self.seen: tuple[int, int] | None = None
        """Which pipe had a reader."""

    def __call__(self, *args: Any) -> Any:
        tracker = self.tracker
        if tracker._fd is None or not self._is_read(tracker._fd):
            with tracker._lock:
                # A finalizer may have interrupted a holder of the lock; the original handles that.
                if tracker._lock._recursion_count() == 1:
                    if tracker._fd is None:
                        tracker._fd = _keep(None)
                        # From now on the pipe is looked up in the tracker.
                        _kept.pop("pipe", None)
                    self._start(tracker._fd)
        return self.original(*args)

    def _is_read(self, fd: int) -> bool:
        import select

        poll = select.poll()
        poll.register(fd, 0)
        ready = poll.poll(0)
        # If the program has closed the descriptor, the original reports that.
        is_read = not ready or not ready[0][1] & select.POLLERR
        if is_read:
            self.seen = _file(fd)
        return is_read

    def _start(self, fd: int) -> None:
        """Start the tracker unless another process does."""
        import fcntl

        died = self.seen == _file(fd)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        try:
            if self._is_read(fd):
                return
            reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
            try:
                self._start_reader(reader, (fd, os.getpid()) == _made)
            finally:
                os.close(reader)
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN)
        self.seen = _file(fd)
        if died:
            import warnings

            warnings.warn(
                "resource_tracker: process died, and another takes its place, which does not know "
                "what that one was told",
                stacklevel=2,
            )

    def _start_reader(self, reader: int, as_child: bool) -> None:
        """Start the program.

        Parameters
        ----------
        reader : int
            What it reads.
        as_child : bool
            Whether it is to be a child of this process. One that was itself started with the pipe
            must not wait for it as it ends, nor take it along where its whole tree is ended.
        """
        import contextlib
        import signal
        from multiprocessing import util

        self._reap()
        leave = "" if as_child else "import os; os.fork() and os._exit(0); "
        program = f"{leave}from multiprocessing.resource_tracker import main; main({reader})"
        executable = standard("spawn").get_executable()
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
        command = [executable, *flags, "-c", program]
        fds = [reader]
        # There may be no such stream, or one of the program's own.
        with contextlib.suppress(Exception):
            fds.append(sys.stderr.fileno())
        # The program can't ignore them before its first steps.
        signals = {signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            pid = util.spawnv_passfds(executable, command, fds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.tracker._pid = pid
        if not as_child:
            self._reap()

    def _reap(self) -> None:
        """Take the status of a child that was the tracker, or started it."""
        import contextlib

        pid, self.tracker._pid = self.tracker._pid, None
        if pid is not None:
            # The status may have been taken elsewhere.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


class _Finder:
    """Finds the standard library's module, and has it use the family's pipe."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> Any:
        """Return how the module is loaded, or None if the name is another's."""
        if name not in (f"{REPLACED}.{_MODULE}", f"{STANDARD}.{_MODULE}"):
            return None
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(name, path, target)
                if spec is not None and spec.loader is not None:
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                    return spec
        return None


_finder = _Finder()


class _Loader:
    """Loads the module as another loader does, and has it use the family's pipe.

    Parameters
    ----------
    loader : Loader
        That loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: Any) -> Any:
        """Make the module."""
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Run the module's code."""
        # The module's attributes show the usual loader.
        module.__spec__.loader = self.loader
        if module.__loader__ is self:
            module.__loader__ = self.loader
        self.loader.exec_module(module)
        _join(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
