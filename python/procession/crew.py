"""The workers of a pool, and the tasks that they have not done.

Workers pull tasks from one queue in shared memory and put results into another. A worker writes
down which task it is about to take before it takes it, so that its death costs that task and no
other: the task fails with `procession.WorkerDiedError`, and the worker is replaced.

A thread that waits for a result collects results itself, its own and those of other waiters. So a
call on an idle pool is one round trip without a thread in between. A watcher thread (`Crew._watch`)
replaces workers that end. Another thread calls callbacks; it also collects results while a callback
is open and no caller waits.

A signal handler may raise an exception, or use the pool, between any two steps of the main thread.
So may the code that the garbage collector calls. Four rules follow:

- The lock is re-entrant, and only a `with` statement takes it.
- What is done under the lock may be done twice.
- A result moves from the queue to the inbox in one step, and leaves the inbox once it is delivered.
- A waiter checks its condition again after `_TICK` seconds.

A pool's way to its end is three flags. Each is set once and never cleared.

A handler may run in a thread that has the lock, and wait for another thread that needs it. So a
thread releases the lock while it waits (`Crew.wait`), and starts no thread while it has the lock.
The pool's state says whether a thread of the pool has begun or ended: after an interrupted `start`
or `join` the `Thread` does not know.

The garbage collector may end any pool in any thread, also in a thread of another pool. So
`terminate` takes no lock, and waits only for the pool's watcher. A watcher takes no lock of a pool
and waits for no other thread, so it does not wait for the watcher of a pool that it ends either.

A forked copy of the process can't use the pool: a copy changes nothing that is shared.
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
    """Make results that are ready readable in a forked copy, which has no other threads."""
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
"""Seconds that terminated workers have to exit before they are killed."""

_BACKLOG_MIN, _BACKLOG_MAX, _BACKLOG_MAX_BYTES = 2, 1024, 256 * 1024
"""How far an iterable is read ahead of the workers: at least so many tasks for each worker; beyond
that, at most so many tasks and so many bytes."""

_FEED_TICK = 0.002
"""Seconds after which the reader of an iterable checks how far the workers are. Enough tasks are
ahead that the workers don't run out of them in that time."""

_NO_TASK = 2**64 - 1
"""The number of an outcome without a task, which only wakes the thread that collects."""

_BEGUN, _READY, _FAILED = "begun", "ready", "failed"
"""A worker's stage: its initializer is called, it is ready for tasks, or the initializer has raised
an exception."""

_START_PATIENCE = 30.0
"""Seconds in which workers may be killed before their initializer begins, while none gets ready.
Such a death says little about the pool: another process may just kill its workers."""

_TICK = 1.0
"""Seconds after which a waiter checks its condition again, or retries."""


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
    max_tasks: int | None,
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
            # The exception is printed here too, as in every process that ends by one.
            frames = error.__traceback__
            starts.put((number, _FAILED, *told(error)[1:]))
            error.__traceback__ = frames
            raise
        _leave_if_copy(pid)
    starts.put((number, _READY))
    functions = Names()
    done = 0
    while max_tasks is None or done < max_tasks:
        task = tasks._get_task()
        if task is None:
            # The end is for every worker, so it is put back for the next one.
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
        # The task's parts may be large, and the next task may be long in coming.
        del task, message
        value = func = args = kwds = None
        name = b""
    util.debug(f"worker leaves after {done} tasks")


def _leave_if_copy(pid: int, error: BaseException | None = None) -> None:
    """End a copy of a worker that a task or the initializer has forked and not ended.

    No process would wait for the copy, or report the tasks that it takes. The copy does not exit as
    a process of `multiprocessing` does, since that would end the worker's children.
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
    """The receiver of a task's outcome."""

    @property
    def _has_come(self) -> bool:
        """Whether the outcome is here."""

    @property
    def _is_ready(self) -> bool:
        """Whether the outcome is here, and its callback, if there is one, has been called."""

    def _done(self, index: int, outcome: Outcome) -> object:
        """Take the outcome of one of its tasks. A second call for the same task does nothing.

        Returns what the result does not need any more; the caller drops it without a lock.
        """


class ResultWithCallback(Result, Protocol):
    """A result whose callback is called before the result is ready."""

    def _call_back(self) -> None:
        """Call the callback."""

    def _called_back(self) -> object:
        """Become ready; return what the result does not need any more."""


Job = tuple[Callable[[], Result | None], int, Brief]
"""An open task: a weak reference to its result, its index in the result, and what it calls."""


class Backlog:
    """The tasks from an iterable that workers have not taken yet."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def append(self, number: int, size: int) -> None:
        self._tasks.append((number, size))
        self._bytes += size

    def is_enough(self, taken: int, workers: int) -> bool:
        """Return whether enough tasks are waiting.

        Parameters
        ----------
        taken : int
            How many tasks of the pool workers have taken so far.
        workers : int
            How many workers the pool has.
        """
        while self._tasks and self._tasks[0][0] < taken:
            self._bytes -= self._tasks.popleft()[1]
        return len(self._tasks) > _BACKLOG_MIN * workers and (
            len(self._tasks) > _BACKLOG_MAX or self._bytes > _BACKLOG_MAX_BYTES
        )


class FedResult(Result, Protocol):
    """A result whose tasks a thread submits one by one."""

    def submitted(self) -> None:
        """Note that all tasks are submitted."""

    def no_more(self, failure: Failure) -> None:
        """Note that no more tasks come, and why."""


class Crew:
    """The workers of a pool, and the tasks that they have not done.

    It is a separate object so that its threads don't keep the pool alive.
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
        # Whether new tasks are refused, and whether open tasks are left undone.
        self.is_closed = False
        self.is_terminated = False
        # Whether there are no workers, and no more will be started.
        self.is_over = False
        self.tasks: Queue[Any] = Queue(name="pool tasks")
        self.results: Queue[Any] = Queue(name="pool results")
        # What workers report about their start, the stage of each, and how many have ended since a
        # worker was last ready.
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
        # The worker that is being started.
        self.starting: Any = None
        # Messages to put into the queues; they stay here while there is no memory for them.
        self.deferred: deque[Callable[[], object]] = deque()
        # Whether the watcher is known to run.
        self.is_watched = False
        self.names = Names()
        self.end: int | None = None
        # The attributes that follow are changed under the lock.
        self.lock: Any = threading.RLock()
        self.jobs: dict[int, Job] = {}
        # Results for which a thread still takes tasks from an iterable.
        self.fed: set[FedResult] = set()
        self.inbox: deque[_native.Outcome] = deque()
        self.turn: int | None = None
        self.awaited: set[ResultWithCallback] = set()
        self.due: dict[ResultWithCallback, None] = {}
        # The result whose callback is being called.
        self.calling: ResultWithCallback | None = None
        # The thread that calls callbacks, and all threads that were made for that.
        self.collector: threading.Thread | None = None
        self.callers: list[threading.Thread] = []
        # The waiters, each with the result that it waits for, or None.
        self.waiters: dict[SimpleQueue[None], Result | None] = {}
        # The pipe that wakes the watcher. It is closed when the last thread that uses it drops it.
        self.wake_reader: Any
        self.wake_writer: Any
        self.wake_reader, self.wake_writer = Pipe(duplex=False)
        # A writer does not wait for a busy watcher, which checks the state once it is not busy.
        os.set_blocking(self.wake_writer.fileno(), False)
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
        """Whether the pool takes tasks."""
        return not (self.is_closed or self.is_terminated or self.is_over)

    @property
    def at_work(self) -> bool:
        """Whether the workers do the open tasks."""
        return not (self.is_terminated or self.is_over)

    # Workers.

    def start(self) -> None:
        try:
            for _ in range(self.size):
                self._start_worker()
            _start_thread(self.watcher)
            self.is_watched = True
        except BaseException:
            # The watcher may have been started nevertheless. Then it does the same.
            self.terminate()
            raise

    def _start_worker(self) -> None:
        self.started += 1
        number = self.started
        args = (self.tasks, self.results, self.starts, number, *self.args)
        worker = self.make_process(self.ctx, target=_work, args=args)
        worker.name = worker.name.replace("Process", "PoolWorker")
        worker.daemon = True
        # Noted before it runs, so that an exception from a signal handler leaves no worker behind.
        self.starting = worker
        worker.start()
        self.numbers[worker] = number
        self.workers.append(worker)
        self.starting = None

    def wake_watcher(self) -> None:
        """Have the watcher check the state."""
        writer = self.wake_writer
        if writer is not None and not self.is_copy:
            # The pipe may be full. Then a message to the watcher is already in it.
            with contextlib.suppress(OSError):
                writer.send_bytes(b"!")

    def _watch(self) -> None:
        """Watch the workers until the last has ended."""
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
                self._wake_all()
                _watchers.discard(me)

    def _look_after_workers(self) -> None:
        wake_reader = self.wake_reader
        while not self.is_terminated:
            short = not self.is_closed and len(self.workers) < self.size
            sentinels = [worker.sentinel for worker in self.workers]
            ended = wait([wake_reader, *sentinels], _TICK if short or self.deferred else None)
            if wake_reader in ended:
                wake_reader.recv_bytes()
            if self.is_terminated:
                return
            for worker in [worker for worker in self.workers if worker.sentinel in ended]:
                self._reap_worker(worker)
            self._send_deferred()
            if self.failure is not None:
                return
            self._replace_workers()
            if self.is_closed and not self.workers and not self.deferred:
                return

    def _reap_worker(self, worker: Any) -> None:
        """Take the status of a worker that has ended; fail its task."""
        number = worker._popen.task()
        worker.join()
        # The worker wrote the number down before it took the task. So the task may still be in the
        # queue, or another worker may have taken it.
        if (
            number is not None
            and self.tasks._got() > number
            and all(other._popen.task() != number for other in self.workers if other is not worker)
        ):
            # This comes behind all that the worker put, so a result that it had put counts.
            died = (DIED, worker.pid, worker.exitcode, worker.name)
            self.deferred.append(lambda: self.results._put_result(number, False, died))
        if self.is_closed and not self.fed and (worker.exitcode != 0 or number is not None):
            # The worker may have died after it took the end and before it put the end back. No more
            # tasks come, so another end does no harm.
            self.deferred.append(lambda: self.tasks.put(None))
        self.workers.remove(worker)
        self._count_failed_start(worker)

    def _send_deferred(self) -> None:
        """Put the deferred messages into the queues."""
        # If there is no memory now, the rest is put at a later tick.
        with contextlib.suppress(MemoryError):
            while self.deferred:
                self.deferred[0]()
                self.deferred.popleft()

    def _count_failed_start(self, worker: Any) -> None:
        """Count a worker that ended before it was ready; give up if there are too many in a row."""
        self._read_starts()
        stage = self.stages.pop(self.numbers.pop(worker, 0), None)
        # A worker that the program itself ended says nothing about other workers.
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
        """Read what workers report about their start."""
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
        """Return the error of a task that the workers do not finish."""
        why = self.failure or why or "was terminated before the task was done"
        error = PoolTerminatedError(f"the pool {why}")
        error.__cause__ = self._cause()
        return error

    def refused(self) -> ValueError:
        """Return the error of a task that is submitted to a pool that takes no tasks."""
        if self.failure is None:
            return ValueError("Pool not running")
        error = PoolGaveUpError(f"Pool not running: the pool {self.failure}")
        error.__cause__ = self._cause()
        return error

    def _cause(self) -> BaseException | None:
        return None if self.cause is None else self.cause.error()

    def _replace_workers(self) -> None:
        """Start workers in place of those that have ended, while there are tasks to do."""
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
        # If a signal handler raised an exception meanwhile, it is not known whether this one runs.
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
        """Return the pickled function. A function that pickles by name is pickled only once."""
        if type(func) is not FunctionType:
            return _native.dumps(func)
        name: bytes | None = self.names.get(func)
        if name is None:
            name = _native.dumps(func)
            self.names.remember(func, name, name)
        return name

    def _pickling_error(
        self, error: Exception, func: Callable[..., Any], args: Any, kwds: Mapping[str, Any]
    ) -> Exception:
        """Return why a task can't be pickled; raise what a signal handler raised meanwhile."""
        if isinstance(error, MemoryError) or comes_from_a_handler(
            lambda: _native.join_task(self.name_of(func), args, kwds), error
        ):
            raise error
        if error.__traceback__ is not None:
            # The caller's frame keeps the result.
            error.__traceback__ = error.__traceback__.tb_next
        return error

    def _fail(self, result: Result, index: int, failure: Failure) -> None:
        """Fail a task that no worker gets."""
        with self.lock:
            rest = result._done(index, failure)
        self._wake_all()
        # This may be the last reference to the pool, which must be terminated without the lock.
        del rest

    def submit(
        self,
        result: Result,
        func: Callable[..., Any],
        args: Any,
        kwds: Mapping[str, Any],
        index: int = 0,
    ) -> int:
        """Submit a task to the workers; return its size in bytes.

        A task that can't be pickled fails with the reason, as with the standard library's pool.
        """
        self.check_process()
        try:
            name = self.name_of(func)
            task = _native.join_task(name, args, kwds)
        except Exception as error:
            self._fail(result, index, Given(self._pickling_error(error, func, args, kwds)))
            return 0
        job = (weakref.ref(result), index, brief(task, name, args, kwds))
        with self.lock:
            # A result that was begun before the pool was closed gets all its tasks.
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
            # A second call completes this if a signal interrupted the first.
            self._end_tasks()
        self.wake_watcher()

    def _end_tasks(self) -> None:
        """Put the end behind the tasks of a closed pool if no more come. The lock is held."""
        if self.is_closed and self.at_work and not self.fed and self.end is None:
            end = self.tasks._put_count()
            self.tasks.put(None)
            self.end = end

    def feed(self, result: FedResult, submit_all: Callable[[], object]) -> None:
        """Have a thread submit the tasks of a result.

        Parameters
        ----------
        result : FedResult
            The result; it is told when no more tasks come, and why.
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
            # The thread may run, or be about to. It finds that no task is wanted.
            result.no_more(Given(error))
            self._end_feeding(result)
            raise

    def _feed(self, result: FedResult, submit_all: Callable[[], object]) -> None:
        try:
            submit_all()
            result.submitted()
        except BaseException as error:
            # Any BaseException, since a caller may wait for it.
            result.no_more(Given(error))
        finally:
            # The iterable's code may have forked.
            if not self.is_copy:
                self._end_feeding(result)

    def submit_fed(
        self,
        result: FedResult,
        func: Callable[..., Any],
        args: Any,
        index: int,
        backlog: Backlog,
    ) -> None:
        """Submit a task of a result that is fed; a failure is an outcome like others.

        Waits first until the workers have taken most of the submitted tasks. An iterable without
        end would fill the memory otherwise.

        Parameters
        ----------
        backlog : Backlog
            The tasks of the same iterable that workers may not have taken yet.
        """
        while backlog.is_enough(self.tasks._got(), self.size) and self.at_work:
            time.sleep(_FEED_TICK)
        try:
            size = self.submit(result, func, args, {}, index)
            # The task's own number, or that of a task that was put since.
            backlog.append(self.tasks._put_count() - 1, size)
        except Exception as error:
            self.check_process()
            self._fail(result, index, Given(error) if self.at_work else Ended(self.ended))

    def _end_feeding(self, result: FedResult) -> None:
        with self.lock:
            self.fed.discard(result)
            self._end_tasks()
        self._wake_all()
        self.wake_watcher()

    def terminate(self) -> None:
        """End the workers; a second call completes an interrupted one.

        Takes no lock, since the garbage collector calls it too.
        """
        self.is_terminated = True
        if self.is_copy:
            return
        self.wake_watcher()
        if not self.is_watched:
            # The pool's start was interrupted. If there is a watcher after all, it does the same.
            self._end_workers()
            self.is_over = True
        self._wait_for_watcher()

    def _wait_for_watcher(self) -> None:
        if threading.get_ident() in _watchers:
            return
        self._wait_until(lambda: self.is_over)
        if self.is_watched:
            self.wait(self.watcher.join, _TICK)
        self.wake_reader = self.wake_writer = None

    def join(self) -> None:
        self.check_process()
        self._collect(None, lambda: self.is_over or not self.jobs, None)
        self._wait_for_watcher()
        # Deliver the last outcomes, and fail the tasks that get none.
        self._collect(None, lambda: not (self.jobs or self.awaited), None)
        me = threading.current_thread()
        if me is self.collector:
            return
        while not self._all_called():
            # The thread's start may have been interrupted, or the thread may not have begun yet.
            if self.collector is None:
                self._start_caller()
            self._pause_unless(self._all_called)
        for caller in self.callers:
            while caller is not me and caller.is_alive():
                self.wait(caller.join, _TICK)

    # Waiting.

    def wait(self, wait: Callable[..., Any], *args: Any) -> Any:
        """Call a function that waits, without the lock.

        A signal handler that waits may have interrupted its thread at any step, also where the
        thread has the lock. Other threads then see the same state as the handler.
        """
        if not self.lock._is_owned():
            return wait(*args)
        depth: list[Any] = []
        try:
            # All in C: no signal handler can run between the release and the note of it.
            depth.extend(map(operator.call, (self.lock._release_save,)))
            return wait(*args)
        finally:
            if depth:
                self.lock._acquire_restore(depth[0])

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a condition holds, whose change other threads announce by `_wake`."""
        while not is_so():
            self._pause_unless(is_so)

    def _pause_unless(self, is_so: Callable[[], bool]) -> None:
        """Wait for a wake or a tick, unless the condition holds."""
        waiter: SimpleQueue[None] = SimpleQueue()
        try:
            self.waiters[waiter] = None
            if not is_so():
                with contextlib.suppress(Empty):
                    self.wait(waiter.get, True, _TICK)
        finally:
            self.waiters.pop(waiter, None)

    # Results.

    @property
    def is_copy(self) -> bool:
        """Whether this process is a forked copy of the process that made the pool."""
        return not _native.is_process(self.pid)

    def check_process(self) -> None:
        """Refuse a copy of the process, which would take results from the original.

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
        """Collect results until `result` is ready, or wait while another thread collects.

        Returns whether it is ready. In a callback it is enough that the outcome has come: otherwise
        the thread would wait for itself.
        """
        self.check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._collect(result, lambda: result._has_come, deadline)
        if result._is_ready:
            return True
        if self.collector is threading.current_thread():
            return result._has_come
        waiter: SimpleQueue[None] = SimpleQueue()
        try:
            while result._has_come and not result._is_ready:
                left = _TICK if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    break
                self.waiters[waiter] = result
                if not result._is_ready:
                    with contextlib.suppress(Empty):
                        self.wait(waiter.get, True, min(left, _TICK))
        finally:
            self.waiters.pop(waiter, None)
        return result._is_ready

    def _collect(
        self, result: Result | None, done: Callable[[], bool], deadline: float | None
    ) -> None:
        """Collect until `done`. While another thread collects, wait for `result` or a callback."""
        me = threading.get_ident()
        # A signal handler that interrupts this thread while it collects uses the same turn.
        nested = self.turn == me
        waiter: SimpleQueue[None] | None = None
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
                            # The thread that had the turn before has delivered it.
                            return
                        self._receive(max(0.0, min(left, _TICK)))
                    elif left > 0:
                        if waiter is None:
                            waiter = SimpleQueue()
                        self.waiters[waiter] = result
                        if self.turn is not None and not done():
                            with contextlib.suppress(Empty):
                                self.wait(waiter.get, True, min(left, _TICK))
                    if left <= 0:
                        return
            finally:
                self._end_collecting(waiter, nested)
        except BaseException:
            # A signal may have interrupted the call above.
            self._end_collecting(waiter, nested)
            raise

    def _take_turn(self, me: int) -> bool:
        with self.lock:
            if self.turn is None:
                self.turn = me
            return self.turn == me

    def _end_collecting(self, waiter: SimpleQueue[None] | None, nested: bool) -> None:
        if waiter is not None:
            self.waiters.pop(waiter, None)
        if self.turn == threading.get_ident():
            if nested:
                # The interrupted collection may be about to wait for an outcome that this one has
                # delivered.
                self._wake_all()
            else:
                self.turn = None
                self._wake()

    def _wake_all(self) -> None:
        """Wake all waiters, and the thread that waits for outcomes."""
        # Without memory for the message, that thread checks its condition at the next tick.
        with contextlib.suppress(MemoryError):
            self.results._put_result(_NO_TASK, True, None)
        self._wake()

    def _wake(self) -> None:
        for waiter in tuple(self.waiters):
            waiter.put(None)

    def _receive(self, timeout: float) -> None:
        """Wait for the next outcome; deliver it and all others that have come."""
        if not self.inbox:
            with contextlib.suppress(Empty):
                self.wait(self._fill_inbox, timeout)
        # This may hold the last reference to the pool. Dropping that terminates the pool.
        unneeded: list[object] = []
        inbox, jobs = self.inbox, self.jobs
        with self.lock:
            while outcome := inbox[0] if inbox else None:
                # There is no job if a worker died after it had put the result.
                number = outcome.number
                job = jobs.get(number)
                if job is not None:
                    ref, index, call = job
                    result = ref()
                    if result is not None:
                        # A result stays bytes. A failure is in plain values, and is read here.
                        what = outcome if outcome.ok else self._failure(call, outcome)
                        rest = result._done(index, what)
                        if rest is not None:
                            unneeded.append(rest)
                    jobs.pop(number, None)
                try:  # noqa: SIM105 (a context manager for each outcome costs time)
                    inbox.remove(outcome)
                except ValueError:
                    # A signal handler that used the pool has done this already.
                    pass
            # Checked in this order: once there are no workers, no more outcomes come.
            if self.is_over and (self.jobs or self.awaited) and not self.results.qsize():
                for number, (ref, index, _) in tuple(self.jobs.items()):
                    result = ref()
                    if result is not None:
                        unneeded.append(result._done(index, Ended(self.ended)))
                    self.jobs.pop(number, None)
                # Results without a task: an interrupt came before it was submitted.
                self.awaited.clear()
        if not self.waiters:
            return
        for waiter, awaited in tuple(self.waiters.items()):
            if self.due if awaited is None else awaited._has_come:
                waiter.put(None)

    def _fill_inbox(self, timeout: float) -> None:
        # All in C: no signal handler can run between the queue and the inbox.
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
        """Fail the tasks that are open now; tasks that come later may still be done."""
        # A task whose message finds no memory now is failed at the next tick.
        with contextlib.suppress(MemoryError):
            for number in tuple(self.jobs):
                self.results._put_result(number, False, (ENDED, why))
        self._end_fed(why)

    def _end_fed(self, why: str | None = None) -> None:
        for result in tuple(self.fed):
            # The iterable may block the result's thread for ever.
            result.no_more(Ended(functools.partial(self.ended, why)))

    # Callbacks.

    def expect_callback(self, result: ResultWithCallback) -> None:
        """Have a result's callback called when its outcome comes, also if no caller waits."""
        self.check_process()
        with self.lock:
            self.awaited.add(result)
            has_collector = self.collector is not None
        if not has_collector:
            self._start_caller()
        self._wake()

    def _start_caller(self) -> None:
        """Start a thread that calls callbacks.

        Several threads may do so at once, or a handler while its thread waits for the new one. The
        first new thread that runs is the collector, the others end.
        """
        caller = threading.Thread(target=self._call_back, name="procession callbacks", daemon=True)
        # Noted before it runs.
        self.callers.append(caller)
        _start_thread(caller)

    def expect_none(self, result: ResultWithCallback) -> None:
        """Don't expect a callback of a result, since its task could not be submitted."""
        with self.lock:
            self.awaited.discard(result)
        self._wake()

    def callback_due(self, result: ResultWithCallback, has_one: bool) -> bool:
        """Have a result's callback called if there is one. The lock is held.

        Returns whether one is due or is being called.
        """
        if has_one and result in self.awaited:
            self.due[result] = None
        self.awaited.discard(result)
        return result in self.due or result is self.calling

    def _call_back(self) -> None:
        """Call callbacks in the order in which they become due; collect if no other thread does."""
        with self.lock:
            if self.collector is not None:
                return
            self.collector = threading.current_thread()
        try:
            # A callback may have forked. The copy has nothing to call.
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
                # In one step, since a thread that expects a callback later starts another caller.
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
            # Any BaseException, since others wait for this thread.
            _report(error)
        if not self.is_copy:
            # This may drop the last reference to the pool.
            result._called_back()
            self.calling = None
            self._wake()
        return True

    def _end_calling(self) -> None:
        with self.lock:
            if self.collector is threading.current_thread():
                # An error ended this thread (no memory, for instance); another may do the rest.
                self.collector = self.calling = None
        self._wake()

    def _all_called(self) -> bool:
        return not self.due and self.calling is None


def _start_thread(thread: threading.Thread) -> None:
    """Start a thread; raise what a signal handler raised meanwhile.

    If the thread has begun already, `Thread.start` turns that exception into a `KeyError`.
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
