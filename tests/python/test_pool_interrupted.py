"""Pools: signals at every step, threads that end a pool at once, and copies of its process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import procession
import pytest
from processes import PATIENCE_SECONDS, children_of, eventually, is_running
from procession.crew import Crew

OURS = ("procession/pool.py", "procession/crew.py", "procession/results.py")
AND_THREADS = (*OURS, "/threading.py")


def square(x: int) -> int:
    return x * x


# Signals at every step.


def at_line(
    number: int,
    do: Callable[[], object],
    names: tuple[str, ...] | None = None,
    files: tuple[str, ...] = OURS,
) -> Callable[..., Any]:
    """A trace function that does something at the n-th line of functions of the pool."""
    lines = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        code = frame.f_code
        if not code.co_filename.endswith(files) or (names and code.co_name not in names):
            return None
        if code is threading.Thread.start.__code__:
            # Every thread needs the lock of `Thread.start` to begin: no handler may wait for one.
            return None
        if event == "line":
            lines += 1
            if lines == number:
                sys.settrace(None)
                do()
        return trace

    return trace


def interrupt_now() -> None:
    raise KeyboardInterrupt


def at_each_line(
    call: Callable[[], object], do: Callable[[], object], files: tuple[str, ...] = OURS
) -> Iterator[None]:
    """Call a function repeatedly; during the n-th call do something else at its n-th line."""
    number, has_come = 0, True

    def once() -> None:
        nonlocal has_come
        has_come = True
        do()

    while has_come:
        number, has_come = number + 1, False
        sys.settrace(at_line(number, once, files=files))
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        yield
    assert number > 5


@pytest.mark.parametrize("number", range(1, 75, 2))
def test_an_interrupt_while_a_pool_is_made_leaves_nothing(number: int) -> None:
    ctx = procession.get_context("fork")
    before, threads = children_of(os.getpid()), threading.active_count()
    sys.settrace(at_line(number, interrupt_now, ("__init__", "start", "_start_worker")))
    try:
        pool = ctx.Pool(2)
    except KeyboardInterrupt:
        pool = None
    finally:
        sys.settrace(None)
    if pool is not None:
        assert pool.apply(square, (2,)) == 4
        pool.terminate()
        pool.join()
    assert eventually(lambda: children_of(os.getpid()) <= before)
    assert eventually(lambda: threading.active_count() == threads)


@pytest.mark.parametrize("number", range(1, 14))
def test_a_handler_that_uses_the_pool_takes_no_others_result(number: int) -> None:
    with procession.get_context("fork").Pool(1) as pool:
        sys.settrace(at_line(number, lambda: pool.apply(square, (3,)), ("submit",)))
        try:
            result = pool.apply_async(square, (2,))
        finally:
            sys.settrace(None)
        assert result.get(PATIENCE_SECONDS) == 4


USES: dict[str, Callable[[Any], object]] = {
    "apply": lambda pool: pool.apply_async(square, (3,)).get(PATIENCE_SECONDS),
    "callback": lambda pool: pool.apply_async(square, (3,), callback=int).get(PATIENCE_SECONDS),
    "map": lambda pool: pool.map_async(square, [3, 4], 1, callback=len).get(PATIENCE_SECONDS)[0],
    "imap": lambda pool: max(pool.imap(square, [3])),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("handler", USES)
def test_a_handler_may_use_the_pool_at_each_step_of_another_use(use: str, handler: str) -> None:
    pool, number, has_come = procession.get_context("fork").Pool(2), 0, True

    def handle() -> None:
        nonlocal has_come
        has_come = True
        assert USES[handler](pool) == 9

    while has_come:
        number, has_come = number + 1, False
        sys.settrace(at_line(number, handle, files=AND_THREADS))
        try:
            result = USES[use](pool)
        finally:
            sys.settrace(None)
        assert result == 9
    pool.terminate()
    pool.join()


def test_a_handler_may_use_the_pool_at_each_step_of_the_first_callback() -> None:
    ctx = procession.get_context("fork")
    pool = ctx.Pool(1)

    def handle() -> None:
        assert USES["callback"](pool) == 9

    def use() -> object:
        # Which has a thread started.
        return USES["callback"](pool)

    for _ in at_each_line(use, handle, AND_THREADS):
        pool.terminate()
        pool.join()
        pool = ctx.Pool(1)
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("use", USES)
def test_a_use_that_is_interrupted_at_any_step_keeps_no_one_from_joining(use: str) -> None:
    ctx = procession.get_context("fork")
    threads = threading.active_count()
    pool = ctx.Pool(1)

    def use_it() -> object:
        return USES[use](pool)

    for closes, _ in enumerate(at_each_line(use_it, interrupt_now)):
        if closes % 2:
            pool.close()
        else:
            pool.terminate()
        pool.join()
        assert not pool._cache
        pool = ctx.Pool(1)
    pool.terminate()
    pool.join()
    assert eventually(lambda: threading.active_count() == threads)


@pytest.mark.parametrize("ends", ["terminate", "close", "join"])
def test_an_end_that_is_interrupted_at_any_step_is_repeated(ends: str) -> None:
    ctx = procession.get_context("fork")
    pool = ctx.Pool(1)

    def end() -> None:
        if ends == "join":
            pool.close()
            pool.join()
        else:
            getattr(pool, ends)()

    for _ in at_each_line(end, interrupt_now, (*OURS, "multiprocessing/util.py")):
        pids = [worker.pid for worker in pool._pool]
        if ends == "terminate":
            pool.terminate()
        else:
            pool.close()
        pool.join()
        assert not any(map(is_running, pids))
        pool = ctx.Pool(1)
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("again", ["terminate", "join"])
def test_a_handler_may_end_a_pool_at_each_step_of_its_end(again: str) -> None:
    ctx = procession.get_context("fork")
    pool = ctx.Pool(1)

    def end() -> None:
        pool.terminate()
        pool.join()

    def handle() -> None:
        pool.terminate()
        getattr(pool, again)()

    for _ in at_each_line(end, handle):
        assert not pool._pool
        pool = ctx.Pool(1)
    pool.terminate()
    pool.join()


CTRL_C_STORM = """
import random, signal, sys
import procession

ctx = procession.get_context(sys.argv[1])
longest = 0.01 if sys.argv[1] == "fork" else 0.1

class Interrupt(Exception):
    pass

def handle(*_):
    raise Interrupt

def square(x):
    return x * x

def interrupted(call):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, longest))
    try:
        return call()
    except Interrupt:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

def use(pool):
    pool.map_async(square, range(50), 1, callback=len)
    list(pool.imap(square, range(10)))
    pool.apply_async(square, (2,), callback=int).get()

def main():
    random.seed(1)
    signal.signal(signal.SIGALRM, handle)
    for number in range(60):
        pool = None
        try:
            pool = interrupted(lambda: ctx.Pool(2))
            if pool is None:
                continue
            for call in (lambda: use(pool), pool.terminate, pool.join, pool.terminate):
                interrupted(call)
        except Interrupt:
            # The signal may have come before the pool was bound to a name.
            if pool is None:
                continue
        pool.terminate()
        pool.join()
        assert not pool._pool and not pool._cache

if __name__ == "__main__":
    main()
    print("done")
"""


def test_a_storm_of_interrupts_leaves_nothing_and_holds_up_nobody(run_program: Any) -> None:
    ending = run_program(CTRL_C_STORM)
    assert (ending.exit_code, ending.stdout) == (0, "done\n"), ending.stderr
    assert not ending.left_processes


# Threads that end it at once.


def test_threads_that_end_a_pool_at_once_close_nothing_of_others() -> None:
    ctx = procession.get_context("fork")
    is_over = threading.Event()
    lost: list[OSError] = []

    def open_and_close() -> None:
        while not is_over.is_set():
            for descriptor in [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]:
                try:
                    os.close(descriptor)
                except OSError as error:
                    lost.append(error)

    def end(pool: Any, how: list[str]) -> None:
        try:
            for call in how:
                getattr(pool, call)()
        except OSError as error:
            lost.append(error)

    opener = threading.Thread(target=open_and_close)
    opener.start()
    try:
        for _ in range(60):
            pool = ctx.Pool(1)
            pool.close()
            enders = [
                threading.Thread(target=end, args=(pool, how))
                for how in (["join"], ["join"], ["terminate", "join"])
            ]
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join()
    finally:
        is_over.set()
        opener.join()
    assert not lost


# Collected and called back by other threads.


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_any_thread_may_drop_a_pool_whoever_has_its_lock(is_closed: bool) -> None:
    pools = [procession.get_context("fork").Pool(1)]
    crew, pids = pools[0]._crew, [worker.pid for worker in pools[0]._pool]
    if is_closed:
        pools[0].close()
    with crew.lock:
        dropper = threading.Thread(target=pools.clear, daemon=True)
        dropper.start()
        dropper.join(PATIENCE_SECONDS)
        assert not dropper.is_alive()
    assert not any(map(is_running, pids))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_watcher_that_drops_a_pool_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the garbage collector ended, in each of two pools' watchers, the other pool.
    ctx = procession.get_context("fork")
    meeting = threading.Barrier(2)
    dropped: dict[Any, list[Any]] = {}
    look_after = Crew._look_after_workers

    def drop_other(crew: Any) -> None:
        look_after(crew)
        if crew in dropped:
            meeting.wait(PATIENCE_SECONDS)
            dropped[crew].clear()

    monkeypatch.setattr(Crew, "_look_after_workers", drop_other)
    pools = [ctx.Pool(1), ctx.Pool(1)]
    crews = [pool._crew for pool in pools]
    dropped.update({crews[0]: [pools[1]], crews[1]: [pools[0]]})
    while pools:
        pools.pop().close()
    for crew in crews:
        crew.watcher.join(PATIENCE_SECONDS)
        assert not crew.watcher.is_alive()


@pytest.mark.parametrize("is_started", [False, True])
def test_join_waits_for_callbacks_whose_thread_has_yet_to_run(
    monkeypatch: pytest.MonkeyPatch, is_started: bool
) -> None:
    may_run, told, call_back = threading.Event(), [], Crew._call_back

    def run(crew: Any) -> None:
        # The first thread is slow, or an interrupt has prevented its start.
        if threading.current_thread() is crew.callers[0]:
            if not is_started:
                return
            may_run.wait()
        call_back(crew)

    monkeypatch.setattr(Crew, "_call_back", run)
    pool = procession.get_context("fork").Pool(1)
    pool.apply_async(square, (3,), callback=told.append)
    pool.close()
    joiner = threading.Thread(target=pool.join, daemon=True)
    joiner.start()
    assert eventually(lambda: told == [9])
    if is_started:
        # It has begun, so it is waited for.
        joiner.join(0.1)
        assert joiner.is_alive()
    may_run.set()
    joiner.join(PATIENCE_SECONDS)
    assert not joiner.is_alive()
    assert not any(caller.is_alive() for caller in pool._crew.callers)


# Copies of the process.


def in_a_copy(call: Callable[[], object]) -> int:
    """Call something in a forked copy of this process; return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            call()
        except ValueError:
            os._exit(7)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def use_with(pool: Any) -> None:
    with pool:
        pass


def close_and_join(pool: Any) -> None:
    pool.close()
    pool.join()


COPIES: dict[str, tuple[Callable[[Any], object], int]] = {
    "close": (lambda pool: pool.close(), 0),
    "terminate": (lambda pool: pool.terminate(), 0),
    "with": (use_with, 0),
    "join": (close_and_join, 7),
    "apply_async": (lambda pool: pool.apply_async(square, (1,), callback=print), 7),
    "map_async": (lambda pool: pool.map_async(square, [1], callback=print), 7),
    "imap": (lambda pool: pool.imap(square, [1]), 7),
}


@pytest.mark.parametrize("call", COPIES)
@pytest.mark.parametrize("is_locked", [False, True])
def test_a_copy_of_the_process_changes_nothing_of_its_parents_pool(
    call: str, is_locked: bool
) -> None:
    with procession.get_context("fork").Pool(2) as pool:
        assert pool.map(square, range(3)) == [0, 1, 4]
        crew = pool._crew
        workers = {worker.pid for worker in pool._pool}
        puts = (crew.tasks._put_count(), crew.results._put_count())
        held, may_go = threading.Event(), threading.Event()

        def hold() -> None:
            with crew.lock:
                held.set()
                may_go.wait()

        holder = threading.Thread(target=hold)
        if is_locked:
            holder.start()
            held.wait()
        try:
            what, code = COPIES[call]
            assert in_a_copy(lambda: what(pool)) == code
        finally:
            may_go.set()
            if is_locked:
                holder.join()
        assert puts == (crew.tasks._put_count(), crew.results._put_count())
        assert pool._state == "RUN"
        assert pool.map(square, range(3)) == [0, 1, 4]
        assert {worker.pid for worker in pool._pool} == workers


def test_a_copy_reads_results_that_are_here_though_others_use_the_pool() -> None:
    with procession.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(square, (3,))
        result.wait()
        held, may_go = threading.Event(), threading.Event()

        def hold() -> None:
            with pool._crew.lock:
                held.set()
                may_go.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        try:
            assert in_a_copy(lambda: os._exit(result.get())) == 9
        finally:
            may_go.set()
            holder.join()


def test_a_copy_that_a_callback_makes_takes_no_results() -> None:
    copies: list[int] = []

    def fork(_: object) -> None:
        pid = os.fork()
        if pid:
            copies.append(pid)

    with procession.get_context("fork").Pool(1) as pool:
        pool.apply_async(square, (1,), callback=fork).get(PATIENCE_SECONDS)
        assert os.waitstatus_to_exitcode(os.waitpid(copies[0], 0)[1]) == 0
        assert pool.map(square, range(50), 1) == [x * x for x in range(50)]


def test_a_copy_that_an_iterable_makes_submits_no_tasks() -> None:
    copies: list[int] = []

    def forks() -> Iterator[int]:
        yield 1
        pid = os.fork()
        if pid:
            copies.append(pid)
        yield 2
        while not pid:
            yield 3

    with procession.get_context("fork").Pool(1) as pool:
        assert list(pool.imap(square, forks())) == [1, 4]
        assert os.waitstatus_to_exitcode(os.waitpid(copies[0], 0)[1]) == 0
