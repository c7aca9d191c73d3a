"""What errors say: of whom, of what, and what is to be done."""

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
        warnings.simplefilter("error")
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


def test_what_is_not_known_any_more_is_none(ctx: Any, method: str) -> None:
    lock, pids = ctx.Lock(name="the books"), ctx.Queue()
    parent = ctx.Process(target=start_holder_and_leave, args=(method, lock, pids))
    parent.start()
    grandchild = pids.get()
    parent.join()
    assert eventually(lambda: not is_running(grandchild))
    procession._native.check()
    with pytest.raises(OwnerDiedError) as raised:
        lock.acquire()
    # Whoever looks may have buried it, and nobody here has its name.
    assert raised.value.pid in (None, grandchild)
    assert raised.value.thread == grandchild
    assert str(grandchild) in str(raised.value)
    assert 'Lock "the books"' in str(raised.value)


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
    "Lock": lambda ctx: ctx.Lock(),
    "RLock": lambda ctx: ctx.RLock(),
    "Semaphore": lambda ctx: ctx.Semaphore(),
    "Event": lambda ctx: ctx.Event(),
    "Queue": lambda ctx: ctx.Queue(),
    "Barrier": lambda ctx: ctx.Barrier(2),
}


@pytest.mark.parametrize("kind", STALE)
def test_a_stale_handle_is_told_with_its_kind(kind: str) -> None:
    thing = STALE[kind](procession.get_context("fork"))
    state, handle = thing.__getstate__(), thing.handle if kind != "Queue" else None
    handle = handle or state
    late = type(thing).__new__(type(thing))
    del thing
    with pytest.raises(StaleHandleError) as raised:
        late.__setstate__(state)
    assert str(raised.value).startswith(f"{handle} names a {kind} that has been freed")
    assert "keep it in a variable until its receiver has got it" in str(raised.value)
    assert (raised.value.kind, raised.value.handle) == (kind, handle)


def test_a_condition_whose_lock_is_there_is_told_by_its_kind() -> None:
    condition = procession.Condition()
    lock, handle = condition.__getstate__()
    del condition
    late = procession.synchronize.Condition.__new__(procession.synchronize.Condition)
    with pytest.raises(StaleHandleError, match="names a Condition that has been freed"):
        late.__setstate__((lock, handle))
