"""Zombies, which have ended and wait to be asked how, and orphans, whose parent has ended.

Both are made here, shown, and dealt with. What shows them is `procession.family()`, which lists all
processes of the program, those included whose parent has died.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import procession

if TYPE_CHECKING:
    from procession.queues import Queue
    from procession.synchronize import Event


def nothing() -> None:
    pass


def wait_for(ready: Event, go: Event) -> None:
    ready.set()
    go.wait()


def start_and_die(daemon: bool, numbers: Queue[int], go: Event) -> None:
    """Start a child that waits, say its number, and die."""
    ready = procession.Event()
    child = procession.Process(target=wait_for, args=(ready, go), daemon=daemon)
    child.start()
    ready.wait()
    assert child.pid is not None
    numbers.put(child.pid)
    os.kill(os.getpid(), signal.SIGKILL)


def look(pid: int | None) -> tuple[int, str] | None:
    """Return the parent and the state of a process of the family; None if there is none."""
    for member in procession.family():
        if member.pid == pid:
            return member.parent, str(member.state)
    return None


def lives(pid: int) -> bool:
    found = look(pid)
    return found is not None and found[1] not in ("zombie", "ended")


def wait_until_ended(pid: int) -> None:
    while lives(pid):
        time.sleep(0.001)


def main() -> None:
    # A zombie: its parent has not asked for its status yet. Joining does. (A child by forkserver,
    # which newer versions of Python have as the default, is no zombie: its template asks at once.)
    context = procession.get_context("fork")
    child = context.Process(target=nothing)
    child.start()
    while child.state != "zombie":
        time.sleep(0.001)
    print(f"ended, and not joined: {child.state}")
    child.join()
    print(f"joined: {child.state}")

    # This one is not joined: it goes when the next child starts.
    forgotten = context.Process(target=nothing)
    forgotten.start()
    while forgotten.state != "zombie":
        time.sleep(0.001)
    following = procession.Process(target=nothing)
    following.start()
    following.join()
    print(f"never joined, and it is {'gone' if look(forgotten.pid) is None else 'there'}")

    # An orphan: its parent was killed, and it goes on. The family still knows its parent.
    numbers: Queue[int] = procession.Queue()
    go = procession.Event()
    parent = procession.Process(target=start_and_die, args=(False, numbers, go))
    parent.start()
    parent.join()
    orphan = numbers.get()
    found = look(orphan)
    print(f"its parent ended with exit code {parent.exitcode}")
    print(f"the orphan lives: {'yes' if lives(orphan) else 'no'}")
    print(f"known with its parent: {'yes' if found and found[0] == parent.pid else 'no'}")
    go.set()
    wait_until_ended(orphan)
    print("told to end, it ended")

    # No orphan: a daemon goes with its parent, though that was killed.
    never = procession.Event()
    parent = procession.Process(target=start_and_die, args=(True, numbers, never))
    parent.start()
    parent.join()
    wait_until_ended(numbers.get())
    print("a daemon went with its parent")


if __name__ == "__main__":
    main()
