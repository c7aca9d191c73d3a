"""A Python program and a Rust one share queues, a lock and a total."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def built_example() -> Path:
    command = ["cargo", "build", "--quiet", "--package", "procession", "--example", "interop"]
    command += ["--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    for line in reversed(done.stdout.splitlines()):
        if '"executable":"' in line:
            return Path(line.split('"executable":"')[1].split('"')[0])
    raise AssertionError("cargo named no executable")


def test_a_python_and_a_rust_program_share_the_work() -> None:
    program = [
        sys.executable,
        str(ROOT / "examples/python/interop.py"),
        str(built_example()),
        "500",
    ]
    done = subprocess.run(program, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "500 messages answered" in done.stdout


def test_a_program_is_told_that_a_process_has_no_family() -> None:
    handle = "procession:0000000000000001:0:1"
    program = [str(built_example()), "1", handle, handle, handle, handle]
    done = subprocess.run(program, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr
