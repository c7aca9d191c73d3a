"""Locks, semaphores, events, conditions and barriers between processes.

A lock knows its holder. When the holder dies, exactly one waiter is told, by
`procession.OwnerDiedError`, and the lock is free again; with ``on_owner_death="recover"`` it is
acquired instead, with a warning.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

from . import _native
from ._stdlib import standard
from .process import current_process

if TYPE_CHECKING:
    from multiprocessing.synchronize import SemLock as SemLock

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

SEM_VALUE_MAX = 2**31 - 1

OnOwnerDeath: TypeAlias = Literal["raise", "recover"]
"""What `acquire` does when the process that held the lock has died."""

_LockLike: TypeAlias = "Lock | RLock"
_T = TypeVar("_T")


def _owner(lock: Lock | RLock) -> str:
    """Return the holder of a lock, in the words of `multiprocessing`."""
    if lock._is_mine():
        name = current_process().name
        thread = threading.current_thread()
        return name if thread is threading.main_thread() else f"{name}|{thread.name}"
    if not lock.locked():
        return "None"
    return "SomeOtherThread" if lock._owner_pid() == os.getpid() else "SomeOtherProcess"


class Lock(_native.Lock):
    """Mutual exclusion; any thread of any process may release it.

    Parameters
    ----------
    ctx : BaseContext, optional
        Accepted for the sake of `multiprocessing`; all contexts share one arena.
    name : str, optional
        What inspectors show.
    on_owner_death : {"raise", "recover"}
        What `acquire` does when the process that held the lock has died.
    """

    __slots__ = ()

    def __init__(
        self, *, ctx: object = None, name: str = "", on_owner_death: OnOwnerDeath = "raise"
    ) -> None:
        self._make(name, on_owner_death)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={_owner(self)})>"


class RLock(_native.RLock):
    """A lock that its holder, a thread, may acquire again; only that thread may release it.

    Parameters
    ----------
    ctx, name, on_owner_death
        As for `Lock`.
    """

    __slots__ = ()

    def __init__(
        self, *, ctx: object = None, name: str = "", on_owner_death: OnOwnerDeath = "raise"
    ) -> None:
        self._make(name, on_owner_death)

    def __repr__(self) -> str:
        owner = _owner(self)
        count = "nonzero" if owner.startswith("SomeOther") else self._count()
        return f"<{type(self).__name__}({owner}, {count})>"


class Semaphore(_native.Semaphore):
    """A counter of permits, which any process may release.

    Parameters
    ----------
    value : int
        The permits at first, 0 to 2147483647.
    ctx : BaseContext, optional
        As for `Lock`.
    name : str, optional
        What inspectors show.
    recover : bool
        Whether a permit comes back when the process that acquired it dies. Such a semaphore has at
        most `value` permits, at most 8192.
    """

    __slots__ = ()

    def __init__(
        self, value: int = 1, *, ctx: object = None, name: str = "", recover: bool = False
    ) -> None:
        self._make(value, name, recover=recover)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses to have more permits than at first."""

    __slots__ = ()

    def __init__(self, value: int = 1, *, ctx: object = None, name: str = "") -> None:
        self._make(value, name, bounded=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self._bound()})>"


class Event(_native.Event):
    """A flag to wait for; `set` may be called in a signal handler.

    Parameters
    ----------
    ctx : BaseContext, optional
        As for `Lock`.
    name : str, optional
        What inspectors show.
    """

    __slots__ = ()

    def __init__(self, *, ctx: object = None, name: str = "") -> None:
        self._make(name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


class _Count(NamedTuple):
    """A count that is read like a semaphore's value."""

    get_value: Callable[[], int]


class Condition:
    """Waiting, beside a lock, until another process says that something has changed.

    A killed waiter blocks no other and takes no notification with it. When the process that holds
    the lock dies, exactly one process that waits or acquires is told, by
    `procession.OwnerDiedError`.

    Parameters
    ----------
    lock : Lock or RLock, optional
        What guards the thing that changes; a new `RLock` if not given.
    ctx : BaseContext, optional
        As for `Lock`.
    name : str, optional
        What inspectors show.
    """

    def __init__(
        self, lock: _LockLike | None = None, *, ctx: object = None, name: str = ""
    ) -> None:
        self._lock = lock or RLock(ctx=ctx, name=name)
        # Called first, since it fails if the object is no lock.
        self._make_methods()
        self._condition = _native.Condition(self._lock, name=name)

    def _make_methods(self) -> None:
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def locked(self) -> bool:
        """Return whether some thread holds the lock."""
        return self._lock.locked()

    def __getstate__(self) -> tuple[Lock | RLock, str]:
        return self._lock, self.handle

    def __setstate__(self, state: tuple[Lock | RLock, str]) -> None:
        self._lock, handle = state
        self._condition = _native.Condition(self._lock, _handle=handle)
        self._make_methods()

    @property
    def handle(self) -> str:
        """What names the condition in other processes."""
        return self._condition.handle

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *args: object) -> None:
        return self._lock.__exit__(*args)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._lock}, {self._condition.waiting()})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and acquire the lock again.

        Parameters
        ----------
        timeout : float, optional
            The seconds to wait at most; without it there is no limit.

        Returns
        -------
        bool
            Whether it was notified.

        Raises
        ------
        OwnerDiedError
            If the lock came back from a process that died with it. The lock is held nevertheless,
            as it is whenever this ends; only a second signal handler that raises, while the lock is
            still another's, ends it without.
        """
        return self._condition.wait(timeout)

    def wait_for(self, predicate: Callable[[], _T], timeout: float | None = None) -> _T:
        """Wait until `predicate` is true, or for `timeout` seconds; return its last result."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        """Let `n` waiters go on, or all if they are fewer."""
        self._condition.notify(min(n, SEM_VALUE_MAX))

    def notify_all(self) -> None:
        """Let all waiters go on."""
        self.notify(n=sys.maxsize)

    # Attributes of the standard library's condition that other code reads.

    @property
    def _sleeping_count(self) -> _Count:
        return _Count(self._condition.waiting)

    @property
    def _woken_count(self) -> _Count:
        # The standard library subtracts woken waiters later; here they are never counted.
        return _Count(lambda: 0)

    @property
    def _wait_semaphore(self) -> _Count:
        return _Count(self._condition.notified)


class Barrier(threading.Barrier):
    """A point at which a number of parties wait for each other.

    It breaks for the rest when a process dies that waits at it, or that runs the action. A process
    that is slow to leave holds up no other.

    Parameters
    ----------
    parties : int
        How many must come.
    action : callable, optional
        What the last to come calls before any goes on.
    timeout : float, optional
        How many seconds `wait` waits if it isn't told otherwise.
    ctx : BaseContext, optional
        As for `Lock`.
    name : str, optional
        What inspectors show.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: object = None,
        name: str = "",
    ) -> None:
        # Without the base class's `__init__`, which would make locks of threads.
        barrier = _native.Barrier(parties, name=name)
        self.__setstate__((parties, action, timeout, barrier.handle))

    def __getstate__(self) -> tuple[int, Callable[[], object] | None, float | None, str]:
        return self._parties, self._action, self._timeout, self.handle

    def __setstate__(
        self, state: tuple[int, Callable[[], object] | None, float | None, str]
    ) -> None:
        self._parties, self._action, self._timeout, handle = state
        self._barrier = _native.Barrier(self._parties, _handle=handle)

    @property
    def handle(self) -> str:
        """What names the barrier in other processes."""
        return self._barrier.handle

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait for the others; then the barrier breaks. The action's time
            doesn't count.

        Returns
        -------
        int
            From 0 to `parties` - 1, another one for each.

        Raises
        ------
        threading.BrokenBarrierError
            If the barrier is broken, or is broken or reset while this waits.
        """
        if timeout is None:
            timeout = self._timeout
        return self._barrier.wait(timeout, self._action or None)

    def reset(self) -> None:
        """Make the barrier as new; its waiters get `threading.BrokenBarrierError`."""
        self._barrier.reset()

    def abort(self) -> None:
        """Break the barrier for all waiters, present and to come, until it is reset."""
        self._barrier.abort()

    @property
    def n_waiting(self) -> int:
        """How many wait at the barrier at this instant."""
        return self._barrier.waiting()

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""
        return self._barrier.broken()

    # Attributes of the standard library's barrier that other code reads.

    @property
    def _state(self) -> int:
        return -2 if self.broken else 0

    @property
    def _count(self) -> int:
        return self.n_waiting


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Private names of the standard library's module that its public ones rely on.
        return getattr(standard("synchronize"), name)
