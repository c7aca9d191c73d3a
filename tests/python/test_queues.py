"""Queues: what can be put, what is promised of the order, of dead producers, and of limits."""

from __future__ import annotations

import collections
import copyreg
import decimal
import enum
import math
import os
import pickle
import random
import signal
import threading
import time
from multiprocessing.reduction import ForkingPickler
from queue import Empty, Full
from typing import Any

import numpy
import procession
import pytest
from processes import PATIENCE_SECONDS, eventually, is_asleep


class Color(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    pass


class Bytes(bytes):
    pass


class Int(int):
    pass


class Float(float):
    pass


class Tuple(tuple):  # type: ignore[type-arg]
    pass


class Point(collections.namedtuple("Point", "x y")):
    pass


class Thing:
    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(self.value)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in __reduce__")


class NeverLoads:
    def __reduce__(self) -> Any:
        return (int, ("not a number",))


class Reduced:
    """Is pickled by the reducer that is registered for it."""

    def __init__(self, value: str) -> None:
        self.value = value


class ReducedEverywhere(Reduced):
    """The same, in the registry of copyreg."""


OBJECTS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    2**64,
    10**1000,
    -(10**1000),
    0.0,
    1.5,
    math.inf,
    -math.inf,
    5e-324,
    "",
    "text",
    "naïve \N{SNOWMAN} \N{PILE OF POO}",
    "nul \0 inside",
    "\ud800 alone",
    "a" * 100_000,
    b"",
    b"\0\xff",
    b"x" * 100_000,
    bytearray(b"changeable"),
    (),
    (1,),
    (1, "two", b"three", 4.0, None, True, 2**70),
    (1, (2, (3, ()))),
    tuple(range(8)),
    tuple(range(9)),
    tuple(range(100)),
    ("\udfff", 1),
    [],
    [1, [2, [3]]],
    {},
    {"key": [1, 2], 2: {"nested": ()}},
    {1, 2},
    frozenset({1}),
    range(5),
    slice(1, 2, 3),
    1j,
    decimal.Decimal("1.10"),
    Color.RED,
    Number.ONE,
    Text("subclass"),
    Bytes(b"subclass"),
    Int(5),
    Float(1.5),
    Tuple((1, 2)),
    Point(1, 2),
    (Number.ONE, Text("in a tuple"), True, 1, 1.0),
    Thing([1]),
    int,
    len,
    Thing,
    Ellipsis,
    NotImplemented,
]


def shape(thing: object) -> object:
    """The types of an object and of what it holds."""
    if isinstance(thing, (tuple, list)):
        return type(thing), [shape(item) for item in thing]
    return type(thing)


def put_back(things: Any, answers: Any) -> None:
    while (thing := things.get()) != "end":
        answers.put(thing)


@pytest.fixture(params=["Queue", "SimpleQueue"])
def queue(request: pytest.FixtureRequest, ctx: Any) -> Any:
    """One of each kind of queue."""
    return getattr(ctx, request.param)()


# What can be put.


def test_every_object_comes_back_as_it_was(queue: Any) -> None:
    for thing in OBJECTS:
        queue.put(thing)
        got = queue.get()
        assert got == thing
        assert shape(got) == shape(thing)


def test_every_object_comes_back_from_another_process(ctx: Any) -> None:
    things, answers = ctx.Queue(), ctx.Queue()
    process = ctx.Process(target=put_back, args=(things, answers))
    process.start()
    for thing in OBJECTS:
        things.put(thing)
    for thing in OBJECTS:
        got = answers.get()
        assert got == thing
        assert shape(got) == shape(thing)
    things.put("end")
    process.join()


def test_numbers_that_equal_others_stay_what_they_are(queue: Any) -> None:
    queue.put(math.nan)
    assert math.isnan(queue.get())
    queue.put(-0.0)
    assert math.copysign(1, queue.get()) == -1
    queue.put((math.nan, -0.0))
    nan, zero = queue.get()
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1


def test_references_within_a_message_are_kept(queue: Any) -> None:
    shared: list[Any] = [1]
    queue.put([shared, shared])
    first, second = queue.get()
    assert first is second
    queue.put((shared, shared))
    first, second = queue.get()
    assert first is second
    thing = Thing(1)
    queue.put((thing, thing, {"key": thing}))
    first, second, third = queue.get()
    assert first is second is third["key"]
    recursive: list[Any] = []
    recursive.append(recursive)
    queue.put(recursive)
    got = queue.get()
    assert got[0] is got
    in_a_tuple = ([],)  # type: ignore[var-annotated]
    in_a_tuple[0].append(in_a_tuple)
    queue.put(in_a_tuple)
    got = queue.get()
    assert got[0][0] is got


def test_a_message_is_the_object_as_it_was_when_put(queue: Any) -> None:
    thing = [1]
    queue.put(thing)
    thing.append(2)
    assert queue.get() == [1]
    assert queue.empty()


@pytest.mark.parametrize("size", [1_000, 4_096, 65_536, 1_000_000, 20_000_000])
def test_big_messages_arrive_whole(queue: Any, size: int) -> None:
    data = os.urandom(1000) * (size // 1000)
    queue.put(data)
    queue.put(bytearray(data))
    queue.put(("with", data))
    assert queue.get() == data
    assert queue.get() == data
    assert queue.get() == ("with", data)


def test_big_messages_leave_no_memory_in_use(ctx: Any) -> None:
    def use() -> None:
        queue = ctx.Queue()
        for _ in range(4):
            queue.put(bytes(3_000_000))
        assert len(queue.get()) == 3_000_000

    use()
    before = procession._native.memory()["used"]
    for _ in range(10):
        use()
    assert procession._native.memory()["used"] <= before + 1_000_000


def test_numpy_arrays_arrive(queue: Any) -> None:
    for array in (
        numpy.arange(10),
        numpy.zeros((300, 400)),
        numpy.array(5.0),
        numpy.asfortranarray(numpy.arange(12).reshape(3, 4)),
        numpy.arange(20)[::3],
    ):
        queue.put(array)
        got = queue.get()
        assert got.dtype == array.dtype
        assert (got == array).all()


def test_what_cannot_be_pickled_is_an_error_of_put(queue: Any) -> None:
    for thing, error in (
        (Unpicklable(), ZeroDivisionError),
        ([1, Unpicklable()], ZeroDivisionError),
        ((1, Unpicklable()), ZeroDivisionError),
        (threading.Lock(), TypeError),
        (lambda: None, (pickle.PicklingError, AttributeError)),
    ):
        with pytest.raises(error):
            queue.put(thing)
        assert queue.empty()
    queue.put("usable")
    assert queue.get() == "usable"


def test_what_cannot_be_unpickled_is_an_error_of_get(queue: Any) -> None:
    queue.put(NeverLoads())
    queue.put("next")
    with pytest.raises(ValueError, match="not a number"):
        queue.get()
    assert queue.get() == "next"
    assert queue.empty()


def test_putting_too_deep_an_object_is_a_recursion_error(queue: Any) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        queue.put(deep)
    while deep:
        deep = deep[0]
    queue.put(1)
    assert queue.get() == 1


def test_registered_reducers_are_honoured(queue: Any) -> None:
    ForkingPickler.register(Reduced, lambda thing: (Text, (f"by ForkingPickler: {thing.value}",)))
    copyreg.pickle(ReducedEverywhere, lambda thing: (Text, (f"by copyreg: {thing.value}",)))
    try:
        queue.put(Reduced("one"))
        queue.put([Reduced("two")])
        queue.put((1, Reduced("three")))
        queue.put(ReducedEverywhere("four"))
        assert queue.get() == "by ForkingPickler: one"
        assert queue.get() == ["by ForkingPickler: two"]
        assert queue.get() == (1, "by ForkingPickler: three")
        assert queue.get() == "by copyreg: four"
    finally:
        ForkingPickler._extra_reducers.pop(Reduced)  # type: ignore[attr-defined]
        copyreg.dispatch_table.pop(ReducedEverywhere)


# Limits.


def test_an_empty_queue_says_so(ctx: Any) -> None:
    queue = ctx.Queue()
    for get in (
        queue.get_nowait,
        lambda: queue.get(False),
        lambda: queue.get(block=False, timeout=60),
        lambda: queue.get(timeout=0),
        lambda: queue.get(timeout=-1),
        lambda: queue.get(True, 0.02),
        lambda: queue.get_many(5, block=False),
        lambda: queue.get_many(5, timeout=0.02),
    ):
        with pytest.raises(Empty):
            get()
    queue.put(None)
    assert queue.get_nowait() is None


def test_a_full_queue_says_so(ctx: Any) -> None:
    queue = ctx.Queue(2)
    queue.put(1)
    queue.put(2, timeout=0)
    for put in (
        lambda: queue.put_nowait(3),
        lambda: queue.put(3, False),
        lambda: queue.put(3, timeout=0),
        lambda: queue.put(3, timeout=-1),
        lambda: queue.put(3, True, 0.02),
        lambda: queue.put_many([3, 4], block=False),
    ):
        with pytest.raises(Full):
            put()
    assert queue.full()
    assert queue.get() == 1
    assert not queue.full()
    queue.put_nowait(3)
    assert [queue.get(), queue.get()] == [2, 3]


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_queue_without_bound_takes_all(ctx: Any, maxsize: int) -> None:
    queue = ctx.Queue(maxsize)
    for number in range(50_000):
        queue.put(number)
    assert not queue.full()
    assert queue.qsize() == 50_000
    assert [queue.get() for _ in range(50_000)] == list(range(50_000))


def test_the_size_is_exact(ctx: Any) -> None:
    queue = ctx.Queue(5)
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
    for size in range(1, 6):
        queue.put(size)
        assert (queue.qsize(), queue.empty(), queue.full()) == (size, False, size == 5)
    for size in range(4, -1, -1):
        queue.get()
        assert (queue.qsize(), queue.empty(), queue.full()) == (size, size == 0, False)


def test_the_size_is_exact_after_another_process_has_put(ctx: Any) -> None:
    queue = ctx.Queue()
    process = ctx.Process(target=put_run, args=(queue, 0, 100))
    process.start()
    process.join()
    assert queue.qsize() == 100
    assert not queue.empty()


def put_run(queue: Any, producer: int, count: int) -> None:
    for number in range(count):
        queue.put((producer, number))


def test_a_bounded_queue_holds_its_producer_up(ctx: Any) -> None:
    queue = ctx.Queue(3)
    process = ctx.Process(target=put_run, args=(queue, 0, 100))
    process.start()
    assert eventually(lambda: queue.full() and is_asleep(process.pid))
    for number in range(100):
        assert queue.qsize() <= 3
        assert queue.get() == (0, number)
    process.join()


def test_many_are_put_and_got_at_once(ctx: Any) -> None:
    queue = ctx.Queue()
    assert queue.put_many(range(1000)) == 1000
    assert queue.qsize() == 1000
    assert queue.put_many([]) == 0
    assert queue.get_many(10) == list(range(10))
    assert queue.get_many(5000) == list(range(10, 1000))
    assert queue.put_many(iter([None, "text", (1, 2)])) == 3
    assert queue.get_many(10) == [None, "text", (1, 2)]


def test_put_many_puts_nothing_if_one_cannot_be_pickled(ctx: Any) -> None:
    queue = ctx.Queue()
    with pytest.raises(ZeroDivisionError):
        queue.put_many([1, 2, Unpicklable()])
    assert queue.empty()


def test_put_many_tells_how_many_had_room(ctx: Any) -> None:
    queue = ctx.Queue(3)
    assert queue.put_many(range(10), timeout=0.02) == 3
    assert queue.get_many(10) == [0, 1, 2]


def test_put_many_waits_for_room(ctx: Any) -> None:
    queue = ctx.Queue(3)
    put: list[int] = []
    thread = threading.Thread(target=lambda: put.append(queue.put_many(range(50))))
    thread.start()
    got: list[int] = []
    while len(got) < 50:
        got += queue.get_many(2)
    thread.join()
    assert got == list(range(50))
    assert put == [50]


def test_a_closed_queue_refuses(ctx: Any) -> None:
    queue = ctx.Queue()
    queue.put(1)
    queue.close()
    queue.close()
    queue.join_thread()
    for use in (
        lambda: queue.put(1),
        lambda: queue.put_nowait(1),
        queue.get,
        queue.get_nowait,
        lambda: queue.get(timeout=1),
        lambda: queue.put_many([1]),
        lambda: queue.get_many(1),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_closing_concerns_this_process_alone(ctx: Any) -> None:
    queue, closed = ctx.Queue(), ctx.Event()
    process = ctx.Process(target=close_and_tell, args=(queue, closed))
    process.start()
    closed.wait()
    process.join()
    queue.put(1)
    assert queue.get() == 1


def put_and_get(queue: Any, answers: Any) -> None:
    queue.put(2)
    answers.put(queue.get())


def test_a_forked_process_has_not_closed_what_its_parent_has() -> None:
    ctx = procession.get_context("fork")
    queue, answers = ctx.Queue(), ctx.Queue()
    queue.close()
    process = ctx.Process(target=put_and_get, args=(queue, answers))
    process.start()
    process.join()
    assert answers.get(timeout=60) == 2


def test_a_closed_queue_tells_its_size_unless_it_was_put_into(ctx: Any) -> None:
    unused, used = ctx.Queue(), ctx.Queue()
    used.put(1)
    unused.close()
    used.close()
    assert unused.empty()
    assert used.qsize() == 1
    # As with the standard library's queue, which has closed its pipe then.
    with pytest.raises(OSError, match="is closed"):
        used.empty()


def close_and_tell(queue: Any, closed: Any) -> None:
    queue.close()
    closed.set()


def test_a_simple_queue_puts_and_gets(ctx: Any) -> None:
    queue = ctx.SimpleQueue()
    assert queue.empty() is True
    queue.put("a")
    assert queue.empty() is False
    assert queue.get() == "a"
    queue.close()


def test_the_private_names_of_a_queue_are_there(ctx: Any) -> None:
    assert ctx.Queue(7)._maxsize == 7
    ctx.Queue().cancel_join_thread()


def test_a_queue_can_be_sent_through_a_queue(ctx: Any) -> None:
    questions = ctx.Queue()
    process = ctx.Process(target=answer, args=(questions,))
    process.start()
    for number in range(3):
        answers = ctx.Queue()
        questions.put((number, answers))
        assert answers.get(timeout=20) == number * 10
    questions.put(None)
    process.join()
    assert process.exitcode == 0


def answer(questions: Any) -> None:
    while (question := questions.get()) is not None:
        number, answers = question
        answers.put(number * 10)
        answers.close()
        answers.join_thread()


def test_a_copy_by_pickle_is_the_same_queue(queue: Any) -> None:
    copy = pickle.loads(pickle.dumps(queue))
    assert type(copy) is type(queue)
    copy.put(5)
    assert queue.get() == 5


# Several processes.


def give_back(inbox: Any, outbox: Any) -> None:
    while (message := inbox.get()) is not None:
        outbox.put((os.getpid(), message))
    outbox.put((os.getpid(), None))


def test_each_message_goes_to_one_and_each_producers_order_is_kept(ctx: Any) -> None:
    inbox, outbox = ctx.Queue(), ctx.Queue()
    producers = [ctx.Process(target=put_run, args=(inbox, number, 2000)) for number in range(3)]
    consumers = [ctx.Process(target=give_back, args=(inbox, outbox)) for _ in range(3)]
    for process in producers + consumers:
        process.start()
    for producer in producers:
        producer.join()
    for _ in consumers:
        inbox.put(None)
    seen: list[tuple[int, int]] = []
    last: dict[tuple[int, int], int] = {}
    ended = 0
    while ended < len(consumers):
        consumer, message = outbox.get()
        if message is None:
            ended += 1
            continue
        producer, number = message
        assert number > last.get((consumer, producer), -1)
        last[consumer, producer] = number
        seen.append(message)
    for process in consumers:
        process.join()
    assert len(seen) == len(set(seen)) == 6000


def test_threads_may_share_a_queue(ctx: Any) -> None:
    queue = ctx.Queue(10)
    got: list[tuple[int, int]] = []

    def consume() -> None:
        while (message := queue.get()) is not None:
            got.append(message)

    consumers = [threading.Thread(target=consume) for _ in range(3)]
    producers = [threading.Thread(target=put_run, args=(queue, n, 500)) for n in range(3)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        queue.put(None)
    for thread in consumers:
        thread.join()
    assert sorted(got) == [(producer, n) for producer in range(3) for n in range(500)]


def put_and_die(queue: Any, thing: object) -> None:
    queue.put(thing)
    os.kill(os.getpid(), signal.SIGKILL)


def put_and_exit(queue: Any, thing: object) -> None:
    queue.put(thing)
    os._exit(0)


@pytest.mark.parametrize("leave", [put_and_die, put_and_exit])
@pytest.mark.parametrize("size", [1, 5_000_000])
def test_what_was_put_is_delivered_though_the_producer_is_gone(
    ctx: Any, leave: Any, size: int
) -> None:
    queue = ctx.Queue()
    for round_ in range(10):
        process = ctx.Process(target=leave, args=(queue, (round_, bytes(size))))
        process.start()
        process.join()
        assert queue.qsize() == 1
        number, data = queue.get()
        assert (number, len(data)) == (round_, size)


def test_an_unread_queue_keeps_nobody_from_leaving(ctx: Any) -> None:
    queue = ctx.Queue()
    process = ctx.Process(target=put_run, args=(queue, 0, 20_000))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert queue.qsize() == 20_000


UNREAD = """
import sys
import procession

queue = procession.get_context(sys.argv[1]).Queue()
for _ in range(10_000):
    queue.put("x" * 1000)
"""


def test_a_program_ends_with_an_unread_queue(run_program: Any) -> None:
    ending = run_program(UNREAD)
    assert (ending.exit_code, ending.stderr) == (0, "")


def test_queues_start_no_thread(ctx: Any) -> None:
    before = threading.active_count()
    native = set(os.listdir("/proc/self/task"))
    queue = ctx.Queue()
    for number in range(100):
        queue.put(number)
    assert threading.active_count() == before
    assert set(os.listdir("/proc/self/task")) <= native
    assert queue.get_many(100) == list(range(100))


def test_queues_leave_nothing_in_the_arena_and_no_descriptors(ctx: Any) -> None:
    def use() -> None:
        queue = ctx.Queue()
        process = ctx.Process(target=put_run, args=(queue, 0, 100))
        process.start()
        process.join()
        process.close()

    use()
    objects = len(procession._native.objects())
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        use()
    assert len(procession._native.objects()) == objects
    assert len(os.listdir("/proc/self/fd")) == descriptors


# Waiting.


def test_ctrl_c_interrupts_get(queue: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        queue.get()
    queue.put(1)
    assert queue.get() == 1


def test_ctrl_c_interrupts_put(ctx: Any) -> None:
    queue = ctx.Queue(1)
    queue.put(1)
    for put in (lambda: queue.put(2), lambda: queue.put_many([2, 3])):
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            put()
    assert queue.get() == 1
    assert queue.empty()


class Alarm(Exception):
    pass


def test_an_exception_from_a_signal_handler_loses_no_message(ctx: Any) -> None:
    def ring(*_: object) -> None:
        raise Alarm

    queue, got = ctx.Queue(), collections.deque()  # type: ignore[var-annotated]
    process = ctx.Process(target=put_slowly, args=(queue, 300))
    before = signal.signal(signal.SIGALRM, ring)
    process.start()
    try:
        while len(got) < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                # In one step, so that only get could lose something.
                got.extend(map(queue.get, (True,)))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    process.join()
    assert list(got) == list(range(300))


def put_slowly(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put(number)
        time.sleep(0.0003)


def test_a_signal_handler_may_put(ctx: Any) -> None:
    queue = ctx.Queue()
    count = 0

    def put(*_: object) -> None:
        nonlocal count
        queue.put(("handler", count))
        count += 1

    before = signal.signal(signal.SIGALRM, put)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
        numbers = [0, 0]
        for number in range(20_000):
            queue.put(("program", number))
        signal.setitimer(signal.ITIMER_REAL, 0)
        while not queue.empty():
            producer, number = queue.get()
            assert number == numbers[producer == "handler"]
            numbers[producer == "handler"] += 1
        assert numbers == [20_000, count]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_object_whose_pickling_uses_the_queue_is_put(ctx: Any) -> None:
    queue = ctx.Queue()
    _queues.append(queue)
    queue.put(PutsWhilePickled())
    _queues.clear()
    assert queue.get() == "while pickled"
    assert queue.get() == "itself"


_queues: list[Any] = []


class PutsWhilePickled:
    def __reduce__(self) -> Any:
        _queues[0].put("while pickled")
        return (str, ("itself",))


def refuse(*_: object) -> None:
    raise LookupError("not here")


class Unreadable:
    def __reduce__(self) -> Any:
        return refuse, ()


def test_get_many_gives_what_comes_before_an_object_that_cannot_be_unpickled(ctx: Any) -> None:
    queue = ctx.Queue()
    queue.put_many([1, 2, Unreadable(), 3])
    assert queue.get_many(10) == [1, 2]
    with pytest.raises(LookupError, match="not here"):
        queue.get_many(10)
    assert queue.get_many(10) == [3]


def put_for_ever(queue: Any) -> None:
    while True:
        queue.put(b"x" * 4000)
        queue.get()


class AlarmRang(Exception):
    pass


def ring(*_: object) -> None:
    raise AlarmRang


def test_a_stopped_producer_keeps_nobody_from_giving_up(ctx: Any) -> None:
    queue = ctx.Queue()
    producer = ctx.Process(target=put_for_ever, args=(queue,))
    producer.start()
    assert eventually(lambda: not queue.empty())
    before = signal.signal(signal.SIGALRM, ring)
    try:
        # It is stopped at any step, so at some time while it has the end of the queue.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(random.uniform(0, 0.002))
            os.kill(producer.pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                queue.put(1)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except AlarmRang:
                break
            os.kill(producer.pid, signal.SIGCONT)
        else:
            pytest.fail("the producer was never stopped within the queue")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        producer.kill()
        producer.join()


class RaisesWhereItIsRead:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return raise_it, (self.error,)


def raise_it(error: BaseException) -> None:
    raise error


def test_what_ends_a_program_is_not_kept_for_a_later_get(ctx: Any) -> None:
    queue = ctx.Queue()
    for message in (0, RaisesWhereItIsRead(SystemExit(7)), 2):
        queue.put(message)
    with pytest.raises(SystemExit):
        queue.get_many(3)
    assert queue.get_many(3) == [0, 2]


def test_a_copy_of_a_process_is_not_told_of_a_message_that_it_did_not_get() -> None:
    queue = procession.Queue()
    for message in (0, RaisesWhereItIsRead(LookupError("bad")), 2):
        queue.put(message)
    assert queue.get_many(3) == [0]
    pid = os.fork()
    if pid == 0:
        os._exit(0 if queue.get(timeout=60) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(LookupError):
        queue.get_many(1)
