"""Which process is alive: a living process is never taken for a dead one, and each death is seen,
whatever its cause."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import pytest
from sessions import Ending, run


@pytest.fixture
def program(tmp_path: Any) -> Any:
    """Run a text as a program; return what it printed."""

    def run_text(text: str, **options: Any) -> str:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(text))
        ending: Ending = run("python", path, [], **options)
        assert ending.exit_code == 0, ending
        return ending.stdout

    return run_text


def test_a_start_that_fails_buries_no_other_child(program: Any) -> None:
    printed = program("""\
        import os, resource, time
        import procession

        lock = procession.Lock()
        reader, writer = os.pipe()
        finish, finished = os.pipe()
        child = os.fork()
        if child == 0:
            lock.acquire()
            os.write(writer, b"x")
            os.read(finish, 1)
            lock.release()
            os._exit(0)
        os.read(reader, 1)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        fds = []
        try:
            while True:
                fds.append(os.dup(0))
        except OSError:
            pass
        try:
            procession.get_context("fork").Process(target=print).start()
        except OSError as error:
            print(error.errno)
        for fd in fds:
            os.close(fd)
        print(lock.acquire(timeout=0.3))
        os.write(finished, b"x")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """)
    assert printed == "24\nFalse\n0\n"


def test_a_handler_that_raises_during_start_leaves_the_child_alive(program: Any) -> None:
    printed = program("""\
        import os, random, signal
        import procession
        import procession.process

        ctx = procession.get_context("fork")

        class Stop(Exception):
            pass

        starting = False

        def stop(*_):
            if starting:
                raise Stop

        def child(lock, writer, finish):
            signal.setitimer(signal.ITIMER_REAL, 0)
            lock.acquire()
            os.write(writer, b"%8d" % os.getpid())
            os.read(finish, 1)
            try:
                lock.release()
            except BaseException:
                os._exit(7)
            os._exit(0)

        signal.signal(signal.SIGALRM, stop)
        hits = 0
        for _ in range(100):
            lock = procession.Lock()
            reader, writer = os.pipe()
            finish, finished = os.pipe()
            process = ctx.Process(target=child, args=(lock, writer, finish))
            hit = False
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.003))
            try:
                starting = True
                process.start()
                starting = False
            except Stop:
                starting = False
                hit = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.close(writer)
            pid = os.read(reader, 8)
            if hit and pid:
                hits += 1
                for _ in range(3):
                    procession.family()
                try:
                    assert not lock.acquire(timeout=0.002), "a living process's lock"
                except procession.OwnerDiedError:
                    # start() has ended it, and taken its status.
                    assert not os.path.exists(f"/proc/{int(pid)}"), "a living process's lock"
                    pid = b""
            os.write(finished, b"x")
            os.close(finished)
            if hit and pid:
                # It runs, though no process follows it.
                assert os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1]) == 0
            elif pid:
                process.join()
                assert process.exitcode == 0
            os.close(reader)
            os.close(finish)
        print("done")
        """)
    assert printed.endswith("done\n")


def test_a_handler_that_forks_during_start_has_a_child_of_its_own(program: Any) -> None:
    printed = program("""\
        import os, random, signal, time
        import procession
        import procession.process

        ctx = procession.get_context("fork")

        def trial():
            lock = procession.Lock()
            reader, writer = os.pipe()
            finish, finished = os.pipe()
            inner = []

            def fork(*_):
                pid = os.fork()
                if pid == 0:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    lock.acquire()
                    os.write(writer, b"x")
                    os.read(finish, 1)
                    try:
                        lock.release()
                    except BaseException:
                        os._exit(7)
                    os._exit(0)
                inner.append(pid)

            signal.signal(signal.SIGALRM, fork)
            process = ctx.Process(target=int)
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.002))
            process.start()
            while not inner:
                time.sleep(0.0005)
            os.read(reader, 1)
            process.join()
            procession.family()
            assert not lock.acquire(timeout=0.01), "a living process's lock"
            os.write(finished, b"x")
            assert os.waitstatus_to_exitcode(os.waitpid(inner[0], 0)[1]) == 0
            for fd in (reader, writer, finish, finished):
                os.close(fd)

        for _ in range(40):
            trial()
        print("done")
        """)
    assert printed.endswith("done\n")


@pytest.mark.parametrize("where", ["before", "after_in_parent"])
def test_a_hook_that_forks_takes_nothing_from_the_child_that_is_started(
    program: Any, where: str
) -> None:
    printed = program(f"""\
        import os, signal
        import procession

        ctx = procession.get_context("fork")
        depth = 0

        def fork():
            global depth
            if depth == 0:
                depth = 1
                pid = os.fork()
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
                depth = 0

        os.register_at_fork({where}=fork)

        def die(task):
            os.kill(os.getpid(), signal.SIGKILL)

        with ctx.Pool(2) as pool:
            for task in range(4):
                try:
                    pool.apply(die, (task,))
                except procession.WorkerDiedError:
                    print("told")
        process = ctx.Process(target=int)
        process.start()
        process.join()
        print(process.exitcode, len(procession.family()))
        """)
    assert printed == "told\n" * 4 + "0 1\n"


def test_the_task_of_a_dead_worker_fails_whoever_sweeps_the_table(program: Any) -> None:
    printed = program("""\
        import os, signal, threading, time
        import procession
        from procession import _native

        ctx = procession.get_context("fork")
        # After the fork of a worker, before its parent notes it.
        os.register_at_fork(
            after_in_parent=lambda: (
                None
                if threading.current_thread() is threading.main_thread()
                else time.sleep(0.05)
            )
        )

        def die(task):
            os.kill(os.getpid(), signal.SIGKILL)

        def sweep(stop):
            while not stop.is_set():
                _native.check()
                time.sleep(0.001)

        stop = ctx.Event()
        sweeper = ctx.Process(target=sweep, args=(stop,))
        sweeper.start()
        with ctx.Pool(2) as pool:
            results = [pool.apply_async(die, (task,)) for task in range(8)]
            for result in results:
                try:
                    result.get(30)
                except procession.WorkerDiedError:
                    print("told")
        stop.set()
        sweeper.join()
        """)
    assert printed == "told\n" * 8


def test_what_ended_children_held_is_given_back_as_their_parent_forks(program: Any) -> None:
    printed = program("""\
        import os
        import procession
        from procession import _native

        def child():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

        queue = procession.Queue()
        for _ in range(8):
            child()
        for _ in range(10):
            queue.put(bytes(1_000_000))
        child()
        # Its row also belonged to a child that has ended.
        del queue
        used = _native.memory()["used"]
        for _ in range(4):
            child()
        print(used < 1_000_000, _native.memory()["used"] < 1_000_000, len(procession.family()) < 9)
        """)
    assert printed == "True True True\n"


def test_a_program_in_place_of_a_process_holds_nothing_of_the_family(program: Any) -> None:
    printed = program("""\
        import gc, os, subprocess
        import procession
        from procession import _native

        queue = procession.Queue()
        lock = procession.Lock()
        for _ in range(10):
            queue.put(bytes(1_000_000))

        def prepare():
            lock.acquire()

        sleeper = subprocess.Popen(["sleep", "60"], preexec_fn=prepare)
        try:
            lock.acquire(timeout=30)
        except procession.OwnerDiedError:
            print("told")
        del queue
        gc.collect()
        print(_native.memory()["used"] < 1_000_000)
        sleeper.kill()
        sleeper.wait()
        """)
    assert printed == "told\nTrue\n"


def test_threads_that_a_program_replaced_leave_a_whole_queue(program: Any) -> None:
    printed = program("""\
        import os, threading, time
        import procession

        ctx = procession.get_context("fork")

        def user(queue, delay):
            def put():
                while True:
                    queue.put(bytes(6000))

            def get():
                while True:
                    queue.get()

            for use in (put, put, get, get):
                threading.Thread(target=use, daemon=True).start()
            time.sleep(delay)
            os.execv("/bin/sleep", ["sleep", "60"])

        def comm(pid):
            with open(f"/proc/{pid}/comm") as file:
                return file.read().strip()

        for trial in range(10):
            queue = procession.Queue()
            process = ctx.Process(target=user, args=(queue, 0.02 + 0.002 * trial))
            process.start()
            while comm(process.pid) != "sleep":
                time.sleep(0.001)
            queue.put("mine", timeout=30)
            while queue.get(timeout=30) != "mine":
                pass
            process.kill()
            process.join()
        print("done")
        """)
    assert printed == "done\n"


def test_a_death_is_seen_without_a_descriptor_to_spare(program: Any) -> None:
    printed = program("""\
        import os, resource
        import procession

        lock = procession.Lock()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            lock.acquire()
            os.write(writer, b"x")
            os.kill(os.getpid(), 9)
        os.read(reader, 1)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        fds = []
        try:
            while True:
                fds.append(os.dup(0))
        except OSError:
            pass
        try:
            lock.acquire(timeout=30)
        except procession.OwnerDiedError:
            print("told")
        for fd in fds:
            os.close(fd)
        os.waitpid(child, 0)
        """)
    assert printed == "told\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace")
def test_a_member_in_another_pid_namespace_is_seen_as_what_it_is(program: Any) -> None:
    printed = program("""\
        import ctypes, os, signal
        import procession

        libc = ctypes.CDLL(None, use_errno=True)
        CLONE_NEWPID = 0x20000000
        ours, theirs = procession.Lock(), procession.Lock()
        reader, writer = os.pipe()
        never, unused = os.pipe()
        ours.acquire()
        child = os.fork()
        if child == 0:
            assert libc.unshare(CLONE_NEWPID) == 0, os.strerror(ctypes.get_errno())
            inside = os.fork()
            if inside == 0:
                taken = ours.acquire(timeout=0.5)
                theirs.acquire()
                os.write(writer, b"%d %d" % (os.getpid(), taken))
                os.read(never, 1)
            os.write(writer, b"%8d" % inside)
            os.waitpid(inside, 0)
            os._exit(0)
        inside = int(os.read(reader, 8))
        print(os.read(reader, 100).decode())
        print(ours.release())
        print(theirs.acquire(timeout=0.5))
        print(len(procession.family()))
        os.kill(inside, signal.SIGKILL)
        try:
            theirs.acquire(timeout=30)
        except procession.OwnerDiedError:
            print("told")
        os.waitpid(child, 0)
        """)
    assert printed == "1 0\nNone\nFalse\n3\ntold\n"


def test_children_share_the_family_whatever_comes_first(program: Any) -> None:
    program_text = """\
        import sys
        import procession

        def child(connection):
            lock = procession.Lock(name="the child's")
            connection.send(lock)
            connection.recv()

        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                ctx = procession.get_context(method)
                ours, theirs = ctx.Pipe()
                process = ctx.Process(target=child, args=(theirs,))
                process.start()
                lock = ours.recv()
                print(lock.acquire())
                ours.send(None)
                process.join()
        """
    assert program(program_text) == "True\n" * 3


@pytest.mark.parametrize("how", ["own list", "broken list"])
def test_a_death_that_the_kernel_does_not_mark_is_seen_by_those_that_wait_for_it(
    program: Any, how: str
) -> None:
    printed = program(f"""\
        import ctypes, mmap, os, signal, sys, time
        import procession

        libc = ctypes.CDLL(None, use_errno=True)
        HOW = {how!r}
        SET_ROBUST_LIST = 273 if os.uname().machine == "x86_64" else 99

        def hide():
            # The kernel walks another list, or one that it can't walk to its end.
            head = (ctypes.c_void_p * 3)()
            head[0] = ctypes.addressof(head) if HOW == "own list" else 8
            libc.syscall(SET_ROBUST_LIST, ctypes.byref(head), 24)
            return head

        lock = procession.Lock()
        reader, writer = os.pipe()
        others = []
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            others.append(pid)
        child = os.fork()
        if child == 0:
            head = hide()
            lock.acquire()
            os.write(writer, b"x")
            signal.pause()
        os.read(reader, 1)
        waiter = os.fork()
        if waiter == 0:
            try:
                print(lock.acquire(timeout=10), flush=True)
            except procession.OwnerDiedError:
                print("told", flush=True)
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(waiter, 0)
        for pid in [child, *others]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        """)
    assert printed == "told\n"


def test_children_killed_before_their_first_step_are_given_up_together(program: Any) -> None:
    printed = program("""\
        import os, signal, time
        import procession
        from procession import _native

        queue = procession.Queue()
        queue.put(bytes(1_000_000))
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        del queue
        deadline = time.monotonic() + 40
        while _native.memory()["used"] > 1_000_000 and time.monotonic() < deadline:
            procession.family()
            time.sleep(0.05)
        print(_native.memory()["used"] < 1_000_000)
        """)
    assert printed == "True\n"


def test_a_thread_that_takes_its_leave_of_the_kernel_takes_no_lock_from_its_process(
    program: Any,
) -> None:
    printed = program("""\
        import ctypes, os, threading, time
        import procession

        libc = ctypes.CDLL(None, use_errno=True)
        EXIT = 60 if os.uname().machine == "x86_64" else 93
        lock = procession.Lock()
        reader, writer = os.pipe()
        finish, finished = os.pipe()
        child = os.fork()
        if child == 0:

            def hold():
                lock.acquire()
                os.write(writer, b"x")
                os.read(finish, 1)
                lock.release()
                os._exit(0)

            threading.Thread(target=hold).start()
            # The first thread, past the C library.
            libc.syscall(EXIT, 0)
        os.read(reader, 1)
        print(lock.acquire(timeout=0.5))
        os.write(finished, b"x")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(lock.acquire(timeout=30))
        """)
    assert printed == "False\n0\nTrue\n"


def test_a_process_beyond_the_table_is_refused_what_its_death_would_have_to_undo(
    program: Any,
) -> None:
    printed = program("""\
        import os, resource, signal
        import procession

        # This address space leaves an arena of 64 MiB, which has room for 64 processes.
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
        lock, queue, event = procession.Lock(), procession.Queue(), procession.Event()
        children = []
        reader, writer = os.pipe()
        while True:
            pid = os.fork()
            if pid == 0:
                try:
                    event.is_set()
                    lock.acquire(timeout=5)
                    lock.release()
                except procession.ArenaError as error:
                    for use in (lambda: queue.put(1), procession.Lock):
                        try:
                            use()
                        except procession.ArenaError:
                            continue
                        os._exit(1)
                    os.write(writer, b"refused")
                    os._exit(0)
                os.write(writer, b"member.")
                signal.pause()
            children.append(pid)
            if os.read(reader, 7) == b"refused":
                break
        print(len(children) > 10)
        for pid in children[:-1]:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)
        print(lock.acquire(timeout=30))
        """)
    assert printed == "True\nTrue\n"
