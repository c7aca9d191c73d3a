"""Pools: what keeps one, and what does not."""

from __future__ import annotations

import gc
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import eventually, is_running

# What workers call.


def square(x: int) -> int:
    return x * x


def square_slowly(x: int) -> int:
    time.sleep(0.05)
    return x * x


def add_slowly(a: int, b: int) -> int:
    time.sleep(0.05)
    return a + b


def wait_for(event: Any) -> str:
    event.wait()
    return "done"


@pytest.fixture(autouse=True)
def unclosed_pools_are_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


KINDS: dict[str, Callable[[Any], Any]] = {
    "apply_async": lambda ctx: ctx.Pool(2).apply_async(square_slowly, (3,)).get(),
    "map_async": lambda ctx: ctx.Pool(2).map_async(square_slowly, range(9), 1).get(),
    "starmap_async": lambda ctx: ctx.Pool(2).starmap_async(add_slowly, [(1, 2)]).get(),
    "map": lambda ctx: ctx.Pool(2).map(square_slowly, range(9)),
    "imap": lambda ctx: list(ctx.Pool(2).imap(square_slowly, range(9))),
    "imap_unordered": lambda ctx: sorted(ctx.Pool(2).imap_unordered(square_slowly, range(9))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_that_only_a_result_holds_does_its_work(ctx: Any, kind: str) -> None:
    expected = {"apply_async": 9, "starmap_async": [3]}.get(kind, [x * x for x in range(9)])
    assert KINDS[kind](ctx) == expected


def test_results_outlive_the_function_that_made_the_pool(ctx: Any) -> None:
    def results() -> Any:
        pool = ctx.Pool(2)
        return pool.apply_async(square, (3,)), pool.map_async(square, range(3)), pool

    one, several, pool = results()
    gone = weakref.ref(pool)
    del pool
    assert gone() is not None
    assert one.get() == 9
    assert several.get() == [0, 1, 4]
    assert gone() is None


def test_the_pool_goes_when_the_last_result_has_come(ctx: Any) -> None:
    pool = ctx.Pool(1)
    gone, pids = weakref.ref(pool), [worker.pid for worker in pool._pool]
    first, second = (pool.apply_async(square, (x,)) for x in range(2))
    del pool
    # With the second result comes the first, for which no caller waits.
    assert second.get() == 1
    assert gone() is None
    assert eventually(lambda: not any(map(is_running, pids)))
    assert first.get() == 0


def test_the_last_result_that_is_dropped_ends_the_pool(ctx: Any) -> None:
    event = ctx.Event()
    pool = ctx.Pool(1)
    gone, pids = weakref.ref(pool), [worker.pid for worker in pool._pool]
    results = [pool.apply_async(wait_for, (event,)), pool.map_async(wait_for, [event] * 3)]
    del pool
    assert gone() is not None
    results.clear()
    assert gone() is None
    assert not any(map(is_running, pids))


def test_a_callback_keeps_the_pool_until_it_has_been_called(ctx: Any) -> None:
    event, called = ctx.Event(), []
    pool = ctx.Pool(1)
    gone = weakref.ref(pool)
    pool.apply_async(wait_for, (event,), callback=called.append)
    del pool
    gc.collect()
    assert gone() is not None
    event.set()
    assert eventually(lambda: gone() is None)
    assert called == ["done"]


def test_a_dropped_result_disturbs_no_other(ctx: Any) -> None:
    with ctx.Pool(2) as pool:
        for _ in range(20):
            pool.apply_async(square, (2,))
            pool.map_async(square, range(5), 1)
            pool.imap(square, range(5))
        assert pool.map(square, range(20), 1) == [x * x for x in range(20)]
        pool.close()
        pool.join()
        assert not pool._cache


def test_an_unclosed_pool_is_warned_about_once(ctx: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        assert ctx.Pool(2).map_async(square, range(9), 1).get() == [x * x for x in range(9)]
        gc.collect()
    ours = [warning for warning in caught if "multiprocessing pool" in str(warning.message)]
    assert len(ours) == 1


ENDS_WITH_OPEN_RESULTS = """
import sys, time
import procession

ctx = procession.get_context(sys.argv[1])

def sleep(x):
    time.sleep(60)

def square(x):
    return x * x

if __name__ == "__main__":
    open_ones = [ctx.Pool(1).apply_async(sleep, (1,)), ctx.Pool(1).map_async(sleep, range(3))]
    iteration = ctx.Pool(1).imap(sleep, range(3))
    done = ctx.Pool(1).apply_async(square, (2,))
    ctx.Pool(1).apply_async(sleep, (1,), callback=print)
    print("end")
"""


def test_a_program_ends_though_results_hold_pools(run_program: Any) -> None:
    ending = run_program(ENDS_WITH_OPEN_RESULTS)
    assert (ending.exit_code, ending.stdout) == (0, "end\n"), ending.stderr
    assert "Traceback" not in ending.stderr
    assert not ending.left_processes
