"""What processes are doing, as seen from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from . import _native

if TYPE_CHECKING:
    from typing import Self

__all__ = ["BlockedOn", "Member", "ProcessState", "family"]


class BlockedOn(NamedTuple):
    """What a process waits for."""

    operation: str
    """What it does: acquire, get, join…"""
    kind: str | None
    """The kind of the object that it does it with: Lock, Queue…; None for a process."""
    name: str | None
    """The object's name."""
    handle: str | None
    """The object's handle."""
    seconds: float
    """How long it has waited."""
    pid: int | None
    """The process that it waits for: the lock's holder, or the one that is joined."""
    process: str | None
    """The name of that process."""


class ProcessState(str):
    """A state in one word, and what it is about.

    One of ``"new"`` (not started), ``"ready"`` (it waits for a processor), ``"running"``,
    ``"blocked"`` (it waits for something else), ``"stopped"`` (by a signal or a debugger),
    ``"zombie"`` (over, and not joined) and ``"ended"``. It was so at some instant of the look.

    Attributes
    ----------
    blocked_on : BlockedOn or None
        What a blocked process waits for, if that is an object or process of the family.
    """

    blocked_on: BlockedOn | None

    def __new__(cls, name: str, blocked_on: BlockedOn | None = None) -> Self:
        state = super().__new__(cls, name)
        state.blocked_on = blocked_on
        return state

    def __repr__(self) -> str:
        if self.blocked_on is None:
            return f"<{self!s}>"
        on = self.blocked_on
        what = f" {on.kind} {on.name!r}" if on.kind is not None else ""
        holder = f", on {on.pid} ({on.process!r})" if on.pid is not None else ""
        return f"<{self!s}: {on.operation}{what}{holder}, for {on.seconds:.1f} s>"


class Member(NamedTuple):
    """A process of the family."""

    pid: int
    """Its number."""
    parent: int
    """The number of the process that started it, which may be over."""
    depth: int
    """How many of its ancestors are in the list: 0 for a root."""
    name: str
    """Its name, at most 48 bytes of it."""
    state: ProcessState
    """What it is doing."""
    task: int | None
    """The task of a pool that it runs, by its number."""


def state_of(parts: _native._State) -> ProcessState:
    """Return a state from what the binding returns for a process."""
    name, blocked = parts
    if blocked is None:
        return ProcessState(name)
    operation, thing, seconds, on = blocked
    handle, kind, called = thing or (None, None, None)
    pid, process = on or (None, None)
    return ProcessState(name, BlockedOn(operation, kind, called, handle, seconds, pid, process))


def family() -> list[Member]:
    """Return all processes of this family, each before its children.

    A family is a root process and all that it started, directly or not, with procession.
    """
    return [
        Member(pid, parent, depth, name, state_of(state), task)
        for pid, parent, depth, name, state, task in _native.tree()
    ]
