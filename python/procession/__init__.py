"""Multi-process programming that cannot hang because something died.

A drop-in for :mod:`multiprocessing`: ``import procession as mp``. The names here are those of the
default context, as there.
"""

from __future__ import annotations

import os

from . import _lazy as _lazy

# isort: split
# Only now: what is imported with it is less.
from multiprocessing import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
    active_children,
    current_process,
    parent_process,
    reducer,
)

from . import context as context, process as process
from ._install import install
from ._native import (
    ArenaError,
    OwnerDiedError,
    StaleHandleError,
    __version__,
    end_preparing,
)
from .context import Process
from .errors import PoolTerminatedError, RemoteExceptionError, WorkerDiedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import (
        connection as connection,
        dummy as dummy,
        errors as errors,
        forkserver as forkserver,
        heap as heap,
        managers as managers,
        pool as pool,
        popen_fork as popen_fork,
        popen_forkserver as popen_forkserver,
        popen_spawn_posix as popen_spawn_posix,
        queues as queues,
        reduction as reduction,
        resource_sharer as resource_sharer,
        resource_tracker as resource_tracker,
        shared_memory as shared_memory,
        sharedctypes as sharedctypes,
        spawn as spawn,
        states as states,
        synchronize as synchronize,
        util as util,
    )

    # The classes, though these names are methods: checkers know annotations by them.
    from .queues import JoinableQueue, Queue, SimpleQueue
    from .states import BlockedOn, Member, ProcessState, family

os.register_at_fork(before=end_preparing)

_context = context._default_context

Array = _context.Array
Barrier = _context.Barrier
BoundedSemaphore = _context.BoundedSemaphore
Condition = _context.Condition
Event = _context.Event
Lock = _context.Lock
Manager = _context.Manager
Pipe = _context.Pipe
Pool = _context.Pool
RawArray = _context.RawArray
RawValue = _context.RawValue
RLock = _context.RLock
Semaphore = _context.Semaphore
Value = _context.Value
allow_connection_pickling = _context.allow_connection_pickling
cpu_count = _context.cpu_count
freeze_support = _context.freeze_support
get_all_start_methods = _context.get_all_start_methods
get_context = _context.get_context
get_logger = _context.get_logger
get_start_method = _context.get_start_method
log_to_stderr = _context.log_to_stderr
set_executable = _context.set_executable
set_forkserver_preload = _context.set_forkserver_preload
set_start_method = _context.set_start_method
if not TYPE_CHECKING:
    JoinableQueue = _context.JoinableQueue
    Queue = _context.Queue
    SimpleQueue = _context.SimpleQueue

__all__ = [
    "ArenaError",
    "Array",
    "AuthenticationError",
    "Barrier",
    "BlockedOn",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Member",
    "OwnerDiedError",
    "Pipe",
    "Pool",
    "PoolTerminatedError",
    "Process",
    "ProcessError",
    "ProcessState",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "RemoteExceptionError",
    "Semaphore",
    "SimpleQueue",
    "StaleHandleError",
    "TimeoutError",
    "Value",
    "WorkerDiedError",
    "__version__",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "family",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "install",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]


_STATES = {"BlockedOn", "Member", "ProcessState", "family"}
_SUBMODULES = {
    "connection",
    "context",
    "dummy",
    "errors",
    "forkserver",
    "heap",
    "managers",
    "pool",
    "popen_fork",
    "popen_forkserver",
    "popen_spawn_posix",
    "process",
    "queues",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "sharedctypes",
    "spawn",
    "states",
    "synchronize",
    "util",
}
"""Those with a name of `multiprocessing`, and what is documented beside them."""

SUBDEBUG = 5
SUBWARNING = 25


if not TYPE_CHECKING:
    # Checkers know what there is from above.

    def __getattr__(name: str) -> Any:
        # Submodules come when they are asked for: what is imported is copied at each fork.
        if name in _STATES:
            from . import states

            return getattr(states, name)
        if name in _SUBMODULES:
            from importlib import import_module

            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
