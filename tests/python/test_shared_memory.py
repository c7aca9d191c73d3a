"""Named shared memory of the standard library, in processes that procession starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


# Named shared memory is used by functions only, after the processes have been started.
LATE = """
import os, signal, sys
import procession

context = procession.get_context(sys.argv[1])

def shared_memory(**arguments):
    from multiprocessing.shared_memory import SharedMemory
    return SharedMemory(**arguments)

def trackers():
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            session, command = os.getsid(int(pid)), open(f"/proc/{pid}/cmdline").read()
        except OSError:
            continue
        if session == os.getsid(0) and "resource_tracker import main" in command:
            found.append(int(pid))
    return found
"""

ATTACHED_BY_AN_EARLIER_CHILD = """
def attach(names, attached):
    memory = shared_memory(name=names.get())
    memory.buf[0] = 7
    memory.close()

if __name__ == "__main__":
    names = context.Queue()
    children = [context.Process(target=attach, args=(names, None)) for _ in range(2)]
    for child in children:
        child.start()
    print(len(trackers()))
    memory = shared_memory(create=True, size=8)
    for child in children:
        names.put(memory.name)
    for child in children:
        child.join()
    print(memory.buf[0], len(trackers()))
    shared_memory(name=memory.name).close()
    memory.close()
    memory.unlink()
"""

MADE_BY_A_CHILD = """
def make(name):
    memory = shared_memory(name=name, create=True, size=8)
    memory.buf[0] = 7
    memory.close()

if __name__ == "__main__":
    name = f"made_by_a_child_{os.getpid()}"
    child = context.Process(target=make, args=(name,))
    child.start()
    child.join()
    memory = shared_memory(name=name)
    print(memory.buf[0], len(trackers()))
    memory.close()
    memory.unlink()
"""

MADE_BY_MANY_AT_ONCE = """
def make(barrier, left):
    barrier.wait()
    memory = shared_memory(create=True, size=8)
    memory.close()
    memory.unlink()
    barrier.wait()
    left.wait()

if __name__ == "__main__":
    barrier, left = context.Barrier(6), context.Event()
    children = [context.Process(target=make, args=(barrier, left)) for _ in range(5)]
    for child in children:
        child.start()
    barrier.wait()
    barrier.wait()
    # The one that was started last begins in its own time.
    while len(trackers()) != 1:
        pass
    print("one")
    left.set()
    for child in children:
        child.join()
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ATTACHED_BY_AN_EARLIER_CHILD, "0\n7 1\n"),
        (MADE_BY_A_CHILD, "7 1\n"),
        (MADE_BY_MANY_AT_ONCE, "one\n"),
    ],
    ids=["attached by an earlier child", "made by a child", "made by many at once"],
)
@pytest.mark.parametrize("launcher", ["python", "procession"])
def test_a_family_has_one_tracker_whoever_uses_shared_memory_first(
    run_program: Callable[..., Ending], text: str, said: str, launcher: str
) -> None:
    ending = run_program(LATE + text, launcher=launcher)
    assert (ending.exit_code, ending.stdout, ending.stderr) == (0, said, ""), ending
    assert not ending.left_processes


KILLED = """
def make(name, pause):
    # This process starts the tracker, which outlives its tree.
    memory = shared_memory(name=name, create=True, size=8)
    memory.close()
    pause.wait()
    pause.wait()

def attach(name):
    shared_memory(name=name).close()

if __name__ == "__main__":
    name, pause = f"made_by_a_child_{os.getpid()}", context.Barrier(2)
    child = context.Process(target=make, args=(name, pause))
    child.start()
    pause.wait()
    child.kill(tree=True)
    child.join()
    memory = shared_memory(name=name)
    (tracker,) = trackers()
    print(child.exitcode, os.path.exists(f"/dev/shm/{name}"))

    # A tracker is killed: another takes its place, for all.
    os.kill(tracker, signal.SIGKILL)
    while trackers():
        pass
    memory.unlink()
    memory = shared_memory(name=name, create=True, size=8)
    child = context.Process(target=attach, args=(name,))
    child.start()
    child.join()
    print(child.exitcode, os.path.exists(f"/dev/shm/{name}"), len(trackers()))
    # It unlinks what is left.
    print(name)
"""


def test_a_killed_tracker_is_replaced_and_a_killed_tree_leaves_it(
    run_program: Callable[..., Ending],
) -> None:
    ending = run_program(LATE + KILLED)
    first, second, name = ending.stdout.splitlines()
    assert (first, second) == ("-9 True", "0 True 1"), ending
    assert "resource_tracker: process died" in ending.stderr
    assert ending.stderr.count("leaked shared_memory objects") == 1, ending
    assert not ending.left_processes
    assert not (Path("/dev/shm") / name).exists()


CLOSES = """
def attach(name):
    shared_memory(name=name).close()

if __name__ == "__main__":
    for _ in range(2):
        child = context.Process(target=print, args=("it runs",), kwargs={"flush": True})
        child.start()
        child.join()
        # As a daemon does that wants nothing of what it was started with.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}"):
                if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                    os.close(fd)
    memory = shared_memory(create=True, size=8)
    child = context.Process(target=attach, args=(memory.name,))
    child.start()
    child.join()
    print(child.exitcode, os.path.exists(f"/dev/shm/{memory.name}"))
    memory.close()
    memory.unlink()
"""


def test_a_program_may_close_descriptors_that_it_does_not_know(
    run_program: Callable[..., Ending],
) -> None:
    ending = run_program(LATE + CLOSES)
    assert ending.stdout == "it runs\nit runs\n0 True\n", ending
    assert ending.stderr == ""
