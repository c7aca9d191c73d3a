"""The example programs do the same under the standard library and under procession.

Each is run as it is, once by the plain interpreter and once by `procession run`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from sessions import Ending, run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"

LAUNCHERS = ["python", "procession"]

# Each program that prints the same whenever it is run, with a line that it prints.
EXPECTED_LINES = {
    "fork_and_wait.py": "sleeper ended with exit code -15",
    "process_with_args.py": "the child's parent is this process: yes",
    "process_subclass.py": "primes below 20000: 2262",
    "data_isolation.py": "parent, after:  [1, 2, 3] {'Ada': 36, 'Alan': 41}",
    "pool_tasks.py": "exception: division by zero, with a RemoteTraceback",
    "producers_consumers.py": "total: 2000 items consumed, 2000 different ones",
    "tickets.py": "buyers with a ticket: 15",
    "semaphore_workers.py": "most workers inside at once: 5",
    "condition_bounded_buffer.py": "most in the buffer at once: 4",
    "barrier_game_of_life.py": "the glider is back: yes",
    "traffic_light.py": "red again: 0 of 3 late cars have passed",
}

# Programs for which the standard library has no equivalent, each with all that it prints.
OF_PROCESSION = {
    "orphans_and_zombies.py": """\
ended, and not joined: zombie
joined: ended
never joined, and it is gone
its parent ended with exit code -9
the orphan lives: yes
known with its parent: yes
told to end, it ended
a daemon went with its parent
""",
    "daemon.py": """\
the daemon works: yes
its parent ended with exit code -9
the daemon ended with it
""",
    "process_tree.py": """\
1 is blocked: wait Event never
  1.1 is blocked: wait Event never
    1.1.1 is blocked: wait Event never
    1.1.2 is blocked: wait Event never
  1.2 is blocked: wait Event never
    1.2.1 is blocked: wait Event never
    1.2.2 is blocked: wait Event never
the root ended with exit code -9
of 7 processes none is left
""",
}

# Runs index.py with a function in it that kills the worker which calls it.
INDEX_WITH_DYING_WORKERS = f"""
import os
import signal
import sys

sys.path.insert(0, {str(EXAMPLES)!r})
import index

def die(path):
    os.kill(os.getpid(), signal.SIGKILL)

index.index_file = die
index.main()
"""


@functools.cache
def ending_of(launcher: str, program: str) -> Ending:
    return run(launcher, EXAMPLES / program)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("program", "line"), EXPECTED_LINES.items())
def test_a_program_finds_its_checks_fulfilled(launcher: str, program: str, line: str) -> None:
    ending = ending_of(launcher, program)
    assert ending.exit_code == 0, ending.stderr
    assert "Traceback" not in ending.stderr
    assert line in ending.stdout.splitlines()


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("program", EXPECTED_LINES)
def test_a_program_leaves_no_process_behind(launcher: str, program: str) -> None:
    assert not ending_of(launcher, program).left_processes


@pytest.mark.parametrize("program", EXPECTED_LINES)
def test_a_program_prints_the_same_under_both_launchers(program: str) -> None:
    assert ending_of("procession", program).stdout == ending_of("python", program).stdout


@pytest.mark.parametrize(("program", "output"), OF_PROCESSION.items())
def test_a_program_shows_what_procession_adds(program: str, output: str) -> None:
    ending = run("python", EXAMPLES / program)
    assert ending.exit_code == 0, ending.stderr
    assert ending.stdout == output
    assert not ending.left_processes


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_index_is_that_of_one_process(launcher: str) -> None:
    ending = run(launcher, EXAMPLES / "index.py", ["--files", "40", "--workers", "2"])
    assert ending.exit_code == 0, ending.stderr
    assert "2 processes counted the same as one process" in ending.stdout.splitlines()
    assert not ending.left_processes


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_index_ends_when_its_workers_die(launcher: str, tmp_path: Path) -> None:
    program = tmp_path / "index_with_dying_workers.py"
    program.write_text(INDEX_WITH_DYING_WORKERS)
    ending = run(launcher, program, ["--files", "40", "--workers", "2"])
    assert ending.exit_code == 1, ending.stderr
    assert "a worker has died" in ending.stderr
    assert "(exit code -9)" in ending.stderr
    assert not ending.left_processes
