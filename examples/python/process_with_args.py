"""Hand positional and keyword arguments to a process, and see which process is which.

The child greets with what it was given and reports its own and its parent's
name and pid; the parent compares that with what it knows itself.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from multiprocessing.queues import Queue


class Identity(NamedTuple):
    """What a child knows of itself and of its parent."""

    name: str
    pid: int
    parent_name: str
    parent_pid: int


def greet(reports: Queue[Identity], greeting: str, *, whom: str, mark: str = "!") -> None:
    print(f"{greeting}, {whom}{mark}")
    me = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    if parent is None or me.pid != os.getpid() or parent.pid != os.getppid():
        raise SystemExit("the child's pids are not those the system knows")
    reports.put(Identity(me.name, os.getpid(), parent.name, os.getppid()))


def main() -> None:
    multiprocessing.set_start_method("fork")
    reports: Queue[Identity] = multiprocessing.Queue()

    greeter = multiprocessing.Process(
        target=greet, name="greeter", args=(reports, "Hello"), kwargs={"whom": "world"}
    )
    if greeter.pid is not None:
        raise SystemExit("a process has no pid before it is started")
    greeter.start()
    child = reports.get(timeout=60)
    greeter.join()

    checks = {
        "the child did its work": greeter.exitcode == 0,
        "the child knows its name": child.name == greeter.name == "greeter",
        "the child's pid is the one that the parent sees": child.pid == greeter.pid,
        "the child's pid is not the parent's": child.pid != os.getpid(),
        "the child's parent is this process": child.parent_pid == os.getpid(),
        "the parent's name is MainProcess": child.parent_name == "MainProcess",
        "the main process has no parent": multiprocessing.parent_process() is None,
    }
    for claim, holds in checks.items():
        print(f"{claim}: {'yes' if holds else 'NO'}")
    if not all(checks.values()):
        raise SystemExit("the processes are not those that were expected")


if __name__ == "__main__":
    main()
