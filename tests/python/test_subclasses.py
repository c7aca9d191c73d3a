"""Objects of classes that are derived from procession's as they may be from multiprocessing's."""

from __future__ import annotations

import pickle
from typing import Any

import procession
import pytest
from procession import queues, synchronize


class CountingQueue(queues.Queue):
    """The well-known recipe: a queue with a counter of its own, which travels along."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize, ctx=procession.get_context())
        self.puts = procession.Value("i", 0)

    def __getstate__(self) -> Any:
        return {"queue": super().__getstate__(), "puts": self.puts}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state["queue"])
        self.puts = state["puts"]

    def put(self, *args: Any, **kwds: Any) -> None:
        super().put(*args, **kwds)
        with self.puts.get_lock():
            self.puts.value += 1


class NamedLock(synchronize.Lock):
    def __init__(self, label: str) -> None:
        super().__init__(ctx=procession.get_context())
        self.label = label


class Gate(synchronize.Event):
    def __init__(self, is_open: bool) -> None:
        super().__init__()
        if is_open:
            self.set()


class Pair(synchronize.Semaphore):
    def __init__(self) -> None:
        super().__init__(2)


class One(synchronize.BoundedSemaphore):
    def __init__(self) -> None:
        super().__init__(1, ctx=procession.get_context())


class Deep(synchronize.RLock):
    def __init__(self, depth: int) -> None:
        super().__init__()
        for _ in range(depth):
            self.acquire()


class Tasks(queues.JoinableQueue):
    def __init__(self, *tasks: Any) -> None:
        super().__init__()
        for task in tasks:
            self.put(task)


class Silent(queues.SimpleQueue):
    def __init__(self) -> None:
        super().__init__(ctx=procession.get_context())


def put_thrice(queue: Any) -> None:
    for number in range(3):
        queue.put(number)


def test_a_queue_with_a_state_of_its_own_travels(ctx: Any) -> None:
    queue = CountingQueue(10)
    process = ctx.Process(target=put_thrice, args=(queue,))
    process.start()
    process.join()
    assert process.exitcode == 0
    queue.put_nowait(3)
    assert queue.puts.value == 4
    assert [queue.get_nowait() for _ in range(4)] == [0, 1, 2, 3]
    assert queue._maxsize == 10


def test_constructors_may_have_arguments_of_their_own() -> None:
    lock, gate, pair, one = NamedLock("a label"), Gate(True), Pair(), One()
    deep, tasks, silent = Deep(2), Tasks("a", "b"), Silent()

    assert lock.label == "a label"
    assert lock.acquire()
    assert gate.is_set()
    assert (pair.get_value(), one.get_value()) == (2, 1)
    with pytest.raises(ValueError, match="released too many times"):
        one.release()
    assert "MainProcess, 2" in repr(deep)
    assert tasks.get() == "a"
    silent.put(1)
    assert silent.get() == 1
    for thing in (lock, gate, pair, one, deep, tasks, silent):
        assert pickle.loads(pickle.dumps(thing)).handle == thing.handle


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Event"])
def test_an_object_that_was_not_made_says_so(kind: str) -> None:
    class Forgetful(getattr(synchronize, kind)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    thing = Forgetful()
    for use in (
        lambda: thing.handle,
        lambda: thing.set() if kind == "Event" else thing.acquire(),
        lambda: thing.is_set() if kind == "Event" else thing.release(),
        lambda: pickle.dumps(thing),
    ):
        with pytest.raises(RuntimeError, match="__init__ was not called"):
            use()


def test_a_queue_that_was_not_made_says_so() -> None:
    class Forgetful(queues.Queue):
        def __init__(self) -> None:
            pass

    for use in (Forgetful().get, Forgetful().qsize, lambda: Forgetful().put(1)):
        with pytest.raises(RuntimeError, match="__init__ was not called"):
            use()


def test_an_object_is_made_once() -> None:
    lock = procession.Lock()
    with pytest.raises(RuntimeError, match="called before"):
        lock.__init__()  # type: ignore[misc]
