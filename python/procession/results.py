"""What a pool returns for tasks that may not be done yet."""

# What is read from an outcome is of no known type: it was pickled.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from multiprocessing import TimeoutError
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .crew import Crew
from .outcomes import Failure, Outcome, read

if TYPE_CHECKING:
    from .pool import Pool

_T = TypeVar("_T")


class AsyncResult(Generic[_T]):
    """The outcome of a task that may not be done yet; made by `Pool.apply_async`.

    It keeps its pool until it is ready. The pool keeps it only for the sake of a callback.

    Parameters
    ----------
    pool : Pool
        What does the task.
    callback, error_callback : callable, optional
        What is called with the result, or the exception.
    """

    _pool: Pool | None
    _has_come = False
    _is_ready = False
    # The outcome, until it is read.
    _outcome: Any = None
    # Once it is read: whether the task went well, and its result or exception.
    _known: tuple[bool, Any] | None = None

    def __init__(
        self,
        pool: Pool,
        callback: Callable[[_T], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._pool = pool
        self._crew: Crew = pool._crew
        self._callback = callback
        self._error_callback = error_callback

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
        return self._read()[0]

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the task is done, for `timeout` seconds at most."""
        if not self._is_ready:
            self._crew.collect(self, timeout)

    def get(self, timeout: float | None = None) -> _T:
        """Return the task's result, or raise the exception that it raised.

        Parameters
        ----------
        timeout : float, optional
            The seconds to wait at most; without it there is no limit.

        Raises
        ------
        multiprocessing.TimeoutError
            If the task is not done by then.
        procession.WorkerDiedError
            If the worker died while it ran the task.
        procession.RemoteExceptionError
            If the task raised an exception that can't be unpickled here.
        """
        if not self._is_ready and not self._crew.collect(self, timeout):
            raise TimeoutError
        success, value = self._known or self._read()
        if success:
            return value
        raise value

    def _read(self) -> tuple[bool, Any]:
        """Return whether the task went well, and its result or exception."""
        # In this order: the outcome is dropped only once `_known` is set.
        outcome, known = self._outcome, self._known
        if known is None:
            # In one step, so that threads that decode it at the same time return the same object.
            known = self.__dict__.setdefault("_known", self._decode(outcome))
            self._outcome = None
        return known

    def _decode(self, outcome: Any) -> tuple[bool, Any]:
        return read(outcome)

    def _done(self, index: int, outcome: Outcome) -> object:
        if self._callback is not None or self._error_callback is not None or self._has_come:
            return self._come(outcome, isinstance(outcome, Failure))
        self._outcome = outcome
        self._is_ready = self._has_come = True
        return self._let_go()

    def _come(self, outcome: Any, failed: bool) -> object:
        if self._has_come:
            return None
        self._outcome = outcome
        if self._callback is None and self._error_callback is None:
            self._is_ready = True
        else:
            # A result that is no failure yet may become one when it is decoded.
            concerned = self._error_callback is not None or not failed
            if not self._crew.callback_due(self, concerned):
                # Never set to False, since the callback may have been called meanwhile.
                self._is_ready = True
        self._has_come = True
        return self._let_go() if self._is_ready else None

    def _set_empty(self, value: Any) -> None:
        """Take a result of no tasks."""
        self._known = True, value
        self._has_come = self._is_ready = True
        self._let_go()

    def _call_back(self) -> None:
        try:
            success, value = self._read()
        except MemoryError as error:
            success, value = False, error
        callback = self._callback if success else self._error_callback
        self._callback = self._error_callback = None
        if callback is not None:
            callback(value)

    def _called_back(self) -> object:
        self._is_ready = True
        return self._let_go()

    def _let_go(self) -> object:
        pool, self._pool = self._pool, None
        return pool


class MapResult(AsyncResult[list[_T]]):
    """The outcome of `Pool.map_async`: a list, in the order of the arguments."""

    def __init__(self, *args: Any, length: int, chunksize: int) -> None:
        super().__init__(*args)
        count = -(-length // chunksize)
        self._open = set(range(count))
        # The outcomes of the chunks, each a list once it is decoded.
        self._chunks: list[Any] = [None] * count
        self._failure: Failure | None = None

    def _done(self, index: int, outcome: Outcome) -> object:
        # A signal handler that uses the pool may do the same between any two steps.
        chunks = self._chunks
        if not isinstance(outcome, Failure):
            if index in self._open:
                chunks[index] = outcome
        elif self._failure is None:
            self._failure = outcome
        self._open.discard(index)
        if self._open:
            return None
        failed = self._failure is not None
        rest = self._come(self._failure if failed else chunks, failed)
        self._chunks = []
        return rest

    def _decode(self, outcome: Any) -> tuple[bool, Any]:
        if isinstance(outcome, Failure):
            return read(outcome)
        for index, chunk in enumerate(outcome):
            if type(chunk) is not list:
                success, value = read(chunk)
                if not success:
                    return success, value
                # In place of its bytes.
                outcome[index] = value
        return True, list(chain.from_iterable(outcome))


class Chunks:
    """The chunks of results of an iteration, as they come.

    It is a separate object so that open tasks don't keep the iterator's pool alive. It has no lock
    of its own. The feeder and the watcher each change it by one store. All others have the crew's
    lock. A signal may interrupt them at every step: then the chunk that they had in hand may be
    lost, but no caller waits for a chunk that never comes.
    """

    def __init__(self, crew: Crew, ordered: bool) -> None:
        self.crew = crew
        self.ordered = ordered
        # The chunks that are submitted and not taken; of these, the outcomes that have come.
        self.open: set[int] = set()
        self.here: dict[int, Outcome] = {}
        # How many chunks were submitted, and the next in order.
        self.expected = 0
        self.next = 0
        self.finished = False
        self.failure: Failure | None = None

    @property
    def _has_come(self) -> bool:
        """Whether there is something to take: a chunk, or the end."""
        # Read first, so that `open` has all chunks that were submitted before this was set.
        over = self.finished or self.failure is not None
        return self._is_next_here() or (over and not self.open and not self.here)

    _is_ready = _has_come

    def _is_next_here(self) -> bool:
        if not self.ordered:
            return bool(self.here)
        # Skip the chunks that were in hand when a signal interrupted.
        while (
            self.next < self.expected and self.next not in self.open and self.next not in self.here
        ):
            self.next += 1
        return self.next in self.here

    def take(self) -> tuple[int, Outcome] | None:
        """Return the next chunk, which has come, with its index; None at the end. The lock is held.

        A failure behind the last chunk has the index -1.
        """
        if self._is_next_here():
            index = self.next if self.ordered else next(iter(self.here))
            # In this order: a chunk that comes a second time is not open, and is ignored.
            self.open.discard(index)
            return index, self.here.pop(index)
        failure = self.failure
        if failure is None:
            return None
        self.finished = True
        self.failure = None
        return -1, failure

    def put_back(self, index: int, outcome: Any) -> None:
        """Put back a chunk that was taken and could not be read. The lock is held."""
        if index < 0:
            self.failure = outcome
            self.finished = False
            return
        self.here[index] = outcome
        self.open.add(index)
        self.next = min(self.next, index)

    def expect(self, index: int) -> bool:
        """Note that a chunk is about to be submitted; return whether it is still wanted."""
        if self.failure is not None:
            return False
        self.open.add(index)
        self.expected = index + 1
        return True

    def _done(self, index: int, outcome: Outcome) -> None:
        if index in self.open:
            self.here[index] = outcome

    def submitted(self) -> None:
        """Note that all chunks are submitted."""
        self.finished = True

    def no_more(self, failure: Failure) -> None:
        """Note that no more chunks come; this failure is behind the last chunk."""
        if not self.finished:
            self.failure = failure


class IMapIterator(Iterator[_T]):
    """The results of `Pool.imap`, one by one, in the order of the arguments.

    Any number of threads may take from it, each result goes to one of them.
    """

    _pool: Pool | None
    _ordered = True

    def __init__(self, pool: Pool, crew: Crew, chunksize: int) -> None:
        # An iterator keeps its pool alive.
        self._pool = pool
        self._crew = crew
        self._chunksize = chunksize
        self._chunks = Chunks(crew, self._ordered)
        # The results of the last chunk that was taken.
        self._items: deque[Any] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _T:
        return self.next()

    def next(self, timeout: float | None = None) -> _T:
        """Return the next result, or raise the exception that its task raised.

        Parameters
        ----------
        timeout : float, optional
            The seconds to wait at most; without it there is no limit.

        Raises
        ------
        StopIteration
            If there are no more.
        multiprocessing.TimeoutError
            If it has not come by then; a later call may return it.
        procession.WorkerDiedError
            If the worker died while it ran the task.
        """
        if self._items:
            try:
                # In one step, so that several threads get different items.
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
                success, value = self._read(*chunk)
                if not success:
                    raise value
                if self._chunksize == 1:
                    return value[0]
                self._items.extend(value)
                continue
            if has_come:
                # Without the lock: if this is the last reference, dropping it terminates the pool.
                self._pool = None
                raise StopIteration
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._crew.collect(self._chunks, left):
                raise TimeoutError

    def _read(self, index: int, outcome: Outcome) -> tuple[bool, Any]:
        try:
            return read(outcome)
        except BaseException:
            # A signal handler has raised an exception, or memory has run out.
            with self._crew.lock:
                self._chunks.put_back(index, outcome)
            raise


class IMapUnorderedIterator(IMapIterator[_T]):
    """The results of `Pool.imap_unordered`, one by one, as they come."""

    _ordered = False
