"""Processes killed at random, at any instruction: nothing hangs, breaks or comes twice."""

from __future__ import annotations

import collections
import contextlib
import random
import time
from typing import Any

import procession
import pytest
from processes import eventually

ROUNDS = 50


def produce(queue: Any, producer: int, announced: Any) -> None:
    number = 0
    # Each object is noted once put has returned, in memory that outlives this process.
    while True:
        queue.put((producer, number, bytes(random.choice((0, 50, 3000, 70_000)))))
        number += 1
        announced[producer] = number


def consume(inbox: Any, outbox: Any, consumer: int) -> None:
    while True:
        producer, number, _ = inbox.get()
        outbox.put((consumer, producer, number))


def hold_and_let_go(locks: list[Any], counter: Any) -> None:
    while True:
        for lock in locks:
            with contextlib.suppress(procession.OwnerDiedError), lock:
                counter.value += 1


def take_and_give_back(semaphore: Any) -> None:
    while True:
        with semaphore:
            pass


def toggle(event: Any) -> None:
    while True:
        event.set()
        event.clear()


def wait_for(event: Any) -> None:
    while True:
        event.wait()


def make_and_free(queue: Any) -> None:
    while True:
        own = procession.Queue()
        own.put(bytes(200_000))
        queue.put(own)
        procession.Lock().acquire()
        with contextlib.suppress(procession.StaleHandleError):
            queue.get()


def start(ctx: Any, target: Any, *args: Any) -> Any:
    process = ctx.Process(target=target, args=args)
    process.start()
    return process


def kill(process: Any) -> None:
    process.kill()
    process.join()
    process.close()


def a_moment() -> None:
    time.sleep(random.uniform(0.0, 0.02))


def drain(queue: Any) -> list[Any]:
    messages = []
    while not queue.empty():
        messages.append(queue.get(timeout=60))
    return messages


@pytest.mark.parametrize("maxsize", [0, 10])
def test_killed_producers_and_consumers_cost_what_they_had_in_hand(ctx: Any, maxsize: int) -> None:
    inbox, outbox = ctx.Queue(maxsize), ctx.Queue()
    announced = ctx.Array("Q", ROUNDS + 3, lock=False)
    producers = {number: start(ctx, produce, inbox, number, announced) for number in range(2)}
    consumers = {number: start(ctx, consume, inbox, outbox, number) for number in range(2)}
    started = [2, 2]
    killed_consumers = 0
    seen: list[tuple[int, int, int]] = []
    for _ in range(ROUNDS):
        a_moment()
        if random.random() < 0.5:
            victim = random.choice(list(producers))
            kill(producers.pop(victim))
            producers[started[0]] = start(ctx, produce, inbox, started[0], announced)
            started[0] += 1
        else:
            victim = random.choice(list(consumers))
            kill(consumers.pop(victim))
            killed_consumers += 1
            consumers[started[1]] = start(ctx, consume, inbox, outbox, started[1])
            started[1] += 1
        while inbox.qsize() > 5000:
            a_moment()
        seen += outbox.get_many(100_000) if not outbox.empty() else []
    for process in (*producers.values(), *consumers.values()):
        kill(process)
    killed_consumers += len(consumers)
    seen += drain(outbox)
    left = [(None, producer, number) for producer, number, _ in drain(inbox)]

    per_pair = collections.defaultdict(list)
    for consumer, producer, number in seen:
        per_pair[consumer, producer].append(number)
    assert all(numbers == sorted(numbers) for numbers in per_pair.values())
    found = [(producer, number) for _, producer, number in seen + left]
    assert len(found) == len(set(found))
    promised = {
        (producer, number)
        for producer in range(started[0])
        for number in range(announced[producer])
    }
    assert len(promised - set(found)) <= killed_consumers
    procession._native.check()


@pytest.mark.filterwarnings("ignore:the process that held the lock died")
def test_killed_lock_holders_hang_nobody(ctx: Any) -> None:
    locks = [ctx.Lock(), ctx.RLock(), ctx.Lock(on_owner_death="recover")]
    counter = ctx.Value("Q", 0, lock=False)
    processes = [start(ctx, hold_and_let_go, locks, counter) for _ in range(4)]
    assert eventually(lambda: counter.value > 0)
    for _ in range(ROUNDS):
        a_moment()
        kill(processes.pop(random.randrange(4)))
        processes.append(start(ctx, hold_and_let_go, locks, counter))
        with contextlib.suppress(procession.OwnerDiedError):
            assert locks[0].acquire(timeout=60)
            locks[0].release()
    for process in processes:
        kill(process)
    for lock in locks:
        with contextlib.suppress(procession.OwnerDiedError):
            assert lock.acquire(block=False)
            lock.release()
        assert lock.acquire(block=False)
        lock.release()
    procession._native.check()


def test_killed_holders_of_a_recovering_semaphore_cost_no_permit(ctx: Any) -> None:
    semaphore = ctx.Semaphore(2, recover=True)
    processes = [start(ctx, take_and_give_back, semaphore) for _ in range(4)]
    for _ in range(ROUNDS):
        a_moment()
        kill(processes.pop(random.randrange(4)))
        processes.append(start(ctx, take_and_give_back, semaphore))
    for process in processes:
        kill(process)
    for _ in range(2):
        assert semaphore.acquire(timeout=60)
    assert not semaphore.acquire(block=False)
    procession._native.check()


def test_killed_setters_and_waiters_leave_an_event_that_works(ctx: Any) -> None:
    event = ctx.Event()
    targets = [toggle, wait_for, toggle, wait_for]
    processes = [start(ctx, target, event) for target in targets]
    for _ in range(ROUNDS):
        a_moment()
        index = random.randrange(4)
        kill(processes[index])
        processes[index] = start(ctx, targets[index], event)
    for process in processes:
        kill(process)
    event.clear()
    assert not event.wait(0)
    event.set()
    assert event.wait(60)
    procession._native.check()


def test_killed_makers_of_objects_leave_none(ctx: Any) -> None:
    queue = ctx.Queue()
    before = len(procession._native.objects())
    used = procession._native.memory()["used"]
    processes = [start(ctx, make_and_free, queue) for _ in range(3)]
    for _ in range(ROUNDS):
        a_moment()
        kill(processes.pop(random.randrange(3)))
        processes.append(start(ctx, make_and_free, queue))
    for process in processes:
        kill(process)
    while not queue.empty():
        with contextlib.suppress(procession.StaleHandleError):
            queue.get(timeout=60)
    procession._native.check()
    assert len(procession._native.objects()) == before
    assert procession._native.memory()["used"] <= used + 1_000_000
