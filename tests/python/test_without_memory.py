"""Processes without memory for what they are sent: an error there, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import procession
import pytest
from sessions import run

MB = 1 << 20
LONG = 64 * MB
"""More than `limit` leaves room for."""


_ballast: list[bytes] = []


def _limit_to(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def limit(more: int = LONG // 2) -> None:
    """Leave this process memory for so many bytes."""

    def size() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    # Memory that it has and does not use is used up first.
    _limit_to(size())
    with contextlib.suppress(MemoryError):
        while True:
            _ballast.append(bytes(MB))
    _limit_to(size() + more)


def unlimit() -> None:
    _limit_to(resource.getrlimit(resource.RLIMIT_AS)[1])


def what_it_raises(call: Callable[[], Any]) -> str:
    try:
        call()
    except MemoryError as error:
        return f"MemoryError: {error}"
    return "nothing"


class Swelling:
    """It is short when it is pickled, and long afterwards."""

    def __reduce__(self) -> Any:
        return bytes, (LONG,)


def get_without_memory(queue: Any, found: Any) -> None:
    limit()
    found.put(what_it_raises(queue.get))
    found.put(what_it_raises(lambda: queue.get(timeout=1)))
    found.put(what_it_raises(lambda: queue.get_many(2)))
    found.put(queue.qsize())


@pytest.mark.parametrize("kind", [bytes, bytearray, str, tuple])
def test_a_message_without_memory_stays_in_the_queue(ctx: Any, kind: Any) -> None:
    queue, found = ctx.Queue(), ctx.Queue()
    text = "x" * LONG
    long = {bytes: bytes(LONG), bytearray: bytearray(LONG), str: text, tuple: (text, 1)}[kind]
    queue.put(long)
    queue.put("short")
    poor = ctx.Process(target=get_without_memory, args=(queue, found))
    poor.start()
    poor.join()

    assert poor.exitcode == 0
    *raised, size = found.get_many(4)
    assert all("which is still in the queue" in text for text in raised), raised
    assert size == queue.qsize() == 2
    assert queue.get() == long
    assert queue.get() == "short"


def keep_and_get(queue: Any, found: Any) -> None:
    limit()
    for get in (queue.get, queue.get, lambda: queue.get_many(2)):
        found.put(what_it_raises(get))
    found.put((queue.qsize(), queue.empty()))
    pid = os.fork()
    if pid == 0:
        # A copy does not share the message that the original has got.
        os._exit(queue.qsize())
    found.put(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    unlimit()
    found.put([len(got) for got in (queue.get(), queue.get())])
    found.put(queue.empty())


def test_a_message_that_cannot_be_unpickled_for_now_is_kept(ctx: Any) -> None:
    queue, found = ctx.Queue(), ctx.Queue()
    queue.put(Swelling())
    queue.put("short")
    poor = ctx.Process(target=keep_and_get, args=(queue, found))
    poor.start()
    poor.join()

    assert poor.exitcode == 0
    *raised, state, of_a_copy, lengths, empty = found.get_many(7)
    assert all("which the next get() tries again" in text for text in raised), raised
    assert (state, of_a_copy) == ((2, False), 1)
    assert lengths == [LONG, len("short")]
    assert empty


def raise_it(error: BaseException) -> None:
    raise error


class NeverFits:
    def __reduce__(self) -> Any:
        return raise_it, (MemoryError("never"),)


@pytest.mark.parametrize("many", [True, False])
def test_a_message_that_there_is_never_memory_for_is_discarded_after_ten_tries(many: bool) -> None:
    queue = procession.Queue()
    for message in (NeverFits(), "behind"):
        queue.put(message)

    get = (lambda: queue.get_many(1)) if many else queue.get
    raised = [what_it_raises(get) for _ in range(10)]
    assert all("which the next get() tries again" in text for text in raised[:9]), raised
    assert "so often that it is discarded" in raised[9]
    assert queue.get(timeout=60) == "behind"
    assert queue.empty()


def get_several(queue: Any, found: Any) -> None:
    limit()
    found.put(queue.get_many(5))
    found.put(what_it_raises(lambda: queue.get_many(5)))
    unlimit()
    found.put([len(got) for got in queue.get_many(5)])


@pytest.mark.parametrize("is_long", [True, False])
def test_those_before_a_message_without_memory_are_given(ctx: Any, is_long: bool) -> None:
    queue, found = ctx.Queue(), ctx.Queue()
    for message in ("before", "it", bytes(LONG) if is_long else Swelling(), "behind"):
        queue.put(message)
    poor = ctx.Process(target=get_several, args=(queue, found))
    poor.start()
    poor.join()

    given, raised, lengths = found.get_many(3)
    assert given == ["before", "it"]
    assert raised.startswith("MemoryError: no memory in this process")
    assert lengths == [LONG, len("behind")]


EXHAUSTED = """
import ctypes
from functools import partial
from queue import Empty

import procession
from test_without_memory import limit, unlimit

MESSAGES = (10**6, 1.5, "text", b"bytes", (1, "two", 3.0, b"four"), [1, 2], None, 10**30)

malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
malloc.argtypes = [ctypes.c_size_t]


def exhaust():
    limit(0)
    # Memory of the C library's, of which Rust's is.
    for size in (1 << 20, 1 << 16, 4096, 1024, 512, 256, 128, 64, 48, 32, 24):
        try:
            while malloc(size):
                pass
        except MemoryError:
            pass
    chain = None
    # The interpreter's, down to the smallest objects.
    for size in (400, 200, 100, 50, 30, 15, 7):
        try:
            while True:
                chain = (chain, bytes(size))
        except MemoryError:
            pass
    try:
        while True:
            chain = (chain,)
    except MemoryError:
        pass
    return chain


if __name__ == "__main__":
    queue, other, empty = procession.Queue(), procession.Queue(), procession.Queue()
    for message in MESSAGES:
        queue.put(message)
    calls = [partial(queue.get_many, 3), partial(other.put_many, MESSAGES), empty.get_nowait]
    for message in MESSAGES:
        calls += [queue.get_nowait, partial(other.put, message), queue.qsize]
    refused, calls = 0, iter(calls)
    chain = exhaust()
    for call in calls:
        try:
            call()
        except MemoryError:
            refused += 1
        except Empty:
            pass
    chain = None
    unlimit()
    print(refused > 0)
    other.put("still")
    found = None
    while found != "still":
        found = other.get()
    print(found)
"""


@pytest.mark.parametrize("backtrace", ["0", "1"])
def test_without_any_memory_there_are_errors_and_no_end(tmp_path: Path, backtrace: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(EXHAUSTED)
    env = {"PYTHONPATH": str(Path(__file__).parent), "RUST_BACKTRACE": backtrace}
    ending = run("python", program, env=env)

    assert ending.exit_code == 0, ending
    assert ending.stdout.splitlines() == ["True", "still"], ending


def put_without_memory(queue: Any, found: Any) -> None:
    long = b"x" * (LONG // 2)
    limit(LONG // 4)
    queue.put(long)
    found.put(what_it_raises(lambda: queue.put((long, 1))))
    found.put(what_it_raises(lambda: queue.put(bytearray(long))))
    found.put(what_it_raises(lambda: queue.put_many(["first", long])))


def test_what_cannot_be_copied_is_not_put(ctx: Any) -> None:
    queue, found = ctx.Queue(), ctx.Queue()
    poor = ctx.Process(target=put_without_memory, args=(queue, found))
    poor.start()
    poor.join()

    assert poor.exitcode == 0
    assert [text[:11] for text in found.get_many(3)] == ["MemoryError"] * 3
    # It is copied only into shared memory.
    assert len(queue.get()) == LONG // 2
    assert queue.empty()


def identity(argument: Any) -> Any:
    return argument


def pid_and_length(argument: Any) -> tuple[int, int]:
    return os.getpid(), len(argument)


def make(length: int, kind: Any = bytes) -> Any:
    return kind(length)


def test_an_argument_without_memory_fails_its_task_and_no_worker(ctx: Any) -> None:
    with ctx.Pool(1, initializer=limit) as pool:
        pid, _ = pool.apply(pid_and_length, ("short",))
        with pytest.raises(MemoryError, match=r"a task of [0-9]+ bytes"):
            pool.apply(pid_and_length, (b"x" * LONG,))
        with pytest.raises(MemoryError):
            pool.apply(pid_and_length, (Swelling(),))
        assert pool.apply(pid_and_length, ("short",)) == (pid, 5)


def test_a_result_without_memory_in_the_worker_fails_its_task(ctx: Any) -> None:
    with ctx.Pool(1, initializer=limit, initargs=(LONG + LONG // 2,)) as pool:
        pid, _ = pool.apply(pid_and_length, ("short",))
        # There is memory for it, and none to pickle it.
        with pytest.raises(MemoryError):
            pool.apply(make, (LONG, bytearray))
        assert pool.apply(pid_and_length, ("short",)) == (pid, 5)


RESULT_TOO_LARGE = """
import sys
import procession
from test_without_memory import LONG, Swelling, identity, limit, make

if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[1])
    with ctx.Pool(2) as pool:
        pool.map(make, range(8))
        limit()
        for call in (
            lambda: pool.apply(make, (LONG,)),
            lambda: pool.apply(make, (LONG, bytearray)),
            lambda: pool.apply(identity, (Swelling(),)),
            lambda: pool.map(make, [1, 2, LONG, 3], chunksize=1),
        ):
            try:
                call()
            except MemoryError as error:
                print("MemoryError")
            print(len(pool.apply(make, (3,))))
        others = pool.imap(make, [1, LONG, 2])
        print(len(next(others)))
        try:
            next(others)
        except MemoryError as error:
            print(error)
        print(len(next(others)))
"""


def test_a_result_without_memory_in_the_parent_fails_its_task(
    run_program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    ending = run_program(RESULT_TOO_LARGE)

    lines = ending.stdout.splitlines()
    assert lines[:8] == ["MemoryError", "3"] * 4, ending
    assert lines[8] == "1"
    assert lines[9].startswith("no memory in this process for a result of"), ending
    assert lines[10] == "2"
