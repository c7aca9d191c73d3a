"""Processes that begin as copies of the forkserver's template.

With the names of :mod:`multiprocessing.forkserver`.
"""

from __future__ import annotations

import os
from multiprocessing.process import BaseProcess

from . import _native, spawn
from .start.child import dies_with_parent
from .start.payload import write_payload
from .start.popen import PreparedPopen
from .start.request import ForkServer as ForkServer, _forkserver

__all__ = ["ensure_running", "get_inherited_fds", "set_forkserver_preload"]

ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
set_forkserver_preload = _forkserver.set_forkserver_preload


class ForkServerPopen(PreparedPopen):
    """A process that was started as a copy of the template."""

    method = "forkserver"

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child get a descriptor; return its index among those that come with it."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        preparation = spawn.get_preparation_data(process_obj.name)
        preparation["environment"] = dict(os.environ)
        payload = write_payload(self, process_obj, preparation)
        try:
            shares = _native.reserve()
            dies = dies_with_parent(process_obj)
            try:
                return _forkserver.request(payload, self._fds, shares, dies)
            except BaseException:
                _native.unreserve(shares)
                raise
        finally:
            os.close(payload)
