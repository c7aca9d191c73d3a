"""Modules of the standard library that are loaded when something of them is used.

A spawned child imports this package before anything else, and most of what `multiprocessing`
imports with it (sockets, subprocesses) it never needs. Where these are imported already nothing
changes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class LateModule(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            # The import system looks whether there is this and that.
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        # By the import system, with its locks; everyone gets the same module.
        return getattr(import_module(self.__name__), attribute)


def import_light() -> None:
    """Import `multiprocessing` without what it needs for connections and programs alone."""
    if "multiprocessing" in sys.modules:
        return
    sys.modules["multiprocessing.reduction"] = LateModule("multiprocessing.reduction")
    if "subprocess" in sys.modules:
        return
    late = LateModule("subprocess")
    # The one thing that is bound at once.
    late._args_from_interpreter_flags = _args_from_interpreter_flags  # type: ignore[attr-defined]
    sys.modules["subprocess"] = late
    try:
        import_module("multiprocessing.util")
    finally:
        if sys.modules.get("subprocess") is late:
            del sys.modules["subprocess"]


def _args_from_interpreter_flags() -> list[str]:
    flags: list[str] = import_module("subprocess")._args_from_interpreter_flags()
    return flags


import_light()
