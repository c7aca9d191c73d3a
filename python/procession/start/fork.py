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


class ForkPopen(Popen):
    """A process that was started by fork."""

    method = "fork"

    def _launch(self, process_obj: BaseProcess) -> _native.Child:
        parent = os.getpid()
        by_main_thread = _thread.get_native_id() == parent

        def be_the_copy() -> int:
            share_tracker(False)
            return run(process_obj, Parent(parent, by_main_thread))

        # The copy has it as well.
        pipe_for_child()
        shared = share_tracker(True)
        try:
            return _native.fork(lambda: serve_as_copy(be_the_copy))
        finally:
            # A signal handler or a hook may start a process while this one is being started.
            share_tracker(shared)


def share_tracker(shared: bool) -> bool:
    """Choose whether what this thread forks keeps the resource tracker; return what was chosen.

    Newer versions of Python have a copy close its descriptor of the tracker if this is not said.
    The copy would start a tracker of its own, which deletes the named shared memory that the copy
    has attached when that ends.
    """
    intent = getattr(loaded("resource_tracker"), "_fork_intent", None)
    before = bool(getattr(intent, "preserve_fd", False))
    if intent is not None:
        intent.preserve_fd = shared
    return before
