"""A bounded buffer: producers wait for room, consumers for items, beside one lock.

Two conditions go with the same lock, so that a process that waits for room is
not woken by room being taken. The buffer never has more than its capacity in it, and
each item that was put in is taken out once.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.synchronize import Condition

CAPACITY = 4
PRODUCERS = 3
CONSUMERS = 2
ITEMS = 60  # of each producer; the consumers share them evenly


@dataclass
class Buffer:
    """A ring of numbers in shared memory; all of it is only touched under the lock."""

    not_full: Condition
    not_empty: Condition
    ring: Any  # a shared array of C integers
    first: Any  # a shared C integer, as are the two below
    count: Any
    most: Any

    def put(self, item: int) -> None:
        with self.not_full:
            self.not_full.wait_for(lambda: self.count.value < CAPACITY)
            self.ring[(self.first.value + self.count.value) % CAPACITY] = item
            self.count.value += 1
            self.most.value = max(self.most.value, self.count.value)
            self.not_empty.notify()

    def get(self) -> int:
        with self.not_empty:
            self.not_empty.wait_for(lambda: self.count.value > 0)
            item = int(self.ring[self.first.value])
            self.first.value = (self.first.value + 1) % CAPACITY
            self.count.value -= 1
            self.not_full.notify()
            return item


def produce(buffer: Buffer, number: int) -> None:
    for item in range(number * ITEMS, (number + 1) * ITEMS):
        buffer.put(item)


def consume(buffer: Buffer, how_many: int, total: Any) -> None:
    mine = sum(buffer.get() for _ in range(how_many))
    with total.get_lock():
        total.value += mine


def main() -> None:
    multiprocessing.set_start_method("fork")
    lock = multiprocessing.Lock()
    buffer = Buffer(
        not_full=multiprocessing.Condition(lock),
        not_empty=multiprocessing.Condition(lock),
        ring=multiprocessing.Array("i", CAPACITY, lock=False),
        first=multiprocessing.Value("i", 0, lock=False),
        count=multiprocessing.Value("i", 0, lock=False),
        most=multiprocessing.Value("i", 0, lock=False),
    )
    total = multiprocessing.Value("q", 0)
    share = PRODUCERS * ITEMS // CONSUMERS

    # At first there are only producers: they fill the buffer and wait for room.
    processes = [
        multiprocessing.Process(target=produce, args=(buffer, number))
        for number in range(PRODUCERS)
    ]
    for process in processes:
        process.start()
    with buffer.not_empty:
        buffer.not_empty.wait_for(lambda: buffer.count.value == CAPACITY)
        print(f"in the buffer when nothing is taken out: {buffer.count.value}")

    consumers = [
        multiprocessing.Process(target=consume, args=(buffer, share, total))
        for _ in range(CONSUMERS)
    ]
    for consumer in consumers:
        consumer.start()
    processes += consumers
    for process in processes:
        process.join()

    items = range(PRODUCERS * ITEMS)
    print(f"sum of what came out: {total.value}")
    print(f"most in the buffer at once: {buffer.most.value}")
    print(f"left in the buffer: {buffer.count.value}")
    if any(process.exitcode != 0 for process in processes):
        raise SystemExit("a process failed")
    if total.value != sum(items):
        raise SystemExit(f"it should have been {sum(items)}")
    if buffer.most.value != CAPACITY or buffer.count.value != 0:
        raise SystemExit("the buffer was overfull, or something was left in it")


if __name__ == "__main__":
    main()
