"""Conditions: the standard library's semantics, and owners, waiters and notifiers that die."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import procession
import pytest
from processes import eventually
from procession import OwnerDiedError

# What children do.


def wait_and_say(condition: Any, answers: Any, timeout: float | None = None) -> None:
    with condition:
        try:
            answers.put(condition.wait(timeout))
        except OwnerDiedError:
            # The waiter that is told holds the lock, and wakes the others.
            condition.notify_all()
            answers.put("told")


def wait_and_say_warnings(condition: Any, answers: Any) -> None:
    with condition, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers.put((condition.wait(), [warning.category for warning in caught]))


def wait_until_killed(condition: Any) -> None:
    with condition:
        while True:
            condition.wait()


def notify(condition: Any, n: int = 1) -> None:
    with condition:
        condition.notify(n)


def notify_and_die(condition: Any, times: int) -> None:
    condition.acquire()
    for _ in range(times):
        condition.notify()
    os.kill(os.getpid(), signal.SIGKILL)


def try_without_lock(condition: Any, answers: Any) -> None:
    for call in (condition.wait, condition.notify, condition.notify_all):
        try:
            call()
        except AssertionError as error:
            answers.put(str(error))


def try_acquire(condition: Any, answers: Any) -> None:
    acquired = condition.acquire(False)
    answers.put(acquired)
    if acquired:
        condition.release()


def count_to(condition: Any, count: Any, end: int, mine: int) -> None:
    with condition:
        while count.value < end:
            if not condition.wait_for(lambda: count.value % 3 == mine or count.value >= end, 60):
                raise TimeoutError
            if count.value < end:
                count.value += 1
                condition.notify_all()


def notify_what_comes(things: Any) -> None:
    while (condition := things.recv()) is not None:
        notify(condition)


def exchange(condition: Any) -> None:
    while True:
        with contextlib.suppress(OwnerDiedError), condition:
            condition.notify(2)
            condition.wait(0.01)


# What tests use.


def start(ctx: Any, target: Callable[..., object], *args: Any) -> Any:
    process = ctx.Process(target=target, args=args)
    process.start()
    return process


def run_in(ctx: Any, target: Callable[..., object], *args: Any) -> int | None:
    process = start(ctx, target, *args)
    process.join()
    return process.exitcode  # type: ignore[no-any-return]


def kill(process: Any) -> None:
    process.kill()
    process.join()


def sleepers(condition: Any) -> int:
    return condition._sleeping_count.get_value()  # type: ignore[no-any-return]


def start_waiters(ctx: Any, count: int, condition: Any, answers: Any) -> list[Any]:
    """Processes of which all wait for the condition."""
    waiters = [start(ctx, wait_and_say, condition, answers) for _ in range(count)]
    assert eventually(lambda: sleepers(condition) == count)
    return waiters


def join_all(processes: list[Any]) -> None:
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.fixture(params=["Lock", "RLock", None])
def condition(request: pytest.FixtureRequest, ctx: Any) -> Any:
    """A condition with each kind of lock."""
    return ctx.Condition(getattr(ctx, request.param)() if request.param else None)


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """The calls of SIGINT's handler, which raises as it does by default."""
    calls: list[int] = []

    def handle(number: int, frame: Any) -> None:
        calls.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, handle)
    yield calls
    signal.signal(signal.SIGINT, before)


# The standard library's semantics.


def test_who_does_not_hold_the_lock_neither_waits_nor_notifies(ctx: Any, condition: Any) -> None:
    wait = "must acquire() condition before using wait()"
    expected = [wait, "lock is not owned", "lock is not owned"]
    answers = ctx.Queue()
    try_without_lock(condition, answers)
    assert [answers.get() for _ in range(3)] == expected
    with condition:
        run_in(ctx, try_without_lock, condition, answers)
    assert [answers.get() for _ in range(3)] == expected


@pytest.mark.parametrize("timeout", [0, -1, 0.02])
def test_a_wait_ends_at_its_timeout_with_the_lock_held(
    ctx: Any, condition: Any, timeout: float
) -> None:
    answers = ctx.Queue()
    with condition:
        begun = time.monotonic()
        assert condition.wait(timeout) is False
        assert time.monotonic() - begun >= timeout
        run_in(ctx, try_acquire, condition, answers)
        assert answers.get() is False
    run_in(ctx, try_acquire, condition, answers)
    assert answers.get() is True
    assert sleepers(condition) == 0


def test_the_lock_is_free_while_one_waits(ctx: Any, condition: Any) -> None:
    with condition:
        notifier = start(ctx, notify, condition)
        assert condition.wait(60) is True
    notifier.join()
    assert notifier.exitcode == 0


def test_a_notification_is_not_kept_for_who_waits_later(condition: Any) -> None:
    with condition:
        condition.notify()
        condition.notify_all()
        assert condition.wait(0.02) is False


def test_as_many_go_on_as_are_notified(ctx: Any, condition: Any) -> None:
    answers = ctx.Queue()
    waiters = start_waiters(ctx, 5, condition, answers)
    with condition:
        condition.notify(0)
        condition.notify(-3)
    assert sleepers(condition) == 5
    notify(condition, 2)
    assert [answers.get(timeout=60) for _ in range(2)] == [True] * 2
    assert eventually(lambda: condition._wait_semaphore.get_value() == 0)
    assert (sleepers(condition), answers.qsize()) == (3, 0)
    notify(condition)
    assert answers.get(timeout=60) is True
    assert (sleepers(condition), answers.qsize()) == (2, 0)
    with condition:
        condition.notify_all()
    join_all(waiters)
    assert [answers.get() for _ in range(2)] == [True] * 2
    assert (sleepers(condition), condition._woken_count.get_value()) == (0, 0)


def test_more_notifications_than_waiters_are_no_debt(ctx: Any, condition: Any) -> None:
    answers = ctx.Queue()
    waiters = start_waiters(ctx, 2, condition, answers)
    notify(condition, 2**70)
    join_all(waiters)
    with condition:
        assert condition.wait(0.01) is False


def test_waiting_for_a_predicate_gives_what_it_gave(ctx: Any, condition: Any) -> None:
    results = iter([0, "so it is"])
    with condition:
        assert condition.wait_for(lambda: [1], 0) == [1]
        assert condition.wait_for(lambda: 0, 0.02) == 0
        notifier = start(ctx, notify, condition)
        assert condition.wait_for(lambda: next(results), 60) == "so it is"
    join_all([notifier])


def test_processes_that_wait_for_their_turn_all_get_it(ctx: Any, condition: Any) -> None:
    count = ctx.Value("i", 0, lock=False)
    counters = [start(ctx, count_to, condition, count, 60, mine) for mine in range(3)]
    join_all(counters)
    assert count.value == 60


def test_a_lock_acquired_several_times_is_released_for_the_wait(ctx: Any) -> None:
    lock = ctx.RLock()
    condition = ctx.Condition(lock)
    with condition, lock, condition:
        assert lock._count() == 3
        notifier = start(ctx, notify, condition)
        assert condition.wait(60) is True
        assert lock._count() == 3
        assert condition.wait(0.01) is False
        assert lock._count() == 3
    assert lock._count() == 0
    notifier.join()


def test_a_condition_is_acquired_as_its_lock(ctx: Any) -> None:
    lock = ctx.Lock()
    condition = ctx.Condition(lock)
    assert condition.acquire() is True
    assert lock.locked() and lock.acquire(block=False) is False
    assert condition.acquire(False) is False
    condition.release()
    with condition as entered:
        assert entered is True
    assert not lock.locked()


def test_a_lock_of_another_kind_is_refused(ctx: Any) -> None:
    for lock in (threading.RLock(), ctx.Semaphore(1)):
        with pytest.raises(TypeError, match="Lock or an RLock"):
            ctx.Condition(lock)
    with pytest.raises(AttributeError, match="'int' object has no attribute 'acquire'"):
        ctx.Condition(1)


def test_a_condition_shows_its_lock_and_who_waits(ctx: Any) -> None:
    condition = ctx.Condition()
    assert repr(condition) == "<Condition(<RLock(None, 0)>, 0)>"
    waiters = start_waiters(ctx, 2, condition, ctx.Queue())
    with condition:
        assert repr(condition) == "<Condition(<RLock(MainProcess, 1)>, 2)>"
        condition.notify_all()
    join_all(waiters)


def test_what_is_sent_is_the_same_condition(ctx: Any, condition: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    process = start(ctx, notify_what_comes, receiver)
    copy = pickle.loads(pickle.dumps(condition))
    assert type(copy) is type(condition)
    assert copy.handle == condition.handle
    for either in (condition, copy):
        with condition:
            sender.send(either)
            assert condition.wait(60) is True
    sender.send(None)
    process.join()
    queue = ctx.Queue()
    queue.put(condition)
    with condition:
        notifier = start(ctx, notify, queue.get())
        assert condition.wait(60) is True
    notifier.join()


def test_threads_wait_and_notify_as_processes_do(condition: Any) -> None:
    answers: list[bool] = []

    def wait() -> None:
        with condition:
            answers.append(condition.wait(60))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: sleepers(condition) == 3)
    notify(condition, 3)
    for thread in threads:
        thread.join()
    assert answers == [True] * 3


def test_conditions_leave_nothing_in_the_arena(ctx: Any) -> None:
    def use() -> None:
        condition = ctx.Condition()
        run_in(ctx, notify, pickle.loads(pickle.dumps(condition)))

    use()
    before = len(procession._native.objects())
    for _ in range(3):
        use()
    assert len(procession._native.objects()) == before


# Signals.


def test_ctrl_c_interrupts_a_wait_and_the_lock_is_held(
    condition: Any, interrupts: list[int]
) -> None:
    for timeout in (None, 60):
        with condition:
            with pytest.raises(KeyboardInterrupt):
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                condition.wait(timeout)
            condition.notify()
    assert len(interrupts) == 2
    assert sleepers(condition) == 0


def test_a_handler_that_returns_does_not_end_a_wait(ctx: Any, condition: Any) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        with condition:
            assert condition.wait(0.2) is False
            assert len(calls) >= 3
            notifier = start(ctx, notify, condition)
            assert condition.wait(60) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    notifier.join()


def interrupt_while_held(
    condition: Any, interrupts: list[int], times: int, release: threading.Event
) -> threading.Thread:
    """Once this thread waits, hold the lock in another and interrupt so many times."""

    def work() -> None:
        assert eventually(lambda: sleepers(condition) == 1)
        with condition:
            for number in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                assert eventually(lambda: len(interrupts) > number)  # noqa: B023
            release.wait(0.1 if times == 1 else None)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_interrupted_wait_comes_back_with_the_lock(
    condition: Any, interrupts: list[int]
) -> None:
    with condition:
        thread = interrupt_while_held(condition, interrupts, 1, threading.Event())
        with pytest.raises(KeyboardInterrupt):
            condition.wait()
        condition.notify_all()
    thread.join()


def test_a_second_ctrl_c_does_not_wait_for_the_lock(condition: Any, interrupts: list[int]) -> None:
    condition.acquire()
    release = threading.Event()
    thread = interrupt_while_held(condition, interrupts, 2, release)
    with pytest.raises(KeyboardInterrupt):
        condition.wait()
    with pytest.raises(AssertionError, match="lock is not owned"):
        condition.notify()
    release.set()
    thread.join()
    notify(condition)
    assert sleepers(condition) == 0


# Processes that die.


def test_a_killed_waiter_takes_no_notification_with_it(ctx: Any, condition: Any) -> None:
    answers = ctx.Queue()
    waiters = start_waiters(ctx, 3, condition, answers)
    kill(waiters.pop(1))
    for _ in waiters:
        notify(condition)
        assert answers.get(timeout=60) is True
    join_all(waiters)


def test_killed_waiters_block_nobody(ctx: Any, condition: Any) -> None:
    for _ in range(3):
        # Those killed before are among them.
        count = sleepers(condition) + 2
        victims = [start(ctx, wait_until_killed, condition) for _ in range(2)]
        assert eventually(lambda: sleepers(condition) == count)  # noqa: B023
        for victim in victims:
            kill(victim)
        notify(condition)
    with condition:
        notifier = start(ctx, notify, condition)
        assert condition.wait(60) is True
    notifier.join()


@pytest.mark.parametrize("waiting", [0, 1, 4])
@pytest.mark.parametrize("notified", ["none", "all"])
def test_one_is_told_of_an_owner_that_is_killed_and_all_go_on(
    ctx: Any, condition: Any, waiting: int, notified: str
) -> None:
    answers = ctx.Queue()
    waiters = start_waiters(ctx, waiting, condition, answers)
    times = waiting if notified == "all" else 0
    assert run_in(ctx, notify_and_die, condition, times) == -signal.SIGKILL
    if waiting == 0:
        with pytest.raises(OwnerDiedError):
            condition.acquire()
    found = [answers.get(timeout=60) for _ in waiters]
    assert sorted(found, key=str) == [True] * (waiting - 1) + ["told"] * min(waiting, 1)
    join_all(waiters)
    with condition:
        assert condition.wait(0.01) is False


@pytest.mark.parametrize("told", range(1, 4))
def test_a_notifier_killed_between_two_notifications_hangs_nobody(
    ctx: Any, condition: Any, told: int
) -> None:
    answers = ctx.Queue()
    waiters = start_waiters(ctx, 4, condition, answers)
    assert run_in(ctx, notify_and_die, condition, told) == -signal.SIGKILL
    found = [answers.get(timeout=60) for _ in waiters]
    assert sorted(found, key=str) == [True] * 3 + ["told"]
    join_all(waiters)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_with_a_recovering_lock_a_wait_ends_with_a_warning(ctx: Any, kind: str) -> None:
    condition = ctx.Condition(getattr(ctx, kind)(on_owner_death="recover"))
    answers = ctx.Queue()
    waiter = start(ctx, wait_and_say_warnings, condition, answers)
    assert eventually(lambda: sleepers(condition) == 1)
    run_in(ctx, notify_and_die, condition, 0)
    assert answers.get(timeout=60) == (True, [RuntimeWarning])
    join_all([waiter])


def test_processes_killed_at_any_instant_leave_a_condition_that_works(
    ctx: Any, condition: Any
) -> None:
    processes = [start(ctx, exchange, condition) for _ in range(3)]
    for _ in range(30):
        time.sleep(random.uniform(0.0, 0.02))
        kill(processes.pop(random.randrange(3)))
        processes.append(start(ctx, exchange, condition))
    for process in processes:
        kill(process)
    with contextlib.suppress(OwnerDiedError), condition:
        pass
    with condition:
        notifier = start(ctx, notify, condition)
        assert condition.wait(60) is True
    notifier.join()
    procession._native.check()
