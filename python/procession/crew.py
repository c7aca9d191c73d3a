"""The workers of a pool, and the tasks that they have not done.

Workers pull tasks from one queue in shared memory and put results into another. A worker writes
down which task it is about to take before it takes it, so that its death costs that task and no
other: the task fails with `procession.WorkerDiedError`, and the worker is replaced.

Who waits for a result collects results itself, its own and those of others, so a call on an idle
pool is one round trip without a thread in between. A thread (`Crew._watch`) looks after the
workers' lives; another calls callbacks, and collects while there are some to be called and nobody
waits.

A signal handler may raise between any two steps of the main thread, or use the pool, and so may
what the garbage collector calls. Therefore the lock is re-entrant and taken by `with` alone; what
is done under it may be done twice; a result leaves the queue for the inbox in one step, and the
inbox when it has been delivered; and whoever waits looks around now and then. How far a pool is on
its way to the end is three flags, each of which is set once and never cleared.

A handler may run in a thread that has the lock, and wait for another thread that needs it. So a
thread that waits lets go of the lock for that time (`Crew.wait`), and no thread is started under
it. Whether a thread of the pool has begun or ended is asked of the pool's state: after an
interrupted `start` or `join` a `Thread` does not know.

The garbage collector may end any pool in any thread, also in one of another pool. So `terminate`
takes no lock, and waits for the pool's watcher only. A watcher takes no lock of a pool and waits
for no other thread, so it does not wait for the watcher of a pool that it ends either.

In a forked copy of the process the pool is nobody's: a copy changes nothing that is shared.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from multiprocessing import util
from multiprocessing.connection import Pipe, wait
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import Any, Protocol

from . import _native
from .calls import Brief, Names, brief
from .decoding import comes_from_a_handler
from .errors import PoolGaveUpError, PoolTerminatedError, ending
from .outcomes import (
    DIED,
    ENDED,
    RAISED,
    Died,
    Ended,
    Failure,
    Given,
    Outcome,
    Raised,
    put_exception,
    put_result,
    told,
)
from .queues import Queue

_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
_watchers: set[int] = set()
"""The threads that look after the workers of a pool."""


def _forget_threads() -> None:
    """Have results that are ready be read in a forked copy, of which other threads are no part."""
    _watchers.clear()
    for crew in list(_crews):
        crew.lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_threads)

RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"
DONE = "DONE"

_BATCH = 256
"""Outcomes that are delivered at a time."""

_GRACE = 1.0
"""Seconds that terminated workers have to leave before they are killed."""

_AHEAD_LEAST, _AHEAD_MOST, _AHEAD_BYTES = 2, 1024, 256 * 1024
"""How far an iterable is read ahead of the workers: so many tasks for each of them at least; beyond
that no more than so many tasks, and bytes."""

_FEED_TICK = 0.002
"""Seconds after which who reads an iterable looks how far the workers are. So many tasks are ahead
that they don't run out meanwhile."""

_NO_TASK = 2**64 - 1
"""The number of an outcome that says no more than that there may be news."""

_BEGUN, _READY, _FAILED = "begun", "ready", "failed"
"""How far a worker has come: its initializer is called, it is ready for tasks, the initializer has
raised an exception."""

_START_PATIENCE = 30.0
"""Seconds in which workers may be killed before they come as far as their initializer, without one
that gets ready. Such a death says little about the pool: somebody may just kill its workers."""

_TICK = 1.0
"""Seconds after which who waits looks around, or tries again."""


def call_each(func: Callable[[Any], Any], items: tuple[Any, ...]) -> list[Any]:
    return [func(item) for item in items]


def call_each_star(func: Callable[..., Any], items: tuple[Iterable[Any], ...]) -> list[Any]:
    return [func(*item) for item in items]


def _work(
    tasks: Queue[Any],
    results: Queue[Any],
    starts: Queue[Any],
    number: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    most: int | None,
    wrap_exception: bool,
) -> None:
    pid = os.getpid()
    if initializer is not None:
        starts.put((number, _BEGUN))
        try:
            initializer(*initargs)
        except KeyboardInterrupt:
            # It says nothing about the initializer.
            raise
        except BaseException as error:
            _leave_if_copy(pid, error)
            # It is printed here as well, as by every process that ends so.
            frames = error.__traceback__
            starts.put((number, _FAILED, *told(error)[1:]))
            error.__traceback__ = frames
            raise
        _leave_if_copy(pid)
    starts.put((number, _READY))
    functions = Names()
    done = 0
    while most is None or done < most:
        task = tasks._get_task()
        if task is None:
            # The end is for every worker: pass it on.
            tasks.put(None)
            _native.task_done()
            return
        task_number, message = task
        try:
            if isinstance(message, MemoryError):
                raise message
            name, args, kwds = _native.split_task(message)
            func = functions.get(name)
            if func is None:
                func = pickle.loads(name)
                functions.remember(name, func, name)
            value: Any = func(*args, **kwds) if kwds else func(*args)
        except Exception as error:
            _leave_if_copy(pid, error)
            put_exception(results, task_number, error, wrap_exception)
        else:
            _leave_if_copy(pid)
            put_result(results, task_number, value)
        _native.task_done()
        done += 1
        # What the task was made of may be large, and the next one may be long in coming.
        del task, message
        value = func = args = kwds = None
        name = b""
    util.debug(f"worker leaves after {done} tasks")


def _leave_if_copy(pid: int, error: BaseException | None = None) -> None:
    """End a copy of a worker, which a task or the initializer has forked and not ended.

    Nobody would look after it, or tell of its tasks. It does not leave as a process of
    `multiprocessing` does, which would end the children of the worker.
    """
    if _native.is_process(pid):
        return
    try:
        if error is None:
            error = RuntimeError(
                "a copy of a worker of a pool has returned from the function that forked it; it is "
                "to leave there, by os._exit()"
            )
        print(f"Process {os.getpid()}, a copy of worker {pid}:", file=sys.stderr)
        traceback.print_exception(error)
        util._flush_std_streams()  # type: ignore[attr-defined]
    finally:
        os._exit(1)


class Result(Protocol):
    """What a task's outcome is given to."""

    @property
    def _has_come(self) -> bool:
        """Whether the outcome is here."""

    @property
    def _is_ready(self) -> bool:
        """Whether its callback has been called as well, if it has one."""

    def _done(self, index: int, outcome: Outcome) -> object:
        """Take the outcome of one of its tasks. The second time for the same does nothing.

        Returns what it does not need any more, to be let go of without a lock.
        """


class ResultWithCallback(Result, Protocol):
    """A result with a callback to be called before it is ready."""

    def _call_back(self) -> None:
        """Call the callback."""

    def _called_back(self) -> object:
        """Be ready; return what it does not need any more."""


Job = tuple[Callable[[], Result | None], int, Brief]
"""A task that is open: a weak reference to its result, its index there, what it calls."""


class Ahead:
    """The tasks from an iterable that workers have not taken yet."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def append(self, number: int, size: int) -> None:
        self._tasks.append((number, size))
        self._bytes += size

    def is_far(self, taken: int, workers: int) -> bool:
        """Return whether there are enough, with the number of tasks that were taken so far."""
        while self._tasks and self._tasks[0][0] < taken:
            self._bytes -= self._tasks.popleft()[1]
        return len(self._tasks) > _AHEAD_LEAST * workers and (
            len(self._tasks) > _AHEAD_MOST or self._bytes > _AHEAD_BYTES
        )


class FedResult(Result, Protocol):
    """A result whose tasks are submitted by a thread, bit by bit."""

    def submitted(self) -> None:
        """Take it that all tasks are submitted."""

    def no_more(self, failure: Failure) -> None:
        """Take it that no more tasks come, and why."""


class Crew:
    """The workers of a pool, and the tasks that they have not done.

    It is apart from the pool so that its threads don't keep the pool alive.
    """

    def __init__(
        self,
        ctx: Any,
        make_process: Callable[..., Any],
        size: int,
        args: tuple[Any, ...],
    ) -> None:
        self.pid = os.getpid()
        _crews.add(self)
        self.ctx = ctx
        self.make_process = make_process
        self.size = size
        self.args = args
        # Whether no tasks are taken any more, and whether those that there are go undone.
        self.is_closed = False
        self.is_terminated = False
        # Whether there are no workers, nor will be.
        self.is_over = False
        self.tasks: Queue[Any] = Queue(name="pool tasks")
        self.results: Queue[Any] = Queue(name="pool results")
        # What workers tell of their start, how far each has come, and how many ended since one got
        # ready.
        self.starts: Queue[Any] = Queue(name="pool starts")
        self.stages: dict[int, str] = {}
        self.failed_starts = 0
        self.last_ready = time.monotonic()
        # Why the pool gave up, and what its initializer raised.
        self.failure: str | None = None
        self.cause: Raised | None = None
        self.started = 0
        self.numbers: dict[Any, int] = {}
        self.workers: list[Any] = []
        # One that is being started.
        self.starting: Any = None
        # What is to be told, if there was no memory for it.
        self.owed: deque[Callable[[], object]] = deque()
        # Whether the watcher is sure to be there.
        self.is_watched = False
        self.names = Names()
        self.end: int | None = None
        # What follows changes under the lock.
        self.lock: Any = threading.RLock()
        self.jobs: dict[int, Job] = {}
        # Whose tasks a thread still takes from an iterable.
        self.fed: set[FedResult] = set()
        self.inbox: deque[_native.Outcome] = deque()
        self.turn: int | None = None
        self.awaited: set[ResultWithCallback] = set()
        self.due: dict[ResultWithCallback, None] = {}
        # Whose callback is being called.
        self.calling: ResultWithCallback | None = None
        # The thread that calls callbacks, and all that were made for that.
        self.collector: threading.Thread | None = None
        self.callers: list[threading.Thread] = []
        # Who waits for a turn or a result, or for either.
        self.gates: dict[SimpleQueue[None], Result | None] = {}
        # Closed when the last thread that uses them lets go of them.
        self.bell: Any
        self.bell_rope: Any
        self.bell, self.bell_rope = Pipe(duplex=False)
        # Nobody waits for a watcher that is busy: it looks at the state when it is not.
        os.set_blocking(self.bell_rope.fileno(), False)
        self.watcher = threading.Thread(target=self._watch, name="procession pool", daemon=True)

    @property
    def state(self) -> str:
        if self.is_terminated:
            return TERMINATE
        if self.is_over:
            return DONE
        return CLOSE if self.is_closed else RUN

    @property
    def is_open(self) -> bool:
        """Whether tasks are taken."""
        return not (self.is_closed or self.is_terminated or self.is_over)

    @property
    def at_work(self) -> bool:
        """Whether the workers do the tasks that there are."""
        return not (self.is_terminated or self.is_over)

    # Workers.

    def start(self) -> None:
        try:
            for _ in range(self.size):
                self._start_worker()
            _start_thread(self.watcher)
            self.is_watched = True
        except BaseException:
            # The watcher may have been started nevertheless, then it does the same.
            self.terminate()
            raise

    def _start_worker(self) -> None:
        self.started += 1
        number = self.started
        args = (self.tasks, self.results, self.starts, number, *self.args)
        worker = self.make_process(self.ctx, target=_work, args=args)
        worker.name = worker.name.replace("Process", "PoolWorker")
        worker.daemon = True
        # Known before it runs: an exception from a signal handler leaves none behind.
        self.starting = worker
        worker.start()
        self.numbers[worker] = number
        self.workers.append(worker)
        self.starting = None

    def ring(self) -> None:
        """Have the watcher look at the state."""
        rope = self.bell_rope
        if rope is not None and not self.is_copy:
            # It may be full, then the watcher is told already.
            with contextlib.suppress(OSError):
                rope.send_bytes(b"!")

    def _watch(self) -> None:
        """Look after the workers until the last has left."""
        me = threading.get_ident()
        _watchers.add(me)
        self.is_watched = True
        try:
            self._look_after_workers()
        except BaseException as error:
            self.failure = f"ended, since its workers can't be looked after: {error!r}"
            self.is_terminated = True
            raise
        finally:
            try:
                if self.is_terminated:
                    self._end_workers()
            finally:
                self.is_over = True
                self._end_fed()
                self._nudge()
                _watchers.discard(me)

    def _look_after_workers(self) -> None:
        bell = self.bell
        while not self.is_terminated:
            short = not self.is_closed and len(self.workers) < self.size
            sentinels = [worker.sentinel for worker in self.workers]
            ended = wait([bell, *sentinels], _TICK if short or self.owed else None)
            if bell in ended:
                bell.recv_bytes()
            if self.is_terminated:
                return
            for worker in [worker for worker in self.workers if worker.sentinel in ended]:
                self._see_off(worker)
            self._tell_what_is_owed()
            if self.failure is not None:
                return
            self._make_up_numbers()
            if self.is_closed and not self.workers and not self.owed:
                return

    def _see_off(self, worker: Any) -> None:
        """Fail the task of a worker that has ended."""
        number = worker._popen.task()
        worker.join()
        # The number was written down before the task was taken: it may be in the queue still, or
        # have been taken by another worker.
        if (
            number is not None
            and self.tasks._got() > number
            and all(other._popen.task() != number for other in self.workers if other is not worker)
        ):
            # This comes behind all that the worker put, so a result that it still gave counts.
            died = (DIED, worker.pid, worker.exitcode, worker.name)
            self.owed.append(lambda: self.results._put_result(number, False, died))
        if self.is_closed and not self.fed and (worker.exitcode != 0 or number is not None):
            # It may have died with the end in its hands. No task comes any more, so another end
            # does no harm.
            self.owed.append(lambda: self.tasks.put(None))
        self.workers.remove(worker)
        self._judge_start(worker)

    def _tell_what_is_owed(self) -> None:
        # Without memory now there may be some later.
        with contextlib.suppress(MemoryError):
            while self.owed:
                self.owed[0]()
                self.owed.popleft()

    def _judge_start(self, worker: Any) -> None:
        """Take no more tasks if workers end before they are ready: others would end likewise."""
        self._read_starts()
        stage = self.stages.pop(self.numbers.pop(worker, 0), None)
        # One that the program ended itself says nothing of how others would end.
        if stage == _READY or worker._popen.was_signalled or self.is_terminated:
            return
        self.failed_starts += 1
        how = ending(worker.exitcode)
        if self.cause is not None:
            self.failure = f"gave up: the initializer raised {self.cause.summary}"
        elif self.failed_starts > self.size and (
            stage == _BEGUN
            or worker.exitcode not in (-signal.SIGKILL, -signal.SIGTERM)
            or time.monotonic() - self.last_ready > _START_PATIENCE
        ):
            self.failure = (
                f"gave up: {self.failed_starts} workers in a row left before they were ready for "
                f"tasks, the last, {worker.pid}, {how}"
            )
            if self.args[0] is not None:
                self.failure += "; see what its initializer does"
        if self.failure is not None:
            self.is_terminated = True

    def _read_starts(self) -> None:
        """Read what workers told of their start."""
        with contextlib.suppress(Empty):
            while True:
                number, stage, *failure = self.starts.get(block=False)
                self.stages[number] = stage
                if stage == _READY:
                    self.failed_starts = 0
                    self.last_ready = time.monotonic()
                elif stage == _FAILED and self.cause is None:
                    self.cause = Raised(*failure)

    def ended(self, why: str | None = None) -> PoolTerminatedError:
        """Return what a task fails with that the workers do no more."""
        why = self.failure or why or "was terminated before the task was done"
        error = PoolTerminatedError(f"the pool {why}")
        error.__cause__ = self._cause()
        return error

    def refused(self) -> ValueError:
        """Return the error of a task that is given to a pool that takes none."""
        if self.failure is None:
            return ValueError("Pool not running")
        error = PoolGaveUpError(f"Pool not running: the pool {self.failure}")
        error.__cause__ = self._cause()
        return error

    def _cause(self) -> BaseException | None:
        return None if self.cause is None else self.cause.error()

    def _make_up_numbers(self) -> None:
        """Start workers in place of those that have left, while there is something to do."""
        while (
            len(self.workers) < self.size
            and not self.is_terminated
            and (not self.is_closed or self.end is None or self.tasks._got() < self.end)
        ):
            try:
                self._start_worker()
            except Exception as error:
                self.starting = None
                if not self.workers:
                    self._fail_open(f"can't start a worker ({error!r})")
                    if self.is_closed:
                        return
                util.sub_warning("a pool can't start a worker: %r", error)
                return

    def _end_workers(self) -> None:
        workers = list(self.workers)
        # Whether it was started is not known if a signal handler raised an exception meanwhile.
        starting = self.starting
        if getattr(starting, "_popen", None) is not None and starting not in workers:
            workers.append(starting)
        for worker in workers:
            if worker.exitcode is None:
                worker.terminate()
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            # A context of the program's own may make processes that have no sentinel.
            sentinel = getattr(worker, "sentinel", None)
            if sentinel is not None and not wait([sentinel], max(0.0, deadline - time.monotonic())):
                worker.kill()
            worker.join()
        self.workers.clear()

    # Tasks.

    def name_of(self, func: Callable[..., Any]) -> bytes:
        """Return a function as the workers know it, pickled once if it goes by name alone."""
        if type(func) is not FunctionType:
            return _native.dumps(func)
        name: bytes | None = self.names.get(func)
        if name is None:
            name = _native.dumps(func)
            self.names.remember(func, name, name)
        return name

    def _judged(
        self, error: Exception, func: Callable[..., Any], args: Any, kwds: Mapping[str, Any]
    ) -> Exception:
        """Return why a task can't be pickled; what a signal handler raised meanwhile is raised."""
        if isinstance(error, MemoryError) or comes_from_a_handler(
            lambda: _native.join_task(self.name_of(func), args, kwds), error
        ):
            raise error
        if error.__traceback__ is not None:
            # The caller's frame keeps the result.
            error.__traceback__ = error.__traceback__.tb_next
        return error

    def _fail(self, result: Result, index: int, failure: Failure) -> None:
        """Fail a task that the workers don't get."""
        with self.lock:
            rest = result._done(index, failure)
        self._nudge()
        # A last reference to the pool, perhaps, which is terminated without the lock.
        del rest

    def submit(
        self,
        result: Result,
        func: Callable[..., Any],
        args: Any,
        kwds: Mapping[str, Any],
        index: int = 0,
    ) -> int:
        """Give a task to the workers; return how many bytes it has.

        One that can't be pickled fails with the reason, as with the standard library's pool.
        """
        self.check_process()
        try:
            name = self.name_of(func)
            task = _native.join_task(name, args, kwds)
        except Exception as error:
            self._fail(result, index, Given(self._judged(error, func, args, kwds)))
            return 0
        job = (weakref.ref(result), index, brief(task, name, args, kwds))
        with self.lock:
            # What was begun before the pool was closed is finished.
            if self.is_terminated or (self.is_closed and result not in self.fed):
                raise self.refused()
            self.tasks._put_task(task, self.jobs, job)
        return len(task)

    def close(self) -> None:
        if self.is_copy:
            self.is_closed = True
            return
        with self.lock:
            self.is_closed = True
            # Once more if a signal has interrupted just that.
            self._end_tasks()
        self.ring()

    def _end_tasks(self) -> None:
        """Put the end behind the tasks of a closed pool, if no more come. The lock is held."""
        if self.is_closed and self.at_work and not self.fed and self.end is None:
            end = self.tasks._put_count()
            self.tasks.put(None)
            self.end = end

    def feed(self, result: FedResult, submit_all: Callable[[], object]) -> None:
        """Have a thread submit the tasks of a result.

        Parameters
        ----------
        result : FedResult
            What is told that there are no more, and why.
        submit_all : callable
            Submits the tasks one by one, with `submit_fed`.
        """
        feeder = threading.Thread(
            target=self._feed, args=(result, submit_all), name="procession tasks", daemon=True
        )
        try:
            with self.lock:
                if not self.is_open:
                    raise self.refused()
                self.fed.add(result)
            _start_thread(feeder)
        except BaseException as error:
            # The thread may be there, or about to begin: it finds that nothing is wanted.
            result.no_more(Given(error))
            self._end_feeding(result)
            raise

    def _feed(self, result: FedResult, submit_all: Callable[[], object]) -> None:
        try:
            submit_all()
            result.submitted()
        except BaseException as error:
            # Also what is no Exception: somebody waits for it.
            result.no_more(Given(error))
        finally:
            # What takes the tasks from an iterable may have forked.
            if not self.is_copy:
                self._end_feeding(result)

    def submit_fed(
        self,
        result: FedResult,
        func: Callable[..., Any],
        args: Any,
        index: int,
        ahead: Ahead,
    ) -> None:
        """Submit a task of a result that is fed; its failure is an outcome like others.

        Waits first until workers have taken most of those that were submitted: an iterable without
        end would fill the memory.

        Parameters
        ----------
        ahead : Ahead
            The tasks of the same iterable that may not be taken yet.
        """
        while ahead.is_far(self.tasks._got(), self.size) and self.at_work:
            time.sleep(_FEED_TICK)
        try:
            size = self.submit(result, func, args, {}, index)
            # Its own number, or one that was put since.
            ahead.append(self.tasks._put_count() - 1, size)
        except Exception as error:
            self.check_process()
            self._fail(result, index, Given(error) if self.at_work else Ended(self.ended))

    def _end_feeding(self, result: FedResult) -> None:
        with self.lock:
            self.fed.discard(result)
            self._end_tasks()
        self._nudge()
        self.ring()

    def terminate(self) -> None:
        """End the workers; the second call completes one that was interrupted.

        Takes no lock: the garbage collector calls it as well.
        """
        self.is_terminated = True
        if self.is_copy:
            return
        self.ring()
        if not self.is_watched:
            # Interrupted while it was made. If there is a watcher after all, it does the same.
            self._end_workers()
            self.is_over = True
        self._wait_for_watcher()

    def _wait_for_watcher(self) -> None:
        if threading.get_ident() in _watchers:
            return
        self._wait_until(lambda: self.is_over)
        if self.is_watched:
            self.wait(self.watcher.join, _TICK)
        self.bell = self.bell_rope = None

    def join(self) -> None:
        self.check_process()
        self._collect(None, lambda: self.is_over or not self.jobs, None)
        self._wait_for_watcher()
        # What came last is delivered, and what comes no more is failed.
        self._collect(None, lambda: not (self.jobs or self.awaited), None)
        me = threading.current_thread()
        if me is self.collector:
            return
        while not self._all_called():
            # The thread for it may have been interrupted in its start, or have yet to begin.
            if self.collector is None:
                self._start_caller()
            self._pause_unless(self._all_called)
        for caller in self.callers:
            while caller is not me and caller.is_alive():
                self.wait(caller.join, _TICK)

    # Waiting.

    def wait(self, wait: Callable[..., Any], *args: Any) -> Any:
        """Call what waits, without the lock.

        A signal handler that waits may have interrupted its own thread anywhere, so also where that
        has the lock. Others see then what the handler itself would see.
        """
        if not self.lock._is_owned():
            return wait(*args)
        depth: list[Any] = []
        try:
            # All in C, without a place for a signal between the release and its being noted.
            depth.extend(map(operator.call, (self.lock._release_save,)))
            return wait(*args)
        finally:
            if depth:
                self.lock._acquire_restore(depth[0])

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so that others tell by `_wake`."""
        while not is_so():
            self._pause_unless(is_so)

    def _pause_unless(self, is_so: Callable[[], bool]) -> None:
        """Wait until somebody wakes those who wait, or for a moment; not if something is so."""
        gate: SimpleQueue[None] = SimpleQueue()
        try:
            self.gates[gate] = None
            if not is_so():
                with contextlib.suppress(Empty):
                    self.wait(gate.get, True, _TICK)
        finally:
            self.gates.pop(gate, None)

    # Results.

    @property
    def is_copy(self) -> bool:
        """Whether this is a forked copy of the process that made the pool."""
        return not _native.is_process(self.pid)

    def check_process(self) -> None:
        """Refuse to serve a copy of the process: it would take results from the original.

        Raises
        ------
        ValueError
            In another process than the one that made the pool.
        """
        if not _native.is_process(self.pid):
            raise ValueError(
                f"the pool belongs to process {self.pid}, which made it; make another one here"
            )

    def collect(self, result: Result, timeout: float | None) -> bool:
        """Collect results until `result` is ready, or let the thread do so that does already.

        Gives whether it is ready. In a callback its outcome is enough: that thread would otherwise
        wait for itself.
        """
        self.check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._collect(result, lambda: result._has_come, deadline)
        if result._is_ready:
            return True
        if self.collector is threading.current_thread():
            return result._has_come
        gate: SimpleQueue[None] = SimpleQueue()
        try:
            while result._has_come and not result._is_ready:
                left = _TICK if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    break
                self.gates[gate] = result
                if not result._is_ready:
                    with contextlib.suppress(Empty):
                        self.wait(gate.get, True, min(left, _TICK))
        finally:
            self.gates.pop(gate, None)
        return result._is_ready

    def _collect(
        self, result: Result | None, done: Callable[[], bool], deadline: float | None
    ) -> None:
        """Collect until `done`; wait for `result`, or for any callback, while others collect."""
        me = threading.get_ident()
        # Called by a signal handler while this thread collects, it does so within the same turn.
        nested = self.turn == me
        gate: SimpleQueue[None] | None = None
        has_waited = False
        try:
            try:
                while not done():
                    if has_waited:
                        # A handler may have forked.
                        self.check_process()
                    has_waited = True
                    left = _TICK if deadline is None else deadline - time.monotonic()
                    if self._take_turn(me):
                        if done():
                            # Delivered by the one that had the turn before.
                            return
                        self._receive(max(0.0, min(left, _TICK)))
                    elif left > 0:
                        if gate is None:
                            gate = SimpleQueue()
                        self.gates[gate] = result
                        if self.turn is not None and not done():
                            with contextlib.suppress(Empty):
                                self.wait(gate.get, True, min(left, _TICK))
                    if left <= 0:
                        return
            finally:
                self._end_collecting(gate, nested)
        except BaseException:
            # A signal may have interrupted just that.
            self._end_collecting(gate, nested)
            raise

    def _take_turn(self, me: int) -> bool:
        with self.lock:
            if self.turn is None:
                self.turn = me
            return self.turn == me

    def _end_collecting(self, gate: SimpleQueue[None] | None, nested: bool) -> None:
        if gate is not None:
            self.gates.pop(gate, None)
        if self.turn == threading.get_ident():
            if nested:
                # What the interrupted collection is about to wait for may have been delivered.
                self._nudge()
            else:
                self.turn = None
                self._wake()

    def _nudge(self) -> None:
        """Have all who wait look around, also the one who waits for outcomes."""
        # Without memory for it that one looks around at the next tick.
        with contextlib.suppress(MemoryError):
            self.results._put_result(_NO_TASK, True, None)
        self._wake()

    def _wake(self) -> None:
        for gate in tuple(self.gates):
            gate.put(None)

    def _receive(self, timeout: float) -> None:
        """Wait for the next outcome; deliver it, and those that are there as well."""
        if not self.inbox:
            with contextlib.suppress(Empty):
                self.wait(self._fill_inbox, timeout)
        # A last reference to the pool may be among it, without which the pool is terminated.
        unneeded: list[object] = []
        inbox, jobs = self.inbox, self.jobs
        with self.lock:
            while outcome := inbox[0] if inbox else None:
                # There is no job if a worker died after it gave the result.
                number = outcome.number
                job = jobs.get(number)
                if job is not None:
                    ref, index, call = job
                    result = ref()
                    if result is not None:
                        # As bytes; a failure is in plain values, and read.
                        what = outcome if outcome.ok else self._failure(call, outcome)
                        rest = result._done(index, what)
                        if rest is not None:
                            unneeded.append(rest)
                    jobs.pop(number, None)
                try:  # noqa: SIM105 (a context manager for each outcome costs time)
                    inbox.remove(outcome)
                except ValueError:
                    # A signal handler that used the pool has done all this.
                    pass
            # Looked at in this order: without workers no more outcomes come.
            if self.is_over and (self.jobs or self.awaited) and not self.results.qsize():
                for number, (ref, index, _) in tuple(self.jobs.items()):
                    result = ref()
                    if result is not None:
                        unneeded.append(result._done(index, Ended(self.ended)))
                    self.jobs.pop(number, None)
                # What has no task: an interrupt came before that was submitted.
                self.awaited.clear()
        if not self.gates:
            return
        for gate, awaited in tuple(self.gates.items()):
            if self.due if awaited is None else awaited._has_come:
                gate.put(None)

    def _fill_inbox(self, timeout: float) -> None:
        # All in C, without a place for a signal between the queue and the inbox.
        results = map(self.results._get_results, (_BATCH,), (timeout,))
        self.inbox.extend(chain.from_iterable(results))

    def _failure(self, call: Brief, outcome: _native.Outcome) -> Failure:
        if outcome.lost is not None:
            return Given(MemoryError(outcome.lost))
        how, *what = outcome.load()
        if how == RAISED:
            return Raised(*what)
        if how == DIED:
            return Died(outcome.number, call, *what)
        return Ended(functools.partial(self.ended, *what))

    def _fail_open(self, why: str) -> None:
        """Fail the tasks that are open, though others may be done later."""
        # What there is no memory for now is failed at the next tick.
        with contextlib.suppress(MemoryError):
            for number in tuple(self.jobs):
                self.results._put_result(number, False, (ENDED, why))
        self._end_fed(why)

    def _end_fed(self, why: str | None = None) -> None:
        for result in tuple(self.fed):
            # Its thread may be held up for ever by what it takes the tasks from.
            result.no_more(Ended(functools.partial(self.ended, why)))

    # Callbacks.

    def expect_callback(self, result: ResultWithCallback) -> None:
        """Call a result's callbacks when it is ready, though nobody may wait for it."""
        self.check_process()
        with self.lock:
            self.awaited.add(result)
            has_collector = self.collector is not None
        if not has_collector:
            self._start_caller()
        self._wake()

    def _start_caller(self) -> None:
        """Start a thread that calls callbacks.

        Several threads may come here, or a handler while its thread waits for the new one: the
        first that runs is the collector, the others leave.
        """
        caller = threading.Thread(target=self._call_back, name="procession callbacks", daemon=True)
        # Known before it runs.
        self.callers.append(caller)
        _start_thread(caller)

    def expect_none(self, result: ResultWithCallback) -> None:
        """Call no callbacks of a result whose task could not be submitted."""
        with self.lock:
            self.awaited.discard(result)
        self._wake()

    def callback_due(self, result: ResultWithCallback, has_one: bool) -> bool:
        """Have the callback of a result be called, if there is one. The lock is held."""
        if has_one and result in self.awaited:
            self.due[result] = None
        self.awaited.discard(result)
        return result in self.due or result is self.calling

    def _call_back(self) -> None:
        """Call callbacks as they become due, in order; collect while nobody else does."""
        with self.lock:
            if self.collector is not None:
                return
            self.collector = threading.current_thread()
        try:
            # A callback may have forked: its copy has nothing to call.
            while not self.is_copy and self._call_next():
                pass
        finally:
            if not self.is_copy:
                self._end_calling()

    def _call_next(self) -> bool:
        """Call a callback, or wait for one that is due; return whether there may be more."""
        with self.lock:
            result = self.calling = next(iter(self.due), None)
            if result is not None:
                del self.due[result]
            elif not self.awaited and not self.at_work:
                # In one step: who expects a callback from now on starts another thread.
                self.collector = None
                return False
        if result is None:
            if self.awaited:
                self._collect(None, lambda: bool(self.due) or not self.awaited, None)
            else:
                self._pause_unless(lambda: bool(self.due or self.awaited) or not self.at_work)
            return True
        try:
            result._call_back()
        except BaseException as error:
            # Also what is no Exception: others wait for this thread.
            _report(error)
        if not self.is_copy:
            # The last reference to the pool may be what is let go of here.
            result._called_back()
            self.calling = None
            self._wake()
        return True

    def _end_calling(self) -> None:
        with self.lock:
            if self.collector is threading.current_thread():
                # Memory has run out, for instance: another thread may do what is left.
                self.collector = self.calling = None
        self._wake()

    def _all_called(self) -> bool:
        return not self.due and self.calling is None


def _start_thread(thread: threading.Thread) -> None:
    """Start a thread, or raise what a signal handler raised meanwhile.

    `Thread.start` makes a `KeyError` of that where the thread has begun already.
    """
    try:
        thread.start()
    except KeyError as error:
        raise error.__context__ or error from None


def _report(error: BaseException) -> None:
    """Print what a callback raised."""
    # There may be no stderr, or one that raises exceptions itself.
    with contextlib.suppress(Exception):
        print("Exception in a callback of a pool, which goes on:", file=sys.stderr)
        traceback.print_exception(error)
