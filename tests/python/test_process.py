"""Processes: starting, following and ending them; daemons; forking amid threads."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import textwrap
import threading
import time
from multiprocessing.connection import wait
from typing import Any

import procession
import pytest
from conftest import template
from processes import children_of, eventually, is_running, members_of, stat

# What children do.


def nothing() -> None:
    pass


def sleep() -> None:
    while True:
        time.sleep(60)


def exit_with(status: object) -> None:
    sys.exit(status)  # type: ignore[arg-type]


def leave_with(status: int) -> None:
    os._exit(status)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    sleep()


def fail() -> None:
    raise LookupError("in the child")


def describe(answers: Any) -> None:
    me = procession.current_process()
    parent = procession.parent_process()
    answers.put(
        {
            "pid": me.pid,
            "ident": me.ident,
            "name": me.name,
            "daemon": me.daemon,
            "parent": parent.pid,
            "parent's name": parent.name,
            "parent is alive": parent.is_alive(),
            "children": len(procession.active_children()),
            "authkey": bytes(me.authkey),
        }
    )


def put_arguments(answers: Any, *args: Any, **kwds: Any) -> None:
    answers.put((args, kwds))


def ignore_terminate(ready: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    sleep()


def start_daemon(ctx_name: str, answers: Any) -> None:
    try:
        procession.get_context(ctx_name).Process(target=nothing, daemon=True).start()
    except AssertionError as error:
        answers.put(str(error))


def outlive_parent(pids: Any, orphaned: Any, answers: Any) -> None:
    parent = procession.parent_process()
    pids.put(os.getpid())
    answers.put(parent.is_alive())
    orphaned.wait()
    parent.join()
    answers.put(parent.is_alive())


def start_and_die(ctx_name: str, pids: Any, orphaned: Any, answers: Any) -> None:
    ctx = procession.get_context(ctx_name)
    child = ctx.Process(target=outlive_parent, args=(pids, orphaned, answers))
    child.start()
    sleep()


class Counter(procession.Process):
    """Counts in the child."""

    def __init__(self, answers: Any, most: int) -> None:
        super().__init__(name="counter")
        self.answers = answers
        self.most = most

    def run(self) -> None:
        self.answers.put((self.name, sum(range(self.most))))


def start(ctx: Any, target: Any, *args: Any, **options: Any) -> Any:
    process = ctx.Process(target=target, args=args, **options)
    process.start()
    return process


# Following a process.


def test_a_process_is_started_and_joined(ctx: Any) -> None:
    process = ctx.Process(target=nothing)
    assert process.pid is None
    assert process.exitcode is None
    assert not process.is_alive()
    with pytest.raises(AssertionError):
        process.join()
    process.start()
    # A copy of the forkserver's template is the template's child.
    assert (process.pid in children_of(os.getpid())) == (ctx._name != "forkserver")
    assert process.join() is None
    assert process.exitcode == 0
    assert not process.is_alive()
    process.join()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        process.start()


def test_arguments_reach_the_target(ctx: Any) -> None:
    answers = ctx.Queue()
    process = ctx.Process(target=put_arguments, args=(answers, 1, [2]), kwargs={"three": 3})
    process.start()
    assert answers.get() == ((1, [2]), {"three": 3})
    process.join()
    no_target = ctx.Process()
    no_target.start()
    no_target.join()
    assert no_target.exitcode == 0


def test_join_gives_up_when_its_time_is_over(ctx: Any) -> None:
    process = start(ctx, sleep)
    for timeout in (0, 0.02, -1):
        process.join(timeout)
        assert process.is_alive()
        assert process.exitcode is None
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("status", "exitcode"), [(None, 0), (0, 0), (1, 1), (77, 77), (256 + 3, 3), (False, 0)]
)
def test_sys_exit_gives_the_exit_code(ctx: Any, status: object, exitcode: int) -> None:
    process = start(ctx, exit_with, status)
    process.join()
    assert process.exitcode == exitcode


def test_sys_exit_with_a_text_is_1_and_the_text_on_stderr(ctx: Any, capfd: Any) -> None:
    process = start(ctx, exit_with, "last words")
    process.join()
    assert process.exitcode == 1
    assert capfd.readouterr().err == "last words\n"


@pytest.mark.parametrize("code", [0, 1, 255])
def test_os_exit_gives_the_exit_code(ctx: Any, code: int) -> None:
    process = start(ctx, leave_with, code)
    process.join()
    assert process.exitcode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_negative_exit_code(ctx: Any, number: int) -> None:
    process = start(ctx, die_by, number)
    process.join()
    assert process.exitcode == -number


def test_an_exception_is_1_and_its_traceback_on_stderr(ctx: Any, capfd: Any) -> None:
    process = start(ctx, fail, name="unlucky")
    process.join()
    assert process.exitcode == 1
    text = capfd.readouterr().err
    assert "Process unlucky:" in text
    assert "LookupError: in the child" in text
    assert "in fail" in text


def test_terminate_and_kill_end_a_process(ctx: Any) -> None:
    for end, exitcode in (("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
        process = start(ctx, sleep)
        getattr(process, end)()
        process.join()
        assert process.exitcode == exitcode
        # Nothing happens to a process that has ended.
        getattr(process, end)()
        assert process.exitcode == exitcode


def test_kill_ends_what_terminate_does_not(ctx: Any) -> None:
    ready = ctx.Event()
    process = start(ctx, ignore_terminate, ready)
    ready.wait()
    process.terminate()
    process.join(0.1)
    assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_closed_process_is_no_more_asked(ctx: Any) -> None:
    process = start(ctx, sleep)
    with pytest.raises(ValueError, match="still running"):
        process.close()
    process.kill()
    process.join()
    descriptor = process.sentinel
    process.close()
    process.close()
    for use in (process.join, process.is_alive, process.terminate, lambda: process.exitcode):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert "closed" in repr(process)


def test_the_exit_code_is_known_when_the_sentinel_is_ready(ctx: Any) -> None:
    for _ in range(30):
        process = start(ctx, exit_with, 3)
        wait([process.sentinel])
        assert process.exitcode == 3


def test_a_sentinel_is_ready_when_the_process_has_ended(ctx: Any) -> None:
    with pytest.raises(ValueError):
        _ = ctx.Process(target=nothing).sentinel
    processes = [start(ctx, sleep) for _ in range(3)]
    sentinels = [process.sentinel for process in processes]
    assert wait(sentinels, timeout=0) == []
    processes[1].kill()
    assert wait(sentinels) == [sentinels[1]]
    for process in processes:
        process.kill()
        process.join()
    assert sorted(wait(sentinels)) == sorted(sentinels)


def test_a_start_without_a_descriptor_to_spare_starts_nothing(run_program: Any) -> None:
    ending = run_program(
        textwrap.dedent("""\
        import os, resource, sys
        import procession

        def touch(path):
            open(path, "w").close()

        if __name__ == "__main__":
            ctx = procession.get_context(sys.argv[1])
            lock = ctx.Lock()
            path = sys.argv[0] + ".touched"
            process = ctx.Process(target=touch, args=(path,))
            warm = ctx.Process(target=int)
            warm.start()
            warm.join()
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            held = []
            try:
                while True:
                    held.append(os.dup(0))
            except OSError:
                pass
            try:
                process.start()
            except OSError as error:
                print(error.errno)
            os.closerange(3, 64)
            print(os.path.exists(path), procession.active_children())
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("no child")
        """)
    )
    assert ending.stdout.split("\n")[:2] == ["24", "False []"]


def test_a_full_process_table_is_an_error_of_start(run_program: Any) -> None:
    # This address space leaves an arena of 256 MiB, which has room for 256 processes.
    ending = run_program(
        textwrap.dedent("""\
        import resource, sys
        import procession

        if __name__ == "__main__":
            resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20))
            ctx = procession.get_context("fork")
            event = ctx.Event()
            started = []
            try:
                for _ in range(300):
                    process = ctx.Process(target=event.wait)
                    process.start()
                    started.append(process)
            except procession.ArenaError as error:
                print(len(started), error)
            event.set()
            for process in started:
                process.join()
            process = ctx.Process(target=int)
            process.start()
            process.join()
            print(process.exitcode)
        """)
    )
    assert ending.stdout.startswith("255 "), ending
    assert ending.stdout.endswith("\n0\n"), ending


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_exit_code_survives_a_foreign_wait(ctx: Any) -> None:
    process = start(ctx, leave_with, 7)
    pid, status = os.waitpid(process.pid, 0)
    assert (pid, os.waitstatus_to_exitcode(status)) == (process.pid, 7)
    process.join()
    # Since Linux 6.15 the kernel still has the status of a reaped process.
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert process.exitcode == (7 if release >= (6, 15) else 255)
    assert not process.is_alive()


def end_and_see_it_gone(go: Any, pid: int, gone: Any) -> None:
    go.set()
    while stat(pid) is not None:
        time.sleep(0.005)
    gone.put(True)


def wait_event(event: Any) -> None:
    event.wait()


def join_other(gone: Any, other: Any) -> None:
    other.join()


def get_from_queue(gone: Any, other: Any) -> None:
    gone.get()


def acquire_semaphore(gone: Any, other: Any) -> None:
    never = procession.Semaphore(0)
    while gone.empty():
        never.acquire(timeout=0.4)


@pytest.mark.parametrize("wait_somehow", [join_other, get_from_queue, acquire_semaphore])
def test_a_child_that_nobody_joins_is_no_zombie_for_long(ctx: Any, wait_somehow: Any) -> None:
    go, gone = ctx.Event(), ctx.Queue()
    forgotten = start(ctx, wait_event, go)
    # The last start, which reaps the children that have ended before.
    other = start(ctx, end_and_see_it_gone, go, forgotten.pid, gone)

    wait_somehow(gone, other)

    assert stat(forgotten.pid) is None
    assert forgotten.exitcode == 0
    other.join()


def test_several_threads_may_join_one_process(ctx: Any) -> None:
    for _ in range(20):
        process = start(ctx, leave_with, 5)
        codes: list[int] = []

        def join(process: Any, codes: list[int]) -> None:
            process.join()
            codes.append(process.exitcode)

        threads = [threading.Thread(target=join, args=(process, codes)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [5] * 4


def test_names_and_numbers_are_told(ctx: Any) -> None:
    process = ctx.Process(target=sleep, name="first")
    assert process.name == "first"
    process.name = "renamed"
    process.start()
    assert "renamed" in repr(process)
    assert "started" in repr(process)
    process.kill()
    process.join()
    assert "stopped" in repr(process)
    assert f"pid={process.pid}" in repr(process)
    one, other = ctx.Process(target=nothing), ctx.Process(target=nothing)
    assert one.name != other.name
    with pytest.raises(AssertionError):
        one.name = 5


def test_a_child_knows_who_it_is(ctx: Any) -> None:
    answers = ctx.Queue()
    process = start(ctx, describe, answers, name="knows")
    told = answers.get()
    process.join()
    assert told == {
        "pid": process.pid,
        "ident": process.pid,
        "name": "knows",
        "daemon": False,
        "parent": os.getpid(),
        "parent's name": "MainProcess",
        "parent is alive": True,
        "children": 0,
        "authkey": bytes(procession.current_process().authkey),
    }


def test_the_first_process_has_no_parent() -> None:
    assert procession.parent_process() is None
    assert procession.current_process().name == "MainProcess"
    assert procession.current_process().pid == os.getpid()


def test_active_children_are_those_that_run(ctx: Any) -> None:
    assert procession.active_children() == []
    running, ended = start(ctx, sleep), start(ctx, nothing)
    wait([ended.sentinel])
    assert procession.active_children() == [running]
    assert multiprocessing.active_children() == [running]
    running.kill()
    wait([running.sentinel])
    # Asking has waited for the dead.
    assert procession.active_children() == []
    assert not children_of(os.getpid()) - template()
    assert running.exitcode == -signal.SIGKILL


class OfContext:
    answers: Any

    def run(self) -> None:
        self.answers.put("run")


class OfFork(OfContext, procession.context.ForkProcess):
    pass


class OfSpawn(OfContext, procession.context.SpawnProcess):
    pass


class OfForkServer(OfContext, procession.context.ForkServerProcess):
    pass


OF_CONTEXT: dict[str, Any] = {"fork": OfFork, "spawn": OfSpawn, "forkserver": OfForkServer}


def test_a_subclass_runs_its_run(ctx: Any) -> None:
    answers = ctx.Queue()
    process = Counter(answers, 10)
    process.start()
    assert answers.get() == ("counter", 45)
    process.join()

    other = OF_CONTEXT[ctx._name]()
    other.answers = answers
    other.start()
    assert answers.get() == "run"
    other.join()


def test_processes_and_contexts_are_the_standard_librarys(ctx: Any, method: str) -> None:
    assert isinstance(ctx, multiprocessing.context.BaseContext)
    assert isinstance(ctx.Process(), multiprocessing.process.BaseProcess)
    assert isinstance(procession.Process(), multiprocessing.process.BaseProcess)
    assert issubclass(ctx.Process, procession.Process)
    assert ctx.get_start_method() == method
    assert ctx._name == method
    assert method in procession.get_all_start_methods()
    assert procession.get_context(method) is ctx
    for name in ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"):
        assert getattr(ctx, name) is getattr(multiprocessing, name)
        assert getattr(procession, name) is getattr(multiprocessing, name)
    with pytest.raises(ValueError):
        procession.get_context("no such method")


def test_processes_start_no_thread(ctx: Any) -> None:
    before = threading.active_count()
    native = set(os.listdir("/proc/self/task"))
    process = start(ctx, sleep)
    assert threading.active_count() == before
    assert set(os.listdir("/proc/self/task")) <= native
    process.kill()
    process.join()


def test_processes_leave_no_descriptors(ctx: Any) -> None:
    start(ctx, nothing).join()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        start(ctx, nothing).join()
    assert len(os.listdir("/proc/self/fd")) == before


THREAD_OF_A_CHILD = """
import sys
import procession

def work():
    # A copy of the template has all that the template has.
    assert sys.argv[1] == "forkserver" or "threading" not in sys.modules, "the test is void"
    import threading, time
    from multiprocessing import process
    assert process.threading.main_thread() is threading.current_thread()
    assert process.signal.SIGTERM is __import__("signal").Signals.SIGTERM

    def later():
        time.sleep(0.3)
        print("the thread has ended")

    threading.Thread(target=later).start()

if __name__ == "__main__":
    child = procession.get_context(sys.argv[1]).Process(target=work)
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


def test_a_child_that_comes_to_have_threads_waits_for_them(run_program: Any) -> None:
    ending = run_program(THREAD_OF_A_CHILD)

    assert ending.stdout == "the thread has ended\n", ending.stderr
    assert ending.exit_code == 0, ending.stderr


def test_many_processes_may_run_at_once(ctx: Any) -> None:
    event = ctx.Event()
    processes = [start(ctx, event.wait) for _ in range(60)]
    event.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_ctrl_c_interrupts_join(ctx: Any) -> None:
    process = start(ctx, sleep)
    for arguments in ((), (60,)):
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            process.join(*arguments)
    assert process.is_alive()
    process.kill()
    process.join()


# Daemons and their parents.


def test_a_daemon_is_set_before_the_start(ctx: Any) -> None:
    process = ctx.Process(target=sleep, daemon=True)
    assert process.daemon
    process.start()
    with pytest.raises(AssertionError):
        process.daemon = False
    process.kill()
    process.join()


def test_a_daemon_has_no_children(ctx: Any, method: str) -> None:
    answers = ctx.Queue()
    process = start(ctx, start_daemon, method, answers, daemon=True)
    assert "daemonic processes are not allowed to have children" in answers.get()
    process.join()


PARENT = """
import os, sys, threading, time
import procession

ctx = procession.get_context(sys.argv[1])

def sleep():
    while True:
        time.sleep(60)

def start(daemon):
    process = ctx.Process(target=sleep, daemon=daemon)
    process.start()
    print(process.pid, flush=True)

if __name__ == "__main__":
    start(True)
    thread = threading.Thread(target=start, args=(True,))
    thread.start()
    thread.join()
    stay = threading.Event()
    threading.Thread(target=lambda: (start(True), stay.wait()), daemon=True).start()
    sleep()
"""


def test_daemons_live_and_die_with_their_parent(run_program: Any) -> None:
    def kill_parent(program: Any) -> None:
        pids = [int(program.stdout.readline()) for _ in range(3)]
        # The thread that started the second one has ended.
        time.sleep(0.3)
        assert all(is_running(pid) for pid in pids)
        program.kill()
        assert eventually(lambda: not any(is_running(pid) for pid in pids))

    ending = run_program(PARENT, meanwhile=kill_parent)
    assert ending.exit_code == -signal.SIGKILL
    assert not ending.left_processes


def test_a_program_that_ends_ends_its_daemons(run_program: Any) -> None:
    program = PARENT.rsplit("    sleep()", 1)[0] + "    sys.exit(3)\n"
    ending = run_program(program)
    assert ending.exit_code == 3, ending.stderr
    assert not ending.left_processes


JOINS_AT_THE_END = """
import sys, time
import procession

def speak():
    time.sleep(0.2)
    print("child", flush=True)

if __name__ == "__main__":
    procession.get_context(sys.argv[1]).Process(target=speak).start()
    print("parent", flush=True)
"""


def test_a_program_that_ends_waits_for_its_children(run_program: Any) -> None:
    ending = run_program(JOINS_AT_THE_END)
    assert (ending.exit_code, ending.stdout) == (0, "parent\nchild\n"), ending.stderr


TEMPLATE_KILLED_BEFORE = """
import os, signal, sys, time
import procession
from procession import forkserver

if __name__ == "__main__":
    context = procession.get_context("forkserver")
    ready = procession.Event()
    daemon = context.Process(target=wait_for_ever, args=(ready,), daemon=True)
    daemon.start()
    ready.wait()
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    forkserver._forkserver._template.wait()
    # It lives on as long as this process does.
    time.sleep(0.6)
    print(daemon.pid, daemon.is_alive(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_daemon_dies_with_its_parent_though_the_template_died_before(
    run_program: Any,
) -> None:
    ending = run_program(
        "import time\n\ndef wait_for_ever(ready):\n    ready.set()\n    time.sleep(600)\n"
        + TEMPLATE_KILLED_BEFORE
    )
    pid, was_alive = ending.stdout.split()
    assert was_alive == "True", ending
    assert eventually(lambda: not is_running(int(pid)))


def test_a_child_lives_on_and_sees_its_parents_death(ctx: Any, method: str) -> None:
    pids, orphaned, answers = ctx.Queue(), ctx.Event(), ctx.Queue()
    parent = start(ctx, start_and_die, method, pids, orphaned, answers)
    child = pids.get()
    assert answers.get() is True
    parent.kill()
    parent.join()
    assert is_running(child)
    orphaned.set()
    assert answers.get() is False
    assert eventually(lambda: not is_running(child))


# Forking amid threads.


def use_all(lock: Any, rlock: Any, queue: Any, own: Any) -> None:
    for number in range(5):
        with lock, rlock:
            queue.put(number)
        own.put(number)
        assert own.get() == number
        queue.get()


def test_a_fork_amid_threads_at_work_gives_a_whole_child(ctx: Any) -> None:
    lock, rlock, queue = ctx.Lock(), ctx.RLock(), ctx.Queue()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                queue.put(b"x" * 5000)
            with rlock, rlock:
                queue.get()
            ctx.Event().set()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(80):
            process = start(ctx, use_all, lock, rlock, queue, ctx.Queue())
            process.join()
            assert process.exitcode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    procession._native.check()


def test_threads_may_start_processes_at_once(ctx: Any) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        queue = ctx.Queue()
        for _ in range(15):
            process = start(ctx, put_arguments, queue, number)
            if queue.get() != ((number,), {}):
                wrong.append(number)
            process.join()
            if process.exitcode != 0:
                wrong.append(process)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def fork_again(ctx_name: str, depth: int, queue: Any) -> None:
    queue.put(depth)
    if depth:
        process = start(procession.get_context(ctx_name), fork_again, ctx_name, depth - 1, queue)
        process.join()
        sys.exit(process.exitcode)


def test_children_have_children(ctx: Any, method: str) -> None:
    queue = ctx.Queue()
    process = start(ctx, fork_again, method, 5, queue)
    process.join()
    assert process.exitcode == 0
    assert queue.get_many(10) == [5, 4, 3, 2, 1, 0]


def test_a_plain_fork_may_use_what_there_is(ctx: Any) -> None:
    lock, queue = ctx.Lock(), ctx.Queue()
    for number in range(5):
        pid = os.fork()
        if pid == 0:
            try:
                with lock:
                    queue.put(number)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert queue.get_many(10) == [0, 1, 2, 3, 4]
    with lock:
        pass
    procession._native.check()


# The whole family.

FAMILY = """
import os, sys, tempfile, threading, time
import procession

ctx = procession.get_context(sys.argv[1])
lock = ctx.Lock()
queue = ctx.Queue()
results = ctx.Queue(3)

def consume():
    while True:
        with lock:
            results.put(queue.get())

def produce():
    while True:
        queue.put(b"x" * 1000)
        if queue.qsize() > 1000:
            time.sleep(0.001)

def nested():
    children = [ctx.Process(target=consume) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()

def work(x):
    time.sleep(0.001)
    return bytes(10_000)

if __name__ == "__main__":
    processes = [ctx.Process(target=target) for target in (consume, produce, produce, nested)]
    processes.append(ctx.Process(target=consume, daemon=True))
    for process in processes:
        process.start()
    pool = ctx.Pool(3)
    value, array = ctx.Value("i"), ctx.Array("d", 1000)
    round_ = 0
    while True:
        pool.map(work, range(20), 1)
        while not results.empty():
            results.get()
        if round_ == 3:
            print("busy", flush=True)
        round_ += 1
"""


@pytest.mark.parametrize("killed", ["all", "root"])
def test_nothing_is_left_of_a_killed_family(
    run_program: Any, killed: str, tmp_path: Any, method: str
) -> None:
    def kill(program: Any) -> None:
        assert program.stdout.readline() == "busy\n"
        assert len(members_of(program.pid)) >= 10
        if killed == "all":
            while pids := members_of(program.pid):
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
        else:
            program.kill()
            # The daemons end with it. The test ends the processes that are no daemons.
            assert eventually(lambda: len(members_of(program.pid)) <= most)
            for pid in members_of(program.pid):
                os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not members_of(program.pid))

    # The forkserver's template stays as long as its copies.
    most = 7 if method == "forkserver" else 6
    folder = tmp_path / "temporary"
    folder.mkdir()
    ending = run_program(FAMILY, meanwhile=kill, env={"TMPDIR": str(folder)})
    assert ending.exit_code == -signal.SIGKILL
    assert not ending.left_processes
    assert list(folder.iterdir()) == []
