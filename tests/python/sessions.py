"""Running programs in sessions of their own, so that processes they leave behind can be seen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import eventually

LAUNCHERS = {
    "python": (sys.executable,),
    "procession": (sys.executable, "-m", "procession", "run"),
}

WATCHDOG_SECONDS = 60


class Ending(NamedTuple):
    """How a program ended, and whether processes that it started were still there."""

    exit_code: int
    stdout: str
    stderr: str
    left_processes: bool


def run(
    launcher: str,
    program: Path,
    arguments: Sequence[str] = (),
    *,
    meanwhile: Callable[[subprocess.Popen[str]], object] | None = None,
    env: Mapping[str, str] | None = None,
) -> Ending:
    """Run a program to its end; `meanwhile` is called with it once it runs."""
    return run_command([*LAUNCHERS[launcher], str(program), *arguments], meanwhile, env=env)


def run_command(
    command: Sequence[str],
    meanwhile: Callable[[subprocess.Popen[str]], object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ending:
    """Run a command to its end, in a session of its own."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})},
    )
    try:
        if meanwhile is not None:
            meanwhile(process)
        stdout, stderr = process.communicate(timeout=WATCHDOG_SECONDS)
        left_processes = not group_ends(process.pid)
    except subprocess.TimeoutExpired:
        # On SIGABRT the interpreter prints where it is.
        signal_group(process.pid, signal.SIGABRT)
        stdout, stderr = process.communicate()
        pytest.fail(f"{command} hangs; so far it said:\n{stdout}\n{stderr}")
    finally:
        signal_group(process.pid, signal.SIGKILL)
        process.wait()
    return Ending(process.returncode, stdout, stderr, left_processes)


def group_ends(group: int) -> bool:
    """Whether the process group is empty, or is so within a moment."""

    def is_empty() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    return eventually(is_empty)


def signal_group(group: int, number: int) -> None:
    """Send a signal to all of a process group, if there are any."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
