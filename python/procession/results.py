"""What a pool gives for tasks that are not done yet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError
from types import GenericAlias
from typing import Any

from .crew import Crew


class AsyncResult:
    """The outcome of a task that may not be done yet.

    Made by `Pool.apply_async`.
    """

    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated]

    def __init__(
        self,
        crew: Crew,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._crew = crew
        self._callback = callback
        self._error_callback = error_callback
        self._has_come = False
        self._is_ready = False
        self._success = False
        self._value: Any = None

    def ready(self) -> bool:
        """Return whether the task is done."""
        return self._is_ready or self._crew.collect(self, 0)

    def successful(self) -> bool:
        """Return whether the task ended without an exception.

        Raises
        ------
        ValueError
            If it is not done.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the task is done, for `timeout` seconds at the longest."""
        if not self._is_ready:
            self._crew.collect(self, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the task's result, or raise the exception that it raised.

        Parameters
        ----------
        timeout : float, optional
            The seconds to wait at the longest.

        Raises
        ------
        multiprocessing.TimeoutError
            If the task is not done by then.
        procession.WorkerDiedError
            If the worker died while it ran the task.
        """
        if not self._is_ready and not self._crew.collect(self, timeout):
            raise TimeoutError
        if self._success:
            return self._value
        raise self._value

    def _done(self, index: int, ok: bool, value: Any) -> None:
        self._set(ok, value)

    def _set(self, ok: bool, value: Any) -> None:
        self._success = ok
        self._value = value
        callback = self._callback if ok else self._error_callback
        self._is_ready = not self._crew.callback_due(self, callback, value)
        self._has_come = True
        self._callback = self._error_callback = None


class MapResult(AsyncResult):
    """The outcome of `Pool.map_async`: a list, in the order of the arguments."""

    def __init__(self, *args: Any, length: int, chunksize: int) -> None:
        super().__init__(*args)
        self._chunksize = chunksize
        self._open = set(range(-(-length // chunksize)))
        self._values: list[Any] = [None] * length
        self._failure: BaseException | None = None

    def _done(self, index: int, ok: bool, value: Any) -> None:
        if ok:
            self._values[index * self._chunksize : (index + 1) * self._chunksize] = value
        elif self._failure is None:
            self._failure = value
        self._open.discard(index)
        if not self._open:
            failed = self._failure is not None
            self._set(not failed, self._failure if failed else self._values)


class Chunks:
    """The chunks of results of an iteration, as they come.

    It is apart from the iterator so that the tasks that are open don't keep the pool alive. It has
    no lock of its own. What the feeder and the watcher say is one store each; the others have the
    crew's lock, and may be interrupted by a signal at every step: then the worst is that what they
    had in hand is lost, and nothing is waited for that never comes.
    """

    def __init__(self, crew: Crew, ordered: bool) -> None:
        self.crew = crew
        self.ordered = ordered
        # Submitted and not taken; of these, what has come.
        self.open: set[int] = set()
        self.here: dict[int, tuple[bool, Any]] = {}
        # How many were submitted, and the next in order.
        self.expected = 0
        self.next = 0
        self.finished = False
        self.failure: BaseException | None = None

    @property
    def _has_come(self) -> bool:
        """Whether there is something to take: a chunk, or the end."""
        # Read first: what was open then, was so before.
        over = self.finished or self.failure is not None
        return self._is_next_here() or (over and not self.open and not self.here)

    _is_ready = _has_come

    def _is_next_here(self) -> bool:
        if not self.ordered:
            return bool(self.here)
        # Past those that were in hand when a signal interrupted.
        while (
            self.next < self.expected and self.next not in self.open and self.next not in self.here
        ):
            self.next += 1
        return self.next in self.here

    def take(self) -> tuple[bool, Any] | None:
        """Take the next chunk, which has come; None is the end. The lock is held."""
        if self._is_next_here():
            index = self.next if self.ordered else next(iter(self.here))
            # In this order: a chunk that comes a second time is known by not being open.
            self.open.discard(index)
            return self.here.pop(index)
        failure = self.failure
        if failure is None:
            return None
        self.finished = True
        self.failure = None
        return False, failure

    def expect(self, index: int) -> bool:
        """Take it that a chunk is about to be submitted; return whether it is still wanted."""
        if self.failure is not None:
            return False
        self.open.add(index)
        self.expected = index + 1
        return True

    def _done(self, index: int, ok: bool, value: Any) -> None:
        if index in self.open:
            self.here[index] = ok, value

    def submitted(self) -> None:
        """Take it that all chunks are submitted."""
        self.finished = True

    def no_more(self, error: BaseException) -> None:
        """Take it that no more chunks come; this error is behind the last."""
        if not self.finished:
            self.failure = error


class IMapIterator(Iterator[Any]):
    """The results of `Pool.imap`, one by one, in the order of the arguments.

    Any number of threads may take from it, each result goes to one of them.
    """

    _ordered = True

    def __init__(self, pool: Any, crew: Crew, chunksize: int) -> None:
        # Who takes from a pool's results needs the pool.
        self._pool = pool
        self._crew = crew
        self._chunksize = chunksize
        self._chunks = Chunks(crew, self._ordered)
        # The results of the last chunk that was taken.
        self._items: deque[Any] = deque()

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result, or raise the exception that its task raised.

        Parameters
        ----------
        timeout : float, optional
            The seconds to wait at the longest.

        Raises
        ------
        StopIteration
            If there are no more.
        multiprocessing.TimeoutError
            If it is not there by then; a later call may give it.
        procession.WorkerDiedError
            If the worker died while it ran the task.
        """
        if self._items:
            try:
                # One step, so that of several threads each gets another.
                return self._items.popleft()
            except IndexError:
                pass
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._crew.lock:
                if self._items:
                    return self._items.popleft()
                has_come = self._chunks._has_come
                chunk = self._chunks.take() if has_come else None
                if chunk is not None:
                    ok, value = chunk
                    if not ok:
                        raise value
                    if self._chunksize == 1:
                        return value[0]
                    self._items.extend(value)
                    continue
            if has_come:
                # Without the lock: if nobody else holds the pool, that terminates it.
                self._pool = None
                raise StopIteration
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._crew.collect(self._chunks, left):
                raise TimeoutError


class IMapUnorderedIterator(IMapIterator):
    """The results of `Pool.imap_unordered`, one by one, as they come."""

    _ordered = False
