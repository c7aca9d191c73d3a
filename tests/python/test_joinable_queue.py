"""Queues that can be waited for until all their tasks are done."""

from __future__ import annotations

import os
import queue
import signal
import threading
from typing import Any

import procession
import pytest
from processes import eventually
from procession import OwnerDiedError


def work(tasks: Any, done: Any) -> None:
    """Deal with tasks, and say so, until the end comes."""
    while (task := tasks.get()) is not None:
        done.put(task)
        tasks.task_done()
    tasks.task_done()


def take(tasks: Any, taken: Any) -> None:
    tasks.get()
    taken.set()
    signal.pause()


def say_how_join_ends(tasks: Any, endings: Any) -> None:
    try:
        tasks.join()
    except OwnerDiedError:
        endings.put("told")
    else:
        endings.put("joined")


def join(tasks: Any, joined: Any) -> None:
    tasks.join()
    joined.set()


def test_join_waits_for_all_tasks(ctx: Any) -> None:
    tasks, done = ctx.JoinableQueue(), ctx.Queue()
    workers = [ctx.Process(target=work, args=(tasks, done)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for round_ in range(5):
        tasks.put_many(range(100))
        tasks.join()
        assert done.qsize() == 100, round_
        assert sorted(done.get_many(100)) == list(range(100))
    for _ in workers:
        tasks.put(None)
    tasks.join()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def test_several_processes_may_join(ctx: Any) -> None:
    tasks = ctx.JoinableQueue()
    tasks.put(1)
    joined = [ctx.Event() for _ in range(3)]
    joiners = [ctx.Process(target=join, args=(tasks, event)) for event in joined]
    for joiner in joiners:
        joiner.start()
    assert eventually(
        lambda: all(joiner.state == "blocked" for joiner in joiners if joiner.is_alive())
    )
    assert not any(event.is_set() for event in joined)

    tasks.get()
    tasks.task_done()

    for joiner in joiners:
        joiner.join()
    assert all(event.is_set() for event in joined)


def test_one_sees_who_joins_what(ctx: Any) -> None:
    tasks = ctx.JoinableQueue(name="tasks")
    tasks.put(1)
    joiner = ctx.Process(target=join, args=(tasks, ctx.Event()))
    joiner.start()

    def waits_for_the_queue() -> bool:
        on = joiner.state.blocked_on
        return on is not None and (on.operation, on.kind, on.name) == ("join", "Queue", "tasks")

    assert eventually(waits_for_the_queue)
    tasks.get()
    tasks.task_done()
    joiner.join()


def test_too_many_are_refused(ctx: Any) -> None:
    tasks = ctx.JoinableQueue()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        tasks.task_done()
    tasks.put(1)
    tasks.get()
    tasks.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        tasks.task_done()
    tasks.join()


@pytest.mark.parametrize("waiting", [0, 1, 4])
def test_one_is_told_of_tasks_that_a_process_died_with(ctx: Any, waiting: int) -> None:
    tasks, taken, endings = ctx.JoinableQueue(), ctx.Event(), ctx.Queue()
    tasks.put("a task")
    victim = ctx.Process(target=take, args=(tasks, taken))
    victim.start()
    taken.wait()
    joiners = [ctx.Process(target=say_how_join_ends, args=(tasks, endings)) for _ in range(waiting)]
    for joiner in joiners:
        joiner.start()
    for joiner in joiners:
        assert eventually(lambda: joiner.state.blocked_on is not None)  # noqa: B023
    assert endings.empty()

    victim.kill()
    victim.join()
    if waiting == 0:
        with pytest.raises(OwnerDiedError, match="processes died with 1 of the tasks"):
            tasks.join()

    found = [endings.get(timeout=60) for _ in joiners]
    assert sorted(found) == ["joined"] * (waiting - 1) + ["told"] * min(waiting, 1)
    tasks.join()
    for joiner in joiners:
        joiner.join()


def test_tasks_of_the_living_are_waited_for(ctx: Any) -> None:
    tasks, taken = ctx.JoinableQueue(), ctx.Event()
    tasks.put("a task of this process")
    tasks.get()
    tasks.put("another")
    victim = ctx.Process(target=take, args=(tasks, taken))
    victim.start()
    taken.wait()
    victim.kill()
    victim.join()

    with pytest.raises(OwnerDiedError):
        tasks.join()
    joined = threading.Event()
    joiner = threading.Thread(target=join, args=(tasks, joined))
    joiner.start()
    assert not joined.wait(0.3)
    tasks.task_done()
    joiner.join()


def do_what_is_passed_on(tasks: Any, passed_on: Any) -> None:
    while passed_on.get() is not None:
        tasks.task_done()


def die_with_a_task(ctx: Any, tasks: Any) -> None:
    tasks.put("a task that is lost")
    taken = ctx.Event()
    victim = ctx.Process(target=take, args=(tasks, taken))
    victim.start()
    taken.wait()
    victim.kill()
    victim.join()


def test_a_loss_is_told_also_where_others_call_tasks_done(ctx: Any) -> None:
    tasks, passed_on = ctx.JoinableQueue(), ctx.Queue()
    worker = ctx.Process(target=do_what_is_passed_on, args=(tasks, passed_on))
    worker.start()
    for task in range(3):
        tasks.put(task)
        passed_on.put(tasks.get())
    tasks.join()

    die_with_a_task(ctx, tasks)

    with pytest.raises(OwnerDiedError, match="processes died with 1 of the tasks"):
        tasks.join()
    tasks.join()
    passed_on.put(None)
    worker.join()


def test_a_loss_that_cannot_be_known_is_told_as_possible(ctx: Any) -> None:
    tasks, passed_on = ctx.JoinableQueue(), ctx.Queue()
    worker = ctx.Process(target=do_what_is_passed_on, args=(tasks, passed_on))
    worker.start()
    tasks.put("a task that this process takes, and the worker does")
    passed_on.put(tasks.get())
    passed_on.put(None)
    worker.join()
    # No process has joined since, so the task that is done may be that of the next process.
    die_with_a_task(ctx, tasks)

    for _ in range(2):
        with pytest.raises(OwnerDiedError, match="up to 1 tasks may be lost"):
            tasks.join()
    tasks.task_done()
    tasks.join()


def test_no_loss_is_told_while_who_took_the_tasks_lives(ctx: Any) -> None:
    tasks, passed_on = ctx.JoinableQueue(), ctx.Queue()
    for task in range(2):
        tasks.put(task)
        passed_on.put(tasks.get())
    victim = ctx.Process(target=do_what_is_passed_on, args=(tasks, passed_on))
    victim.start()
    assert eventually(lambda: victim.state.blocked_on is not None)
    victim.kill()
    victim.join()
    tasks.put("another")
    joined = threading.Event()
    joiner = threading.Thread(target=join, args=(tasks, joined))
    joiner.start()
    assert not joined.wait(0.3)
    tasks.get()
    tasks.task_done()
    joiner.join()


def test_a_joinable_queue_is_a_queue(ctx: Any) -> None:
    tasks = ctx.JoinableQueue(2)
    assert isinstance(tasks, procession.queues.Queue)
    tasks.put(1)
    tasks.put(2)
    with pytest.raises(queue.Full):
        tasks.put(3, timeout=0.01)
    assert (tasks.qsize(), tasks.full(), tasks.get()) == (2, True, 1)
    tasks.close()
    with pytest.raises(ValueError, match="is closed"):
        tasks.get()


def test_ctrl_c_interrupts_join(ctx: Any) -> None:
    tasks = ctx.JoinableQueue()
    tasks.put(1)
    pid = os.getpid()
    timer = threading.Timer(0.05, os.kill, (pid, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        tasks.join()
    timer.join()


class Refuses:
    """It can't be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("no form for this")


class Collecting(procession.queues.Queue):
    """Takes what can't be pickled, as that of concurrent.futures does."""

    refused: list[tuple[Exception, object]]

    @classmethod
    def _on_queue_feeder_error(cls, e: Exception, obj: object) -> None:
        cls.refused.append((e, obj))


def test_a_subclass_may_take_what_cannot_be_pickled(ctx: Any) -> None:
    Collecting.refused = []
    refusing = Refuses()
    collecting = Collecting(ctx=ctx)

    collecting.put(refusing)
    collecting.put(1)

    assert collecting.get() == 1
    ((error, given),) = Collecting.refused
    assert isinstance(error, TypeError)
    assert given is refusing
    bounded = Collecting(1, ctx=ctx)
    bounded.put(1)
    with pytest.raises(queue.Full):
        bounded.put(2, block=False)
    bounded.close()
    with pytest.raises(ValueError, match="is closed"):
        bounded.put(3)
    with pytest.raises(TypeError, match="no form for this"):
        ctx.Queue().put(refusing)
