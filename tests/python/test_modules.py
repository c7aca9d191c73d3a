"""The package has the modules of multiprocessing, by their names, and shows what it has."""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
import sys

import procession
import pytest
from sessions import run_command

NOT_APPLICABLE = {
    "popen_spawn_win32": "is for Windows, and can't be imported elsewhere",
}

NAMES = [
    name.removeprefix("multiprocessing.")
    for _, name, _ in pkgutil.walk_packages(multiprocessing.__path__, "multiprocessing.")
    if name.removeprefix("multiprocessing.") not in NOT_APPLICABLE
]

INTERNAL = {"calls", "crew", "decoding", "outcomes", "results", "start"}
"""Private parts of procession without an underscore, not in multiprocessing."""


@pytest.mark.parametrize("beginning", ["", "procession.install()\n"])
@pytest.mark.parametrize("name", NAMES)
def test_each_module_of_multiprocessing_is_one_of_procession(name: str, beginning: str) -> None:
    theirs = importlib.import_module(f"multiprocessing.{name}")
    public = [each for each in getattr(theirs, "__all__", []) if hasattr(theirs, each)]
    text = (
        f"import procession\n{beginning}"
        f"import importlib\n"
        f"ours = importlib.import_module('procession.{name}')\n"
        f"import procession.{name}\n"
        f"assert procession.{name} is ours\n"
        f"theirs = importlib.import_module('multiprocessing.{name}')\n"
        f"print([each for each in {public!r} if not hasattr(ours, each)])\n"
        f"kept = ours.__name__.startswith('multiprocessing')\n"
        f"print(ours is theirs or not ({bool(beginning)} or kept))\n"
    )
    ending = run_command([sys.executable, "-c", text])
    # The template takes requests of its own kind.
    missing = ["connect_to_new_process"] if name == "forkserver" else []
    assert ending.stdout == f"{missing}\nTrue\n", ending
    assert ending.stderr == ""


def test_dir_shows_the_public_names_and_modules() -> None:
    (folder,) = procession.__path__
    found = {module.name for module in pkgutil.iter_modules([folder])}
    modules = {name for name in found if not name.startswith("_")} - INTERNAL
    assert dir(procession) == sorted({*procession.__all__, *modules})
    assert {name for name in NAMES if "." not in name} <= modules
    for name in dir(procession):
        assert getattr(procession, name) is not None
