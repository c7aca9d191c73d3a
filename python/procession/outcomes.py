"""The outcomes of a pool's tasks: how a worker reports one, and how it is read.

A result stays bytes until a caller that waits for it decodes it, since that may run any code. A
failure travels in plain values, which run no code. The pickled exception is one of them, so the
worker's traceback arrives also if the exception can't be unpickled.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _native
from ._stdlib import standard
from .calls import Brief, line
from .decoding import comes_from_a_handler
from .errors import RemoteExceptionError, WorkerDiedError
from .queues import Queue

if TYPE_CHECKING:
    from types import TracebackType

    class ExceptionWithTraceback:
        exc: BaseException
        tb: str

        def __init__(self, exc: BaseException, tb: TracebackType | None) -> None: ...

    class MaybeEncodingError(Exception):
        exc: str
        value: str

        def __init__(self, exc: object, value: object) -> None: ...

    class RemoteTraceback(Exception):
        tb: str

        def __init__(self, tb: str) -> None: ...

else:
    # The standard library's classes, so that programs that catch or rebuild them know ours.
    ExceptionWithTraceback = standard("pool").ExceptionWithTraceback
    MaybeEncodingError = standard("pool").MaybeEncodingError
    RemoteTraceback = standard("pool").RemoteTraceback

RAISED = "raised"
DIED = "died"
ENDED = "ended"


# In the worker.


def put_result(results: Queue[Any], number: int, value: Any) -> None:
    """Report what a task returned, or that it can't be pickled."""
    try:
        results._put_result(number, True, value)
    except MemoryError as error:
        # The value's representation might need more memory than the value.
        put_exception(results, number, error, True)
    except Exception as error:
        results._put_result(number, False, _unsendable(error, value, _text_of(error)))


def put_exception(results: Queue[Any], number: int, error: Exception, with_traceback: bool) -> None:
    """Report what a task raised."""
    results._put_result(number, False, told(error, with_traceback))


def told(error: BaseException, with_traceback: bool = True) -> tuple[Any, ...]:
    """Return an exception in plain values: the kind, the pickle, a summary, the traceback."""
    text = _text_of(error)
    summary = _summary_of(error)
    try:
        pickled = _native.dumps(error)
    except Exception as reason:
        return _unsendable(reason, error, text)
    return RAISED, pickled, summary, text if with_traceback else None


def _text_of(error: BaseException) -> str:
    """Return a traceback as the standard library's pool formats it, and drop its frames."""
    try:
        text: str = ExceptionWithTraceback(error, error.__traceback__).tb
    except Exception as reason:
        text = f"the traceback can't be told: {_summary_of(reason)}"
    return text


def _summary_of(error: BaseException) -> str:
    """Return the type and text of an exception, as at the end of a traceback."""
    try:
        return "".join(traceback.format_exception_only(type(error), error)).strip()
    except Exception:
        return f"{type(error).__module__}.{type(error).__qualname__}"


def _unsendable(reason: Exception, value: Any, text: str) -> tuple[Any, ...]:
    error = MaybeEncodingError(reason, _Repr(value))
    return RAISED, _native.dumps(error), f"{type(error).__name__}: {error}", text


class _Repr:
    """Has the representation of another object, also if that raises an exception."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        try:
            return repr(self._value)
        except Exception as error:
            return f"<{type(self._value).__qualname__} whose repr raised {type(error).__name__}>"


# In the process that made the pool.


class Failure:
    """The outcome of a task that failed."""

    __slots__ = ()

    def error(self) -> BaseException:
        """Return the error for the task's caller."""
        raise NotImplementedError


class Raised(Failure):
    """A task or an initializer raised an exception; made of what `told` returned for it."""

    __slots__ = ("_pickled", "_traceback", "summary")

    def __init__(self, pickled: bytes, summary: str, text: str | None) -> None:
        self._pickled = pickled
        self._traceback = text
        self.summary = summary

    def error(self) -> BaseException:
        error, reason = attempt(self._load)
        if reason is not None:
            error = RemoteExceptionError(self.summary, _summary_of(reason))
            if self._traceback is not None:
                error.__cause__ = RemoteTraceback(self._traceback)
        return error  # type: ignore[no-any-return]

    def _load(self) -> BaseException:
        error = pickle.loads(self._pickled)
        if not isinstance(error, BaseException):
            raise TypeError(f"it is unpickled as {type(error).__qualname__}, which is no exception")
        if self._traceback is not None:
            error.__cause__ = RemoteTraceback(self._traceback)
        return error


class Died(Failure):
    """A task's worker died."""

    __slots__ = ("_call", "_exitcode", "_name", "_number", "_pid")

    def __init__(self, number: int, call: Brief, pid: int, exitcode: int, name: str) -> None:
        self._number = number
        self._call = call
        self._pid = pid
        self._exitcode = exitcode
        self._name = name

    def error(self) -> WorkerDiedError:
        call, reason = attempt(lambda: line(self._call))
        if reason is not None:
            call = ""
        return WorkerDiedError(self._pid, self._exitcode, self._number, self._name, call)


class Given(Failure):
    """A task failed with an exception of this process."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def error(self) -> BaseException:
        return self._error


class Ended(Failure):
    """The workers ended before the task was done.

    Parameters
    ----------
    why : callable
        Returns the error.
    """

    __slots__ = ("_why",)

    def __init__(self, why: Callable[[], BaseException]) -> None:
        self._why = why

    def error(self) -> BaseException:
        return self._why()


Outcome = _native.Outcome | Failure


def read(outcome: Outcome) -> tuple[bool, Any]:
    """Return whether a task went well, and its result or exception.

    An exception of the unpickling is the task's failure. Only two are raised here: what a signal
    handler raises meanwhile, and `MemoryError`. After these the outcome can be read again.
    """
    if isinstance(outcome, Failure):
        return False, outcome.error()
    try:
        return True, outcome.load()
    except BaseException as error:
        return False, _own_error(outcome.load, error)


def attempt(load: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return what a function returns, or what it raises.

    Raises
    ------
    BaseException
        What a signal handler raised meanwhile.
    MemoryError
        If memory has run out.
    """
    try:
        return load(), None
    except BaseException as error:
        return None, _own_error(load, error)


def _own_error(load: Callable[[], Any], error: BaseException) -> BaseException:
    """Return a function's exception; raise it if it may not come from the function itself."""
    if isinstance(error, MemoryError) or comes_from_a_handler(load, error):
        raise error
    # The caller's frame keeps what was read.
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error
