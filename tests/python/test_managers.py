"""The standard library's managers, in programs whose `multiprocessing` is procession."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sessions import Ending

PROGRAM = """
import multiprocessing, sys
from multiprocessing.managers import BaseManager, SharedMemoryManager, SyncManager

class Counter:
    def __init__(self):
        self.value = 0

    def add(self):
        self.value += 1
        return self.value

class Counters(BaseManager):
    pass

Counters.register("Counter", Counter)

def use(numbers, counter):
    numbers.append(2)
    counter.add()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    with SyncManager() as manager, Counters() as counters, SharedMemoryManager() as memories:
        numbers, counter = manager.list([1]), counters.Counter()
        child = multiprocessing.Process(target=use, args=(numbers, counter))
        child.start()
        child.join()
        print(child.exitcode, list(numbers), counter.add())
        print(*{type(one._process).__module__ for one in (manager, counters, memories)})
        pool = manager.Pool(1)
        print(pool.map(abs, [-1, -2]))
        pool.terminate()
    with multiprocessing.Manager() as manager:
        print(manager.dict(a=1))
"""


@pytest.mark.parametrize("before", ["", "import multiprocessing.managers\n"])
def test_a_manager_serves_the_start_method_that_was_set(
    run_program: Callable[..., Ending], before: str
) -> None:
    text = f"{before}import procession\nprocession.install()\n{PROGRAM}"
    ending = run_program(text)
    assert ending.stdout.splitlines() == [
        "0 [1, 2] 2",
        "procession.context",
        "[1, 2]",
        "{'a': 1}",
    ], ending
    assert (ending.exit_code, ending.stderr) == (0, "")
    assert not ending.left_processes
