"""Pools: what a task's failure reports, and what may not end the pool."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from typing import Any, ClassVar

import procession
import pytest
from processes import PATIENCE_SECONDS, eventually, is_running
from procession import PoolTerminatedError, RemoteExceptionError, WorkerDiedError
from procession.calls import brief, line

# What workers call.


def square(x: int) -> int:
    return x * x


def fail(x: object) -> None:
    raise KeyError(x)


def sleep_forever(_: object = None) -> None:
    while True:
        time.sleep(60)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    sleep_forever()


# Initializers that fail.


class Unforgiving(Exception):
    """Can be pickled; can't be unpickled."""

    def __init__(self, text: str, _: object) -> None:
        super().__init__(text)


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not by pickle")


def no_database(event: Any) -> None:
    event.wait()
    raise ValueError("no database")


def exit_at_once(event: Any) -> None:
    event.wait()
    sys.exit(3)


def fail_unforgivingly(event: Any = None) -> None:
    if event:
        event.wait()
    raise Unforgiving("two arguments", 2)


def fail_unpicklably(event: Any = None) -> None:
    if event:
        event.wait()
    raise Unpicklable("secret")


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    sleep_forever()


def die_the_first_time(deaths: Any) -> None:
    if deaths.acquire(False):
        die()


@pytest.mark.parametrize(
    ("initializer", "kind", "text"),
    [
        (no_database, ValueError, "ValueError: no database"),
        (exit_at_once, SystemExit, "SystemExit: 3"),
        (fail_unforgivingly, RemoteExceptionError, "Unforgiving: two arguments"),
        (fail_unpicklably, MaybeEncodingError, "not by pickle"),
    ],
)
def test_an_initializer_that_raises_is_the_cause_of_the_pools_end(
    ctx: Any, initializer: Callable[[Any], None], kind: type, text: str
) -> None:
    told: list[BaseException] = []
    event = ctx.Event()
    with ctx.Pool(2, initializer=initializer, initargs=(event,)) as pool:
        results = [
            pool.apply_async(square, (2,)),
            pool.map_async(square, range(9), 1),
            pool.apply_async(square, (2,), error_callback=told.append),
        ]
        calls = [*(result.get for result in results), pool.imap(square, range(3)).next]
        event.set()
        calls.append(lambda: pool.apply(square, (2,)))
        for call in calls:
            with pytest.raises(PoolTerminatedError, match="initializer raised") as caught:
                call()
            assert text in str(caught.value)
            cause = caught.value.__cause__
            assert type(cause) is kind
            assert isinstance(cause.__cause__, RemoteTraceback)
            assert f"in {initializer.__name__}" in str(cause.__cause__)
        assert [type(error) for error in told] == [PoolTerminatedError]
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square, (2,))
        # The workers that were there when the first failed, and as many again if all ended at once.
        assert pool._crew.started <= 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_pool_whose_initializers_are_killed_ends_after_a_few(ctx: Any, number: int) -> None:
    with ctx.Pool(2, initializer=die_by, initargs=(number,)) as pool:
        expected = rf"3 workers in a row .* was ended by {signal.Signals(number).name}"
        with pytest.raises(PoolTerminatedError, match=expected):
            pool.apply(square, (2,))
        assert pool._crew.started <= 5


def test_a_worker_killed_in_its_initializer_is_replaced(ctx: Any) -> None:
    deaths = ctx.Semaphore(1)
    with ctx.Pool(1, initializer=die_the_first_time, initargs=(deaths,)) as pool:
        assert pool.apply(square, (3,)) == 9
        assert pool._crew.started == 2


def wait_for(event: Any) -> None:
    event.wait()


def test_workers_that_the_program_kills_are_replaced_as_often_as_it_does(ctx: Any) -> None:
    event = ctx.Event()
    with ctx.Pool(1, initializer=wait_for, initargs=(event,)) as pool:
        worker = pool._pool[0]
        for _ in range(4):
            worker.kill()
            assert eventually(lambda: pool._pool not in ([], [worker]))  # noqa: B023
            worker = pool._pool[0]
        event.set()
        assert pool.apply(square, (3,)) == 9


class DoomedProcess(procession.context.ForkProcess):
    def run(self) -> None:
        die()


class PoolOfDoomedWorkers(procession.pool.Pool):
    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        return DoomedProcess(*args, **kwds)


def test_a_pool_whose_workers_are_killed_before_they_begin_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procession.crew, "_START_PATIENCE", 0.2)
    with PoolOfDoomedWorkers(2, context=procession.get_context("fork")) as pool:
        with pytest.raises(PoolTerminatedError, match=r"workers in a row left .* SIGKILL"):
            pool.apply(square, (2,))
        assert pool._crew.started > 2


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_is_not_told_as_the_initializers_failure(ctx: Any) -> None:
    with ctx.Pool(1, initializer=interrupt) as pool:
        with pytest.raises(PoolTerminatedError, match="2 workers in a row") as caught:
            pool.apply(square, (2,))
        assert caught.value.__cause__ is None


# Callbacks that raise anything.


class Anything(BaseException):
    pass


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Anything])
def test_a_callback_may_raise_anything(ctx: Any, capfd: Any, kind: type[BaseException]) -> None:
    def broken(_: object) -> None:
        raise kind("from a callback")

    calls: list[int] = []
    pool = ctx.Pool(1)
    results = [
        pool.apply_async(square, (2,), callback=broken),
        pool.map_async(square, range(3), callback=broken),
        pool.apply_async(fail, (2,), error_callback=broken),
        pool.apply_async(square, (3,), callback=calls.append),
    ]
    assert results[0].get(PATIENCE_SECONDS) == 4
    assert results[1].get(PATIENCE_SECONDS) == [0, 1, 4]
    with pytest.raises(KeyError):
        results[2].get(PATIENCE_SECONDS)
    assert results[3].get(PATIENCE_SECONDS) == 9
    assert calls == [9]
    pool.close()
    pool.join()
    printed = capfd.readouterr().err
    assert printed.count(f"{kind.__name__}: from a callback") == 3
    assert "in broken" in printed


@pytest.mark.parametrize("stderr", [None, object()])
def test_a_callback_may_raise_where_nothing_can_be_printed(
    ctx: Any, monkeypatch: pytest.MonkeyPatch, stderr: object
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError

    with ctx.Pool(1) as pool:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert pool.apply_async(square, (2,), callback=broken).get(PATIENCE_SECONDS) == 4
        assert pool.apply_async(square, (3,), callback=broken).get(PATIENCE_SECONDS) == 9
        monkeypatch.undo()


# Results whose decoding raises anything.

KINDS: dict[str, type[BaseException]] = {
    kind.__name__: kind for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, Anything)
}
decoded: list[str] = []


def decode_badly(name: str) -> None:
    decoded.append(name)
    raise KINDS[name]("in the middle of a result")


class Bad:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return decode_badly, (self.name,)


def give_bad(name: str) -> object:
    return Bad(name) if name in KINDS else name


@pytest.fixture(params=sorted(KINDS))
def bad(request: pytest.FixtureRequest) -> str:
    """The name of what the decoding of a result raises."""
    decoded.clear()
    return str(request.param)


def test_what_decoding_raises_is_the_failure_of_one_task(ctx: Any, bad: str) -> None:
    with ctx.Pool(1) as pool:
        results = [pool.apply_async(give_bad, (name,)) for name in ("a", bad, "b")]
        assert [results[index].get() for index in (2, 0)] == ["b", "a"]
        assert not decoded
        with pytest.raises(KINDS[bad], match="in the middle"):
            results[1].get()
        times = len(decoded)
        assert not results[1].successful()
        with pytest.raises(KINDS[bad], match="in the middle"):
            results[1].get()
        assert pool.apply(give_bad, ("c",)) == "c"
        assert len(decoded) == times


def test_what_decoding_raises_is_the_failure_of_one_map(ctx: Any, bad: str) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(KINDS[bad]):
            pool.map(give_bad, ["a", bad, "b"], 1)
        results = pool.imap(give_bad, ["a", bad, "b"])
        assert next(results) == "a"
        with pytest.raises(KINDS[bad]):
            next(results)
        assert list(results) == ["b"]


def test_what_decoding_raises_is_told_to_the_error_callback(ctx: Any, bad: str) -> None:
    told: list[Any] = []
    with ctx.Pool(1) as pool:
        pool.apply_async(give_bad, (bad,), {}, told.append, told.append).wait()
        assert [type(error) for error in told] == [KINDS[bad]]
        assert decoded == [bad]
        pool.apply_async(give_bad, ("a",), {}, told.append).wait()
        assert told[1:] == ["a"]


class Alarm(Exception):
    pass


signals: list[int] = []


def decode_with_a_signal(value: int) -> int:
    # As a signal that comes in the middle.
    if signals:
        signal.raise_signal(signals.pop())
    return value


class WithASignal:
    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return decode_with_a_signal, (self.value,)


@pytest.fixture(params=[KeyboardInterrupt, Alarm])
def signalled(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """The exception that the next signal raises, which comes while a result is decoded."""
    kind: type[BaseException] = request.param
    number = signal.SIGINT if kind is KeyboardInterrupt else signal.SIGALRM

    def raise_it(*_: object) -> None:
        raise kind

    before = signal.getsignal(number)
    if kind is not KeyboardInterrupt:
        signal.signal(number, raise_it)
    signals[:] = [number]
    yield kind
    signal.signal(number, before)
    assert not signals


def test_a_signal_while_a_result_is_decoded_loses_nothing(
    ctx: Any, signalled: type[BaseException]
) -> None:
    with ctx.Pool(1) as pool:
        result = pool.apply_async(WithASignal, (3,))
        with pytest.raises(signalled):
            result.get()
        assert result.get() == 3
        assert result.successful()


def test_a_signal_while_a_map_is_decoded_loses_nothing(
    ctx: Any, signalled: type[BaseException]
) -> None:
    with ctx.Pool(1) as pool:
        result = pool.map_async(WithASignal, range(5), 2)
        with pytest.raises(signalled):
            result.get()
        assert result.get() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["imap", "imap_unordered"])
def test_a_signal_while_an_iterations_result_is_decoded_loses_nothing(
    ctx: Any, signalled: type[BaseException], kind: str
) -> None:
    with ctx.Pool(1) as pool:
        results = getattr(pool, kind)(WithASignal, range(5), 2)
        with pytest.raises(signalled):
            next(results)
        assert sorted(results) == [0, 1, 2, 3, 4]


# Exceptions that don't come through.


def test_an_exception_that_cannot_be_unpickled_is_told_as_text(ctx: Any) -> None:
    told: list[BaseException] = []
    with ctx.Pool(1) as pool:
        calls = [
            lambda: pool.apply(fail_unforgivingly),
            lambda: pool.map(fail_unforgivingly, [None] * 3),
            pool.imap(fail_unforgivingly, [None] * 3).next,
            pool.apply_async(fail_unforgivingly, error_callback=told.append).get,
        ]
        for call in calls:
            with pytest.raises(RemoteExceptionError) as caught:
                call()
            error = caught.value
            assert error.exception.endswith("Unforgiving: two arguments")
            assert "TypeError" in error.reason
            assert error.exception in str(error)
            assert isinstance(error.__cause__, RemoteTraceback)
            assert "in fail_unforgivingly" in str(error.__cause__)
        assert [type(error) for error in told] == [RemoteExceptionError]
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.exception, copy.reason) == (error.exception, error.reason)
    assert isinstance(copy, procession.ProcessError)


class Reticent:
    """Can be neither pickled nor represented."""

    def __reduce__(self) -> Any:
        raise TypeError("not by pickle")

    def __repr__(self) -> str:
        raise LookupError("no words")


def give_reticent() -> Reticent:
    return Reticent()


def test_what_cannot_be_pickled_is_told_with_a_traceback(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        with pytest.raises(MaybeEncodingError, match="secret") as caught:
            pool.apply(fail_unpicklably)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "in fail_unpicklably" in str(caught.value.__cause__)
        with pytest.raises(MaybeEncodingError, match="Reticent") as caught:
            pool.apply(give_reticent)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "not by pickle" in str(caught.value.__cause__)


# Workers that die.


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


def test_a_dead_workers_error_names_worker_and_call(ctx: Any) -> None:
    with ctx.Pool(1) as pool:
        worker = pool._pool[0]
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(die, (1, "two", [3.0, None]), {"four": Point(5)})
        error = caught.value
        assert (error.pid, error.name) == (worker.pid, worker.name)
        module = die.__module__
        assert (
            error.call == f"{module}.die(1, 'two', [3.0, None], four={module}.Point(x=5, y=None))"
        )
        for part in (str(error.pid), error.name, "SIGKILL", error.call, "memory"):
            assert part in str(error)
        with pytest.raises(WorkerDiedError) as caught:
            pool.map(die, range(50), 10)
        assert caught.value.call == f"{module}.die(x) for x in (0, 1, 2, 3, 4, 5, ...)"
        with pytest.raises(WorkerDiedError) as caught:
            pool.starmap(die, [(1, 2)])
        assert caught.value.call == f"{module}.die(*x) for x in ((1, 2),)"
        with pytest.raises(WorkerDiedError) as caught:
            next(pool.imap(die, ["a"]))
        assert caught.value.call == f"{module}.die(x) for x in ('a',)"
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(die, (bytes(10_000_000), "b" * 5000, Point(6)))
        assert len(caught.value.call) < 150
        assert caught.value.call.startswith(f"{module}.die(b'\\x00\\x00")


def test_a_worker_died_error_is_pickled_with_its_call() -> None:
    error = WorkerDiedError(12, -11, 3, "ForkPoolWorker-1", "module.function(1)")
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
    assert "faulthandler" in str(error)
    for exitcode, text in ((-64, "signal 64|SIGRTMAX"), (3, "exit code 3"), (-10, "SIGUSR1")):
        with pytest.raises(WorkerDiedError, match=text):
            raise WorkerDiedError(12, exitcode, 3)


class KillsWhenLoaded:
    def __reduce__(self) -> Any:
        return die, ("loaded",)


class Loud:
    def __repr__(self) -> str:
        raise AssertionError("asked for its representation")


class Words(list[str]):
    pass


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(
    ("value", "small", "large"),
    [
        (KillsWhenLoaded(), "{m}.die('loaded')", "<{m}.KillsWhenLoaded object>"),
        (Loud(), "{m}.Loud()", "<{m}.Loud object>"),
        (Words(["a"]), "{m}.Words(['a'])", "<{m}.Words object>"),
        (Point(1).__eq__, "{m}.Point(x=1, y=None).__eq__", "<builtins.method object>"),
        (pathlib.PurePosixPath("/a"), "PurePosixPath('/a')", "PurePosixPath('/a')"),
        (2**4000, "<int of 4001 bits>", "<int of 4001 bits>"),
        ({"a": {1}}, "{{'a': {{1}}}}", "{{'a': {{1}}}}"),
        (frozenset(), "frozenset()", "frozenset()"),
        (print, "builtins.print", "<builtins.builtin_function_or_method object>"),
        ("\ud800", r"'\ud800'", r"'\ud800'"),
    ],
)
def test_a_call_is_told_without_calling_anything(
    value: object, small: str, large: str, size: int
) -> None:
    func = procession._native.dumps(square)
    args = (value, bytes(size))
    task = procession._native.join_task(func, args, {})
    expected = (small if len(task) < 1000 else large).format(m=__name__)
    assert line(brief(task, func, args, {})).startswith(f"{__name__}.square({expected}, b'")


def test_a_task_fails_though_there_was_no_memory_to_tell() -> None:
    class Full:
        """The results' queue while memory has run out."""

        times = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(results, name)

        def _put_result(self, number: int, ok: bool, value: object) -> None:
            self.times += 1
            if self.times == 1:
                raise MemoryError
            results._put_result(number, ok, value)

    with procession.get_context("fork").Pool(1) as pool:
        results, pool._crew.results = pool._crew.results, Full()
        with pytest.raises(WorkerDiedError):
            pool.apply_async(die).get(PATIENCE_SECONDS)
        assert pool._crew.results.times >= 2
        assert pool.apply(square, (2,)) == 4


# Copies of a worker.


def fork_and(leave: str, copies: Any) -> int:
    """Fork; the copy reports its pid, and returns from the task or the initializer."""
    worker = os.getpid()
    if os.fork() == 0:
        copies.put(os.getpid())
        if leave == "raise":
            raise LookupError("in the copy")
        return 0
    return worker


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        ("raise", "LookupError: in the copy"),
        ("return", "a copy of a worker of a pool has returned"),
    ],
)
def test_a_copy_of_a_worker_leaves_and_says_why(
    ctx: Any, capfd: Any, leave: str, said: str
) -> None:
    copies = ctx.Queue()
    with ctx.Pool(1) as pool:
        worker = pool.apply(fork_and, (leave, copies))
        copy = copies.get()
        assert worker == pool.apply(os.getpid) != copy
        # Its parent, the worker, has not waited for it.
        assert eventually(lambda: not is_running(copy))
        assert pool.apply(status_of, (copy,)) == 1
        assert pool.apply(os.getpid) == worker
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("leave", ["raise", "return"])
def test_a_copy_of_a_worker_that_an_initializer_makes_leaves(
    ctx: Any, capfd: Any, leave: str
) -> None:
    copies = ctx.Queue()
    with ctx.Pool(1, fork_and, (leave, copies)) as pool:
        copy = copies.get()
        assert pool.apply(square, (3,)) == 9
        assert eventually(lambda: not is_running(copy))
        assert pool.apply(status_of, (copy,)) == 1


def start_child() -> int:
    procession.current_process()._config["daemon"] = False
    child = procession.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    child.start()
    return child.pid


def test_a_copy_of_a_worker_ends_no_child_of_the_worker(ctx: Any, capfd: Any) -> None:
    copies = ctx.Queue()
    with ctx.Pool(1) as pool:
        child = pool.apply(start_child)
        for leave in ("raise", "return"):
            pool.apply(fork_and, (leave, copies))
            assert pool.apply(status_of, (copies.get(),)) == 1
        assert is_running(child)
    assert eventually(lambda: not is_running(child))


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Bare:
    """What a context of a program's own may make for a process: the standard library's pool uses no
    more of it."""

    made: ClassVar[list[Bare]] = []

    def __init__(self, **_: object) -> None:
        self.name = "Process-1"
        self.exitcode = None
        self.runs = False
        self.made.append(self)

    def start(self) -> None:
        if len(self.made) > 2:
            raise OSError("no more")
        self.runs = True

    def terminate(self) -> None:
        pass

    def join(self) -> None:
        self.runs = False


def test_a_pool_that_can_t_be_made_ends_the_processes_of_any_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bare, "made", [])
    context = procession.get_context("fork")
    monkeypatch.setattr(type(context), "Process", Bare)
    with pytest.raises(OSError, match="no more"):
        context.Pool(5)
    assert len(Bare.made) == 3
    assert not any(process.runs for process in Bare.made)
