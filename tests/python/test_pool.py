"""Pools: the interface of multiprocessing.pool, and workers that die."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from multiprocessing import TimeoutError
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from pathlib import Path
from typing import Any

import procession
import pytest
from processes import PATIENCE_SECONDS, eventually, is_running
from procession import PoolTerminatedError, RemoteExceptionError, WorkerDiedError
from sessions import run

# What workers call.


def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 0, *, c: int = 0) -> int:
    return a + b + c


def pid(_: object = None) -> int:
    return os.getpid()


def slow_pid(_: object = None) -> int:
    time.sleep(0.02)
    return os.getpid()


def fail(x: object) -> None:
    raise KeyError(x)


def fail_on_seven(x: int) -> int:
    if x == 7:
        raise ValueError("seven")
    return x


def fail_with_context() -> None:
    try:
        {}["inner"]
    except KeyError as error:
        raise RuntimeError("outer") from error


def give_lambda() -> Any:
    return lambda: None


def give_bytes(size: int) -> bytes:
    return bytes(size)


def sleep_forever(_: object = None) -> None:
    while True:
        time.sleep(60)


def ignore_terminate_and_sleep(started: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started.set()
    sleep_forever()


def set_and_sleep(started: Any) -> None:
    started.set()
    sleep_forever()


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    sleep_forever()


def leave_with(code: int) -> None:
    os._exit(code)


def exit_with(code: int) -> None:
    sys.exit(code)


def die_on_multiples_of_five(x: int) -> int:
    if x % 5 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def wait_for(event: Any, value: object) -> object:
    event.wait()
    return value


def release_and_return(semaphore: Any, x: int) -> int:
    semaphore.release()
    return x


class Unforgiving(Exception):
    """Can be pickled; can't be unpickled."""

    def __init__(self, a: object, b: object) -> None:
        super().__init__("unforgiving")


def fail_unforgivingly() -> None:
    raise Unforgiving(1, 2)


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not by pickle")


def fail_unpicklably() -> None:
    raise Unpicklable("secret")


class NeverLoads:
    def __reduce__(self) -> Any:
        return (fail, ("loading",))


def give_what_never_loads() -> NeverLoads:
    return NeverLoads()


def take(_: object) -> str:
    return "taken"


_initialized_with: tuple[Any, ...] = ()


def initialize(*args: Any) -> None:
    global _initialized_with
    _initialized_with = args


def initialized_with(_: object = None) -> tuple[Any, ...]:
    return _initialized_with


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    def method(self, x: int) -> int:
        return x * self.factor


def workers(pool: Any) -> set[int]:
    return {worker.pid for worker in pool._pool}


# What multiprocessing.pool promises.


def test_apply_gives_what_the_function_returns(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        assert pool.apply(add, (1, 2), {"c": 3}) == 6
        assert pool.apply(add, [4]) == 4
        assert pool.apply(pid) != os.getpid()


def test_apply_async_gives_a_result_to_come(ctx: Any) -> None:
    event = ctx.Event()
    with ctx.Pool(1) as pool:
        result = pool.apply_async(wait_for, (event, "value"))
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        with pytest.raises(TimeoutError):
            result.get(timeout=0.05)
        with pytest.raises(TimeoutError):
            result.get(0)
        result.wait(0.01)
        assert not result.ready()
        event.set()
        assert result.get(60) == "value"
        assert result.ready()
        assert result.successful()
        assert result.get() == "value"


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100, 1000])
def test_map_keeps_the_order(ctx: Any, chunksize: int | None) -> None:
    with ctx.Pool(3) as pool:
        assert pool.map(square, range(100), chunksize) == [x * x for x in range(100)]
        assert pool.map(square, iter(range(10)), chunksize) == [x * x for x in range(10)]
        assert pool.map(square, [], chunksize) == []
        assert pool.map_async(square, range(100), chunksize).get() == [x * x for x in range(100)]


def test_map_refuses_a_chunksize_below_one(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(ValueError):
            pool.map(square, range(5), 0)
        assert pool.map(square, range(5), 1) == [0, 1, 4, 9, 16]


def test_map_passes_on_what_the_iterable_raises(ctx: Any) -> None:
    def broken() -> Any:
        yield 1
        raise LookupError("broken iterable")

    with ctx.Pool(1) as pool:
        with pytest.raises(LookupError, match="broken iterable"):
            pool.map(square, broken())
        assert pool.apply(square, (3,)) == 9


def test_callables_of_every_kind_reach_the_workers(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        assert pool.map(Multiplier(3), [1, 2]) == [3, 6]
        assert pool.map(Multiplier(4).method, [1, 2]) == [4, 8]
        assert pool.map(functools.partial(add, 10), [1, 2]) == [11, 12]
        assert pool.map(len, ["a", "bb"]) == [1, 2]
        assert pool.map(str, [1, 2]) == ["1", "2"]
        assert pool.apply(str.upper, ("a",)) == "A"


def test_a_callable_that_changes_between_calls_is_sent_as_it_is(ctx: Any) -> None:
    multiplier = Multiplier(2)
    with ctx.Pool(1) as pool:
        assert pool.apply(multiplier, (1,)) == 2
        multiplier.factor = 5
        assert pool.apply(multiplier, (1,)) == 5


class Counter:
    """A callable with a state, which its calls change."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls

    method = __call__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counter)

    def __hash__(self) -> int:
        return 1


STATEFUL = {
    "object": lambda counter: counter,
    "method": lambda counter: counter.method,
    "partial": functools.partial,
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_callable_with_a_state_is_the_same_for_each_task(ctx: Any, kind: str) -> None:
    function = STATEFUL[kind](Counter())
    with ctx.Pool(1) as pool:
        assert [pool.apply(function) for _ in range(3)] == [1, 1, 1]
        assert [pool.apply_async(function).get() for _ in range(3)] == [1, 1, 1]


class Living:
    """Counts how many of its kind there are in a process."""

    alive = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Living.alive += 1

    def __reduce__(self) -> Any:
        return Living, (self.number,)

    def __del__(self) -> None:
        Living.alive -= 1

    def __call__(self) -> int:
        return Living.alive


def test_a_worker_keeps_no_callable_with_a_state(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        assert [pool.apply(Living(number)) for number in range(5)] == [1] * 5


def made_in(module: str, number: int) -> Any:
    """A function that pickles by its name in a module, which must have it in all processes."""
    name = f"made_{number}"
    function = types.FunctionType(square.__code__, globals(), name)
    function.__module__, function.__qualname__ = module, name
    setattr(sys.modules[module], name, function)
    return function


def test_what_is_remembered_of_functions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procession.calls, "_MAX_NAMES", 4)
    functions = [made_in(__name__, number) for number in range(10)]
    try:
        with procession.get_context("fork").Pool(1) as pool:
            for function in functions * 2:
                assert pool.apply(function, (3,)) == 9
                assert len(pool._crew.names) <= 4
            assert pool._crew.names
    finally:
        for function in functions:
            delattr(sys.modules[__name__], function.__name__)


# As with the standard library's pool: its `apply_async` and `map_async` can't raise what pickling
# raises, since a thread pickles. Programs rely on their error_callback being called.
UNPICKLABLE: dict[str, Callable[..., Any]] = {
    "function": lambda pool, **kwds: pool.apply_async(lambda: None, **kwds),
    "argument": lambda pool, **kwds: pool.apply_async(square, (threading.Lock(),), **kwds),
    "keyword": lambda pool, **kwds: pool.apply_async(add, (1,), {"b": threading.Lock()}, **kwds),
    "map": lambda pool, **kwds: pool.map_async(square, [1, threading.Lock(), 2], 1, **kwds),
    "starmap": lambda pool, **kwds: pool.starmap_async(add, [(1,), (threading.Lock(),)], 1, **kwds),
    "map of function": lambda pool, **kwds: pool.map_async(lambda x: x, range(9), 2, **kwds),
}


@pytest.mark.parametrize("kind", UNPICKLABLE)
def test_what_pickle_cannot_carry_fails_its_task(ctx: Any, kind: str) -> None:
    told: list[BaseException] = []
    with ctx.Pool(1) as pool:
        result = UNPICKLABLE[kind](pool, callback=print, error_callback=told.append)
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)) as caught:
            result.get(PATIENCE_SECONDS)
        assert told == [caught.value]
        assert not result.successful()
        with pytest.raises(type(caught.value)):
            UNPICKLABLE[kind](pool).get(PATIENCE_SECONDS)
        assert pool.apply(square, (3,)) == 9
        assert not pool._cache
        pool.close()
        pool.join()


def test_what_pickle_cannot_carry_is_raised_by_calls_that_wait(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(TypeError):
            pool.apply(square, (threading.Lock(),))
        with pytest.raises(TypeError):
            pool.map(square, [1, threading.Lock()], 1)
        with pytest.raises(TypeError):
            pool.starmap(add, [(threading.Lock(), 1)])
        assert pool.apply(square, (3,)) == 9


class Interrupting:
    """While it is pickled, a signal comes, and its handler raises an exception."""

    def __reduce__(self) -> Any:
        if threading.current_thread() is threading.main_thread():
            raise_alarm()
        return int, ()


def raise_alarm() -> None:
    signal.raise_signal(signal.SIGALRM)


def test_what_a_handler_raises_while_a_task_is_pickled_is_raised(ctx: Any) -> None:
    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with ctx.Pool(1) as pool:
            with pytest.raises(Alarm):
                pool.apply_async(square, (Interrupting(),), error_callback=print)
            assert pool.apply(square, (3,)) == 9
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_pool_has_as_many_workers_as_asked_for(ctx: Any) -> None:
    with ctx.Pool(3) as pool:
        assert len(workers(pool)) == 3
        assert set(pool.map(slow_pid, range(60), 1)) <= workers(pool)
    with ctx.Pool() as pool:
        assert len(workers(pool)) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("wrong", [0, -1])
def test_sizes_below_one_are_refused(ctx: Any, wrong: int) -> None:
    with pytest.raises(ValueError):
        ctx.Pool(wrong)
    with pytest.raises(ValueError):
        ctx.Pool(1, maxtasksperchild=wrong)


def test_an_initializer_that_is_not_callable_is_refused(ctx: Any) -> None:
    with pytest.raises(TypeError):
        ctx.Pool(1, initializer=5)


def use_inherited(pool: Any, answers: Any) -> None:
    try:
        pool.apply(square, (2,))
    except ValueError as error:
        answers.put(str(error))


def test_a_forked_child_is_refused_the_use_of_its_parents_pool() -> None:
    ctx = procession.get_context("fork")
    answers = ctx.Queue()
    with ctx.Pool(2) as pool:
        results = [pool.apply_async(slow_pid) for _ in range(20)]
        child = ctx.Process(target=use_inherited, args=(pool, answers))
        child.start()
        assert "belongs to process" in answers.get()
        child.join()
        assert all(result.get() for result in results)


def leave(code: int) -> None:
    os._exit(code)


def test_a_pool_whose_workers_fail_to_start_gives_up(ctx: Any) -> None:
    with ctx.Pool(2, initializer=leave, initargs=(3,)) as pool:
        with pytest.raises(PoolTerminatedError, match=r"workers in a row left .* exit code 3"):
            pool.apply(square, (2,))
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square, (2,))


def test_a_closed_pool_whose_workers_fail_to_start_ends(ctx: Any) -> None:
    pool = ctx.Pool(1, initializer=leave, initargs=(0,))
    result = pool.map_async(square, range(3))
    pool.close()
    pool.join()
    with pytest.raises(PoolTerminatedError, match="exit code 0"):
        result.get()


def test_the_initializer_runs_in_each_worker(ctx: Any) -> None:
    with ctx.Pool(2, initialize, ("a", 1)) as pool:
        assert set(pool.map(initialized_with, range(20), 1)) == {("a", 1)}
    assert _initialized_with == ()


def test_a_worker_leaves_after_maxtasksperchild_tasks(ctx: Any) -> None:
    with ctx.Pool(2, maxtasksperchild=3) as pool:
        pids = pool.map(pid, range(30), 1)
    assert len(pids) == 30
    assert max(pids.count(one) for one in pids) <= 3
    assert len(set(pids)) >= 10


def test_workers_that_leave_often_lose_no_task(ctx: Any) -> None:
    with ctx.Pool(3, maxtasksperchild=1) as pool:
        assert pool.map(square, range(60), 1) == [x * x for x in range(60)]


def test_a_closed_pool_with_maxtasksperchild_does_all_its_tasks(ctx: Any) -> None:
    pool = ctx.Pool(2, maxtasksperchild=2)
    results = [pool.apply_async(square, (x,)) for x in range(21)]
    pool.close()
    pool.join()
    assert [result.get() for result in results] == [x * x for x in range(21)]


def test_a_pool_is_not_pickled(ctx: Any) -> None:
    with ctx.Pool(1) as pool, pytest.raises(NotImplementedError):
        pickle.dumps(pool)


# Errors.


def test_a_tasks_exception_comes_with_its_traceback(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(KeyError) as caught:
            pool.apply(fail, ("key",))
        assert caught.value.args == ("key",)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "in fail" in str(caught.value.__cause__)
        with pytest.raises(ValueError, match="seven") as caught_from_map:
            pool.map(fail_on_seven, range(20), 1)
        assert "in fail_on_seven" in str(caught_from_map.value.__cause__)
        result = pool.apply_async(fail, (1,))
        result.wait()
        assert result.ready()
        assert not result.successful()


def test_a_chain_of_exceptions_is_told_in_the_traceback(ctx: Any) -> None:
    with ctx.Pool(1) as pool, pytest.raises(RuntimeError, match="outer") as caught:
        pool.apply(fail_with_context)
    text = str(caught.value.__cause__)
    assert "KeyError: 'inner'" in text
    assert "direct cause" in text


def test_a_result_that_pickle_cannot_carry_is_a_maybe_encoding_error(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(MaybeEncodingError) as caught:
            pool.apply(give_lambda)
        assert "lambda" in str(caught.value)
        with pytest.raises(MaybeEncodingError):
            pool.map(fail_unpicklably_for, range(3))
        assert pool.apply(square, (2,)) == 4


def fail_unpicklably_for(_: object) -> None:
    fail_unpicklably()


def test_an_exception_that_pickle_cannot_carry_is_a_maybe_encoding_error(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(MaybeEncodingError, match="not by pickle"):
            pool.apply(fail_unpicklably)
        assert pool.apply(square, (2,)) == 4


def test_an_exception_that_cannot_be_unpickled_fails_its_task_alone(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(RemoteExceptionError):
            pool.apply(fail_unforgivingly)
        with pytest.raises(KeyError):
            pool.apply(give_what_never_loads)
        assert pool.apply(square, (2,)) == 4


def test_arguments_that_cannot_be_unpickled_fail_their_task_alone(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(KeyError, match="loading"):
            pool.apply(take, (NeverLoads(),))
        with pytest.raises(KeyError, match="loading"):
            pool.map(take, [1, NeverLoads()])
        assert pool.apply(square, (2,)) == 4


def test_huge_arguments_and_results_arrive(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        assert pool.apply(len, (bytes(30_000_000),)) == 30_000_000
        sizes = [20_000_000, 1, 5_000_000, 0, 20_000_000]
        assert [len(result) for result in pool.map(give_bytes, sizes, 1)] == sizes


# Callbacks.


def test_callbacks_get_the_results(ctx: Any) -> None:
    calls: list[Any] = []
    with ctx.Pool(2) as pool:
        pool.apply_async(square, (3,), callback=calls.append).wait()
        pool.map_async(square, range(4), callback=calls.append).wait()
        pool.apply_async(fail, ("x",), callback=calls.append, error_callback=calls.append).wait()
        pool.map_async(fail_on_seven, range(9), 1, calls.append, calls.append).wait()
        pool.close()
        pool.join()
    assert len(calls) == 4
    assert calls[:2] == [9, [0, 1, 4, 9]]
    assert [type(call) for call in calls[2:]] == [KeyError, ValueError]


def test_callbacks_are_called_though_nobody_waits(ctx: Any) -> None:
    called = threading.Event()
    with ctx.Pool(1) as pool:
        pool.apply_async(square, (3,), callback=lambda _: called.set())
        assert called.wait(60)


def test_a_result_is_ready_when_its_callback_has_been_called(ctx: Any) -> None:
    calls: list[object] = []
    slow = threading.Event()

    def callback(value: object) -> None:
        slow.wait()
        calls.append(value)

    with ctx.Pool(2) as pool:
        result = pool.apply_async(square, (3,), callback=callback)
        failing = pool.apply_async(fail, (3,), callback=callback, error_callback=calls.append)
        assert pool.apply(square, (4,)) == 16
        assert not result.ready()
        with pytest.raises(TimeoutError):
            result.get(timeout=0.05)
        slow.set()
        assert result.get() == 9
        assert 9 in calls
        with pytest.raises(KeyError):
            failing.get()
        assert len(calls) == 2
        for x in range(100):
            pool.apply_async(square, (x,), callback=calls.append).wait()
            assert calls[-1] == x * x


def test_a_callback_may_wait_for_a_result_with_a_callback(ctx: Any) -> None:
    calls: list[int] = []
    with ctx.Pool(2) as pool:

        def callback(value: int) -> None:
            inner = pool.apply_async(square, (value,), callback=calls.append)
            calls.append(inner.get(60))

        pool.apply_async(square, (2,), callback=callback).wait()
        pool.close()
        pool.join()
    assert calls == [16, 16]


def test_all_callbacks_are_called_before_join_returns(ctx: Any) -> None:
    calls: list[int] = []
    pool = ctx.Pool(3)
    for x in range(200):
        pool.apply_async(square, (x,), callback=calls.append)
    pool.close()
    pool.join()
    assert sorted(calls) == [x * x for x in range(200)]


def test_callbacks_are_called_one_at_a_time(ctx: Any) -> None:
    inside = 0
    most = 0
    calls = 0

    def callback(_: object) -> None:
        nonlocal inside, most, calls
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)
        calls += 1
        inside -= 1

    with ctx.Pool(3) as pool:
        results = [pool.apply_async(square, (x,), callback=callback) for x in range(40)]

        def wait_for_all() -> None:
            for result in results:
                result.get()

        waiters = [threading.Thread(target=wait_for_all) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        for waiter in waiters:
            waiter.join()
        pool.close()
        pool.join()
    assert (most, calls) == (1, 40)


def test_a_callback_may_use_the_pool(ctx: Any) -> None:
    done = threading.Event()
    found: list[int] = []

    with ctx.Pool(2) as pool:

        def second(value: int) -> None:
            found.append(value)
            done.set()

        def first(value: int) -> None:
            found.append(pool.apply(square, (value,)))
            pool.apply_async(square, (found[0],), callback=second)

        pool.apply_async(square, (2,), callback=first)
        assert done.wait(60)
    assert found == [16, 256]


def test_a_callback_that_raises_stops_nothing(ctx: Any, capfd: Any) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("broken callback")

    calls: list[int] = []
    pool = ctx.Pool(1)
    pool.apply_async(square, (2,), callback=broken)
    pool.apply_async(square, (3,), callback=calls.append)
    assert pool.apply(square, (4,)) == 16
    pool.close()
    pool.join()
    assert calls == [9]
    assert "broken callback" in capfd.readouterr().err


def test_an_error_callback_is_told_of_a_dead_worker(ctx: Any) -> None:
    told: list[Any] = []
    pool = ctx.Pool(1)
    pool.apply_async(die_by, (signal.SIGKILL,), error_callback=told.append)
    pool.close()
    pool.join()
    assert [type(error) for error in told] == [WorkerDiedError]


# Dead workers.


def test_a_killed_worker_fails_its_task_and_says_who_died(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        assert pool.apply(square, (1,)) == 1
        worker = pool.apply(pid)
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(die_by, (signal.SIGKILL,))
        assert caught.value.pid == worker
        assert caught.value.exitcode == -signal.SIGKILL
        assert caught.value.signal is signal.SIGKILL
        assert caught.value.task == 2
        assert str(worker) in str(caught.value)
        assert "SIGKILL" in str(caught.value)
        assert pool.apply(square, (3,)) == 9
        assert workers(pool).isdisjoint({worker})


@pytest.mark.parametrize("code", [0, 1, 77])
@pytest.mark.parametrize("leave", [leave_with, exit_with])
def test_a_worker_that_leaves_within_a_task_fails_it(ctx: Any, leave: Any, code: int) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(leave, (code,))
        assert caught.value.exitcode == code
        assert caught.value.signal is None
        assert pool.apply(square, (3,)) == 9


def test_a_worker_died_error_is_pickled_whole() -> None:
    error = pickle.loads(pickle.dumps(WorkerDiedError(12, -9, 3)))
    assert (error.pid, error.exitcode, error.task, error.signal) == (12, -9, 3, signal.SIGKILL)
    assert isinstance(error, procession.ProcessError)


def test_the_tasks_beside_a_dead_worker_are_not_affected(ctx: Any) -> None:
    with ctx.Pool(3) as pool:
        results = [pool.apply_async(die_on_multiples_of_five, (x,)) for x in range(40)]
        for x, result in enumerate(results):
            if x % 5 == 0:
                with pytest.raises(WorkerDiedError):
                    result.get()
            else:
                assert result.get() == x
        assert eventually(lambda: len(workers(pool)) == 3)


def test_a_map_with_a_dying_worker_fails_and_the_next_one_does_not(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        for _ in range(5):
            with pytest.raises(WorkerDiedError):
                pool.map(die_on_multiples_of_five, range(1, 11), 2)
            assert pool.map(square, range(10), 2) == [x * x for x in range(10)]


def test_an_idle_worker_that_is_killed_is_replaced(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
        before = workers(pool)
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        assert pool.map(square, range(10)) == [x * x for x in range(10)]
        assert eventually(lambda: len(workers(pool)) == 2 and workers(pool).isdisjoint(before))


def test_a_worker_killed_while_others_wait_takes_no_others_task(ctx: Any) -> None:
    for _ in range(20):
        with ctx.Pool(3) as pool:
            pool.map(square, range(3), 1)
            victim = pool._pool[0].pid
            results = [pool.apply_async(square, (x,)) for x in range(30)]
            os.kill(victim, signal.SIGKILL)
            failed = 0
            for x, result in enumerate(results):
                try:
                    assert result.get() == x * x
                except WorkerDiedError as error:
                    assert error.pid == victim
                    failed += 1
            assert failed <= 1


def test_a_map_never_hangs_however_many_workers_are_killed(ctx: Any) -> None:
    with ctx.Pool(4) as pool:
        stop = threading.Event()

        # Workers that are no forked copies begin slowly.
        now_and_then = 0.005 if ctx._name == "fork" else 0.25

        def kill_now_and_then() -> None:
            taken = -1
            while not stop.wait(now_and_then):
                # Workers that are killed faster than they can begin get nothing done.
                if pool._crew.tasks._got() == taken:
                    continue
                taken = pool._crew.tasks._got()
                for worker in list(pool._pool)[:1]:
                    if worker.pid is not None and is_running(worker.pid):
                        worker.kill()

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            for _ in range(30):
                result = pool.map_async(square, range(300), 2)
                try:
                    assert result.get() == [x * x for x in range(300)]
                except WorkerDiedError as error:
                    assert error.signal is signal.SIGKILL
        finally:
            stop.set()
            killer.join()
        assert pool.map(square, range(300), 2) == [x * x for x in range(300)]
    procession._native.check()


def test_a_pool_of_killed_workers_can_be_closed_and_joined(ctx: Any) -> None:
    for _ in range(10):
        pool = ctx.Pool(2)
        results = [pool.apply_async(square, (x,)) for x in range(20)]
        pool.close()
        for worker in list(pool._pool):
            if worker.exitcode is None:
                os.kill(worker.pid, signal.SIGKILL)
        pool.join()
        for x, result in enumerate(results):
            try:
                assert result.get() == x * x
            except WorkerDiedError as error:
                assert error.signal is signal.SIGKILL


# Closing and terminating.


def test_a_closed_pool_takes_no_tasks_and_does_those_it_has(ctx: Any) -> None:
    pool = ctx.Pool(2)
    result = pool.map_async(square, range(50), 1)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    pool.close()
    for call in (pool.apply, pool.apply_async):
        with pytest.raises(ValueError, match="not running"):
            call(square, (1,))
    for call in (pool.map, pool.map_async):
        with pytest.raises(ValueError, match="not running"):
            call(square, [1])
    with pytest.raises(ValueError, match="not running"), pool:
        pass
    pool.join()
    pool.join()
    assert result.get() == [x * x for x in range(50)]
    pool.terminate()
    pool.join()


def test_terminate_ends_running_tasks(ctx: Any) -> None:
    pool = ctx.Pool(2)
    started = ctx.Event()
    running = pool.apply_async(set_and_sleep, (started,))
    waiting = pool.map_async(sleep_forever, range(10), 1)
    started.wait()
    pids = workers(pool)
    pool.terminate()
    assert not any(is_running(worker) for worker in pids)
    for result in (running, waiting):
        with pytest.raises((PoolTerminatedError, WorkerDiedError)):
            result.get()
    pool.join()
    with pytest.raises(ValueError):
        pool.apply(square, (1,))


def test_terminate_ends_workers_that_ignore_the_signal(ctx: Any) -> None:
    started = ctx.Event()
    with ctx.Pool(1) as pool:
        pool.apply_async(ignore_terminate_and_sleep, (started,))
        started.wait()
        pids = workers(pool)
    assert not any(is_running(worker) for worker in pids)


def test_terminate_wakes_threads_that_wait_for_results(ctx: Any) -> None:
    for with_callbacks in (False, True):
        pool = ctx.Pool(2)
        started = ctx.Event()
        outcomes: list[object] = []
        callback = outcomes.append if with_callbacks else None
        results = [
            pool.apply_async(set_and_sleep, (started,), error_callback=callback),
            pool.apply_async(sleep_forever),
            pool.map_async(sleep_forever, range(4)),
        ]

        def wait(result: Any) -> None:
            try:
                result.get()
            except procession.ProcessError as error:
                outcomes.append(error)  # noqa: B023

        threads = [threading.Thread(target=wait, args=(result,)) for result in results * 2]
        for thread in threads:
            thread.start()
        started.wait()
        pool.terminate()
        pool.join()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 6 + with_callbacks


def test_two_threads_may_terminate_at_once(ctx: Any) -> None:
    for _ in range(10):
        pool = ctx.Pool(2)
        pool.map_async(square, range(100), 1)
        threads = [
            threading.Thread(target=call)
            for call in (pool.terminate, pool.close, pool.terminate, pool.close)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.join()


def test_many_threads_may_use_one_pool(ctx: Any) -> None:
    with ctx.Pool(3) as pool:
        wrong: list[object] = []

        def use(number: int) -> None:
            try:
                for x in range(number, number + 30):
                    assert pool.apply(square, (x,)) == x * x
                    assert pool.map(square, range(x), 5) == [y * y for y in range(x)]
                    calls: list[int] = []
                    result = pool.apply_async(square, (x,), callback=calls.append)
                    assert result.get() == x * x
                    assert calls == [x * x]
            except BaseException as error:
                wrong.append(error)
                raise

        threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_pools_in_several_threads_do_not_meet(ctx: Any) -> None:
    wrong: list[object] = []

    def use() -> None:
        try:
            for _ in range(3):
                with ctx.Pool(2) as pool:
                    assert pool.map(square, range(30), 1) == [x * x for x in range(30)]
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pool_that_nobody_refers_to_ends_its_workers(ctx: Any) -> None:
    pool = ctx.Pool(2)
    result = pool.apply_async(sleep_forever)
    pids = workers(pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del result, pool
        gc.collect()
    assert eventually(lambda: not any(is_running(worker) for worker in pids))


def test_an_unclosed_pool_is_warned_about(ctx: Any) -> None:
    pool = ctx.Pool(1)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()


LEFT_OPEN = """
import sys
import procession
if __name__ == "__main__":
    pool = procession.get_context("fork").Pool(2)
    pool.map(abs, [-1, 2])
    if sys.argv[1:]:
        getattr(pool, sys.argv[1])()
"""


@pytest.mark.parametrize(
    ("ended_by", "warned"), [(None, True), ("close", False), ("terminate", False)]
)
def test_a_pool_that_is_open_at_the_end_of_its_program_is_warned_about(
    tmp_path: Path, ended_by: str | None, warned: bool
) -> None:
    program = tmp_path / "program.py"
    program.write_text(LEFT_OPEN)
    arguments = [] if ended_by is None else [ended_by]
    ending = run("python", program, arguments, env={"PYTHONWARNINGS": "always"})
    assert ending.exit_code == 0, ending.stderr
    assert ("ResourceWarning: unclosed running multiprocessing pool" in ending.stderr) is warned
    assert not ending.left_processes


def test_a_pool_in_a_cycle_may_be_collected_at_any_time(ctx: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(10):
            pool = ctx.Pool(1)
            cycle: list[Any] = [pool]
            cycle.append(cycle)
            results = [pool.apply_async(square, (x,)) for x in range(100)]
            del pool, cycle
            threshold = gc.get_threshold()
            gc.set_threshold(1)
            try:
                for x, result in enumerate(results):
                    try:
                        assert result.get() == x * x
                    except PoolTerminatedError:
                        break
            finally:
                gc.set_threshold(*threshold)
            gc.collect()


def test_a_pool_leaves_no_descriptors_and_no_threads(ctx: Any) -> None:
    def use() -> None:
        with ctx.Pool(2) as pool:
            pool.apply_async(square, (2,), callback=int)
            assert pool.map(square, range(9)) == [x * x for x in range(9)]
        pool.join()

    use()
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(5):
        use()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_a_pool_leaves_nothing_in_the_arena(ctx: Any) -> None:
    def use() -> None:
        with ctx.Pool(2) as pool:
            assert len(pool.map(give_bytes, [100_000] * 9, 1)) == 9
        pool.join()

    use()
    gc.collect()
    before = len(procession._native.objects())
    for _ in range(5):
        use()
    gc.collect()
    assert len(procession._native.objects()) == before


# Subclasses.


class PoolOfNamedWorkers(procession.pool.Pool):
    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        return NAMED_WORKERS[ctx._name](*args, **kwds)


class NamedWorker:
    def run(self) -> None:
        initialize("named", NamedWorker.__name__)
        super().run()  # type: ignore[misc]


class NamedForkWorker(NamedWorker, procession.context.ForkProcess):
    pass


class NamedSpawnWorker(NamedWorker, procession.context.SpawnProcess):
    pass


class NamedForkServerWorker(NamedWorker, procession.context.ForkServerProcess):
    pass


NAMED_WORKERS: dict[str, Any] = {
    "fork": NamedForkWorker,
    "spawn": NamedSpawnWorker,
    "forkserver": NamedForkServerWorker,
}


def test_a_subclass_chooses_its_workers_class(ctx: Any) -> None:
    with PoolOfNamedWorkers(2, context=ctx) as pool:
        assert pool.apply(initialized_with) == ("named", "NamedWorker")
        assert {type(worker) for worker in pool._pool} == {NAMED_WORKERS[ctx._name]}


def name_of_worker() -> tuple[str, bool]:
    worker = procession.current_process()
    return worker.name, worker.daemon


def test_workers_are_daemons_with_names_of_their_own(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        name, daemon = pool.apply(name_of_worker)
    assert "PoolWorker" in name
    assert daemon


# Waiting that is cut short.


def test_ctrl_c_interrupts_whoever_waits_for_a_result(ctx: Any) -> None:
    event = ctx.Event()
    with ctx.Pool(1) as pool:
        result = pool.apply_async(wait_for, (event, "value"))
        for wait in (result.get, result.wait, lambda: result.get(60)):
            with pytest.raises(KeyboardInterrupt):
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                wait()
        event.set()
        assert result.get() == "value"


class Alarm(Exception):
    pass


def test_an_exception_from_a_signal_handler_loses_no_result(ctx: Any) -> None:
    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with ctx.Pool(2) as pool:
            for _ in range(40):
                results = [pool.apply_async(square, (x,)) for x in range(200)]
                for x, result in enumerate(results):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0.0002)
                        assert result.get() == x * x
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    except Alarm:
                        assert result.get() == x * x
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


TERMINATE_IN_A_HANDLER = """
import random, signal, sys, threading
import procession

ctx = procession.get_context(sys.argv[1])

def square(x):
    return x * x

if __name__ == "__main__":
    for _ in range(30):
        pool = ctx.Pool(2)
        signal.signal(signal.SIGALRM, lambda *_: pool.terminate())
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.02))
            while True:
                pool.map(square, range(200), 1)
        except (ValueError, procession.ProcessError) as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
        pool.join()
    print("done")
"""


def test_a_signal_handler_may_terminate_the_pool(run_program: Any) -> None:
    ending = run_program(TERMINATE_IN_A_HANDLER)
    assert (ending.exit_code, ending.stdout) == (0, "done\n"), ending.stderr
    assert not ending.left_processes


CTRL_C = """
import sys, time
import procession

ctx = procession.get_context(sys.argv[1])

def sleep(x):
    time.sleep(60)

if __name__ == "__main__":
    with ctx.Pool(2) as pool:
        result = pool.map_async(sleep, range(4), 1)
        while len(pool._cache) == 4 and pool._crew.tasks.qsize() == 4:
            time.sleep(0.001)
        print("ready", flush=True)
        result.get()
"""


def test_ctrl_c_ends_a_program_with_a_busy_pool(run_program: Any) -> None:
    def press(process: Any) -> None:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)

    ending = run_program(CTRL_C, meanwhile=press)
    assert ending.exit_code == -signal.SIGINT
    assert "KeyboardInterrupt" in ending.stderr
    assert not ending.left_processes


# Programs that end with a pool.

ENDS_WITH_A_RUNNING_POOL = """
import sys, time
import procession

ctx = procession.get_context(sys.argv[1])

def sleep(x):
    time.sleep(60)

def square(x):
    return x * x

if __name__ == "__main__":
    pool = ctx.Pool(3)
    pool.map_async(sleep, range(10), callback=print)
    assert pool.map_async(square, [2]) is not None
    print("end")
"""


def test_a_program_ends_though_its_pool_is_busy(run_program: Any) -> None:
    ending = run_program(ENDS_WITH_A_RUNNING_POOL)
    assert (ending.exit_code, ending.stdout) == (0, "end\n"), ending.stderr
    assert "Traceback" not in ending.stderr
    assert not ending.left_processes


def test_a_program_ends_though_an_exception_leaves_its_pool(run_program: Any) -> None:
    program = ENDS_WITH_A_RUNNING_POOL.replace('print("end")', 'raise SystemExit("left")')
    ending = run_program(program)
    assert ending.exit_code == 1
    assert ending.stderr == "left\n"
    assert not ending.left_processes


def test_asking_for_the_living_children_hides_no_death_from_the_pool(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                procession.active_children()

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            for _ in range(30):
                with pytest.raises(WorkerDiedError):
                    pool.apply(die_by, (signal.SIGKILL,))
        finally:
            stop.set()
            asker.join()


def nested(ctx_name: str) -> list[int]:
    # A daemon may not have children, so this process stops being one.
    procession.current_process()._config["daemon"] = False
    with procession.get_context(ctx_name).Pool(2) as pool:
        return pool.map(square, range(5))  # type: ignore[no-any-return]


def test_a_worker_may_have_a_pool_of_its_own(ctx: Any, method: str) -> None:
    with ctx.Pool(2) as pool:
        assert pool.map(nested, [method] * 4, 1) == [[0, 1, 4, 9, 16]] * 4


interrupts: list[KeyboardInterrupt] = []


def interrupted_once(value: int) -> int:
    if interrupts:
        raise interrupts.pop()
    return value


class InterruptedOnce:
    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return interrupted_once, (self.value,)


def test_an_interrupt_while_a_result_is_unpickled_loses_no_result(ctx: Any) -> None:
    interrupts.append(KeyboardInterrupt())
    with ctx.Pool(1) as pool:
        results = [
            pool.apply_async(f, (n,)) for n, f in enumerate([square, InterruptedOnce, square])
        ]
        assert results[2].get() == 4
        with pytest.raises(KeyboardInterrupt):
            results[1].get()
        assert [result.get() for result in results] == [0, 1, 4]
    assert not interrupts
