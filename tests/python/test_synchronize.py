"""Locks, semaphores and events: the standard library's semantics, and owners that die."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import procession
import pytest
from processes import eventually, is_asleep
from procession import OwnerDiedError

# What children do.


def release(thing: Any) -> None:
    thing.release()


def acquire_and_die(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def acquire_and_leave(lock: Any) -> None:
    lock.acquire()


def hold(lock: Any, held: Any) -> None:
    lock.acquire()
    held.set()
    while True:
        time.sleep(60)


def hold_again_and_again(lock: Any, turns: Any, most: int, stop: Any) -> None:
    while turns.value < most and not stop.is_set():
        with lock:
            turns.value += 1
            time.sleep(0.005)


def say_how_acquire_ends(lock: Any, endings: Any) -> None:
    try:
        lock.acquire()
    except OwnerDiedError:
        endings.put("told")
        return
    endings.put("acquired")
    lock.release()


def acquire_and_put(lock: Any, answers: Any) -> None:
    answers.put(lock.acquire())


def release_and_die(semaphore: Any, times: int) -> None:
    for _ in range(times):
        semaphore.release()
    os.kill(os.getpid(), signal.SIGKILL)


def set_and_die(event: Any) -> None:
    event.set()
    os.kill(os.getpid(), signal.SIGKILL)


def try_acquire(lock: Any, found: Any) -> None:
    found.put(lock.acquire(block=False))


def count_up(lock: Any, value: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


def use_what_comes(things: Any, answers: Any) -> None:
    while (thing := things.get()) is not None:
        answers.put(use(thing))


def use(thing: Any) -> object:
    if hasattr(thing, "is_set"):
        return thing.is_set()
    return thing.acquire(timeout=0)


def set_when_signalled(event: Any, ready: Any) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: event.set())
    ready.set()
    while True:
        time.sleep(60)


def wait_and_put(event: Any, answers: Any) -> None:
    answers.put(event.wait())


def say_repr(thing: Any, answers: Any) -> None:
    answers.put(repr(thing))


def run_in(ctx: Any, target: Callable[..., object], *args: Any) -> int | None:
    process = ctx.Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode  # type: ignore[no-any-return]


KINDS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore"]
OWNED = ["Lock", "RLock"]


@pytest.fixture(params=KINDS)
def lock(request: pytest.FixtureRequest, ctx: Any) -> Any:
    """One of each kind of lock."""
    return getattr(ctx, request.param)()


@pytest.fixture(params=OWNED)
def owned_lock(request: pytest.FixtureRequest, ctx: Any) -> Any:
    """One of each kind of lock that knows its owner."""
    return getattr(ctx, request.param)()


# The standard library's semantics.


def test_a_free_lock_is_acquired_and_released(lock: Any) -> None:
    for _ in range(3):
        assert lock.acquire() is True
        assert lock.release() is None
    with lock as entered:
        assert entered is True
    assert lock.acquire(False) is True
    lock.release()
    assert lock.acquire(True, None) is True
    lock.release()
    assert lock.acquire(block=True, timeout=-1) is True
    lock.release()


def test_a_lock_is_released_when_the_body_raises(lock: Any) -> None:
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert lock.acquire(block=False)
    lock.release()


def test_a_held_lock_is_not_acquired_in_another_process(ctx: Any, lock: Any) -> None:
    found = ctx.Queue()
    with lock:
        run_in(ctx, try_acquire, lock, found)
        assert found.get() is False
    run_in(ctx, try_acquire, lock, found)
    assert found.get() is True


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "BoundedSemaphore"])
def test_a_held_lock_times_out(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)()
    lock.acquire()
    assert lock.acquire(block=False) is False
    assert lock.acquire(False, 5) is False
    assert lock.acquire(timeout=0) is False
    assert lock.acquire(timeout=-3) is False
    assert lock.acquire(True, 0.02) is False
    lock.release()
    assert lock.acquire(timeout=60) is True
    lock.release()


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "BoundedSemaphore"])
def test_another_thread_may_release(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)()
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lock.acquire(block=False)
    lock.release()


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "BoundedSemaphore"])
def test_another_process_may_release(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)()
    lock.acquire()
    assert run_in(ctx, release, lock) == 0
    assert lock.acquire(block=False)
    lock.release()


@pytest.mark.parametrize("kind", ["Lock", "BoundedSemaphore"])
def test_releasing_too_often_is_a_value_error(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)()
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(ValueError, match="released too many times"):
        lock.release()


def test_an_rlock_is_acquired_again_by_its_thread(ctx: Any) -> None:
    lock = ctx.RLock()
    found: list[bool] = []

    def try_from_another_thread() -> None:
        thread = threading.Thread(target=lambda: found.append(lock.acquire(block=False)))
        thread.start()
        thread.join()
        if found[-1]:
            raise AssertionError("two threads hold one lock")

    for _ in range(5):
        assert lock.acquire()
    for _ in range(5):
        try_from_another_thread()
        lock.release()
    with pytest.raises(AssertionError, match="attempt to release recursive lock"):
        lock.release()
    assert found == [False] * 5


def test_an_rlock_is_released_by_its_thread_alone(ctx: Any, capfd: Any) -> None:
    lock = ctx.RLock()
    lock.acquire()
    found: list[object] = []

    def release_here() -> None:
        try:
            lock.release()
        except AssertionError as error:
            found.append(error)

    thread = threading.Thread(target=release_here)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert run_in(ctx, release, lock) == 1
    assert "AssertionError" in capfd.readouterr().err
    lock.release()


def test_a_semaphore_has_as_many_permits_as_asked_for(ctx: Any) -> None:
    semaphore = ctx.Semaphore(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire()
    assert semaphore.acquire()
    assert semaphore.get_value() == 0
    assert not semaphore.acquire(block=False)
    semaphore.release()
    semaphore.release()
    semaphore.release()
    assert semaphore.get_value() == 3


def test_a_semaphore_may_begin_with_no_permit(ctx: Any) -> None:
    semaphore = ctx.Semaphore(0)
    assert not semaphore.acquire(timeout=0.01)
    assert run_in(ctx, release, semaphore) == 0
    assert semaphore.acquire()


@pytest.mark.parametrize("wrong", [-1, 2**31])
def test_permits_that_no_semaphore_can_have_are_refused(ctx: Any, wrong: int) -> None:
    standard = multiprocessing.get_context("fork").Semaphore
    errors = []
    for semaphore in (ctx.Semaphore, standard):
        with pytest.raises((OSError, OverflowError)) as raised:
            semaphore(wrong)
        errors.append((raised.type, str(raised.value)))
    assert errors[0] == errors[1]


def test_more_permits_than_can_be_recovered_are_refused(ctx: Any) -> None:
    with pytest.raises(ValueError, match="at most 8192 of them, not 8193"):
        ctx.Semaphore(8193, recover=True)


def wait_for(event: Any) -> None:
    event.wait()


def test_who_waits_for_long_hardly_wakes(ctx: Any) -> None:
    event = ctx.Event()
    process = ctx.Process(target=wait_for, args=(event,))
    process.start()

    def switches() -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("nonvoluntary")[0].split("ctxt_switches:")[-1])

    # The ticks double from 5 to 160 ms, so about ten of them lie within two seconds. Without the
    # doubling there would be hundreds. A busy machine only has fewer.
    assert eventually(lambda: is_asleep(process.pid))
    time.sleep(1)
    before = switches()
    time.sleep(1)
    after = switches()
    event.set()
    process.join()
    assert after - before < 50


def test_a_bounded_semaphore_has_no_more_permits_than_at_first(ctx: Any) -> None:
    semaphore = ctx.BoundedSemaphore(2)
    semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    assert semaphore.get_value() == 2


def test_an_event_is_set_and_cleared(ctx: Any) -> None:
    event = ctx.Event()
    assert event.is_set() is False
    assert event.wait(0) is False
    assert event.wait(0.01) is False
    event.set()
    event.set()
    assert event.is_set() is True
    assert event.wait() is True
    assert event.wait(0) is True
    event.clear()
    assert event.is_set() is False
    assert event.wait(0) is False


def test_setting_an_event_wakes_all_who_wait(ctx: Any) -> None:
    event = ctx.Event()
    answers = ctx.Queue()
    processes = [ctx.Process(target=wait_and_put, args=(event, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        assert eventually(lambda: is_asleep(process.pid))  # noqa: B023
    event.set()
    assert [answers.get() for _ in processes] == [True] * 4
    for process in processes:
        process.join()


def test_a_lock_keeps_processes_out_of_each_others_way(ctx: Any, lock: Any) -> None:
    value = ctx.Value("i", 0, lock=False)
    processes = [ctx.Process(target=count_up, args=(lock, value, 2000)) for _ in range(4)]
    for process in processes:
        process.start()
    count_up(lock, value, 2000)
    for process in processes:
        process.join()
    assert value.value == 10_000


def test_a_lock_keeps_threads_out_of_each_others_way(lock: Any) -> None:
    inside = 0
    most = 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(300):
            with lock:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_tells_who_holds_it(ctx: Any) -> None:
    answers = ctx.Queue()
    lock = ctx.Lock()
    assert repr(lock) == "<Lock(owner=None)>"
    with lock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        run_in(ctx, say_repr, lock, answers)
        assert answers.get() == "<Lock(owner=SomeOtherProcess)>"
        thread = threading.Thread(target=lambda: answers.put(repr(lock)))
        thread.start()
        thread.join()
        assert answers.get() in ("<Lock(owner=SomeOtherThread)>", "<Lock(owner=SomeOtherProcess)>")
    rlock = ctx.RLock()
    assert repr(rlock) == "<RLock(None, 0)>"
    with rlock, rlock:
        assert repr(rlock) == "<RLock(MainProcess, 2)>"


def test_semaphores_and_events_show_their_state(ctx: Any) -> None:
    semaphore = ctx.Semaphore(3)
    assert repr(semaphore) == "<Semaphore(value=3)>"
    assert repr(ctx.BoundedSemaphore(2)).startswith("<BoundedSemaphore(value=2")
    event = ctx.Event()
    assert repr(event).endswith(" unset>")
    event.set()
    assert repr(event).endswith(" set>")


def test_what_is_sent_through_a_queue_is_the_same_object(ctx: Any) -> None:
    things, answers = ctx.Queue(), ctx.Queue()
    process = ctx.Process(target=use_what_comes, args=(things, answers))
    process.start()
    for kind in KINDS:
        lock = getattr(ctx, kind)()
        things.put(lock)
        assert answers.get() is True
        assert lock.acquire(block=False) is False
    event = ctx.Event()
    things.put(event)
    assert answers.get() is False
    event.set()
    things.put(event)
    assert answers.get() is True
    things.put(None)
    process.join()


def test_a_copy_by_pickle_is_the_same_lock(lock: Any) -> None:
    copy = pickle.loads(pickle.dumps(lock))
    assert type(copy) is type(lock)
    copy.acquire()
    copy.release()
    assert copy.handle == lock.handle


def test_a_lock_that_is_freed_is_stale(ctx: Any) -> None:
    lock = ctx.Lock()
    text = pickle.dumps(lock)
    del lock
    with pytest.raises(procession.StaleHandleError):
        pickle.loads(text)


def test_locks_leave_nothing_in_the_arena(ctx: Any) -> None:
    def use_all() -> None:
        for kind in KINDS:
            lock = getattr(ctx, kind)()
            run_in(ctx, acquire_and_leave, lock)
            pickle.loads(pickle.dumps(lock))
        ctx.Event().set()

    use_all()
    before = len(procession._native.objects())
    for _ in range(3):
        use_all()
    assert len(procession._native.objects()) == before


@pytest.mark.parametrize("true", [True, 1, "yes", [0]])
@pytest.mark.parametrize("false", [False, 0, None, ""])
def test_whether_to_block_is_asked_as_python_asks(ctx: Any, true: Any, false: Any) -> None:
    for kind in KINDS:
        lock = getattr(ctx, kind)()
        assert lock.acquire(true) is True
        assert lock.acquire(block=false) is (kind == "RLock")
    queue = ctx.Queue()
    queue.put("a", true)
    assert queue.get(true, 1) == "a"
    with pytest.raises(Empty):
        queue.get(false)


def test_locked_says_whether_somebody_holds_it(ctx: Any) -> None:
    things = [getattr(ctx, kind)() for kind in KINDS] + [ctx.Condition()]
    for thing in things:
        assert thing.locked() is False
        thing.acquire()
        assert thing.locked() is True
        thing.release()
        assert thing.locked() is False


def test_a_lock_tells_whose_it_is(ctx: Any) -> None:
    for kind, of_mine, of_others in (
        ("Lock", "owner=MainProcess", "owner={}"),
        ("RLock", "MainProcess, 1", "{}, nonzero"),
    ):
        lock = getattr(ctx, kind)()
        lock.acquire()
        assert repr(lock) == f"<{kind}({of_mine})>"
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(repr(lock)))  # noqa: B023
        thread.start()
        thread.join()
        assert seen == [f"<{kind}({of_others.format('SomeOtherThread')})>"]
        lock.release()
        held = ctx.Event()
        holder = ctx.Process(target=hold, args=(lock, held))
        holder.start()
        held.wait()
        assert repr(lock) == f"<{kind}({of_others.format('SomeOtherProcess')})>"
        holder.kill()
        holder.join()


# Owners that die.


def test_a_killed_owner_hands_the_lock_on(ctx: Any, owned_lock: Any) -> None:
    assert run_in(ctx, acquire_and_die, owned_lock) == -signal.SIGKILL
    with pytest.raises(OwnerDiedError):
        owned_lock.acquire()
    for _ in range(2):
        assert owned_lock.acquire()
        owned_lock.release()


def test_an_owner_that_leaves_hands_the_lock_on(ctx: Any, owned_lock: Any) -> None:
    assert run_in(ctx, acquire_and_leave, owned_lock) == 0
    with pytest.raises(OwnerDiedError), owned_lock:
        pytest.fail("entered")
    with owned_lock:
        pass


@pytest.mark.parametrize("arguments", [{"block": False}, {"timeout": 0}, {"timeout": 60}])
def test_trying_tells_of_a_dead_owner_too(ctx: Any, owned_lock: Any, arguments: Any) -> None:
    run_in(ctx, acquire_and_die, owned_lock)
    with pytest.raises(OwnerDiedError):
        owned_lock.acquire(**arguments)
    assert owned_lock.acquire(**arguments)
    owned_lock.release()


@pytest.mark.parametrize("waiting", [1, 4])
def test_exactly_one_waiter_is_told(ctx: Any, owned_lock: Any, waiting: int) -> None:
    for _ in range(5):
        held, endings = ctx.Event(), ctx.Queue()
        owner = ctx.Process(target=hold, args=(owned_lock, held))
        owner.start()
        held.wait()
        waiters = [
            ctx.Process(target=say_how_acquire_ends, args=(owned_lock, endings))
            for _ in range(waiting)
        ]
        for waiter in waiters:
            waiter.start()
        for waiter in waiters:
            assert eventually(lambda: is_asleep(waiter.pid))  # noqa: B023
        owner.kill()
        told = sorted(endings.get() for _ in waiters)
        assert told == ["acquired"] * (waiting - 1) + ["told"]
        for process in (*waiters, owner):
            process.join()
        assert owned_lock.acquire(block=False)
        owned_lock.release()


def test_a_waiting_thread_is_told(ctx: Any, owned_lock: Any) -> None:
    held = ctx.Event()
    owner = ctx.Process(target=hold, args=(owned_lock, held))
    owner.start()
    held.wait()
    endings: list[str] = []

    class Endings:
        put = endings.append

    threads = [
        threading.Thread(target=say_how_acquire_ends, args=(owned_lock, Endings)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    owner.kill()
    owner.join()
    for thread in threads:
        thread.join()
    assert sorted(endings) == ["acquired"] * 2 + ["told"]


def is_above(number: Any, than: int) -> bool:
    return bool(number.value > than)


def test_a_holder_that_acquires_again_at_once_leaves_turns_to_a_waiter(
    ctx: Any, owned_lock: Any
) -> None:
    turns, stop, mine = ctx.RawValue("q"), ctx.Event(), 10
    most = 50 * mine
    args = (owned_lock, turns, most, stop)
    holder = ctx.Process(target=hold_again_and_again, args=args)
    holder.start()
    for _ in range(mine):
        seen = turns.value
        assert eventually(functools.partial(is_above, turns, seen))
        with owned_lock:
            assert turns.value < most
    stop.set()
    holder.join()
    assert holder.exitcode == 0


@pytest.mark.parametrize("kind", OWNED)
def test_a_recovering_lock_is_acquired_with_a_warning(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)(on_owner_death="recover")
    run_in(ctx, acquire_and_die, lock)
    with pytest.warns(RuntimeWarning, match="died"):
        assert lock.acquire() is True
    assert not acquired_elsewhere(lock)
    lock.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lock:
            pass
    copy = pickle.loads(pickle.dumps(lock))
    run_in(ctx, acquire_and_die, lock)
    with pytest.warns(RuntimeWarning, match="died"):
        assert copy.acquire() is True
    copy.release()


@pytest.mark.parametrize("kind", OWNED)
def test_a_warning_that_is_an_error_leaves_the_lock_free(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)(on_owner_death="recover")
    run_in(ctx, acquire_and_die, lock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            lock.acquire()
    assert acquired_elsewhere(lock)


def acquired_elsewhere(lock: Any) -> bool:
    """Whether another thread can acquire the lock; it is released again."""
    found: list[bool] = []

    def try_here() -> None:
        found.append(lock.acquire(block=False))
        if found[0]:
            lock.release()

    thread = threading.Thread(target=try_here)
    thread.start()
    thread.join()
    return found[0]


def test_what_to_do_on_an_owners_death_is_one_of_two(ctx: Any) -> None:
    for kind in (ctx.Lock, ctx.RLock):
        with pytest.raises(ValueError, match="on_owner_death"):
            kind(on_owner_death="ignore")


def test_a_child_does_not_own_what_its_parent_holds(ctx: Any, owned_lock: Any) -> None:
    found = ctx.Queue()
    with owned_lock:
        for _ in range(3):
            run_in(ctx, try_acquire, owned_lock, found)
            assert found.get() is False
    # The children have ended without it: no process has died with the lock.
    assert owned_lock.acquire()
    owned_lock.release()


def test_a_recovering_semaphores_permits_come_back(ctx: Any) -> None:
    semaphore = ctx.Semaphore(2, recover=True)
    for _ in range(3):
        assert run_in(ctx, acquire_and_die, semaphore) == -signal.SIGKILL
        assert run_in(ctx, acquire_and_leave, semaphore) == 0
    assert semaphore.acquire()
    assert semaphore.acquire()
    assert not semaphore.acquire(block=False)
    semaphore.release()
    semaphore.release()


@pytest.mark.parametrize("waiting", [1, 4])
def test_those_who_wait_get_a_dead_holders_permit(ctx: Any, waiting: int) -> None:
    semaphore = ctx.Semaphore(1, recover=True)
    held, answers = ctx.Event(), ctx.Queue()
    holder = ctx.Process(target=hold, args=(semaphore, held))
    holder.start()
    held.wait()
    waiters = [
        ctx.Process(target=say_how_acquire_ends, args=(semaphore, answers)) for _ in range(waiting)
    ]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        assert eventually(lambda: is_asleep(waiter.pid))  # noqa: B023
    holder.kill()
    # Each process releases the permit, and the next acquires it.
    assert [answers.get() for _ in waiters] == ["acquired"] * waiting
    for process in [*waiters, holder]:
        process.join()


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
@pytest.mark.parametrize("waiting", [0, 1, 4])
def test_a_plain_semaphores_permits_stay_with_the_dead(ctx: Any, kind: str, waiting: int) -> None:
    semaphore, held, answers = getattr(ctx, kind)(1), ctx.Event(), ctx.Queue()
    holder = ctx.Process(target=hold, args=(semaphore, held))
    holder.start()
    held.wait()
    waiters = start_waiting(ctx, waiting, say_how_acquire_ends, semaphore, answers)
    holder.kill()
    holder.join()

    assert semaphore.acquire(timeout=0.05) is False
    assert answers.empty()
    # The process that is told of the death releases it; then all go on.
    semaphore.release()

    assert [answers.get(timeout=60) for _ in waiters] == ["acquired"] * waiting
    for waiter in waiters:
        waiter.join()
    assert semaphore.get_value() == 1


def start_waiting(ctx: Any, count: int, wait: Any, *args: Any) -> list[Any]:
    """Start processes, and see each of them asleep."""
    waiters = [ctx.Process(target=wait, args=args) for _ in range(count)]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        assert eventually(lambda: is_asleep(waiter.pid))  # noqa: B023
    return waiters


@pytest.mark.parametrize("survivors", [0, 1, 3])
def test_killed_waiters_block_nobody(ctx: Any, lock: Any, survivors: int) -> None:
    answers = ctx.Queue()
    with lock:
        waiters = start_waiting(ctx, survivors + 2, say_how_acquire_ends, lock, answers)
        # The first of all, which is the next to be woken, and the last.
        for victim in (waiters.pop(0), waiters.pop()):
            victim.kill()
            victim.join()
    assert [answers.get(timeout=60) for _ in waiters] == ["acquired"] * survivors
    assert lock.acquire(timeout=60)
    lock.release()
    for waiter in waiters:
        waiter.join()


def test_killed_waiters_of_a_recovering_semaphore_block_nobody(ctx: Any) -> None:
    answers, semaphore = ctx.Queue(), ctx.Semaphore(1, recover=True)
    with semaphore:
        waiters = start_waiting(ctx, 4, say_how_acquire_ends, semaphore, answers)
        for victim in (waiters.pop(0), waiters.pop()):
            victim.kill()
            victim.join()
    assert [answers.get(timeout=60) for _ in waiters] == ["acquired"] * 2
    for waiter in waiters:
        waiter.join()
    assert semaphore.get_value() == 1


@pytest.mark.parametrize("survivors", [0, 1, 3])
def test_killed_waiters_of_an_event_block_nobody(ctx: Any, survivors: int) -> None:
    event, answers = ctx.Event(), ctx.Queue()
    waiters = start_waiting(ctx, survivors + 2, wait_and_put, event, answers)
    for victim in (waiters.pop(0), waiters.pop()):
        victim.kill()
        victim.join()
    event.set()
    assert [answers.get(timeout=60) for _ in waiters] == [True] * survivors
    assert event.wait(60)
    for waiter in waiters:
        waiter.join()


@pytest.mark.parametrize("waiting", [0, 1, 4])
def test_an_event_set_by_one_who_is_killed_is_set(ctx: Any, waiting: int) -> None:
    event, answers = ctx.Event(), ctx.Queue()
    waiters = start_waiting(ctx, waiting, wait_and_put, event, answers)
    assert run_in(ctx, set_and_die, event) == -signal.SIGKILL
    assert event.is_set()
    assert [answers.get(timeout=60) for _ in waiters] == [True] * waiting
    for waiter in waiters:
        waiter.join()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_signaller_killed_between_two_releases_wakes_so_many(ctx: Any, times: int) -> None:
    for kind in ("Semaphore", "BoundedSemaphore"):
        semaphore, answers = getattr(ctx, kind)(4), ctx.Queue()
        for _ in range(4):
            semaphore.acquire()
        waiters = start_waiting(ctx, 4, acquire_and_put, semaphore, answers)
        assert run_in(ctx, release_and_die, semaphore, times) == -signal.SIGKILL
        assert [answers.get(timeout=60) for _ in range(times)] == [True] * times
        assert answers.empty()
        for _ in range(4 - times):
            semaphore.release()
        assert [answers.get(timeout=60) for _ in range(4 - times)] == [True] * (4 - times)
        for waiter in waiters:
            waiter.join()


# Signals.


def test_an_event_may_be_set_in_a_signal_handler(ctx: Any) -> None:
    event = ctx.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert event.wait() is True
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_event_set_in_another_processes_signal_handler_wakes(ctx: Any) -> None:
    event, ready = ctx.Event(), ctx.Event()
    process = ctx.Process(target=set_when_signalled, args=(event, ready))
    process.start()
    ready.wait()
    os.kill(process.pid, signal.SIGUSR1)
    assert event.wait() is True
    process.kill()
    process.join()


def test_a_handler_that_returns_does_not_end_a_wait(ctx: Any, owned_lock: Any) -> None:
    calls: list[int] = []
    event = ctx.Event()
    semaphore = ctx.Semaphore(0)

    def handle(*_: object) -> None:
        calls.append(1)
        if len(calls) % 5 == 0:
            event.set()
            semaphore.release()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        assert event.wait() is True
        assert len(calls) >= 5
        assert semaphore.acquire() is True
        assert semaphore.acquire() is True
        assert len(calls) >= 10
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def hold_in_thread(lock: Any) -> Callable[[], None]:
    """Acquire a lock in another thread; return what releases it there."""
    held, leave = threading.Event(), threading.Event()

    def work() -> None:
        with lock:
            held.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    held.wait()

    def let_go() -> None:
        leave.set()
        thread.join()

    return let_go


def test_ctrl_c_interrupts_a_wait_for_a_lock(lock: Any) -> None:
    let_go = hold_in_thread(lock)
    for arguments in ((), (True, 60)):
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            lock.acquire(*arguments)
    let_go()
    assert lock.acquire(timeout=60)
    lock.release()


def test_ctrl_c_interrupts_a_wait_for_an_event(ctx: Any) -> None:
    event = ctx.Event()
    for arguments in ((), (60,)):
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            event.wait(*arguments)
    event.set()
    assert event.wait()


# Threads.


def test_waiting_holds_up_no_other_thread(ctx: Any, lock: Any) -> None:
    event = ctx.Event()
    let_go = hold_in_thread(lock)
    waiters = [
        threading.Thread(target=event.wait),
        threading.Thread(target=lambda: lock.acquire() and lock.release()),
    ]
    for waiter in waiters:
        waiter.start()
    assert sum(range(10_000)) == 49_995_000
    event.set()
    let_go()
    for waiter in waiters:
        waiter.join()


def test_locks_and_events_start_no_thread(ctx: Any) -> None:
    before = threading.active_count()
    native = set(os.listdir("/proc/self/task"))
    locks = [getattr(ctx, kind)() for kind in KINDS]
    for lock in locks:
        with lock:
            pass
    ctx.Event().wait(0.01)
    assert threading.active_count() == before
    assert set(os.listdir("/proc/self/task")) <= native


def test_values_and_arrays_are_shared(ctx: Any) -> None:
    value = ctx.Value("i", 5)
    array = ctx.Array("d", [1.0, 2.0])
    assert run_in(ctx, change, value, array) == 0
    assert value.value == 6
    assert list(array) == [1.0, 7.0]


def change(value: Any, array: Any) -> None:
    with value.get_lock():
        value.value += 1
    array[1] = 7.0
