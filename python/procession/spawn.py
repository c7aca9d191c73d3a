"""Processes that begin as fresh interpreters, with the names of :mod:`multiprocessing.spawn`.

If a program replaces `get_preparation_data` or `get_command_line` here, the replacement is used.
"""

from __future__ import annotations

import _thread
import os
from multiprocessing.process import BaseProcess

from . import _native
from ._stdlib import standard
from .start.child import (
    FIRST_OTHER,
    freeze_support,
    import_main_path,
    is_forking,
    old_main_modules,
    prepare,
    spawn_main,
)
from .start.payload import get_command_line, get_preparation_data, start_program, write_payload
from .start.popen import PreparedPopen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.spawn import (
        WINEXE as WINEXE,
        WINSERVICE as WINSERVICE,
        get_executable as get_executable,
        set_executable as set_executable,
    )
    from typing import Any

__all__ = [
    "freeze_support",
    "get_command_line",
    "get_preparation_data",
    "import_main_path",
    "is_forking",
    "old_main_modules",
    "prepare",
    "spawn_main",
]


class SpawnPopen(PreparedPopen):
    """A process that is started as a fresh interpreter."""

    method = "spawn"

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child get a descriptor; return its number there."""
        self._fds.append(fd)
        return FIRST_OTHER + len(self._fds) - 1

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        payload = write_payload(self, process_obj, get_preparation_data(process_obj.name))
        try:
            slot = _native.reserve()
            main_thread = _thread.get_native_id() == os.getpid()
            command = get_command_line(slot=slot, parent=os.getpid(), main_thread=int(main_thread))
            return start_program(command, slot, [payload, *self._fds])
        finally:
            os.close(payload)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # The choice of the interpreter, and private names that public ones rely on.
        if name.startswith("__"):
            # The import system checks whether some attributes exist.
            raise AttributeError(name)
        return getattr(standard("spawn"), name)
