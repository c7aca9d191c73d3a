"""Five producers and five consumers on one queue.

Every item is consumed exactly once, and each consumer meets the items of any
one producer in the order they were put. A None for each consumer ends the work.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

PRODUCERS = 5
CONSUMERS = 5
ITEMS_EACH = 400


class Item(NamedTuple):
    producer: int
    number: int


def produce(producer: int, items: Queue[Item | None]) -> None:
    for number in range(ITEMS_EACH):
        items.put(Item(producer, number))


def consume(items: Queue[Item | None], reports: Queue[list[Item]]) -> None:
    taken = []
    while (item := items.get()) is not None:
        taken.append(item)
    reports.put(taken)


def in_order(taken: list[Item]) -> bool:
    """Whether the numbers of each producer only rise within what one consumer took."""
    for producer in range(PRODUCERS):
        numbers = [item.number for item in taken if item.producer == producer]
        if any(earlier >= later for earlier, later in pairwise(numbers)):
            return False
    return True


def main() -> None:
    multiprocessing.set_start_method("fork")
    items: Queue[Item | None] = multiprocessing.Queue()
    reports: Queue[list[Item]] = multiprocessing.Queue()

    consumers = [
        multiprocessing.Process(target=consume, args=(items, reports), daemon=True)
        for _ in range(CONSUMERS)
    ]
    producers = [
        multiprocessing.Process(target=produce, args=(producer, items), daemon=True)
        for producer in range(PRODUCERS)
    ]
    for process in consumers + producers:
        process.start()

    # What a producer has put is in the queue once it has ended, so the ends come after it all.
    for process in producers:
        process.join()
    for _ in consumers:
        items.put(None)
    taken_by_each = [reports.get(timeout=60) for _ in consumers]
    for process in consumers:
        process.join()

    if any(process.exitcode != 0 for process in producers + consumers):
        raise SystemExit("a producer or a consumer failed")
    times_consumed = Counter(item for taken in taken_by_each for item in taken)
    for producer in range(PRODUCERS):
        consumed = sum(item.producer == producer for item in times_consumed)
        print(f"producer {producer}: {consumed} of {ITEMS_EACH} items consumed")
    print(f"total: {times_consumed.total()} items consumed, {len(times_consumed)} different ones")

    everything = Counter(Item(p, n) for p in range(PRODUCERS) for n in range(ITEMS_EACH))
    if times_consumed != everything:
        raise SystemExit("an item was lost, made up, or consumed twice")
    if not all(in_order(taken) for taken in taken_by_each):
        raise SystemExit("a consumer met a producer's items out of order")
    print("each producer's items came in order")


if __name__ == "__main__":
    main()
