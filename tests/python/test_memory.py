"""Shared memory: which process may delay which, and what goes back to the machine."""

from __future__ import annotations

import contextlib
import os
import queue as queues
import signal
import time
from collections.abc import Callable
from typing import Any

import procession
import pytest
from processes import PATIENCE_SECONDS, eventually, is_stopped

LARGE = b"x" * 20_000
"""Each such message needs an extent of its own, and the heap's lock for it."""


class Alarmed(Exception):
    pass


def keep_the_heap_busy(queue: Any) -> None:
    while True:
        queue.put(LARGE)
        queue.get()


@contextlib.contextmanager
def alarm(seconds: float) -> Any:
    def ring(*_: Any) -> None:
        raise Alarmed

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_in_the_way(queue: Any) -> bool:
    """Whether a large message can't be put into a queue that no other process uses."""
    try:
        queue.put(LARGE, timeout=0.05)
    except queues.Full:
        return True
    queue.get()
    return False


def test_a_process_stopped_in_the_heap_leaves_others_their_timeouts_and_signals() -> None:
    ctx = procession.get_context("fork")
    theirs, ours, small = ctx.Queue(), ctx.Queue(), ctx.Queue()
    # It has memory for some more of these.
    small.put(0)
    busy = ctx.Process(target=keep_the_heap_busy, args=(theirs,), daemon=True)
    busy.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        os.kill(busy.pid, signal.SIGSTOP)
        assert eventually(lambda: is_stopped(busy.pid))
        if is_in_the_way(ours):
            break
        os.kill(busy.pid, signal.SIGCONT)
        assert time.monotonic() < deadline, "it was never stopped with the lock"

    for number in range(10):
        assert small.get(timeout=60) == number
        small.put(number + 1)
    with pytest.raises(queues.Full):
        ours.put(LARGE, timeout=0.01)
    with pytest.raises(Alarmed), alarm(0.05):
        ours.put(LARGE)
    made: list[Any] = []
    with pytest.raises(Alarmed), alarm(0.05):
        # More than this process keeps.
        made.extend(ctx.Queue() for _ in range(100))
    with pytest.raises(Alarmed), alarm(0.05):
        ctx.RawArray("c", 100_000)
    assert ours.empty()
    # What ends now is freed later.
    ours.close()
    del ours, made

    os.kill(busy.pid, signal.SIGCONT)
    again = ctx.Queue()
    again.put(LARGE)
    assert again.get(timeout=60) == LARGE
    busy.kill()
    busy.join()
    procession._native.check()


def test_memory_of_a_burst_goes_back_to_the_machine() -> None:
    queue = procession.Queue()
    message = bytes(8 << 20)
    for _ in range(40):
        queue.put(message)
    burst = procession._native.memory()["resident"]
    assert burst >= 40 * len(message)
    for _ in range(40):
        queue.get()

    def is_within_bounds() -> bool:
        # All processes only wait.
        with pytest.raises(queues.Empty):
            queue.get(timeout=0.1)
        memory = procession._native.memory()
        return bool(memory["resident"] <= memory["used"] + (32 << 20) + (8 << 20))

    assert eventually(is_within_bounds), (burst, procession._native.memory())


@pytest.mark.parametrize(
    "make", [procession.RawValue, procession.Value, procession.RawArray, procession.Array]
)
def test_a_typecode_that_there_is_not_is_told_with_those_that_there_are(
    make: Callable[..., object],
) -> None:
    with pytest.raises(TypeError, match=r"bad typecode \(must be .* c, .* f or d\)$"):
        make("x", 2)
