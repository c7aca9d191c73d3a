"""Named shared memory of the standard library, in processes that procession starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sessions import Ending

PROGRAM = """
import os, sys
from multiprocessing.shared_memory import SharedMemory
import procession

context = procession.get_context(sys.argv[1])

def attach(name, depth):
    memory = SharedMemory(name=name)
    memory.buf[depth] = 1
    memory.close()
    if depth > 0:
        start_and_join(name, depth - 1)

def start_and_join(name, depth):
    child = context.Process(target=attach, args=(name, depth))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode

{hook}

if __name__ == "__main__":
    memory = SharedMemory(create=True, size=8)
    start_and_join(memory.name, 2)
    print(list(memory.buf[:3]))
    # It is still there by its name.
    SharedMemory(name=memory.name).close()
    memory.close()
    memory.unlink()
"""

STARTS_ANOTHER = """
pending = [1]

def start_another():
    if pending and "memory" in globals():
        pending.clear()
        start_and_join(memory.name, 0)

os.register_at_fork(before=start_another)
"""


@pytest.mark.parametrize("hook", ["", STARTS_ANOTHER], ids=["", "a hook starts another"])
def test_a_child_that_attaches_shared_memory_leaves_it_to_its_parent(
    run_program: Callable[..., Ending], hook: str
) -> None:
    ending = run_program(PROGRAM.format(hook=hook))
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, "[1, 1, 1]\n", ""), ending
    assert not ending.left_processes


ORDINARY_FORK = """
import os, sys
from multiprocessing.shared_memory import SharedMemory
import procession

def attach(name):
    SharedMemory(name=name).close()
    # What it forks by itself is no process of procession, and may not get the tracker.
    intent = getattr(sys.modules["multiprocessing.resource_tracker"], "_fork_intent", None)
    assert not getattr(intent, "preserve_fd", False)

if __name__ == "__main__":
    memory = SharedMemory(create=True, size=8)
    child = procession.get_context(sys.argv[1]).Process(target=attach, args=(memory.name,))
    child.start()
    child.join()
    intent = getattr(sys.modules["multiprocessing.resource_tracker"], "_fork_intent", None)
    print(child.exitcode, getattr(intent, "preserve_fd", False))
    memory.close()
    memory.unlink()
"""


def test_only_procession_s_own_forks_share_the_tracker(run_program: Callable[..., Ending]) -> None:
    ending = run_program(ORDINARY_FORK)
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, "0 False\n", ""), ending
