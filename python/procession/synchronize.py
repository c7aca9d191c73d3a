"""Locks, semaphores and events between processes.

A lock knows who holds it. When the holder dies, exactly one of those who wait is told, by
`procession.OwnerDiedError`, and the lock is free again; with ``on_owner_death="recover"`` it is
acquired instead, with a warning.
"""

from __future__ import annotations

import threading
from typing import Any

from . import _native
from .process import current_process

__all__ = ["BoundedSemaphore", "Event", "Lock", "RLock", "Semaphore"]

SEM_VALUE_MAX = 2**31 - 1


def _myself() -> str:
    name = current_process().name
    thread = threading.current_thread()
    return name if thread is threading.main_thread() else f"{name}|{thread.name}"


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

    def __repr__(self) -> str:
        if self._is_mine():
            owner = _myself()
        elif not self.locked():
            owner = "None"
        else:
            owner = "SomeOtherProcess"
        return f"<{type(self).__name__}(owner={owner})>"


class RLock(_native.RLock):
    """A lock that the thread which holds it may acquire again, and alone may release.

    Parameters
    ----------
    ctx, name, on_owner_death
        As for `Lock`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        count = self._count()
        owner = _myself() if count else "None"
        return f"<{type(self).__name__}({owner}, {count})>"


class Semaphore(_native.Semaphore):
    """A counter of permits, which anyone may release.

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses to have more permits than at first."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()}, maxvalue={self._bound()})>"

    def __new__(cls, value: int = 1, *, ctx: Any = None, name: str = "") -> BoundedSemaphore:
        return super().__new__(cls, value, ctx=ctx, name=name, bound=value)


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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"
