"""Index the names used in Python's standard library, with all cores.

Workers take batches of files from one queue, tokenize them, and send counts
back through another; a shared total under a lock drives the progress display.
The result is checked against that of one process, and the times are compared.
"""

from __future__ import annotations

import argparse
import itertools
import keyword
import multiprocessing
import os
import queue
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Lock

BATCH = 8
MOST_USED = 15
KEYWORDS = frozenset(keyword.kwlist)


@dataclass
class Index:
    """What was found in some files; `names` counts each name that is not a keyword."""

    files: int = 0
    skipped: int = 0
    tokens: int = 0
    names: Counter[str] = field(default_factory=Counter)

    def add(self, other: Index) -> None:
        self.files += other.files
        self.skipped += other.skipped
        self.tokens += other.tokens
        self.names.update(other.names)


def index_file(path: Path) -> Index:
    """Count one file. A file that can't be decoded or tokenized counts as skipped."""
    tokens = 0
    names: Counter[str] = Counter()
    try:
        with tokenize.open(path) as source:
            for token in tokenize.generate_tokens(source.readline):
                tokens += 1
                if token.type == tokenize.NAME and token.string not in KEYWORDS:
                    names[token.string] += 1
    except (SyntaxError, ValueError, tokenize.TokenError):
        return Index(skipped=1)
    return Index(files=1, tokens=tokens, names=names)


class SharedTotal:
    """How much all workers have done: two shared C integers, changed under one lock."""

    def __init__(self) -> None:
        self._lock: Lock = multiprocessing.Lock()
        self._files: Any = multiprocessing.Value("q", 0, lock=False)
        self._tokens: Any = multiprocessing.Value("q", 0, lock=False)

    def add(self, files: int, tokens: int) -> None:
        with self._lock:
            self._files.value += files
            self._tokens.value += tokens

    def glance(self) -> tuple[int, int]:
        """The files and tokens so far, without the lock, which a dead worker might hold."""
        return self._files.value, self._tokens.value


class Display:
    """Progress: one line written over and over on a terminal, else a line every tenth."""

    def __init__(self, label: str, files: int) -> None:
        self._label = label
        self._files = files
        self._next_tenth = 1

    def show(self, done: int, tokens: int) -> None:
        line = f"{self._label}: {done} of {self._files} files, {tokens:,} tokens"
        if sys.stdout.isatty():
            print(f"\r{line}", end="", flush=True)
        elif done * 10 >= self._next_tenth * self._files:
            print(line, flush=True)
            self._next_tenth = done * 10 // self._files + 1

    def close(self) -> None:
        if sys.stdout.isatty():
            print()


def work(batches: Queue[list[Path] | None], results: Queue[Index], total: SharedTotal) -> None:
    """Index batches until there is a None instead of one."""
    while (batch := batches.get()) is not None:
        result = Index()
        for path in batch:
            found = index_file(path)
            result.add(found)
            total.add(1, found.tokens)
        results.put(result)


def results_of(
    workers: list[multiprocessing.Process], results: Queue[Index], expected: int
) -> Iterator[Index | None]:
    """Yield `expected` results as they come, and None now and then while there is none.

    Ends the program when a worker has died, for its result would never come.
    """
    while expected:
        check_exitcodes(workers)
        # Looked at before the queue: what a worker has sent is there once the worker is gone.
        all_ended = all(worker.exitcode is not None for worker in workers)
        try:
            result = results.get(timeout=0.1)
        except queue.Empty:
            if all_ended:
                raise SystemExit(f"all workers ended, {expected} results missing") from None
            yield None
        else:
            expected -= 1
            yield result


def check_exitcodes(workers: list[multiprocessing.Process]) -> None:
    died = [worker for worker in workers if worker.exitcode not in (None, 0)]
    if died:
        endings = ", ".join(f"{worker.name} (exit code {worker.exitcode})" for worker in died)
        raise SystemExit(f"a worker has died: {endings}")


def index_with_workers(paths: list[Path], how_many: int) -> Index:
    batches: Queue[list[Path] | None] = multiprocessing.Queue()
    results: Queue[Index] = multiprocessing.Queue()
    total = SharedTotal()
    workers = [
        multiprocessing.Process(
            target=work, args=(batches, results, total), name=f"worker {number}", daemon=True
        )
        for number in range(1, how_many + 1)
    ]
    for worker in workers:
        worker.start()

    starts = range(0, len(paths), BATCH)
    for start in starts:
        batches.put(paths[start : start + BATCH])
    for _ in workers:
        batches.put(None)

    index = Index()
    display = Display(processes(how_many), len(paths))
    try:
        for result in results_of(workers, results, len(starts)):
            if result is not None:
                index.add(result)
            display.show(*total.glance())
        for worker in workers:
            worker.join()
        check_exitcodes(workers)
    except BaseException:
        # Nobody may be left to take the other batches: don't wait for that at exit.
        batches.cancel_join_thread()
        raise
    finally:
        display.close()

    if total.glance() != (len(paths), index.tokens):
        raise SystemExit("the shared total is not the sum of the results")
    return index


def index_alone(paths: list[Path]) -> Index:
    index = Index()
    display = Display("one process", len(paths))
    for done, path in enumerate(paths, start=1):
        index.add(index_file(path))
        display.show(done, index.tokens)
    display.close()
    return index


def python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.relative_to(root).parts and path.is_file():
            yield path


def processes(how_many: int) -> str:
    return f"{how_many} process{'' if how_many == 1 else 'es'}"


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Index the names used in Python source files.")
    parser.add_argument(
        "--workers",
        type=positive,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="how many worker processes (default: one for each core, %(default)s here)",
    )
    parser.add_argument("--files", type=positive, metavar="N", help="index the first N files only")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        metavar="DIR",
        help="index the files below DIR (default: the standard library)",
    )
    return parser.parse_args()


def main() -> None:
    multiprocessing.set_start_method("fork")
    arguments = parse_arguments()
    paths = list(itertools.islice(python_files(arguments.root), arguments.files))
    if not paths:
        raise SystemExit(f"there are no .py files below {arguments.root}")
    many = processes(arguments.workers)

    # The workers go first, so that reading files for the first time is not to their advantage.
    began = time.perf_counter()
    index = index_with_workers(paths, arguments.workers)
    seconds_many = time.perf_counter() - began

    began = time.perf_counter()
    expected = index_alone(paths)
    seconds_one = time.perf_counter() - began

    print(f"\nfiles: {index.files:,}\nskipped: {index.skipped:,}\ntokens: {index.tokens:,}")
    print(f"\nnames: {len(index.names):,}, the {MOST_USED} most used:")
    by_use = sorted(index.names.items(), key=lambda entry: (-entry[1], entry[0]))
    for name, uses in by_use[:MOST_USED]:
        print(f"{uses:>9,}  {name}")
    print(f"\none process: {seconds_one:.2f} s\n{many}: {seconds_many:.2f} s")
    print(f"ratio: {seconds_one / seconds_many:.2f}")

    if index != expected:
        raise SystemExit(f"{many} did not count the same as one process")
    print(f"{many} counted the same as one process")


if __name__ == "__main__":
    main()
