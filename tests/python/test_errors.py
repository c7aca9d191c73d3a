"""What errors say: which process, which object, and what to do."""

from __future__ import annotations

import doctest
import os
import pickle
import signal
import warnings
from typing import Any

import procession
import pytest
from processes import eventually, is_running
from procession import OwnerDiedError, StaleHandleError

KINDS = ["Lock", "RLock"]


def hold_and_die(lock: Any, pids: Any = None) -> None:
    lock.acquire()
    if pids is not None:
        pids.put(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def start_holder_and_leave(method: str, lock: Any, pids: Any) -> None:
    context = procession.get_context(method)
    context.Process(target=hold_and_die, args=(lock, pids), name="the grandchild").start()


def dead_holder(ctx: Any, lock: Any) -> Any:
    process = ctx.Process(target=hold_and_die, args=(lock,), name="the holder")
    process.start()
    assert eventually(lambda: not is_running(process.pid))
    return process


def check(error: OwnerDiedError, kind: str, lock: Any, pid: int) -> None:
    text = str(error)
    assert f'process {pid} ("the holder") died while it held {kind} "the books"' in text
    assert lock.handle in text
    assert 'on_owner_death="recover"' in text
    assert (error.pid, error.process) == (pid, "the holder")
    assert error.thread == pid
    assert (error.kind, error.name, error.handle) == (kind, "the books", lock.handle)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joined", [False, True])
def test_a_dead_owner_is_named_with_what_it_held(ctx: Any, kind: str, joined: bool) -> None:
    lock = getattr(ctx, kind)(name="the books")
    process = dead_holder(ctx, lock)
    if joined:
        process.join()
    with pytest.raises(OwnerDiedError) as raised:
        lock.acquire()
    check(raised.value, kind, lock, process.pid)
    assert "The lock is free again" in str(raised.value)
    again = pickle.loads(pickle.dumps(raised.value))
    check(again, kind, lock, process.pid)
    assert lock.acquire(timeout=0)
    lock.release()
    process.join()


@pytest.mark.parametrize("kind", KINDS)
def test_with_names_a_dead_owner_too(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)(name="the books")
    process = dead_holder(ctx, lock)
    with pytest.raises(OwnerDiedError) as raised, lock:
        pytest.fail("it was entered")
    check(raised.value, kind, lock, process.pid)
    process.join()


@pytest.mark.parametrize("kind", KINDS)
def test_recovering_warns_of_a_dead_owner_by_name(ctx: Any, kind: str) -> None:
    lock = getattr(ctx, kind)(name="the books", on_owner_death="recover")
    process = dead_holder(ctx, lock)
    with pytest.warns(RuntimeWarning) as warned:
        assert lock.acquire()
    (told,) = warned
    assert f'process {process.pid} ("the holder") died while it held {kind} "the books"' in str(
        told.message
    )
    lock.release()
    process.join()
    with warnings.catch_warnings():
        # Since Python 3.15 a fork beside other threads, as here the watchdog, would raise as well.
        warnings.simplefilter("error", RuntimeWarning)
        process = dead_holder(ctx, lock)
        with pytest.raises(RuntimeWarning):
            lock.acquire()
        assert not lock.locked()
    process.join()


def test_an_owner_without_a_name_for_its_lock_is_told_by_handle(ctx: Any) -> None:
    lock = ctx.Lock()
    process = dead_holder(ctx, lock)
    with pytest.raises(OwnerDiedError) as raised:
        lock.acquire()
    assert f"died while it held Lock {lock.handle}, and" in str(raised.value)
    assert raised.value.name == ""
    process.join()


def test_a_condition_names_a_dead_owner_and_says_that_the_lock_is_held(ctx: Any) -> None:
    condition = ctx.Condition(ctx.Lock(name="the books"))
    with condition:
        process = ctx.Process(target=hold_and_die, args=(condition,), name="the holder")
        process.start()
        with pytest.raises(OwnerDiedError) as raised:
            condition.wait(60)
        assert condition._lock._is_mine()
    check(raised.value, "Lock", condition._lock, process.pid)
    assert "held by this thread" in str(raised.value)
    process.join()


def is_buried(pid: int) -> bool:
    procession._native.check()
    return all(process["pid"] != pid for process in procession._native.processes())


def employ(method: str, lock: Any, pids: Any) -> None:
    context = procession.get_context(method)
    clerk = context.Process(target=hold_and_die, args=(lock, pids), name="the holder")
    clerk.start()
    clerk.join()


def test_a_dead_owner_is_named_when_another_process_has_buried_it(ctx: Any, method: str) -> None:
    lock, pids = ctx.Lock(name="the books"), ctx.Queue()
    employer = ctx.Process(target=employ, args=(method, lock, pids))
    employer.start()
    pid = pids.get()
    employer.join()
    assert eventually(lambda: is_buried(pid))
    with pytest.raises(OwnerDiedError) as raised:
        lock.acquire()
    check(raised.value, "Lock", lock, pid)


def test_a_dead_owner_whose_parent_is_dead_too_is_named(ctx: Any, method: str) -> None:
    lock, pids = ctx.Lock(name="the books"), ctx.Queue()
    parent = ctx.Process(target=start_holder_and_leave, args=(method, lock, pids))
    parent.start()
    grandchild = pids.get()
    parent.join()
    assert eventually(lambda: not is_running(grandchild))
    assert eventually(lambda: is_buried(grandchild))
    with pytest.raises(OwnerDiedError) as raised:
        lock.acquire()
    assert (raised.value.pid, raised.value.process) == (grandchild, "the grandchild")
    assert raised.value.thread == grandchild
    assert f'process {grandchild} ("the grandchild") died' in str(raised.value)
    assert 'Lock "the books"' in str(raised.value)


def test_a_child_that_has_the_place_of_a_dead_owner_is_not_taken_for_it(ctx: Any) -> None:
    lock = ctx.Lock(name="the books")
    process = dead_holder(ctx, lock)
    process.join()
    for _ in range(3):
        other = ctx.Process(target=int, name="another")
        other.start()
        other.join()
    with pytest.raises(OwnerDiedError) as raised:
        lock.acquire()
    check(raised.value, "Lock", lock, process.pid)


def test_a_loss_of_tasks_has_no_single_owner(ctx: Any) -> None:
    queue = ctx.JoinableQueue()
    queue.put(1)
    process = ctx.Process(target=queue.get)
    process.start()
    process.join()
    with pytest.raises(OwnerDiedError) as raised:
        queue.join()
    assert (raised.value.pid, raised.value.kind) == (None, None)


def test_the_example_of_owner_died_error_is_true() -> None:
    assert OwnerDiedError.__doc__ is not None
    example = doctest.DocTestParser().get_doctest(
        OwnerDiedError.__doc__, {}, "OwnerDiedError", None, 0
    )
    assert len(example.examples) > 5
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, len(example.examples))


STALE: dict[str, Any] = {
    "Lock": lambda ctx, name: ctx.Lock(name=name),
    "RLock": lambda ctx, name: ctx.RLock(name=name),
    "Semaphore": lambda ctx, name: ctx.Semaphore(name=name),
    "Event": lambda ctx, name: ctx.Event(name=name),
    "Queue": lambda ctx, name: ctx.Queue(name=name),
    "Barrier": lambda ctx, name: ctx.Barrier(2, name=name),
}


@pytest.mark.parametrize("kind", STALE)
@pytest.mark.parametrize("name", ["", "the books"])
def test_a_stale_handle_is_told_with_kind_and_name(kind: str, name: str) -> None:
    thing = STALE[kind](procession.get_context("fork"), name)
    state, handle = thing.__getstate__(), thing.handle if kind != "Queue" else None
    handle = handle or state
    late = type(thing).__new__(type(thing))
    del thing
    with pytest.raises(StaleHandleError) as raised:
        late.__setstate__(state)
    what = f'{kind} "{name}"' if name else kind
    assert str(raised.value).startswith(f"{handle} names a {what} that has been freed")
    assert "keep it in a variable until its receiver has got it" in str(raised.value)
    told = (raised.value.kind, raised.value.name, raised.value.handle)
    assert told == (kind, name, handle)


def test_a_stale_handle_is_not_told_by_the_name_of_the_object_in_its_place() -> None:
    lock = procession.Lock(name="the books")
    state, late = lock.__getstate__(), type(lock).__new__(type(lock))
    place = lock.handle.split(":")[2]
    del lock
    others: list[Any] = []
    while not any(other.handle.split(":")[2] == place for other in others):
        others.append(procession.Event(name="another"))
    with pytest.raises(StaleHandleError, match="names a Lock that has been freed") as raised:
        late.__setstate__(state)
    assert (raised.value.kind, raised.value.name) == ("Lock", None)


def test_a_condition_whose_lock_is_there_is_told_by_its_kind() -> None:
    condition = procession.Condition()
    lock, handle = condition.__getstate__()
    del condition
    late = procession.synchronize.Condition.__new__(procession.synchronize.Condition)
    with pytest.raises(StaleHandleError, match="names a Condition that has been freed"):
        late.__setstate__((lock, handle))
