"""What the documentation shows is what happens: each of its code blocks is run.

Rust blocks run as documentation tests of the crate, which includes the README.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from sessions import run, run_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs").glob("**/*.md"))

NOT_RUN = {"text", "mermaid", "rust"}
"""Drawings, and what runs elsewhere."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[1], match[2]))
    return found


BLOCKS = blocks()


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_every_code_block_is_run() -> None:
    unknown = [str(block) for block in BLOCKS if block.language not in {"python", "sh", *NOT_RUN}]
    assert not unknown, "blocks in a language that no test runs"
    assert of("python")
    assert of("sh")
    # Its page is included there.
    assert {block.page for block in of("rust")} <= {ROOT / "README.md"}
    assert "README.md" in (ROOT / "crates/procession/src/lib.rs").read_text()


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_a_python_block_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(block.code)
    ending = run("python", program)
    assert ending.exit_code == 0, ending.stderr
    assert not ending.left_processes


def test_the_readme_shows_a_pool_that_outlives_a_worker(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(of("python")[0].code)
    squares, error, square = run("python", program).stdout.splitlines()
    assert squares == str([x * x for x in range(10)])
    assert all(word in error for word in ("abort", "SIGABRT"))
    assert square == "49"


PROGRAM = """
import multiprocessing, sys
print(multiprocessing.get_context().__module__, sys.argv[1:])
"""


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_a_shell_block_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    for line in block.code.splitlines():
        command = shlex.split(line, comments=True)
        if not command:
            continue
        if command[0] == "make":
            # The target runs this test itself, so only its existence is checked.
            make = subprocess.run([*command, "-n"], cwd=ROOT, capture_output=True, text=True)
            assert make.returncode == 0, make.stderr
            continue
        executable = Path(sys.executable).with_name(command[0])
        ending = run_command([str(executable), *command[1:]], cwd=tmp_path)
        assert ending.exit_code == 0, ending.stderr
        assert ending.stdout == f"procession.context {command[3:]}\n"
