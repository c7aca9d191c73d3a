"""What the kernel reports about processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 20
"""Seconds to wait for an event. One that takes longer never comes."""


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether a condition holds, or comes to hold while we wait."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def stat(pid: int) -> list[str] | None:
    """The fields of `/proc/PID/stat` from the third on: state, parent, group, session."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def children_of(parent: int) -> set[int]:
    """The children of a process, those included that have ended and were not waited for."""
    rows = ((pid, stat(pid)) for pid in all_pids())
    return {pid for pid, fields in rows if fields is not None and int(fields[1]) == parent}


def descendants_of(ancestor: int) -> set[int]:
    """A process and all that it started, directly or not."""
    found, found_last = {ancestor}, {ancestor}
    while found_last:
        found_last = set().union(*map(children_of, found_last)) - found
        found |= found_last
    return found


def members_of(session: int) -> set[int]:
    """The processes of a session that have not ended."""
    rows = ((pid, stat(pid)) for pid in all_pids())
    return {
        pid
        for pid, fields in rows
        if fields is not None and int(fields[3]) == session and fields[0] not in "ZX"
    }


def is_asleep(pid: int) -> bool:
    """Whether the process waits for something."""
    fields = stat(pid)
    return fields is not None and fields[0] == "S"


def is_stopped(pid: int) -> bool:
    """Whether the process has come to a stop, by SIGSTOP for example."""
    fields = stat(pid)
    return fields is not None and fields[0] == "T"
