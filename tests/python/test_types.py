"""What mypy and pyright know of the package; their messages are written below the lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkers import Message, annotate, run_mypy, run_pyright

PROGRAMS = Path(__file__).parent / "typed"
STANDARD = "same_standard.py"
"""The program without anything of ours, with `multiprocessing` in the place of `procession`."""

WORDS = {"multiprocessing": "procession", 'of "SemLock"': 'of "Lock"'}
"""What they call otherwise: the package, and a base class that locks have there."""


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Message]]:
    """What both checkers say, by program."""
    folder = tmp_path_factory.mktemp("typed")
    texts = {path.name: path.read_text() for path in PROGRAMS.glob("*.py")}
    texts[STANDARD] = texts["same.py"].replace("procession", "multiprocessing")
    for name, text in texts.items():
        (folder / name).write_text(text)
    files = list(texts)
    of_mypy, of_pyright = run_mypy(folder, files), run_pyright(folder, files)
    return {file: of_mypy[file] + of_pyright[file] for file in files}


@pytest.mark.parametrize("name", ["same.py", "ours.py"])
def test_checkers_say_what_is_written_beside_the_lines(
    messages: dict[str, list[Message]], name: str
) -> None:
    text = (PROGRAMS / name).read_text()
    assert annotate(text, messages[name]) == text


def test_checkers_say_the_same_of_the_standard_library(
    messages: dict[str, list[Message]],
) -> None:
    text = (PROGRAMS / "same.py").read_text()
    theirs = messages[STANDARD]
    for there, here in WORDS.items():
        theirs = [each._replace(text=each.text.replace(there, here)) for each in theirs]
    assert annotate(text, theirs) == text
