"""The messages of the type checkers mypy and pyright about programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TIMEOUT_SECONDS = 100
"""How long a checker may take before something is wrong with it."""

VERSION = ".".join(map(str, sys.version_info[:2]))


class Message(NamedTuple):
    """A checker's message about a line."""

    line: int
    checker: str
    text: str
    is_type: bool
    """Whether it is the answer to a `reveal_type`."""


class Failed(Exception):
    """A checker ended without its messages."""


def run_mypy(folder: Path, files: list[str]) -> dict[str, list[Message]]:
    """Return what mypy says of files in a folder, which must be their module's names."""
    command = [sys.executable, "-m", "mypy", "--strict", "--output=json", "--config-file="]
    command += [f"--python-version={VERSION}", f"--cache-dir={folder / '.mypy_cache'}", *files]
    found: dict[str, list[Message]] = {file: [] for file in files}
    for line in _run(command, folder).splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            raise Failed(line) from None
        message = report["message"].split("\n")[0]
        if report["severity"] == "note":
            revealed = re.fullmatch(r'Revealed type is "(.*)"', message)
            if revealed is not None:
                text = _unqualified(revealed[1])
                found[report["file"]].append(Message(report["line"], "mypy", text, True))
        else:
            text = f"{message} [{report['code']}]"
            found[report["file"]].append(Message(report["line"], "mypy", text, False))
    return found


def run_pyright(folder: Path, files: list[str]) -> dict[str, list[Message]]:
    """Return what pyright says of files in a folder."""
    settings = {"pythonVersion": VERSION, "pythonPlatform": "Linux", "include": files}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    output = _run(command, folder)
    found: dict[str, list[Message]] = {file: [] for file in files}
    try:
        reports = json.loads(output)["generalDiagnostics"]
    except ValueError:
        raise Failed(output) from None
    for report in reports:
        file = str(Path(report["file"]).relative_to(folder.resolve()))
        line = report["range"]["start"]["line"] + 1
        message = report["message"].split("\n")[0]
        revealed = re.fullmatch(r'Type of ".*?" is "(.*)"', message)
        if report["severity"] == "information" and revealed is not None:
            found[file].append(Message(line, "pyright", revealed[1], True))
        else:
            text = f"{message} [{report.get('rule', report['severity'])}]"
            found[file].append(Message(line, "pyright", text, False))
    return found


def _run(command: list[str], folder: Path) -> str:
    # The interpreter of JavaScript is that of the development tools; nothing is downloaded.
    settings = {"PYRIGHT_PYTHON_GLOBAL_NODE": "0", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    ending = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    if ending.returncode not in (0, 1) or ending.stderr:
        raise Failed(ending.stdout + ending.stderr)
    return ending.stdout


def _unqualified(text: str) -> str:
    """Return a type as pyright shows it, with the names of classes but not of their modules."""
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def annotate(text: str, messages: list[Message]) -> str:
    """Return a program with comments for what checkers say of it, in the place of those it has.

    Behind a line is the type that all reveal, below it what each says besides.
    """
    said: dict[int, list[Message]] = {}
    for message in sorted(messages, key=lambda message: (message.line, message.checker)):
        said.setdefault(message.line, []).append(message)
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if re.match(r" *# (mypy|pyright): ", line):
            continue
        here = said.get(number, [])
        types = [message for message in here if message.is_type]
        if line.lstrip().startswith("reveal_type("):
            line = line.partition("  # ")[0]
            if len(types) == 2 and types[0].text == types[1].text:
                line = f"{line}  # {types[0].text}"
                here = [message for message in here if not message.is_type]
        lines.append(line)
        indent = line[: len(line) - len(line.lstrip())]
        lines += [f"{indent}# {message.checker}: {message.text}" for message in here]
    return "\n".join(lines)
