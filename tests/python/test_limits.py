"""What "cannot hang because something died" does not cover, as README.md says it.

In each of these nothing has died that only the dead could have given. A timeout is kept, and what
helps does help.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from queue import Empty, Full
from typing import Any

import procession
import pytest
from processes import eventually, stat
from procession import OwnerDiedError

SHORT = 0.3
"""Seconds to wait for an event that does not come."""


def nothing() -> None:
    pass


def acquire_and_die(lock: Any) -> None:
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def hold(lock: Any, held: Any, go_on: Any) -> None:
    with lock:
        held.set()
        go_on.wait()


def run(ctx: Any, target: Any, *args: Any) -> Any:
    process = ctx.Process(target=target, args=args)
    process.start()
    return process


def test_a_queue_whose_producers_are_dead_has_no_end(ctx: Any) -> None:
    queue = ctx.Queue()
    run(ctx, queue.put, 1).join()
    assert queue.get() == 1
    with pytest.raises(Empty):
        queue.get(timeout=SHORT)
    # The program itself says that no more messages come.
    run(ctx, queue.put, None).join()
    assert queue.get() is None


def test_a_full_queue_that_nobody_reads_stays_full(ctx: Any) -> None:
    queue = ctx.Queue(1)
    queue.put(1)
    consumer = run(ctx, nothing)
    consumer.join()
    with pytest.raises(Full):
        queue.put(2, timeout=SHORT)
    unbounded = ctx.Queue()
    for number in range(10_000):
        unbounded.put(number)


def test_an_event_whose_setter_is_dead_is_not_set(ctx: Any) -> None:
    event, condition = ctx.Event(), ctx.Condition()
    run(ctx, nothing).join()
    assert not event.wait(SHORT)
    with condition:
        assert not condition.wait(SHORT)


def test_a_semaphores_permit_comes_back_only_where_it_is_asked_for(ctx: Any) -> None:
    plain, recovering = ctx.Semaphore(1), ctx.Semaphore(1, recover=True)
    for semaphore in (plain, recovering):
        run(ctx, acquire_and_die, semaphore).join()
    assert not plain.acquire(timeout=SHORT)
    assert recovering.acquire(timeout=60)


def test_a_stopped_holder_is_alive(ctx: Any) -> None:
    lock, held, go_on = ctx.Lock(), ctx.Event(), ctx.Event()
    holder = run(ctx, hold, lock, held, go_on)
    held.wait()
    os.kill(holder.pid, signal.SIGSTOP)
    assert eventually(lambda: (stat(holder.pid) or "?")[0] == "T")
    go_on.set()
    assert not lock.acquire(timeout=SHORT)
    os.kill(holder.pid, signal.SIGCONT)
    assert lock.acquire(timeout=60)
    lock.release()
    holder.join()
    held.clear()
    go_on.clear()
    holder = run(ctx, hold, lock, held, go_on)
    held.wait()
    os.kill(holder.pid, signal.SIGSTOP)
    # A stopped process can be killed, and then it is dead.
    holder.kill()
    with pytest.raises(OwnerDiedError):
        lock.acquire(timeout=60)
    holder.join()


def hold_in_the_kernel(lock: Any, held: Any, fifo: str) -> None:
    with lock:
        held.set()
        # The child opens its input before it runs the program. Until then this process sleeps
        # uninterruptibly, like a process that waits for a disk.
        os.posix_spawn(
            "/bin/true",
            ["true"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, fifo, os.O_RDONLY, 0)],
        )
    os.wait()


def test_a_holder_that_the_kernel_keeps_is_alive(ctx: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    lock, held = ctx.Lock(), ctx.Event()
    holder = run(ctx, hold_in_the_kernel, lock, held, str(fifo))
    held.wait()
    assert eventually(lambda: (stat(holder.pid) or "?")[0] == "D")
    assert not lock.acquire(timeout=SHORT)
    os.close(os.open(fifo, os.O_WRONLY))
    assert lock.acquire(timeout=60)
    holder.join()
    assert holder.exitcode == 0


def hold_and_want(first: Any, second: Any, held: Any, other_held: Any, over: Any) -> None:
    with first:
        held.set()
        other_held.wait()
        try:
            second.acquire()
        except OwnerDiedError:
            over.set()


def test_locks_taken_in_different_orders_are_a_deadlock(ctx: Any) -> None:
    one, two = ctx.Lock(name="one"), ctx.Lock(name="two")
    one_held, two_held, over = ctx.Event(), ctx.Event(), ctx.Event()
    both = [
        run(ctx, hold_and_want, one, two, one_held, two_held, over),
        run(ctx, hold_and_want, two, one, two_held, one_held, over),
    ]

    def waits_for(process: Any) -> Any:
        on = process.state.blocked_on
        return on and (on.kind, on.name, on.pid)

    # The states show which process waits for which.
    assert eventually(lambda: waits_for(both[0]) == ("Lock", "two", both[1].pid))
    assert eventually(lambda: waits_for(both[1]) == ("Lock", "one", both[0].pid))
    both[0].kill()
    both[1].join()
    assert both[1].exitcode == 0
    assert over.is_set()
    both[0].join()


def leave_a_lock_to_no_thread(lock: Any, taken: Any, go_on: Any) -> None:
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    taken.set()
    go_on.wait()


def test_a_thread_that_ends_with_a_lock_is_no_death(ctx: Any) -> None:
    lock, taken, go_on = ctx.Lock(), ctx.Event(), ctx.Event()
    process = run(ctx, leave_a_lock_to_no_thread, lock, taken, go_on)
    taken.wait()
    assert not lock.acquire(timeout=SHORT)
    # Its process may still release it, as any other may. Once that process has ended, it can't.
    go_on.set()
    with pytest.raises(OwnerDiedError):
        lock.acquire(timeout=60)
    process.join()


def test_a_task_without_end_is_no_death(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        result = pool.apply_async(time.sleep, (600,))
        with pytest.raises(procession.TimeoutError):
            result.get(SHORT)


@pytest.mark.parametrize("method", ["forkserver"])
def test_a_stopped_template_holds_up_who_starts_a_process(ctx: Any) -> None:
    from procession.forkserver import _forkserver

    run(ctx, nothing).join()
    template = _forkserver._forkserver_pid
    assert template is not None
    os.kill(template, signal.SIGSTOP)
    assert eventually(lambda: (stat(template) or "?")[0] == "T")
    process = ctx.Process(target=nothing)
    starter = threading.Thread(target=process.start)
    starter.start()
    starter.join(SHORT)
    assert starter.is_alive()
    # A stopped template can be killed, and then another is started.
    os.kill(template, signal.SIGKILL)
    starter.join(60)
    assert not starter.is_alive()
    process.join()
    assert process.exitcode == 0
