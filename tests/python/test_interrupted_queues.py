"""Signals during a queue's calls: a call that raises has lost no message, and put none."""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import procession
import pytest
from processes import eventually

LONG = 64 << 20
"""A size at which other threads run while it is copied."""


class AlarmRang(Exception):
    pass


def ring(*_: object) -> None:
    raise AlarmRang


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


def interrupted_once_others_run(call: Callable[[], Any]) -> Any:
    """Call something, with a signal when it first lets other threads run, and at no other time."""
    go, interval = threading.Lock(), sys.getswitchinterval()
    go.acquire()

    def interrupt() -> None:
        with go:
            _thread.interrupt_main(signal.SIGALRM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    sys.setswitchinterval(1000)
    try:
        go.release()
        return call()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


class Interrupts:
    """A signal comes while it is unpickled; its handler can run only afterwards."""

    def __reduce__(self) -> Any:
        return _thread.interrupt_main, (signal.SIGALRM,)


_interrupted: list[int] = []


def interrupt_once(tag: str) -> str:
    if not _interrupted:
        _interrupted.append(1)
        _thread.interrupt_main(signal.SIGALRM)
    return tag


class InterruptsOnce:
    """A signal's handler runs while it is unpickled for the first time."""

    def __reduce__(self) -> Any:
        _interrupted.clear()
        return interrupt_once, ("at last",)


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("get", ["get", "get_many"])
def test_a_long_message_whose_get_is_interrupted_is_there_for_the_next(kind: Any, get: str) -> None:
    queue = procession.Queue()
    for message in (kind(LONG), "behind"):
        queue.put(message)
    call = queue.get if get == "get" else lambda: queue.get_many(1)
    with pytest.raises(AlarmRang):
        interrupted_once_others_run(call)

    assert queue.qsize() == 2
    assert queue.get() == kind(LONG)
    assert queue.get() == "behind"


@pytest.mark.parametrize("maxsize", [0, 1])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_long_message_whose_put_is_interrupted_is_not_put(maxsize: int, kind: Any) -> None:
    queue = procession.Queue(maxsize)
    with pytest.raises(AlarmRang):
        interrupted_once_others_run(lambda: queue.put(kind(LONG)))

    assert queue.empty()
    queue.put("next")
    assert queue.get() == "next"


def test_a_put_whose_signal_handler_forks_puts_in_both() -> None:
    queue = procession.Queue()
    children: list[int] = []
    signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
    interrupted_once_others_run(lambda: queue.put(bytes(LONG)))
    if children[0] == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert [len(queue.get()) for _ in range(2)] == [LONG, LONG]
    assert queue.empty()


@pytest.mark.parametrize("get", ["get", "get_many"])
def test_an_object_is_kept_if_a_handler_raises_before_it_is_returned(get: str) -> None:
    queue = procession.Queue()
    for message in ([Interrupts(), "itself"], "behind"):
        queue.put(message)
    with pytest.raises(AlarmRang):
        queue.get() if get == "get" else queue.get_many(1)

    assert (queue.qsize(), queue.empty()) == (2, False)
    assert queue.get() == [None, "itself"]
    assert queue.get() == "behind"


@pytest.mark.parametrize("get", ["get", "get_many"])
def test_a_message_is_kept_if_a_handler_raises_while_it_is_unpickled(get: str) -> None:
    queue = procession.Queue()
    for message in (InterruptsOnce(), "behind"):
        queue.put(message)
    with pytest.raises(AlarmRang):
        queue.get() if get == "get" else queue.get_many(1)

    assert queue.get() == "at last"
    assert queue.get() == "behind"


@pytest.mark.parametrize("disturbance", [Interrupts, InterruptsOnce])
def test_an_interrupted_get_many_loses_nothing_and_keeps_the_order(disturbance: Any) -> None:
    queue = procession.Queue()
    for message in (1, [2], disturbance(), 4):
        queue.put(message)
    with pytest.raises(AlarmRang):
        queue.get_many(3)

    assert queue.qsize() == 4
    assert queue.get() == 1
    third = None if disturbance is Interrupts else "at last"
    assert queue.get_many(10) == [[2], third, 4]


def test_a_copy_of_a_process_has_no_part_in_what_the_original_kept() -> None:
    queue = procession.Queue()
    queue.put([Interrupts(), "itself"])
    with pytest.raises(AlarmRang):
        queue.get()
    pid = os.fork()
    if pid == 0:
        os._exit(queue.qsize() + (not queue.empty()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert queue.get() == [None, "itself"]


def told_of(call: Callable[[], Any]) -> Any:
    """Return how many objects `put_many` says it has put, in its exception."""
    try:
        call()
    except (AlarmRang, procession.queues.Full, pickle.PicklingError, TypeError) as error:
        return error.put  # type: ignore[union-attr]
    return "nothing raised"


def test_an_interrupted_put_many_tells_how_many_were_put() -> None:
    queue = procession.Queue(3)

    def interrupt() -> None:
        eventually(queue.full)
        os.kill(os.getpid(), signal.SIGALRM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    put = told_of(lambda: queue.put_many(range(10)))
    thread.join()

    assert put == 3
    assert queue.get_many(10) == [0, 1, 2]


def test_a_put_many_interrupted_while_it_copies_tells_how_many_were_put() -> None:
    queue = procession.Queue()
    long = [bytes(LONG // 2)] * 3
    put = told_of(lambda: interrupted_once_others_run(lambda: queue.put_many(long)))
    assert put == queue.qsize() < 3


def test_a_put_many_that_fails_tells_that_nothing_was_put() -> None:
    queue = procession.Queue(1)
    assert told_of(lambda: queue.put_many([1, threading.Lock()])) == 0
    queue.put(1)
    assert told_of(lambda: queue.put_many([2, 3], timeout=0.02)) == 0
    assert queue.get_many(10) == [1]
