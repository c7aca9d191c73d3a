"""Multi-process programming that cannot hang because something died.

A drop-in for :mod:`multiprocessing`: ``import procession as mp``. The names here are those of the
default context, as there.
"""

from __future__ import annotations

import os

from . import late as late

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

from . import context as context
from . import process as process
from ._native import (
    ArenaError,
    OwnerDiedError,
    StaleHandleError,
    __version__,
    end_preparing,
)
from .context import Process
from .errors import PoolTerminatedError, RemoteExceptionError, WorkerDiedError
from .replacement import install, standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

os.register_at_fork(before=end_preparing)

_default = context._default_context

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
Queue = _default.Queue
RawArray = _default.RawArray
RawValue = _default.RawValue
RLock = _default.RLock
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method

__all__ = [
    "ArenaError",
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "OwnerDiedError",
    "Pipe",
    "Pool",
    "PoolTerminatedError",
    "Process",
    "ProcessError",
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


_LATE = {"BlockedOn", "Member", "ProcessState", "family"}
_OURS = {"forkserver", "pool", "queues", "sharedctypes", "spawn", "states", "synchronize"}
_STANDARD = {
    "connection",
    "dummy",
    "heap",
    "managers",
    "popen_fork",
    "popen_forkserver",
    "popen_spawn_posix",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "util",
}

SUBDEBUG = 5
SUBWARNING = 25


def __getattr__(name: str) -> Any:
    # Submodules come when they are asked for: what is imported is copied at each fork.
    if name in _LATE:
        from . import states

        return getattr(states, name)
    if name in _OURS:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name in _STANDARD:
        return standard(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
