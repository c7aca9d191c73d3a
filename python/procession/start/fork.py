"""Processes that begin as copies of their parent."""

from __future__ import annotations

import _thread
import os
from multiprocessing.process import BaseProcess

from .. import _native
from .._stdlib import loaded
from .child import Parent, run, serve_as_copy
from .popen import Popen
from .tracker import pipe_for_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ForkPopen(Popen):
    """A process that was started by fork."""

    method = "fork"

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        parent = os.getpid()
        by_main_thread = _thread.get_native_id() == parent

        intent = fork_intent()

        def be_the_copy() -> int:
            if intent is not None:
                intent.preserve_fd = False
            return run(process_obj, Parent(parent, by_main_thread))

        # The copy has it as well.
        pipe_for_child()
        if intent is None:
            return _native.fork(lambda: serve_as_copy(be_the_copy))
        before = getattr(intent, "preserve_fd", False)
        intent.preserve_fd = True
        try:
            return _native.fork(lambda: serve_as_copy(be_the_copy))
        finally:
            # A signal handler or a hook may start a process while this one is being started.
            intent.preserve_fd = before


def fork_intent() -> Any:
    """Return what says whether what this thread forks keeps the tracker: its `preserve_fd`.

    Newer versions of Python have a copy close its descriptor of the tracker if that is not set. The
    copy would start a tracker of its own, which deletes the named shared memory that the copy has
    attached when that ends. None where there is no such thing, or no tracker.
    """
    return getattr(loaded("resource_tracker"), "_fork_intent", None)
