"""Queues between processes, without feeder thread and pipe.

`put` serializes in the caller: what can't be pickled is an exception there, and when `put` returns
the message is in shared memory, whatever becomes of the process that put it.
"""

from __future__ import annotations

from queue import Empty, Full

from . import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TypeVar

    _T = TypeVar("_T")
else:
    # Only checkers look at it: no child imports `typing` for it.
    _T = object

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]


class Queue(_native.Queue[_T]):
    """A queue of pickled objects, each of which one consumer gets.

    Where a process has no memory for an object, `get` raises `MemoryError` and the object is not
    lost. If its message is too large it stays in the queue. If what it is unpickled to is too
    large, this process keeps the message, and its next `get` from this queue object tries again;
    the tenth that fails discards it, and its error says so.

    Where a signal handler raises an exception out of `put`, the object was not put. Where it does
    so out of `get` or `get_many`, what was got is kept, and the next `get` from this queue object
    returns it. An exception of `put_many` has the attribute `put`: how many objects were put.

    Parameters
    ----------
    maxsize : int
        How many objects it holds before `put` waits; 0 or less is no bound.
    ctx : BaseContext, optional
        Accepted for the sake of `multiprocessing`; all contexts share one arena.
    name : str, optional
        What inspectors show.
    """

    def __init__(self, maxsize: int = 0, *, ctx: object = None, name: str = "") -> None:
        self._make(maxsize, name)

    @classmethod
    def open(cls, handle: str) -> Self:
        """Return the queue that a handle names.

        Raises
        ------
        StaleHandleError
            If it is no more.
        """
        queue = cls.__new__(cls)
        queue.__setstate__(handle)
        return queue

    def put_nowait(self, obj: _T) -> None:
        """Put an object in the queue, or raise `Full`."""
        # By `put`, which a subclass may have made its own.
        self.put(obj, False)

    def get_nowait(self) -> _T:
        """Remove the oldest object and return it, or raise `Empty`."""
        return self.get(False)

    def join_thread(self) -> None:
        """Return at once: there is no thread, and everything put is in the queue.

        Raises
        ------
        AssertionError
            If the queue is not closed.
        """
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Do nothing: an unread queue keeps no process from leaving."""

    @staticmethod
    def _on_queue_feeder_error(e: Exception, obj: object) -> None:
        """Take an object that can't be pickled.

        There is no feeder: `put` raises, unless a subclass overrides this, as that of
        `concurrent.futures` does.
        """
        import traceback

        traceback.print_exception(e)


class JoinableQueue(Queue[_T]):
    """A queue whose objects are tasks, and that can be waited for until they are all done.

    Takes what `Queue` does. If a process dies with a task that it got, `join` tells.

    Any process may call `task_done`, but a call does not say which task it means. So what is lost
    is known exactly as long as each process does so for the tasks that it got itself. When other
    processes have done so since all tasks were last done, and one that got tasks dies, `join` tells
    that some may be lost. The death of a process that was handed a task by other means than this
    queue is not noticed.
    """

    def __init__(self, maxsize: int = 0, *, ctx: object = None, name: str = "") -> None:
        self._make(maxsize, name, joinable=True)

    def task_done(self) -> None:
        """Say that an object that was got has been dealt with.

        Raises
        ------
        ValueError
            If that was said of as many as were put, those included that `join` told were lost.
        """
        self._task_done()

    def join(self) -> None:
        """Wait until all objects that were put have been dealt with.

        Raises
        ------
        procession.OwnerDiedError
            If processes died with some that they had got, and not called done. One joiner is told;
            the lost count as done, so joining again waits for the others. Also if some may be lost,
            which can't be known where tasks are called done by other processes than got them. Then
            each joiner is told, and nothing counts as done: call `task_done` for those that
            will not be done.
        """
        self._join()


class SimpleQueue(_native.Queue[_T]):
    """A queue without bound and timeouts, as `multiprocessing.SimpleQueue`.

    Parameters
    ----------
    ctx : BaseContext, optional
        As for `Queue`.
    """

    def __init__(self, *, ctx: object = None) -> None:
        self._make(0, "")

    def put(self, obj: _T) -> None:  # type: ignore[override]
        """Put an object in the queue.

        Raises
        ------
        OSError
            If this process has closed the queue.
        """
        self._check_open()
        super().put(obj)

    def get(self) -> _T:  # type: ignore[override]
        """Remove the oldest object and return it, waiting for one.

        Raises
        ------
        OSError
            If this process has closed the queue.
        """
        self._check_open()
        return super().get()

    def empty(self) -> bool:
        """Return whether there is no object in the queue.

        Raises
        ------
        OSError
            If this process has closed the queue.
        """
        self._check_open()
        return super().empty()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError("handle is closed")
