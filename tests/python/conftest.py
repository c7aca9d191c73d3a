"""Fixtures for every test: a watchdog, and a check for what the test has left behind."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import procession
import pytest
from processes import all_pids, children_of, descendants_of, eventually
from sessions import Ending, run

START_METHODS = ["fork", "spawn", "forkserver"]
"""Each test with processes in it runs once for each of these."""

WATCHDOG_SECONDS = 120

_terminal = pytest.StashKey[Any]()


def pytest_configure(config: pytest.Config) -> None:
    # Capturing is suspended at this time: this is the terminal, whatever a test does with stderr.
    terminal = os.fdopen(os.dup(sys.__stderr__.fileno()), "w")
    config.stash[_terminal] = terminal
    # Where the tests were started in the background of a shell, SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_terminal].close()


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the run, and say where it is, when a test hangs."""
    terminal = request.config.stash[_terminal]
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=terminal)
    yield
    faulthandler.cancel_dump_traceback_later()


def shared_memory_files() -> set[str]:
    return set(os.listdir("/dev/shm"))


def mapped_by_others() -> set[str]:
    """The files in shared memory that processes of other programs use."""
    found = set()
    for pid in set(all_pids()) - descendants_of(os.getpid()):
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            found.update(re.findall(r"/dev/shm/(\S+)", maps))
    return found


def template() -> set[int]:
    """The forkserver's template, which stays for the next test."""
    forkserver = sys.modules.get("procession.forkserver")
    child = forkserver._forkserver._template if forkserver is not None else None
    return set() if child is None else {child.pid}


@pytest.fixture(autouse=True)
def nothing_left(watchdog: None) -> Iterator[None]:
    """Fail a test that leaves processes or files in shared memory behind."""
    files = shared_memory_files()
    yield
    gc.collect()

    def children() -> set[int]:
        multiprocessing.active_children()
        return children_of(os.getpid()) - template()

    no_children = eventually(lambda: not children())
    left = children()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert no_children, f"processes are left: {left}"

    def leaked() -> set[str]:
        # Other programs of this machine make such files as well, and use them.
        left = shared_memory_files() - files
        return left - mapped_by_others() if left else left

    assert eventually(lambda: not leaked()), leaked()


@pytest.fixture(params=START_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """The name of a start method."""
    return str(request.param)


@pytest.fixture
def ctx(method: str) -> Any:
    """procession's context of a start method."""
    return procession.get_context(method)


@pytest.fixture
def run_program(tmp_path: Path, method: str) -> Callable[..., Ending]:
    """Run a text as a program, in a session of its own, with the start method as argument."""

    def run_text(text: str, *, launcher: str = "python", **options: Any) -> Ending:
        program = tmp_path / "program.py"
        program.write_text(text)
        return run(launcher, program, [method], **options)

    return run_text
