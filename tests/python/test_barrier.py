"""Barriers: the standard library's semantics, and participants that die."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from threading import BrokenBarrierError
from typing import Any

import procession
import pytest
from processes import eventually, is_asleep

# What children do.


def wait_and_say(barrier: Any, answers: Any, timeout: float | None = None) -> None:
    try:
        answers.put(barrier.wait(timeout))
    except BrokenBarrierError:
        answers.put("broken")


def wait_and_say_after(gate: Any, barrier: Any, answers: Any) -> None:
    gate.wait()
    wait_and_say(barrier, answers)


def wait(barrier: Any) -> None:
    barrier.wait()


def wait_often(barrier: Any, times: int, steps: Any, mine: int) -> None:
    for step in range(times):
        steps[mine] = step + 1
        barrier.wait()
        if any(other < step + 1 for other in steps):
            raise AssertionError("a party was not there yet")
        barrier.wait()


def wait_until_killed(barrier: Any) -> None:
    while True:
        try:
            barrier.wait()
        except BrokenBarrierError:
            barrier.reset()


def abort(barrier: Any) -> None:
    barrier.abort()


def come_to_what_comes(things: Any, answers: Any) -> None:
    while (barrier := things.recv()) is not None:
        wait_and_say(barrier, answers)


class CountUp:
    """An action that pickles."""

    def __init__(self, count: Any) -> None:
        self.count = count

    def __call__(self) -> None:
        self.count.value += 1


class Fail:
    def __call__(self) -> None:
        raise LookupError("the action failed")


class Die:
    def __call__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hold:
    """An action that ends when it is let go."""

    def __init__(self, begun: Any, let_go: Any) -> None:
        self.begun, self.let_go = begun, let_go

    def __call__(self) -> None:
        self.begun.set()
        self.let_go.wait()


def wait_and_say_failure(barrier: Any, answers: Any) -> None:
    try:
        answers.put(barrier.wait())
    except (LookupError, BrokenBarrierError) as error:
        answers.put(type(error).__name__)


# What tests use.


def start(ctx: Any, target: Callable[..., object], *args: Any) -> Any:
    process = ctx.Process(target=target, args=args)
    process.start()
    return process


def start_waiters(ctx: Any, count: int, barrier: Any, answers: Any, *args: Any) -> list[Any]:
    """Processes of which all wait at the barrier."""
    waiters = [start(ctx, wait_and_say, barrier, answers, *args) for _ in range(count)]
    assert eventually(lambda: barrier.n_waiting == count)
    return waiters


def kill(process: Any) -> None:
    process.kill()
    process.join()


def join_all(processes: list[Any]) -> None:
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


# The standard library's semantics.


def test_a_barrier_is_a_barrier_of_threads(ctx: Any) -> None:
    barrier = ctx.Barrier(3)
    assert isinstance(barrier, threading.Barrier)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    assert "waiters=0/3" in repr(barrier)
    barrier.abort()
    assert repr(barrier).endswith(": broken>")


def test_all_go_on_when_all_have_come_each_with_a_number_of_its_own(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(4), ctx.Queue()
    for _ in range(3):
        waiters = start_waiters(ctx, 3, barrier, answers)
        assert answers.empty()
        mine = barrier.wait()
        assert sorted([mine] + [answers.get(timeout=60) for _ in waiters]) == [0, 1, 2, 3]
        assert barrier.n_waiting == 0
        join_all(waiters)


def test_nobody_goes_on_before_all_have_come(ctx: Any) -> None:
    barrier = ctx.Barrier(3)
    steps = ctx.Array("i", 3, lock=False)
    processes = [start(ctx, wait_often, barrier, 200, steps, mine) for mine in range(3)]
    join_all(processes)
    assert list(steps) == [200] * 3


def test_one_party_alone_never_waits(ctx: Any) -> None:
    count = ctx.Value("i", 0)
    barrier = ctx.Barrier(1, CountUp(count), timeout=0)
    assert [barrier.wait() for _ in range(3)] == [0, 0, 0]
    assert count.value == 3


@pytest.mark.parametrize("parties", [0, -1])
def test_a_barrier_for_nobody_is_refused(ctx: Any, parties: int) -> None:
    with pytest.raises(ValueError, match="parties must be >= 1"):
        ctx.Barrier(parties)


def test_a_timeout_breaks_the_barrier_for_all(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(4), ctx.Queue()
    waiters = start_waiters(ctx, 2, barrier, answers)
    with pytest.raises(BrokenBarrierError):
        barrier.wait(0.02)
    assert [answers.get(timeout=60) for _ in waiters] == ["broken"] * 2
    join_all(waiters)
    assert barrier.broken and barrier.n_waiting == 0
    with pytest.raises(BrokenBarrierError):
        barrier.wait()


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_a_barriers_own_timeout_is_that_of_waits_without(ctx: Any, timeout: float) -> None:
    barrier = ctx.Barrier(2, timeout=timeout)
    with pytest.raises(BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    waiters = start_waiters(ctx, 1, barrier, ctx.Queue(), 60)
    assert barrier.wait() == 1
    join_all(waiters)


def test_an_abort_ends_the_waits_of_all(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(4), ctx.Queue()
    waiters = start_waiters(ctx, 3, barrier, answers)
    aborter = start(ctx, abort, barrier)
    assert [answers.get(timeout=60) for _ in waiters] == ["broken"] * 3
    join_all([*waiters, aborter])
    assert barrier.broken
    with pytest.raises(BrokenBarrierError):
        barrier.wait()


def test_a_reset_breaks_off_waits_and_makes_the_barrier_as_new(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(3), ctx.Queue()
    barrier.reset()
    waiters = start_waiters(ctx, 2, barrier, answers)
    barrier.reset()
    assert [answers.get(timeout=60) for _ in waiters] == ["broken"] * 2
    assert not barrier.broken
    barrier.abort()
    barrier.reset()
    assert not barrier.broken
    waiters += start_waiters(ctx, 2, barrier, answers)
    barrier.wait()
    assert sorted(answers.get(timeout=60) for _ in range(2)) == [0, 1]
    join_all(waiters)


def test_the_action_is_called_once_before_anybody_goes_on(ctx: Any) -> None:
    count = ctx.Value("i", 0)
    barrier, answers = ctx.Barrier(3, action=CountUp(count)), ctx.Queue()
    for round in range(1, 4):
        waiters = start_waiters(ctx, 2, barrier, answers)
        assert count.value == round - 1
        barrier.wait()
        assert count.value == round
        join_all(waiters)


def test_an_action_that_raises_breaks_the_barrier(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(3, Fail()), ctx.Queue()
    processes = [start(ctx, wait_and_say_failure, barrier, answers) for _ in range(3)]
    found = sorted(answers.get(timeout=60) for _ in processes)
    assert found == ["BrokenBarrierError", "BrokenBarrierError", "LookupError"]
    join_all(processes)
    assert barrier.broken


def test_the_actions_time_is_not_that_of_those_who_wait(ctx: Any) -> None:
    begun, let_go, answers = ctx.Event(), ctx.Event(), ctx.Queue()
    gate = ctx.Event(name="gate")
    barrier = ctx.Barrier(2, Hold(begun, let_go))
    # It is there before the other's time begins to run.
    actor = start(ctx, wait_and_say_after, gate, barrier, answers)
    assert eventually(lambda: actor.state.blocked_on is not None)
    waiter = start(ctx, wait_and_say, barrier, answers, 2)
    assert eventually(lambda: barrier.n_waiting == 1)
    gate.set()
    begun.wait()
    time.sleep(2.1)
    assert answers.empty() and not barrier.broken
    let_go.set()
    assert sorted(answers.get(timeout=60) for _ in range(2)) == [0, 1]
    join_all([waiter, actor])


def test_an_abort_during_the_action_is_an_end_for_all(ctx: Any) -> None:
    begun, let_go, answers = ctx.Event(), ctx.Event(), ctx.Queue()
    barrier = ctx.Barrier(2, Hold(begun, let_go))
    processes = [start(ctx, wait_and_say, barrier, answers) for _ in range(2)]
    begun.wait()
    barrier.abort()
    assert answers.get(timeout=60) == "broken"
    let_go.set()
    assert answers.get(timeout=60) == "broken"
    join_all(processes)


def test_more_than_the_parties_meet_in_turns(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(2, CountUp(ctx.Value("i", 0))), ctx.Queue()
    processes = [start(ctx, wait_and_say, barrier, answers) for _ in range(6)]
    join_all(processes)
    assert sorted(answers.get() for _ in processes) == [0, 0, 0, 1, 1, 1]


def test_what_is_sent_is_the_same_barrier_with_its_action(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    answers, queue = ctx.Queue(), ctx.Queue()
    process = start(ctx, come_to_what_comes, receiver, answers)
    barrier = ctx.Barrier(2, timeout=60)
    copy = pickle.loads(pickle.dumps(barrier))
    assert type(copy) is type(barrier)
    assert (copy.parties, copy.handle) == (2, barrier.handle)
    queue.put(barrier)
    for either in (barrier, copy, queue.get()):
        sender.send(either)
        assert {barrier.wait(), answers.get(timeout=60)} == {0, 1}
    sender.send(None)
    process.join()
    acting = ctx.Barrier(1, Fail())
    with pytest.raises(LookupError, match="the action failed"):
        pickle.loads(pickle.dumps(acting)).wait()
    assert acting.broken


def test_barriers_leave_nothing_in_the_arena(ctx: Any) -> None:
    def use() -> None:
        barrier = ctx.Barrier(2)
        process = start(ctx, wait, barrier)
        barrier.wait()
        process.join()

    use()
    before = (len(procession._native.objects()), procession._native.memory()["used"])
    for _ in range(3):
        use()
    assert (len(procession._native.objects()), procession._native.memory()["used"]) == before


# Signals.


def test_who_is_interrupted_leaves_and_another_takes_its_place(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(3), ctx.Queue()
    waiters = start_waiters(ctx, 1, barrier, answers)
    for timeout in (None, 60):
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            barrier.wait(timeout)
    assert (barrier.n_waiting, barrier.broken) == (1, False)
    waiters += start_waiters_beside(ctx, barrier, answers)
    mine = barrier.wait()
    assert sorted([mine] + [answers.get(timeout=60) for _ in waiters]) == [0, 1, 2]
    join_all(waiters)


def start_waiters_beside(ctx: Any, barrier: Any, answers: Any) -> list[Any]:
    waiter = start(ctx, wait_and_say, barrier, answers)
    assert eventually(lambda: barrier.n_waiting == 2)
    return [waiter]


@pytest.fixture
def alarms() -> Iterator[list[int]]:
    """The calls of a handler that returns, one each hundredth of a second."""
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    yield calls
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_handler_that_returns_does_not_end_a_wait(ctx: Any, alarms: list[int]) -> None:
    barrier = ctx.Barrier(2)
    with pytest.raises(BrokenBarrierError):
        barrier.wait(0.2)
    assert len(alarms) >= 3
    barrier.reset()
    process = start(ctx, wait, barrier)
    barrier.wait()
    process.join()


# Processes that die.


@pytest.mark.parametrize("others", [0, 1, 4])
def test_a_barrier_breaks_when_one_who_waits_is_killed(ctx: Any, others: int) -> None:
    barrier, answers = ctx.Barrier(others + 2), ctx.Queue()
    waiters = start_waiters(ctx, others + 1, barrier, answers)
    kill(waiters.pop())
    if not waiters:
        # The last to come finds that no other party is left.
        with pytest.raises(BrokenBarrierError):
            barrier.wait()
    assert [answers.get(timeout=60) for _ in waiters] == ["broken"] * others
    join_all(waiters)
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken
    waiters = start_waiters(ctx, others + 1, barrier, answers)
    barrier.wait()
    join_all(waiters)


def test_a_barrier_breaks_when_the_process_dies_that_runs_the_action(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(3, Die()), ctx.Queue()
    processes = [start(ctx, wait_and_say, barrier, answers) for _ in range(3)]
    assert [answers.get(timeout=60) for _ in range(2)] == ["broken"] * 2
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [-signal.SIGKILL, 0, 0]
    assert barrier.broken


def test_who_is_slow_to_leave_holds_up_nobody(ctx: Any) -> None:
    barrier, answers = ctx.Barrier(2), ctx.Queue()
    slow = start_waiters(ctx, 1, barrier, answers)[0]
    assert eventually(lambda: is_asleep(slow.pid))
    os.kill(slow.pid, signal.SIGSTOP)
    assert barrier.wait() == 1
    for _ in range(20):
        waiters = start_waiters(ctx, 1, barrier, answers)
        barrier.wait()
        assert answers.get(timeout=60) == 0
        join_all(waiters)
    barrier.abort()
    os.kill(slow.pid, signal.SIGCONT)
    assert answers.get(timeout=60) == 0, "its own meeting had passed"
    join_all([slow])


def test_processes_killed_at_any_instant_leave_a_barrier_that_works(ctx: Any) -> None:
    barrier = ctx.Barrier(3)
    processes = [start(ctx, wait_until_killed, barrier) for _ in range(3)]
    for _ in range(30):
        time.sleep(random.uniform(0.0, 0.02))
        kill(processes.pop(random.randrange(3)))
        processes.append(start(ctx, wait_until_killed, barrier))
    for process in processes:
        kill(process)
    barrier.reset()
    waiters = start_waiters(ctx, 2, barrier, ctx.Queue())
    barrier.wait()
    join_all(waiters)
    procession._native.check()
