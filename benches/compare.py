"""Compare procession with multiprocessing: the same programs over both modules, in turn.

Usage: compare.py [-r ROUNDS] [WORKLOAD...]

Each figure comes from a process of its own. The table has the median of the rounds for each module,
in operations a second, their ratio, and the minimum ratio that the project asks for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

clock = time.perf_counter


def identity(x: Any) -> Any:
    return x


def nothing() -> None:
    pass


def add_under_lock(total: Any, lock: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            total.value += 1


def produce(queue: Any, count: int, message: bytes | None) -> None:
    for number in range(count):
        queue.put(number if message is None else message)


def consume(queue: Any, count: int, done: Any) -> None:
    for _ in range(count):
        queue.get()
    done.set()


def consume_until_none(queue: Any) -> None:
    while queue.get() is not None:
        pass


def lock_uncontended(mp: Any) -> float:
    lock, count = mp.Lock(), 300_000
    begun = clock()
    for _ in range(count):
        lock.acquire()
        lock.release()
    return count / (clock() - begun)


def lock_with(mp: Any) -> float:
    lock, count = mp.Lock(), 300_000
    begun = clock()
    for _ in range(count):
        with lock:
            pass
    return count / (clock() - begun)


def lock_contended(mp: Any) -> float:
    lock, total, each = mp.Lock(), mp.Value("l", 0, lock=False), 30_000
    processes = [mp.Process(target=add_under_lock, args=(total, lock, each)) for _ in range(4)]
    begun = clock()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    took = clock() - begun
    if total.value != 4 * each:
        raise SystemExit(f"the lock lost {4 * each - total.value} additions")
    return 4 * each / took


def one_way(mp: Any, count: int, message: bytes | None) -> float:
    queue, done = mp.Queue(), mp.Event()
    consumer = mp.Process(target=consume, args=(queue, count, done))
    producer = mp.Process(target=produce, args=(queue, count, message))
    consumer.start()
    begun = clock()
    producer.start()
    done.wait()
    took = clock() - begun
    producer.join()
    consumer.join()
    return count / took


def queue_1p1c(mp: Any) -> float:
    return one_way(mp, 200_000, None)


def queue_1kb(mp: Any) -> float:
    return one_way(mp, 100_000, b"x" * 1024)


def queue_5p5c(mp: Any) -> float:
    queue, each = mp.Queue(), 20_000
    producers = [mp.Process(target=produce, args=(queue, each, None)) for _ in range(5)]
    consumers = [mp.Process(target=consume_until_none, args=(queue,)) for _ in range(5)]
    begun = clock()
    for process in producers + consumers:
        process.start()
    for process in producers:
        process.join()
    for _ in consumers:
        queue.put(None)
    for process in consumers:
        process.join()
    return 5 * each / (clock() - begun)


def pool_apply(mp: Any) -> float:
    with mp.Pool(2) as pool:
        pool.map(identity, range(10))
        count = 8_000
        begun = clock()
        for number in range(count):
            pool.apply(identity, (number,))
        return count / (clock() - begun)


def pool_apply_async(mp: Any) -> float:
    with mp.Pool(2) as pool:
        pool.map(identity, range(10))
        count = 20_000
        begun = clock()
        results = [pool.apply_async(identity, (number,)) for number in range(count)]
        for result in results:
            result.get()
        return count / (clock() - begun)


def start_fork(mp: Any) -> float:
    count = 300
    begun = clock()
    for _ in range(count):
        process = mp.Process(target=nothing)
        process.start()
        process.join()
    return count / (clock() - begun)


WORKLOADS: dict[Callable[[Any], float], float] = {
    lock_uncontended: 1.0,
    lock_with: 2,
    lock_contended: 2,
    queue_1p1c: 5,
    queue_1kb: 4,
    queue_5p5c: 5,
    pool_apply: 8,
    pool_apply_async: 6,
    start_fork: 0.9,
}


def measure(module: str, workload: str) -> float:
    """Run a workload in a fresh process and return its figure."""
    command = [sys.executable, os.path.abspath(__file__), "--one", module, workload]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{workload} over {module} failed:\n{done.stderr}")
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("MODULE", "WORKLOAD"), help=argparse.SUPPRESS)
    parser.add_argument("workloads", nargs="*")
    options = parser.parse_args()
    by_name = {workload.__name__: workload for workload in WORKLOADS}
    if options.one:
        module, name = options.one
        context = importlib.import_module(module).get_context("fork")
        print(by_name[name](context))
        return
    print(f"{'workload':18}{'multiprocessing':>16}{'procession':>14}{'ratio':>8}{'at least':>10}")
    for name in options.workloads or by_name:
        if name not in by_name:
            raise SystemExit(f"no workload {name!r}; there are {', '.join(by_name)}")
        figures: dict[str, list[float]] = {"multiprocessing": [], "procession": []}
        for _ in range(options.rounds):
            for module, measured in figures.items():
                measured.append(measure(module, name))
        theirs, ours = (statistics.median(measured) for measured in figures.values())
        least = WORKLOADS[by_name[name]]
        print(f"{name:18}{theirs:16,.0f}{ours:14,.0f}{ours / theirs:8.2f}{least:10}", flush=True)


if __name__ == "__main__":
    main()
