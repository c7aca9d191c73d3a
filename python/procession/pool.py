"""Pools of worker processes, with the interface of :mod:`multiprocessing.pool`."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing import util
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ._default import default_context
from ._stdlib import standard
from .crew import (
    CLOSE,
    DONE,
    RUN,
    TERMINATE,
    Backlog,
    Crew,
    call_each,
    call_each_star,
)
from .errors import WorkerDiedError
from .outcomes import ExceptionWithTraceback, MaybeEncodingError, RemoteTraceback
from .results import AsyncResult, Chunks, IMapIterator, IMapUnorderedIterator, MapResult

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.pool import INIT as INIT, ThreadPool
    from multiprocessing.process import BaseProcess

__all__ = [
    "CLOSE",
    "RUN",
    "TERMINATE",
    "ApplyResult",
    "AsyncResult",
    "ExceptionWithTraceback",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "RemoteTraceback",
    "ThreadPool",
    "WorkerDiedError",
]

_stdlib = standard("pool")
if not TYPE_CHECKING:
    ThreadPool = _stdlib.ThreadPool
ApplyResult = AsyncResult

_S = TypeVar("_S")
_T = TypeVar("_T")


class Pool:
    """A pool of worker processes.

    Parameters
    ----------
    processes : int, optional
        How many workers; the processors that this process may use if left out.
    initializer : callable, optional
        Called in each worker when it starts.
    initargs : iterable
        The initializer's arguments.
    maxtasksperchild : int, optional
        After how many tasks a worker leaves and is replaced.
    context : BaseContext, optional
        Where workers come from.

    Raises
    ------
    ValueError
        If `processes` or `maxtasksperchild` is less than 1.

    Examples
    --------
    >>> import procession
    >>> with procession.Pool(2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    _wrap_exception = True

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> BaseProcess:
        """Make a worker; override it for workers of another class."""
        return ctx.Process(*args, **kwds)  # type: ignore[attr-defined, no-any-return]

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        if context is None:
            context = default_context().get_context()
        size = len(os.sched_getaffinity(0)) if processes is None else processes
        if size < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._ctx = context
        self._processes = size
        args = (initializer, tuple(initargs), maxtasksperchild, self._wrap_exception)
        self._crew = Crew(context, self.Process, size, args)
        # Before the start, so that an exception from a signal handler leaves no workers behind.
        self._terminate = util.Finalize(self, self._crew.terminate, exitpriority=15)
        self._crew.start()
        # True until a call closes or terminates the pool; the end of the program does not count.
        self._is_left_open = True

    @property
    def _state(self) -> str:
        state = self._crew.state
        return CLOSE if state == DONE else state

    @property
    def _pool(self) -> list[Any]:
        return self._crew.workers

    @property
    def _cache(self) -> dict[int, Any]:
        return self._crew.jobs

    def __repr__(self) -> str:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{name} state={self._state} pool_size={len(self._pool)}>"

    def _result(self, kind: Any, callback: Any, error_callback: Any, **kwds: Any) -> Any:
        if not self._crew.is_open:
            raise self._crew.refused()
        return kind(self, callback, error_callback, **kwds)

    def _submit(self, result: AsyncResult[Any], tasks: Iterable[tuple[Any, ...]]) -> None:
        """Submit the tasks of a result; its callback is called if all could be submitted."""
        crew = self._crew
        try:
            if result._callback is not None or result._error_callback is not None:
                crew.expect_callback(result)
            for index, (func, args, kwds) in enumerate(tasks):
                crew.submit(result, func, args, kwds, index)
        except BaseException:
            crew.expect_none(result)
            raise

    def apply(
        self, func: Callable[..., _T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> _T:
        """Return ``func(*args, **kwds)``, called in a worker."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[_T]:
        """Have a worker call ``func(*args, **kwds)``; return its result to come.

        Parameters
        ----------
        func : callable
            Something that pickle can carry.
        args, kwds
            Its arguments.
        callback, error_callback : callable, optional
            Called with the result, or the exception, in a thread of this process. A task that can't
            be pickled fails with the reason; no worker gets it.

        Raises
        ------
        ValueError
            If the pool is closed.
        """
        result: AsyncResult[_T] = self._result(AsyncResult, callback, error_callback)
        if callback is None and error_callback is None:
            self._crew.submit(result, func, args, kwds)
        else:
            self._submit(result, ((func, args, kwds),))
        return result

    def map(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int | None = None
    ) -> list[_T]:
        """Return ``[func(x) for x in iterable]``, called in the workers.

        Parameters
        ----------
        func : callable
            Something that pickle can carry.
        iterable : iterable
            Its arguments.
        chunksize : int, optional
            How many a worker takes at a time; by default as many as make about four chunks for
            each worker.
        """
        return self.map_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """Begin what `map` does; return its result to come."""
        return self._map(call_each, func, iterable, chunksize, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[_T]:
        """Return ``[func(*args) for args in iterable]``, called in the workers; see `map`."""
        return self.starmap_async(func, iterable, chunksize).get()

    def starmap_async(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[_T]:
        """Begin what `starmap` does; return its result to come."""
        return self._map(call_each_star, func, iterable, chunksize, callback, error_callback)

    def _map(
        self,
        call: Callable[..., list[Any]],
        func: Callable[..., _T],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[_T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> MapResult[_T]:
        sized: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
        items, length = iter(sized), len(sized)
        if chunksize is None:
            chunksize = -(-length // (self._processes * 4)) or 1
        _check_chunksize(chunksize)
        result: MapResult[_T] = self._result(
            MapResult, callback, error_callback, length=length, chunksize=chunksize
        )
        if length == 0:
            # No callback is called, as in the standard library's pool.
            result._set_empty([])
        else:
            self._submit(result, ((call, (func, chunk), {}) for chunk in _chunks(items, chunksize)))
        return result

    def imap(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int = 1
    ) -> IMapIterator[_T]:
        """Return an iterator over ``func(x)`` for each ``x`` of an iterable, called in the workers.

        The iterable is read by a thread of this process, somewhat ahead of the workers.

        Parameters
        ----------
        func : callable
            Something that pickle can carry.
        iterable : iterable
            Its arguments. What it raises is raised where its result would have been.
        chunksize : int
            How many a worker takes at a time.

        Raises
        ------
        ValueError
            If the pool is closed, or `chunksize` less than 1.
        """
        return self._imap(IMapIterator, func, iterable, chunksize)  # type: ignore[no-any-return]

    def imap_unordered(
        self, func: Callable[[_S], _T], iterable: Iterable[_S], chunksize: int = 1
    ) -> IMapUnorderedIterator[_T]:
        """As `imap`, with the results in the order in which they come."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)  # type: ignore[no-any-return]

    def _imap(
        self, kind: Any, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int
    ) -> Any:
        _check_chunksize(chunksize)
        crew = self._crew
        crew.check_process()
        if not crew.is_open:
            raise crew.refused()
        iterator = kind(self, crew, chunksize)
        chunks = iterator._chunks
        crew.feed(chunks, lambda: _submit_each(crew, chunks, func, iterable, chunksize))
        return iterator

    def close(self) -> None:
        """Take no more tasks; the workers leave when all are done."""
        self._is_left_open = False
        self._crew.close()

    def terminate(self) -> None:
        """End the workers at once; what is not done fails with `PoolTerminatedError`."""
        self._is_left_open = False
        # Not by the finalizer, which can be called only once and may be interrupted.
        self._crew.terminate()
        self._terminate.cancel()

    def join(self) -> None:
        """Wait until the workers have left.

        Raises
        ------
        ValueError
            If the pool was neither closed nor terminated.
        """
        if self._crew.is_open:
            raise ValueError("Pool is still running")
        self._crew.join()

    def __enter__(self) -> Self:
        # A pool that gave up says why when its first task is read.
        if not self._crew.is_open and self._crew.failure is None:
            raise self._crew.refused()
        return self

    def __exit__(self, *details: object) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        # A pool that gave up has said so.
        if getattr(self, "_is_left_open", False) and self._crew.failure is None:
            _warn(
                f"unclosed running multiprocessing pool {self!r}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")


def _chunks(items: Iterator[Any], chunksize: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, chunksize)):
        yield chunk


def _submit_each(
    crew: Crew, chunks: Chunks, func: Callable[[Any], Any], iterable: Iterable[Any], size: int
) -> None:
    """Submit a task for each chunk of an iterable."""
    backlog = Backlog()
    for index, chunk in enumerate(_chunks(iter(iterable), size)):
        if not crew.at_work:
            raise crew.ended("was terminated before all tasks were submitted")
        if not chunks.expect(index):
            break
        crew.submit_fed(chunks, call_each, (func, chunk), index, backlog)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Other names of the standard library's module, whose functions are pickled by name.
        return getattr(_stdlib, name)
