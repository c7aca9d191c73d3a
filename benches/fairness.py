"""Measure how long a process waits for a lock that another process acquires repeatedly.

Usage: fairness.py [-m MODULE]... [--seconds SECONDS] [--hold MILLISECONDS]... [WAITERS...]

A greedy holder keeps the lock for a while, busy or asleep, and acquires it again at once. One or
several waiters acquire it, release it at once and acquire it again after a pause. Each row comes
from a fresh interpreter and has

- turns: how often the holder and, on average, a waiter had the lock,
- the ratio of the two,
- passed by: the largest number of the holder's turns during one wait,
- longest wait: the longest of any waiter, including a wait that is unfinished at the end.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import mmap
import time
from dataclasses import asdict, dataclass
from typing import Any

import fresh

clock = time.perf_counter

HOLDS = [0.0, 0.5, 5.0, 20.0]
"""How long the holder keeps the lock, in milliseconds."""

WAITERS = [1, 4]
MODULES = ["multiprocessing", "procession"]

PAUSE = 0.002
"""Seconds between two turns of a waiter."""


@dataclass
class Figures:
    """What one run measured: counts, and seconds."""

    holder: int
    waiter: float
    passed_by: int
    longest: float


def work(seconds: float, busy: bool) -> None:
    if not busy:
        time.sleep(seconds)
        return
    end = clock() + seconds
    while clock() < end:
        pass


def hold_greedily(lock: Any, board: memoryview, seconds: float, busy: bool) -> None:
    while True:
        with lock:
            board[0] += 1
            if seconds:
                work(seconds, busy)


def take_turns(lock: Any, board: memoryview, index: int, end: float) -> None:
    turns = passed_by = 0
    longest = 0.0
    while (begun := clock()) < end:
        before = board[0]
        acquired = lock.acquire(timeout=end - begun)
        longest = max(longest, clock() - begun)
        passed_by = max(passed_by, board[0] - before)
        if acquired:
            lock.release()
            turns += 1
            time.sleep(PAUSE)
    board[3 * index], board[3 * index + 1] = turns, passed_by
    board[3 * index + 2] = int(longest * 1e9)


def measure(mp: Any, hold: float, busy: bool, waiters: int, seconds: float) -> Figures:
    # The holder's turns; from the third number on the turns, passed_by and longest of each waiter.
    board = memoryview(mmap.mmap(-1, 24 * (waiters + 1))).cast("q")
    lock = mp.Lock()
    holder = mp.Process(target=hold_greedily, args=(lock, board, hold / 1e3, busy), daemon=True)
    holder.start()
    while not board[0]:
        time.sleep(0.001)
    end = clock() + seconds
    indices = range(1, waiters + 1)
    taking = [mp.Process(target=take_turns, args=(lock, board, n, end)) for n in indices]
    before = board[0]
    for process in taking:
        process.start()
    for process in taking:
        process.join()
    turns = board[0] - before
    holder.kill()
    holder.join()
    return Figures(
        holder=turns,
        waiter=sum(board[3 * index] for index in indices) / waiters,
        passed_by=max(board[3 * index + 1] for index in indices),
        longest=max(board[3 * index + 2] for index in indices) / 1e9,
    )


def run_one(module: str, hold: float, busy: bool, waiters: int, seconds: float) -> None:
    context = importlib.import_module(module).get_context("fork")
    print(json.dumps(asdict(measure(context, hold, busy, waiters, seconds))))


def row(module: str, hold: float, busy: bool, waiters: int, seconds: float) -> str:
    arguments = ["--seconds", str(seconds), "--one", module, str(hold), str(int(busy))]
    output = fresh.run(__file__, [*arguments, str(waiters)], seconds + 60)
    name = f"{hold:g} ms{'' if not hold else ', busy' if busy else ', asleep'}"
    if output is None:
        return f"| {name} | {waiters} | {module} | no answer | | | | |"
    found = Figures(**json.loads(output))
    ratio = f"{found.holder / found.waiter:,.1f}" if found.waiter else "none"
    return (
        f"| {name} | {waiters} | {module} | {found.holder:,} | {found.waiter:,.0f} "
        f"| {ratio} | {found.passed_by:,} | {found.longest * 1e3:,.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--module", action="append", choices=MODULES)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--hold", action="append", type=float)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("waiters", nargs="*", type=int)
    options = parser.parse_args()
    if options.one:
        module, hold, busy = options.one
        run_one(module, float(hold), busy == "1", options.waiters[0], options.seconds)
        return
    fresh.end_on_sigterm()
    print(
        "| hold | waiters | module | holder's turns | a waiter's turns | ratio "
        "| passed by, at most | longest wait, ms |"
    )
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    waiters = options.waiters or WAITERS
    for hold, count in itertools.product(options.hold or HOLDS, waiters):
        for busy in (True, False) if hold else (True,):
            for module in options.module or MODULES:
                print(row(module, hold, busy, count, options.seconds), flush=True)


if __name__ == "__main__":
    main()
