"""Twenty workers share a room that holds five, with a semaphore at the door.

The workers count themselves in and out, and keep the largest number ever
inside: it is five, never more.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event, Lock, Semaphore

WORKERS = 20
PLACES = 5


@dataclass
class Room:
    """The semaphore is the door; the counters are only touched under the lock."""

    door: Semaphore
    lock: Lock
    inside: Any  # a shared C integer, as are the two below
    most_inside: Any
    visits: Any
    was_full: Event


def visit(room: Room) -> None:
    with room.door:
        with room.lock:
            room.inside.value += 1
            room.visits.value += 1
            room.most_inside.value = max(room.most_inside.value, room.inside.value)
            if room.inside.value == PLACES:
                room.was_full.set()
        # No worker leaves before the room was full once: the maximum is the same on any machine.
        room.was_full.wait(timeout=60)
        time.sleep(0.01)
        with room.lock:
            room.inside.value -= 1


def main() -> None:
    multiprocessing.set_start_method("fork")
    room = Room(
        door=multiprocessing.Semaphore(PLACES),
        lock=multiprocessing.Lock(),
        inside=multiprocessing.Value("i", 0, lock=False),
        most_inside=multiprocessing.Value("i", 0, lock=False),
        visits=multiprocessing.Value("i", 0, lock=False),
        was_full=multiprocessing.Event(),
    )

    workers = [multiprocessing.Process(target=visit, args=(room,)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    print(f"visits: {room.visits.value}")
    print(f"most workers inside at once: {room.most_inside.value}")
    print(f"inside now: {room.inside.value}")
    if any(worker.exitcode != 0 for worker in workers):
        raise SystemExit("a worker failed")
    if room.visits.value != WORKERS or room.inside.value != 0:
        raise SystemExit("not every worker that came in went out")
    if room.most_inside.value != PLACES:
        raise SystemExit(f"there should have been {PLACES} inside at most, and once")


if __name__ == "__main__":
    main()
