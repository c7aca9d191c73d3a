"""A child has its own copy of the parent's data.

The child changes a global list and a global dict and sends back what they are
now; the parent's own are as they were.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

numbers = [1, 2, 3]
ages = {"Ada": 36, "Alan": 41}


def change_everything(seen: Queue[tuple[list[int], dict[str, int]]]) -> None:
    numbers.append(4)
    numbers[0] = 100
    ages["Grace"] = 85
    del ages["Ada"]
    seen.put((numbers, ages))


def main() -> None:
    multiprocessing.set_start_method("fork")
    seen: Queue[tuple[list[int], dict[str, int]]] = multiprocessing.Queue()

    print(f"parent, before: {numbers} {ages}")
    child = multiprocessing.Process(target=change_everything, args=(seen,))
    child.start()
    child_numbers, child_ages = seen.get(timeout=60)
    child.join()
    print(f"child:          {child_numbers} {child_ages}")
    print(f"parent, after:  {numbers} {ages}")

    if child_numbers != [100, 2, 3, 4] or child_ages != {"Alan": 41, "Grace": 85}:
        raise SystemExit("the child did not see its own changes")
    if numbers != [1, 2, 3] or ages != {"Ada": 36, "Alan": 41}:
        raise SystemExit("the child's changes reached the parent")


if __name__ == "__main__":
    main()
