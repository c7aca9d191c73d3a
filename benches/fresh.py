"""Run a measurement in an interpreter of its own, which leaves no process behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile


def run(script: str, arguments: list[str], timeout: float) -> str | None:
    """Return what a script printed, or None if it was not done after `timeout` seconds.

    Its processes are in a process group of their own, which is killed in the end, also on an error
    or Ctrl-C here. The program ends with the script's errors if the script fails.
    """
    command = [sys.executable, os.path.abspath(script), *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, process_group=0)
        pidfd = os.pidfd_open(process.pid)
        try:
            ended, _, _ = select.select([pidfd], [], [], timeout)
        finally:
            # The leader has not been waited for, so the group's number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(pidfd)
        if not ended:
            return None
        for stream in (output, errors):
            stream.seek(0)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{errors.read()}")
        return output.read()


def end_on_sigterm() -> None:
    """Have SIGTERM end this program as Ctrl-C does, so that it cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
