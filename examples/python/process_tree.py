"""A tree of processes: each starts two more, down to some depth.

The tree is shown, with what each process waits for, and ended as a whole.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import procession

if TYPE_CHECKING:
    from procession.synchronize import Event, Semaphore

DEPTH = 2


def grow(name: str, depth: int, there: Semaphore, never: Event) -> None:
    """Start two children, as long as there is depth left, then wait for what never comes."""
    for number in (1, 2) if depth > 0 else ():
        child = f"{name}.{number}"
        args = (child, depth - 1, there, never)
        procession.Process(target=grow, args=args, name=child).start()
    there.release()
    never.wait()


def main() -> None:
    there, never = procession.Semaphore(0), procession.Event(name="never")
    root = procession.Process(target=grow, args=("1", DEPTH, there, never), name="1")
    root.start()
    count = 2 ** (DEPTH + 1) - 1
    for _ in range(count):
        there.acquire()

    def waiting() -> list[procession.Member]:
        return [member for member in procession.family() if member.state.blocked_on is not None]

    while len(waiting()) < count:
        time.sleep(0.001)
    # Children stand in the order of their rows, which come free in any order.
    for member in sorted(waiting(), key=lambda member: member.name):
        on = member.state.blocked_on
        assert on is not None
        indent = "  " * (member.depth - 1)
        print(f"{indent}{member.name} is {member.state!s}: {on.operation} {on.kind} {on.name}")

    root.kill(tree=True)
    root.join()
    print(f"the root ended with exit code {root.exitcode}")
    while waiting():
        time.sleep(0.001)
    print(f"of {count} processes none is left")


if __name__ == "__main__":
    main()
