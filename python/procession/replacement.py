"""Putting procession in the place of multiprocessing."""

from __future__ import annotations

import importlib
import sys

_OURS = ("context", "pool", "process", "queues", "sharedctypes", "synchronize")
_STILL_THE_STANDARD_LIBRARYS = (
    "connection",
    "dummy",
    "heap",
    "managers",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "util",
)


def install() -> None:
    """Make ``import multiprocessing`` mean procession, in this process and all that it forks.

    Call it before the program's own imports: what was imported from `multiprocessing` before keeps
    its meaning. Modules that procession does not have yet stay the standard library's. A second
    call changes nothing.
    """
    import procession

    if sys.modules.get("multiprocessing") is procession:
        return
    for name in (*_OURS, *_STILL_THE_STANDARD_LIBRARYS):
        importlib.import_module(f"multiprocessing.{name}")
    for name in _STILL_THE_STANDARD_LIBRARYS:
        setattr(procession, name, sys.modules[f"multiprocessing.{name}"])
    for name in _OURS:
        sys.modules[f"multiprocessing.{name}"] = importlib.import_module(f"procession.{name}")
    sys.modules["multiprocessing"] = procession
