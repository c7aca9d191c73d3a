"""Pools: results one by one, and calls with several arguments."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing import TimeoutError
from typing import Any

import procession
import pytest
from processes import eventually
from procession import PoolTerminatedError, WorkerDiedError

# What workers call.


def square(x: int) -> int:
    return x * x


def divide(a: int, b: int) -> float:
    return a / b


def fail_on_three(x: int) -> int:
    if x == 3:
        raise LookupError(x)
    return x


def die_on_three(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def wait_for(event: Any) -> int:
    event.wait()
    return os.getpid()


def wait_unless_first(given: tuple[int, Any]) -> int:
    index, event = given
    if index == 0:
        event.wait()
    return index


@pytest.fixture
def pool(ctx: Any) -> Iterator[Any]:
    with ctx.Pool(2) as made:
        yield made
    made.join()


def some(count: int, *, then: Exception | None = None) -> Iterator[int]:
    yield from range(count)
    if then is not None:
        raise then


def outcomes(iterator: Iterator[Any]) -> list[Any]:
    """What an iterator returns; for exceptions their types."""
    found: list[Any] = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except Exception as error:
            found.append(type(error))


@pytest.mark.parametrize("chunksize", [1, 4, 100])
def test_imap_gives_results_in_order(pool: Any, chunksize: int) -> None:
    expected = [x * x for x in range(30)]

    assert list(pool.imap(square, range(30), chunksize)) == expected
    assert list(pool.imap(square, some(30), chunksize=chunksize)) == expected
    assert sorted(pool.imap_unordered(square, some(30), chunksize)) == expected
    assert list(pool.imap(square, [], chunksize)) == []
    assert list(pool.imap_unordered(square, [], chunksize)) == []


def test_starmap_calls_with_several_arguments(pool: Any) -> None:
    pairs = [(a, b) for a in range(5) for b in range(1, 5)]
    expected = list(itertools.starmap(divide, pairs))

    assert pool.starmap(divide, pairs) == expected
    assert pool.starmap(divide, iter(pairs), chunksize=3) == expected
    assert pool.starmap_async(divide, pairs).get() == expected
    assert pool.starmap(divide, []) == []
    with pytest.raises(ZeroDivisionError):
        pool.starmap(divide, [(1, 1), (1, 0)])
    with pytest.raises(TypeError):
        pool.starmap(divide, [1, 2])


def test_starmap_async_calls_its_callbacks(pool: Any) -> None:
    good: list[Any] = []
    bad: list[Any] = []

    pool.starmap_async(divide, [(4, 2)], callback=good.append, error_callback=bad.append).wait()
    pool.starmap_async(divide, [(4, 0)], callback=good.append, error_callback=bad.append).wait()

    assert good == [[2.0]]
    assert [type(error) for error in bad] == [ZeroDivisionError]


def test_a_failed_task_costs_its_own_result(pool: Any) -> None:
    assert outcomes(pool.imap(fail_on_three, range(6))) == [0, 1, 2, LookupError, 4, 5]
    # With the others of its chunk.
    assert outcomes(pool.imap(fail_on_three, range(6), 2)) == [0, 1, LookupError, 4, 5]
    found = outcomes(pool.imap_unordered(fail_on_three, range(6)))
    assert sorted(found, key=str) == sorted([0, 1, 2, LookupError, 4, 5], key=str)


def test_a_killed_worker_costs_its_own_result(pool: Any) -> None:
    assert outcomes(pool.imap(die_on_three, range(6))) == [0, 1, 2, WorkerDiedError, 4, 5]
    found = outcomes(pool.imap_unordered(die_on_three, range(6)))
    assert sorted(found, key=str) == sorted([0, 1, 2, WorkerDiedError, 4, 5], key=str)


def test_what_the_iterable_raises_comes_in_its_place(pool: Any) -> None:
    end = LookupError("the iterable")

    assert outcomes(pool.imap(square, some(3, then=end))) == [0, 1, 4, LookupError]
    assert outcomes(pool.imap(square, some(0, then=end))) == [LookupError]
    assert sorted(outcomes(pool.imap_unordered(square, some(3, then=end))), key=str) == sorted(
        [0, 1, 4, LookupError], key=str
    )
    assert outcomes(pool.imap(square, None)) == [TypeError]


def test_what_cannot_be_pickled_fails_alone(pool: Any) -> None:
    found = outcomes(pool.imap(type, [1, lambda: None, 2]))

    assert found[0] is int
    assert found[2] is int
    assert len(found) == 3
    assert issubclass(found[1], Exception)


def test_the_iterable_need_not_end(pool: Any) -> None:
    stopped = threading.Event()

    def endless() -> Iterator[int]:
        while not stopped.is_set():
            yield 2

    results = pool.imap(square, endless())
    assert [next(results) for _ in range(10)] == [4] * 10
    stopped.set()
    assert set(results) == {4}


def test_unordered_gives_what_comes_first(ctx: Any, pool: Any) -> None:
    event = ctx.Event()

    results = pool.imap_unordered(wait_unless_first, [(index, event) for index in range(4)])
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    event.set()
    assert list(results) == [0]


def test_next_gives_up_when_its_time_is_over(ctx: Any, pool: Any) -> None:
    event = ctx.Event()
    results = pool.imap(wait_for, [event])

    for timeout in (0, 0.01, -1):
        with pytest.raises(TimeoutError):
            results.next(timeout=timeout)
    event.set()
    assert results.next(timeout=60) > 0
    for _ in range(2):
        with pytest.raises(StopIteration):
            results.next()


def test_a_closed_pool_finishes_what_it_began(ctx: Any) -> None:
    # A slow iterable, so that most tasks are not submitted when the pool is closed.
    numbers = (time.sleep(0.01) or number for number in range(20))
    pool = ctx.Pool(2)
    results = pool.imap(square, numbers)

    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.imap(square, [1])
    pool.join()

    assert list(results) == [x * x for x in range(20)]


def test_a_closed_pool_survives_its_workers_while_it_is_fed(ctx: Any) -> None:
    go_on = threading.Event()

    def numbers() -> Iterator[int]:
        yield from (3, 3, 3)
        go_on.wait()
        yield 1

    pool = ctx.Pool(1)
    results = pool.imap(die_on_three, numbers())
    pool.close()
    for _ in range(3):
        with pytest.raises(WorkerDiedError):
            next(results)
    go_on.set()
    assert list(results) == [1]
    pool.join()


def test_a_terminated_pool_ends_what_it_began(ctx: Any) -> None:
    go_on = threading.Event()

    def held_up() -> Iterator[int]:
        yield 2
        go_on.wait()

    pool = ctx.Pool(2)
    endless = pool.imap(square, itertools.repeat(2))
    held = pool.imap(square, held_up())
    assert (next(endless), next(held)) == (4, 4)

    pool.terminate()
    pool.join()

    for results in (endless, held):
        found = outcomes(results)
        assert found[-1] is PoolTerminatedError
        assert set(found) <= {4, PoolTerminatedError}
    go_on.set()


def test_an_iterator_keeps_its_pool(ctx: Any) -> None:
    assert list(ctx.Pool(2).imap(square, range(5))) == [0, 1, 4, 9, 16]


def test_open_tasks_keep_no_pool(ctx: Any) -> None:
    event = ctx.Event()
    pool = ctx.Pool(1)
    gone = weakref.ref(pool)

    with pytest.warns(ResourceWarning):
        results = pool.imap(wait_for, [event])
        del results, pool

    assert gone() is None


def test_an_endless_iterable_is_not_read_far_ahead(ctx: Any, pool: Any) -> None:
    event, read = ctx.Event(), 0

    def events() -> Iterator[Any]:
        nonlocal read
        while True:
            read += 1
            yield event, b"x" * 100_000

    results = pool.imap(wait_for_first, events())
    assert eventually(lambda: read > 4)
    time.sleep(0.2)
    assert read < 20
    event.set()
    assert [next(results) for _ in range(100)] == [True] * 100
    # Also if the workers are fast, and their results are taken slowly.
    read_so_far = read
    assert read_so_far - pool._crew.tasks._got() < 20


def wait_for_first(given: tuple[Any, bytes]) -> bool:
    return bool(given[0].wait())


def test_joining_with_results_not_taken_waits_at_rest(ctx: Any) -> None:
    pool, event = ctx.Pool(2), ctx.Event()
    results = pool.imap(wait_for, [event] * 4)
    pool.close()
    timer = threading.Timer(0.5, event.set)
    timer.start()
    before = time.thread_time()
    pool.join()
    # It may check now and then, but does not spin.
    assert time.thread_time() - before < 0.25
    assert len(list(results)) == 4
    timer.join()


def test_the_end_of_an_iterator_may_end_the_pool_that_is_fed(ctx: Any) -> None:
    go_on = threading.Event()

    def held_up() -> Iterator[int]:
        yield 1
        go_on.wait()

    def results() -> Any:
        pool = ctx.Pool(2)
        pool.imap(square, held_up())
        return pool.imap(square, range(3))

    with pytest.warns(ResourceWarning):
        # The last holder of the pool drops it at its end.
        assert list(results()) == [0, 1, 4]
    go_on.set()


def test_a_signal_handler_may_terminate_a_pool_that_is_fed(ctx: Any) -> None:
    pool = ctx.Pool(2)
    results = pool.imap(square, itertools.repeat(2))

    def terminate(*_: object) -> None:
        pool.terminate()

    before = signal.signal(signal.SIGALRM, terminate)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(PoolTerminatedError):
            for result in results:
                assert result == 4
    finally:
        signal.signal(signal.SIGALRM, before)
    pool.join()


@pytest.mark.parametrize("kind", ["imap", "imap_unordered"])
@pytest.mark.parametrize("line", range(1, 12))
def test_an_interrupt_as_a_result_is_taken_costs_at_most_that(
    ctx: Any, kind: str, line: int
) -> None:
    with ctx.Pool(1) as pool:
        results = getattr(pool, kind)(square, range(5))
        found = [next(results)]
        lines = 0

        def trace(frame: Any, event: str, argument: object) -> Any:
            nonlocal lines
            if frame.f_code.co_name not in ("take", "_is_next_here"):
                return None
            if event == "line":
                lines += 1
                if lines == line:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            found.append(next(results))
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        found += list(results)
    everything = [0, 1, 4, 9, 16]
    missing = [value for value in everything if value not in found]
    assert [value for value in everything if value in found] == found
    assert len(missing) <= 1


def test_a_close_that_is_interrupted_is_repeated(ctx: Any) -> None:
    pool = ctx.Pool(1)
    result = pool.map_async(square, range(5))
    put = pool._crew.tasks.put

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    class Interrupting:
        """The tasks' queue, as the end is put."""

        def __getattr__(self, name: str) -> Any:
            return interrupt if name == "put" else getattr(tasks, name)

    tasks, pool._crew.tasks = pool._crew.tasks, Interrupting()
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    pool._crew.tasks = tasks
    assert tasks.put == put
    pool.close()
    pool.join()
    assert result.get() == [0, 1, 4, 9, 16]


def test_nothing_is_called_back_of_no_tasks(pool: Any) -> None:
    called: list[Any] = []
    assert pool.map_async(square, [], callback=called.append).get() == []
    assert pool.starmap_async(divide, [], callback=called.append).get() == []
    assert pool.apply_async(square, (3,), callback=called.append).get() == 9
    assert called == [9]


def test_several_threads_may_share_an_iterator(pool: Any) -> None:
    results = pool.imap(square, range(400), 3)
    shares: list[list[int]] = [[] for _ in range(4)]
    takers = [threading.Thread(target=share.extend, args=(results,)) for share in shares]

    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()

    assert sorted(itertools.chain(*shares)) == [x * x for x in range(400)]


@pytest.mark.parametrize("chunksize", [0, -3])
def test_a_wrong_chunksize_is_refused(pool: Any, chunksize: int) -> None:
    for call in (pool.imap, pool.imap_unordered, pool.starmap):
        with pytest.raises(ValueError, match=f"Chunksize must be 1\\+, not {chunksize}"):
            call(square, [1], chunksize=chunksize)


def test_a_forked_copy_of_a_pool_is_refused() -> None:
    with procession.get_context("fork").Pool(1) as pool:
        pid = os.fork()
        if pid == 0:
            try:
                pool.imap(square, [1])
            except ValueError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
