"""Measure how waiting grows with the number of waiting processes.

Usage: scale.py [-m MODULE]... [-n WAITERS]... [--idle SECONDS] [WORKLOAD...]

Each row comes from a fresh interpreter. It forks the waiters, lets them wait for some seconds,
releases them, and reports

- release: wall time from the release until the last waiter is through,
- release CPU: user and system time of all waiters and the releaser from the release on, until each
  is through,
- idle CPU: user and system time of all waiters in the seconds of waiting,
- wakes: voluntary context switches of a waiter in a second of waiting, on average. A waiter that
  sleeps until it is released has none.

Where so many waiters do not fit on the machine, or are not through in time, the row says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import fresh

clock = time.perf_counter

SETTLE = 1.0
"""Seconds between the last waiter's arrival and the idle time, in which spinning ends."""

TIMEOUT = 120.0
"""Seconds for the start of the waiters, and again for their release."""

LEAST_FREE = 0.1
"""The part of the machine's memory that is left free."""


class DoesNotFitError(Exception):
    """The machine can't run so many waiters; the message says why."""


@dataclass
class Figures:
    """What one run measured: seconds, and wakes of a waiter in a second."""

    release: float
    release_cpu: float
    idle_cpu: float
    wakes: float


@dataclass
class Workload:
    """How a waiter waits, and how all waiters are released."""

    wait: Callable[[], object]
    release: Callable[[], object]


def barrier(mp: Any, waiters: int) -> Workload:
    point = mp.Barrier(waiters + 1)
    return Workload(point.wait, point.wait)


def condition(mp: Any, waiters: int) -> Workload:
    changed = mp.Condition()

    def wait() -> None:
        with changed:
            changed.wait()

    def release() -> None:
        with changed:
            changed.notify_all()

    return Workload(wait, release)


def event(mp: Any, waiters: int) -> Workload:
    happened = mp.Event()
    return Workload(happened.wait, happened.set)


def lock(mp: Any, waiters: int) -> Workload:
    taken = mp.Lock()
    taken.acquire()

    def wait() -> None:
        with taken:
            pass

    return Workload(wait, taken.release)


def queue(mp: Any, waiters: int) -> Workload:
    messages = mp.Queue()

    def release() -> None:
        for number in range(waiters):
            messages.put(number)

    return Workload(messages.get, release)


WORKLOADS: dict[str, Callable[[Any, int], Workload]] = {
    made.__name__: made for made in (barrier, condition, event, lock, queue)
}
WAITERS = [2, 30, 300, 1500]
MODULES = ["multiprocessing", "procession"]


class Board:
    """Two numbers for each waiter, in memory that does not belong to the measured module."""

    def __init__(self, waiters: int) -> None:
        self.numbers = memoryview(mmap.mmap(-1, 16 * waiters)).cast("d")
        self.waiters = waiters

    def arrive(self, index: int) -> None:
        self.numbers[2 * index] = -1.0

    def arrived(self) -> bool:
        return all(self.numbers[2 * index] for index in range(self.waiters))

    def through(self, index: int) -> None:
        self.numbers[2 * index + 1] = time.process_time()
        self.numbers[2 * index] = clock()

    def when_through(self) -> list[float]:
        """Return when each waiter was through, or -1 if it is not."""
        return [self.numbers[2 * index] for index in range(self.waiters)]

    def cpu_when_through(self) -> float:
        return sum(self.numbers[2 * index + 1] for index in range(self.waiters))


def cpu_time(pid: int) -> float:
    """Return user and system time of a process, to the nanosecond.

    /proc/PID/stat counts in hundredths of a second, of which an idle waiter has none. The number is
    that of clock_getcpuclockid(3), which Python has for threads only.
    """
    return time.clock_gettime((~pid << 3) | 2)


def voluntary_switches(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("voluntary_ctxt_switches:"):
                return int(line.split()[1])
    raise RuntimeError("the kernel counts no context switches")


def free_memory() -> float:
    """Return the part of the machine's memory that is free."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo}
    return sizes["MemAvailable"] / sizes["MemTotal"]


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    begun = clock()
    while not condition():
        if clock() - begun > TIMEOUT:
            raise DoesNotFitError(what())
        time.sleep(0.01)


@contextlib.contextmanager
def waiting(mp: Any, count: int, body: Callable[[int], None]) -> Iterator[list[int]]:
    """Start the waiters; kill those that are left in the end, and wait for all."""
    processes: list[Any] = []
    begun = clock()
    try:
        for index in range(count):
            if index % 20 == 0 and free_memory() < LEAST_FREE:
                raise DoesNotFitError(f"memory is full after {index} processes")
            if clock() - begun > TIMEOUT:
                raise DoesNotFitError(f"{index} processes started in {TIMEOUT:.0f} s")
            process = mp.Process(target=body, args=(index,), daemon=True)
            try:
                process.start()
            except OSError as error:
                raise DoesNotFitError(f"{index} processes, then: {error}") from error
            processes.append(process)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def measure(mp: Any, name: str, count: int, idle: float) -> Figures:
    workload = WORKLOADS[name](mp, count)
    board = Board(count)

    def body(index: int) -> None:
        board.arrive(index)
        workload.wait()
        board.through(index)

    def not_through() -> str:
        left = sum(when < 0 for when in board.when_through())
        return f"{left} are not through after {TIMEOUT:.0f} s"

    with waiting(mp, count, body) as pids:
        until(board.arrived, lambda: f"not all wait after {TIMEOUT:.0f} s")
        time.sleep(SETTLE)
        begun = clock()
        cpu = sum(map(cpu_time, pids))
        switches = sum(map(voluntary_switches, pids))
        time.sleep(idle)
        switches = sum(map(voluntary_switches, pids)) - switches
        before = sum(map(cpu_time, pids))
        idled = clock() - begun

        own = time.process_time()
        begun = clock()
        workload.release()
        own = time.process_time() - own
        until(lambda: min(board.when_through()) > 0, not_through)
        return Figures(
            release=max(board.when_through()) - begun,
            release_cpu=board.cpu_when_through() - before + own,
            idle_cpu=(before - cpu) * idle / idled,
            wakes=switches / count / idled,
        )


def run_one(module: str, name: str, count: int, idle: float) -> None:
    """Measure in this process, and print the figures or why there are none, as JSON."""
    context = importlib.import_module(module).get_context("fork")
    try:
        found = asdict(measure(context, name, count, idle))
    except DoesNotFitError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


def in_fresh_process(module: str, name: str, count: int, idle: float) -> Figures | str:
    arguments = ["--idle", str(idle), "--one", module, name, str(count)]
    output = fresh.run(__file__, arguments, 4 * TIMEOUT + idle)
    if output is None:
        return "no answer"
    found = json.loads(output)
    return found["error"] if "error" in found else Figures(**found)


def row(name: str, count: int, module: str, found: Figures | str) -> str:
    if isinstance(found, str):
        cells = [found, "", "", ""]
    else:
        cells = [
            f"{found.release * 1e3:,.1f}",
            f"{found.release_cpu * 1e3:,.1f}",
            f"{found.idle_cpu * 1e3:,.1f}",
            f"{found.wakes:,.2f}",
        ]
    return f"| {name} | {count:,} | {module} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--module", action="append", choices=MODULES)
    parser.add_argument("-n", "--waiters", action="append", type=int)
    parser.add_argument("--idle", type=float, default=5.0, help="seconds of waiting")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    options = parser.parse_args()
    if options.one:
        module, name, count = options.one
        run_one(module, name, int(count), options.idle)
        return
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    fresh.end_on_sigterm()
    print(
        "| workload | waiters | module | release, ms | release CPU, ms "
        f"| CPU of {options.idle:g} s idle, ms | wakes of a waiter a second |"
    )
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    for name in options.workloads or WORKLOADS:
        for count in options.waiters or WAITERS:
            for module in options.module or MODULES:
                found = in_fresh_process(module, name, count, options.idle)
                print(row(name, count, module, found), flush=True)


if __name__ == "__main__":
    main()
