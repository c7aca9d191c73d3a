"""Children that are not forked: what they are given, and what goes wrong before they begin."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import procession
import pytest
from processes import children_of, eventually, is_running
from sessions import Ending

NOT_FORKED = pytest.mark.parametrize("method", ["spawn", "forkserver"])


def nothing() -> None:
    pass


# A program with a main module that does something when a child imports it.
IMPORT = """
import os, signal, sys
import procession

if __name__ != "__main__":
    print("the child imports", flush=True)
    {statement}

def target():
    print("the target runs", flush=True)

if __name__ == "__main__":
    procession.set_start_method(sys.argv[1])
    child = procession.Process(target=target, name="the child")
    child.start()
    child.join()
    print("exit code", child.exitcode)
"""


@NOT_FORKED
@pytest.mark.parametrize(
    ("statement", "exitcode", "said"),
    [
        ("raise LookupError('at import')", 1, "LookupError: at import"),
        ("sys.exit(3)", 3, "SystemExit: 3"),
        ("sys.exit('a text')", 1, "SystemExit: a text"),
        # It did not run its target.
        ("sys.exit()", 1, "SystemExit"),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
    ],
)
def test_a_child_that_leaves_while_it_is_prepared_is_reported(
    run_program: Callable[..., Ending], statement: str, exitcode: int, said: str
) -> None:
    ending = run_program(IMPORT.format(statement=statement))
    assert ending.stdout.splitlines()[-1] == f"exit code {exitcode}", ending
    assert "the child imports" in ending.stdout
    assert "the target runs" not in ending.stdout
    assert "Process the child, while it was being prepared:" in ending.stderr
    assert said in ending.stderr


DEATHS = [("os._exit(5)", 5), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)]


@pytest.mark.parametrize("method", ["spawn"])
@pytest.mark.parametrize(("statement", "exitcode"), DEATHS)
def test_a_child_that_dies_while_it_is_prepared_is_told_by_its_exit_code(
    run_program: Callable[..., Ending], statement: str, exitcode: int
) -> None:
    ending = run_program(IMPORT.format(statement=statement))
    assert ending.stdout.splitlines()[-1] == f"exit code {exitcode}", ending
    assert "the target runs" not in ending.stdout


@pytest.mark.parametrize("method", ["forkserver"])
@pytest.mark.parametrize("statement", [statement for statement, _ in DEATHS])
def test_a_main_module_that_kills_the_template_is_an_error_of_start(
    run_program: Callable[..., Ending], statement: str
) -> None:
    ending = run_program(IMPORT.format(statement=statement))
    assert ending.exit_code == 1
    assert "RuntimeError: the forkserver's template ends before it answers" in ending.stderr
    assert "the target runs" not in ending.stdout
    assert not ending.left_processes


class Unpicklable(procession.Process):
    """It has an attribute that can't be pickled, and one that needn't be."""

    def __init__(self, *, skips: bool) -> None:
        super().__init__(target=nothing)
        self.skips = skips
        self.skipped = lambda: None
        self.bad = (1, lambda: None)

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        if self.skips:
            del state["skipped"]
        return state


@NOT_FORKED
@pytest.mark.parametrize("skips", [False, True])
def test_what_cannot_be_pickled_is_named(method: str, skips: bool) -> None:
    before = procession.get_start_method(allow_none=True)
    procession.set_start_method(method, force=True)
    try:
        process = Unpicklable(skips=skips)
        with pytest.raises(Exception, match="pickle") as raised:
            process.start()
    finally:
        procession.set_start_method(before, force=True)
    # Newer versions of pickle have notes of their own, before this.
    note = raised.value.__notes__[-1]
    attribute = "bad" if skips else "skipped"
    assert note.endswith(
        f"can't be started by {method!r}: its attribute {attribute!r} can't be pickled"
    )
    assert procession.active_children() == []


@NOT_FORKED
def test_a_target_that_cannot_be_pickled_leaves_no_child(ctx: Any, method: str) -> None:
    ctx.Process(target=nothing).start()
    assert eventually(lambda: procession.active_children() == [])
    before = children_of(os.getpid())
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Exception, match=r"pickle|local object"):
            ctx.Process(target=lambda: None).start()
    assert children_of(os.getpid()) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


NO_ROOM = """
import os, sys
import procession

if __name__ == "__main__":
    # An interpreter that may have no more than a gigabyte of addresses.
    small = os.path.join(os.path.dirname(__file__), "small_python")
    with open(small, "w") as file:
        print("#!/bin/sh", "ulimit -v 1000000", f'exec {sys.executable} "$@"', sep="\\n", file=file)
    os.chmod(small, 0o755)
    procession.set_executable(small)
    lock = procession.Lock()
    child = procession.get_context("spawn").Process(target=print, args=(lock,))
    child.start()
    child.join()
    print("exit code", child.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn"])
def test_a_child_that_cannot_map_the_arena_says_why(run_program: Callable[..., Ending]) -> None:
    ending = run_program(NO_ROOM)
    assert ending.stdout == "exit code 1\n", ending
    assert "can't map the shared memory of its family" in ending.stderr
    assert "Cannot allocate memory" in ending.stderr


@pytest.mark.parametrize(("status", "exitcode"), [(2**31, 0), (2**40 + 7, 7), (-1, 255)])
def test_an_exit_status_of_any_size_ends_the_child(ctx: Any, status: int, exitcode: int) -> None:
    child = ctx.Process(target=sys.exit, args=(status,))
    child.start()
    child.join()
    assert child.exitcode == exitcode


def test_none_as_a_start_method_fixes_the_default() -> None:
    context = procession.context.DefaultContext(procession.get_context("fork"))
    assert context.get_start_method(allow_none=True) is None
    context.set_start_method(None)
    assert context.get_start_method(allow_none=True) == "fork"
    with pytest.raises(RuntimeError, match="context has already been set"):
        context.set_start_method("spawn")
    context.set_start_method(None, force=True)
    assert context.get_start_method(allow_none=True) is None


STOPPED_TEMPLATE = """
import os, signal, time
import procession
from procession import forkserver

if __name__ == "__main__":
    context, lock = procession.get_context("forkserver"), procession.Lock()
    child = context.Process(target=time.sleep, args=(0.1,))
    child.start()
    template = forkserver._forkserver._forkserver_pid
    os.kill(template, signal.SIGSTOP)
    lock.acquire()
    # Long enough to look for ended children. One has ended, and its exit code can't be known yet.
    print(lock.acquire(timeout=1.5), child.exitcode)
    os.kill(template, signal.SIGCONT)
    child.join()
    print(child.exitcode)
"""


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_stopped_template_holds_up_nobody_else(run_program: Callable[..., Ending]) -> None:
    ending = run_program(STOPPED_TEMPLATE)
    assert ending.stdout == "False None\n0\n", ending


def test_the_standard_librarys_modules_are_where_they_are_looked_for(
    run_program: Callable[..., Ending],
) -> None:
    ending = run_program(
        "import procession, multiprocessing\n"
        "print(multiprocessing.reduction.ForkingPickler.__name__)\n"
        "multiprocessing.reduction.mark = 7\n"
        "import multiprocessing.reduction as found\n"
        "from multiprocessing.reduction import *\n"
        "print(found.mark, found.__name__, ForkingPickler is found.ForkingPickler)\n"
        "import signal, threading, functools, subprocess\n"
        "print(signal.SIGTERM.name, threading.main_thread().name, subprocess.PIPE)\n"
    )
    assert ending.stdout == (
        "ForkingPickler\n7 multiprocessing.reduction True\nSIGTERM MainThread -1\n"
    ), ending


FORKED_COPY = """
import os, signal, sys, time
import procession

def wait_for_ever():
    time.sleep(600)

if __name__ == "__main__":
    # A copy of this process, which did not start the worker, waits for something; this process is
    # stopped when the worker is killed.
    pool = procession.get_context(sys.argv[1]).Pool(1)
    result = pool.apply_async(wait_for_ever)
    lock, go = procession.Lock(), procession.Event()
    lock.acquire()
    while pool._pool[0]._popen.task() is None:
        time.sleep(0.01)
    worker = pool._pool[0].pid
    copy = os.fork()
    if copy == 0:
        parent = os.getppid()
        os.kill(parent, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        lock.acquire(timeout=1.5)
        os.kill(parent, signal.SIGCONT)
        os._exit(0)
    try:
        result.get(60)
    except procession.WorkerDiedError as error:
        print("told of", error.pid == worker)
    os.waitpid(copy, 0)
    pool.terminate()
"""


def test_a_forked_copy_leaves_its_parents_children_alone(
    run_program: Callable[..., Ending],
) -> None:
    ending = run_program(FORKED_COPY)
    assert ending.stdout == "told of True\n", ending


def test_what_a_handler_raises_while_children_are_reaped_comes_out(ctx: Any) -> None:
    lock = ctx.Lock()
    forgotten = ctx.Process(target=nothing)
    forgotten.start()

    class Interrupted(Exception):
        pass

    def interrupt(flag: int = 0) -> int:
        raise Interrupted

    popen = forgotten._popen
    poll, popen.poll = popen.poll, interrupt
    with lock, pytest.raises(Interrupted):
        lock.acquire(timeout=60)
    popen.poll = poll
    forgotten.join()


def test_the_main_process_is_known_by_name(run_program: Callable[..., Ending]) -> None:
    ending = run_program(
        "import procession\n"
        "me = procession.current_process()\n"
        "print(me, me.state)\n"
        "lock = procession.Lock()\n"
        "print([member.name for member in procession.family()])\n"
    )
    assert ending.stdout == (
        "<_MainProcess name='MainProcess' parent=None started> running\n['MainProcess']\n"
    ), ending


def test_an_exit_code_is_known_of_children_that_were_reaped_meanwhile(ctx: Any) -> None:
    children = [ctx.Process(target=time.sleep, args=(0.01,)) for _ in range(5)]
    for child in children:
        child.start()
    assert eventually(lambda: not any(is_running(child.pid) for child in children))
    never = ctx.Event()
    never.wait(1)
    assert [child.exitcode for child in children] == [0] * 5


UNGUARDED = {
    "a process": """
process = procession.Process(target=nothing)
process.start()
process.join()
""",
    "processes": """
for process in [procession.Process(target=nothing) for _ in range(3)]:
    process.start()
""",
    "a process of a function that the main module calls": """
def main():
    procession.get_context(sys.argv[1]).Process(target=nothing).start()

try:
    main()
finally:
    del main
""",
    "a pool": """
pool = procession.Pool(2)
print(pool.map(abs, range(4)))
""",
    "a pool of a block": """
with procession.Pool(2) as pool:
    print(pool.map(abs, range(4)))
""",
    "an executor": """
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, mp_context=procession.get_context()) as executor:
    print(list(executor.map(abs, range(4))))
""",
    "a queue": """
queue = procession.Queue()
process = procession.Process(target=queue.put, args=(1,))
process.start()
print(queue.get())
""",
    "a process that is asked for by a case": """
if "x" in sys.argv:
    pass
else:
    procession.Process(target=nothing).start()
""",
}

FOR_CHILDREN = """
import sys
import procession

def nothing():
    pass

procession.set_start_method(sys.argv[1])
"""


@NOT_FORKED
@pytest.mark.parametrize("launcher", ["python", "procession"])
@pytest.mark.parametrize("what", UNGUARDED)
def test_a_missing_guard_is_one_error_of_the_main_process(
    run_program: Callable[..., Ending], what: str, launcher: str
) -> None:
    ending = run_program(FOR_CHILDREN + UNGUARDED[what], launcher=launcher)
    assert ending.exit_code == 1, ending
    assert ending.stdout == ""
    assert ending.stderr.count("Traceback") == 1, ending.stderr
    assert "RuntimeError: \n        An attempt has been made to start a new process" in (
        ending.stderr
    )
    assert "if __name__ == '__main__':" in ending.stderr
    # Nothing follows.
    assert ending.stderr.rstrip().endswith("library/multiprocessing.html"), ending.stderr
    assert not ending.left_processes


@NOT_FORKED
def test_a_main_module_may_tell_its_children_in_its_own_way(
    run_program: Callable[..., Ending],
) -> None:
    text = """
if not hasattr(procession.current_process(), "_inheriting"):
    process = procession.Process(target=nothing)
    process.start()
    process.join()
    print(process.exitcode)
    with procession.Pool(2) as pool:
        print(pool.map(abs, range(-3, 0)))
"""
    ending = run_program(FOR_CHILDREN + text)
    assert (ending.stdout, ending.stderr) == ("0\n[3, 2, 1]\n", ""), ending


@NOT_FORKED
def test_a_child_may_wait_for_its_parent_while_it_is_prepared(
    run_program: Callable[..., Ending], tmp_path: Path
) -> None:
    text = f"""
import os, time

started = {str(tmp_path / "started")!r}
if procession.current_process().name == "MainProcess":
    process = procession.Process(target=nothing)
    process.start()
    open(started, "w").close()
    process.join()
    print(process.exitcode)
else:
    while not os.path.exists(started):
        time.sleep(0.01)
"""
    ending = run_program(FOR_CHILDREN + text)
    assert (ending.stdout, ending.stderr) == ("0\n", ""), ending
    assert not ending.left_processes


@NOT_FORKED
def test_a_missing_guard_is_told_by_a_child_that_slept(
    run_program: Callable[..., Ending], tmp_path: Path
) -> None:
    text = f"""
import os, time

started = {str(tmp_path / "started")!r}
while procession.current_process().name != "MainProcess" and not os.path.exists(started):
    time.sleep(0.01)
process = procession.Process(target=nothing)
process.start()
open(started, "w").close()
process.join()
print(process.exitcode)
"""
    ending = run_program(FOR_CHILDREN + text)
    assert ending.stdout == "1\n", ending
    assert ending.stderr.count("Traceback") == 1, ending
    assert "An attempt has been made to start a new process" in ending.stderr
    assert "Process Process-1, while it was being prepared:" in ending.stderr
    assert not ending.left_processes


@NOT_FORKED
def test_a_start_method_may_be_chosen_without_a_guard(run_program: Callable[..., Ending]) -> None:
    text = """
if __name__ == "__main__":
    with procession.Pool(2) as pool:
        print(pool.map(abs, range(-3, 0)))
"""
    ending = run_program(FOR_CHILDREN + text)
    assert (ending.stdout, ending.stderr) == ("[3, 2, 1]\n", ""), ending
    ending = run_program(FOR_CHILDREN + "procession.set_start_method(sys.argv[1])\n")
    assert "RuntimeError: context has already been set" in ending.stderr


@pytest.mark.parametrize("method", ["spawn"])
def test_another_start_method_in_the_children_is_an_error(
    run_program: Callable[..., Ending],
) -> None:
    text = """
import os
import procession

procession.set_start_method(sys.argv[1] if __name__ == "__main__" else "fork")
if __name__ == "__main__":
    process = procession.Process(target=print)
    process.start()
    process.join()
    print(process.exitcode)
"""
    ending = run_program("import sys\n" + text)
    assert ending.stdout == "1\n", ending
    assert "RuntimeError: context has already been set" in ending.stderr


STOWAWAY = """
class Stowaway:
    def __getstate__(self):
        return {"any": 1}

    def __setstate__(self, state):
        print("the stowaway is in the child", flush=True)
"""

ADDS_TO_THE_PREPARATION = """
import sys
import procession
from procession import spawn
from stowaway import Stowaway

if __name__ == "__main__":
    original = spawn.get_preparation_data
    spawn.get_preparation_data = lambda name: original(name) | {"stowaway": Stowaway()}
    process = procession.get_context(sys.argv[1]).Process(target=print, args=("it runs",))
    process.start()
    process.join()
"""


@NOT_FORKED
def test_what_a_program_adds_to_the_preparation_comes_to_the_child(
    run_program: Callable[..., Ending], tmp_path: Path
) -> None:
    # Tools that measure begin so in each child.
    (tmp_path / "stowaway.py").write_text(STOWAWAY)
    ending = run_program(ADDS_TO_THE_PREPARATION, env={"PYTHONPATH": str(tmp_path)})
    assert ending.stdout == "the stowaway is in the child\nit runs\n", ending
    assert ending.stderr == ""
