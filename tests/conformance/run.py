"""Runs CPython's own test suite of multiprocessing, as it is installed, on procession.

    run.py [-m START_METHOD]... [-k PART_OF_A_CLASS_NAME]... [-v]

Each class of tests runs as a program of its own under ``procession run``, with a time limit, in a
temporary folder. A test that is named in `not_portable.toml` may fail, and is expected to: it uses
something private of the standard library, which the entry names. The exit status is 0 if all
others pass.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

START_METHODS = ("fork", "spawn", "forkserver")

PARTS = [
    "Process",
    "Lock",
    "Semaphore",
    "Condition",
    "Event",
    "Barrier",
    "Value",
    "Array",
    "SharedCTypes",
    "StartMethod",
    "Wait",
    "Subclassing",
    "Initializers",
    "ForkBomb",
    "IgnoreEINTR",
    "CloseFds",
    "Flags",
]
"""What of the suite is run if nothing else is said: parts of its classes' names."""

OTHER_SUITES = [
    "test.test_multiprocessing_main_handling",
    # Since Python 3.15; the other class of this module is about a private function of the template.
    "test.test_multiprocessing_forkserver.test_preload.TestForkserverPreload",
]
"""What is run as well: how the main module is prepared, and what the forkserver imports."""

CLASS_SECONDS = 300
"""How long a class of tests may take before it counts as hung."""

LAUNCHER = (sys.executable, "-m", "procession", "run")

MODULE = """\
import test._test_multiprocessing as suite
suite.install_tests_in_module_dict(globals(), {method!r})
"""

LIST = """\
import sys, unittest
names = set()
def walk(tests):
    for test in tests:
        if isinstance(test, unittest.TestCase):
            names.add(test.id())
        else:
            walk(test)
walk(unittest.defaultTestLoader.loadTestsFromName(sys.argv[1]))
print("TESTS", *sorted(names))
"""

VERDICT = re.compile(r"(?:^|\s)(ok|FAIL|ERROR|skipped|expected failure)\b")


class Outcome(NamedTuple):
    """How the tests of a class ended."""

    name: str
    verdicts: dict[str, str]
    output: str


def tests_of(module: str, folder: Path) -> dict[str, list[str]]:
    """Return the tests of a module, by class."""
    command = [*LAUNCHER, "-c", LIST, module]
    listed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    match = re.search(r"^TESTS (.*)$", listed.stdout, re.M)
    if match is None:
        sys.exit(
            f"the suite can't be loaded; is CPython's `test` package installed?\n{listed.stderr}"
        )
    classes: dict[str, list[str]] = {}
    for test in match[1].split():
        classes.setdefault(test.rpartition(".")[0], []).append(test)
    return classes


def run_class(name: str, tests: Iterable[str], folder: Path) -> Outcome:
    """Run the tests of a class in a program of its own."""
    command = [*LAUNCHER, "-m", "unittest", "-v", name]
    program = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    left = "error"
    try:
        output, _ = program.communicate(timeout=CLASS_SECONDS)
    except subprocess.TimeoutExpired:
        left = "hung"
        os.killpg(program.pid, signal.SIGKILL)
        output, _ = program.communicate()
    verdicts = {test: verdict_of(test, output) or left for test in tests}
    return Outcome(name, verdicts, output)


def verdict_of(test: str, output: str) -> str | None:
    """Return what unittest said of a test; None if it didn't come to that."""
    if re.search(r"^ERROR: setUp(Class|Module)", output, re.M):
        return "ERROR"
    method = re.escape(test.rpartition(".")[2])
    # What the test prints may stand between its name and the verdict.
    said = re.search(
        rf"^{method} \(.*?\.\.\. (.*?)(?=^test\w+ \(|^=====|^-----|\Z)", output, re.M | re.S
    )
    verdicts = VERDICT.findall(said[1]) if said else []
    return verdicts[-1] if verdicts else None


def not_portable(method: str) -> dict[str, str]:
    """Return the tests that need not pass, with the reason."""
    entries = tomllib.loads((Path(__file__).parent / "not_portable.toml").read_text())["test"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        entry["name"]: entry["reason"]
        for entry in entries
        if method in entry.get("methods", START_METHODS)
        and version in entry.get("pythons", [version])
    }


def selected(classes: dict[str, list[str]], patterns: list[str]) -> Iterator[tuple[str, list[str]]]:
    for name, tests in sorted(classes.items()):
        if not patterns or any(pattern in name for pattern in patterns):
            yield name, tests


def run_method(method: str, patterns: list[str], verbose: bool) -> bool:
    """Run the suite for a start method; return whether all passed that should."""
    excused = not_portable(method)
    counts = {"passed": 0, "skipped": 0, "not portable": 0, "failed": 0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        module = f"suite_{method}"
        (folder / f"{module}.py").write_text(MODULE.format(method=method))
        jobs = list(selected(tests_of(module, folder), patterns))
        with ThreadPoolExecutor(os.cpu_count()) as executor:
            outcomes = executor.map(lambda job: run_class(*job, folder), jobs)
            for outcome in outcomes:
                good = True
                for test, verdict in outcome.verdicts.items():
                    short = test.partition(".")[2]
                    if verdict in ("ok", "expected failure"):
                        counts["passed"] += 1
                        if short in excused:
                            print(f"  passes though it is listed: {short}")
                    elif verdict == "skipped":
                        counts["skipped"] += 1
                    elif short in excused:
                        counts["not portable"] += 1
                    else:
                        counts["failed"] += 1
                        good = False
                        print(f"  {verdict}: {short}")
                if verbose and not good:
                    print(outcome.output)
                sys.stdout.flush()
    total = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"{method}, Python {sys.version.split()[0]}: {total}", flush=True)
    return not counts["failed"]


def run_suite(name: str) -> bool:
    """Run a suite that chooses the start methods itself."""
    with tempfile.TemporaryDirectory() as temporary:
        output = run_class(name, [], Path(temporary)).output
    good = re.search(r"^OK", output, re.M) is not None
    print(f"{name}: passed" if good else output, flush=True)
    return good


def is_there(name: str) -> bool:
    """Return whether the interpreter has a module or class of tests."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", dest="methods", action="append", choices=START_METHODS)
    parser.add_argument("-k", dest="patterns", action="append", default=[])
    parser.add_argument(
        "-v", dest="verbose", action="store_true", help="show what failed classes print"
    )
    given = parser.parse_args()
    methods = given.methods or START_METHODS
    patterns = given.patterns or PARTS
    # All of them, also after a failure.
    results = [run_method(method, patterns, given.verbose) for method in methods]
    if not given.patterns:
        results += [run_suite(name) for name in OTHER_SUITES if is_there(name)]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
