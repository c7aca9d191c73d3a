"""Signals while processes are started and looked at: no child is lost, and no call fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import procession
import pytest
from sessions import run


def sleep_for_ever() -> None:
    while True:
        time.sleep(60)


# In programs of their own: a handler that raises within a hook of the logging module, which a test
# run has loaded, would leave its lock taken.
INTERRUPTED = """
import os, signal, sys, time
import procession
from processes import children_of

class Interruption(Exception):
    pass

def handler(*_):
    raise Interruption

def sleep_for_ever():
    while True:
        time.sleep(60)

def template():
    forkserver = sys.modules.get("procession.forkserver")
    child = forkserver._forkserver._template if forkserver is not None else None
    return set() if child is None else {child.pid}

def unknown_children():
    known = {child.pid for child in procession.active_children()}
    return children_of(os.getpid()) - known - template()

def interrupted_after(seconds, work):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Interruption:
        return None

if __name__ == "__main__":
    ctx = procession.get_context(sys.argv[1])
    signal.signal(signal.SIGALRM, handler)
"""

STARTS = (
    INTERRUPTED
    + """
    longest = 0.003 if sys.argv[1] == "fork" else 0.05
    for step in range(60):
        process = ctx.Process(target=sleep_for_ever)
        interrupted_after(longest * (step + 1) / 60, process.start)
        # Or another object refers to it.
        assert process._popen is not None or not unknown_children()
        del process
        for child in procession.active_children():
            child.kill()
            child.join()
    assert not unknown_children()
"""
)

POOLS = (
    INTERRUPTED
    + """
    longest = 0.01 if sys.argv[1] == "fork" else 0.1
    for step in range(30):
        pool = interrupted_after(longest * (step + 1) / 30, lambda: ctx.Pool(3))
        if pool is not None:
            pool.terminate()
            pool.join()
        del pool
    assert not unknown_children()
    assert not procession.active_children()
"""
)


@pytest.mark.parametrize("code", [STARTS, POOLS], ids=["a process", "a pool"])
def test_a_start_that_a_handler_interrupts_leaves_no_child(
    ctx: Any, code: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(code)
    ending = run("python", program, [ctx._name], env={"PYTHONPATH": str(Path(__file__).parent)})
    assert ending.exit_code == 0, ending.stderr
    assert not ending.left_processes


def test_a_handler_that_returns_makes_no_look_at_a_process_fail(ctx: Any) -> None:
    process = ctx.Process(target=sleep_for_ever)
    process.start()
    came = 0

    def handler(*_: object) -> None:
        nonlocal came
        came += 1

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0002)
    try:
        while came < 300:
            assert process.is_alive()
            assert process.exitcode is None
            process.join(0)
            process.join(0.001)
            assert process in procession.active_children()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        process.kill()
        process.join()


FIRST_FORK = """
import os, signal, sys
import procession

class Interruption(Exception):
    pass

def handler(*_):
    raise Interruption

signal.signal(signal.SIGALRM, handler)
try:
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    while True:
        signal.pause()
except Interruption:
    print("interrupted")
"""


def test_what_a_handler_raises_during_the_first_fork_is_raised() -> None:
    for step in range(20):
        command = [sys.executable, "-c", FIRST_FORK, str(0.0002 * (step + 1))]
        ending = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert (ending.stdout, ending.stderr) == ("interrupted\n", "")


def start_from_threads(queue: Any) -> None:
    wrong: list[object] = []

    def start_some() -> None:
        for _ in range(30):
            child = procession.get_context("fork").Process(target=os.getpid)
            if not child.daemon:
                wrong.append("not a daemon")
            try:
                child.start()
                child.join()
            except BaseException as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=start_some) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.put(wrong)


def test_the_children_of_a_daemon_are_daemons_whichever_threads_start_them(ctx: Any) -> None:
    queue = ctx.Queue()
    process = ctx.Process(
        target=start_from_threads, args=(queue,), daemon=True, may_have_children=True
    )
    process.start()
    assert queue.get() == []
    process.join()


def test_a_warning_that_is_an_error_and_comes_behind_the_fork_leaves_no_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork = os.fork
    pids = []

    def fork_and_warn() -> int:
        pid = fork()
        if pid != 0:
            pids.append(pid)
            raise DeprecationWarning("this process is multi-threaded")
        return pid

    monkeypatch.setattr(os, "fork", fork_and_warn)
    process = procession.get_context("fork").Process(target=sleep_for_ever)
    with pytest.raises(DeprecationWarning):
        process.start()
    assert process._popen is None
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], 0)
