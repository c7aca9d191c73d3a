"""Processes: those of :mod:`multiprocessing`, which `procession.context` has ours subclass."""

from __future__ import annotations

from multiprocessing import process as _stdlib
from multiprocessing.process import (
    BaseProcess,
    active_children,
    current_process,
    parent_process,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]


def reap_unjoined() -> None:
    """Take the status of children that have ended, since they may never be joined.

    `start` and `active_children` do the same. It is also called while a process waits for an object
    of ours.
    """
    if _stdlib._children:  # type: ignore[attr-defined]
        _stdlib._cleanup()  # type: ignore[attr-defined]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Private names of the standard library's module that its public ones rely on.
        return getattr(_stdlib, name)
