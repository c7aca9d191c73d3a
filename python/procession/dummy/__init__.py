"""The standard library's :mod:`multiprocessing.dummy`, by this package's name."""

import sys

from .._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.dummy import (
        Array as Array,
        Barrier as Barrier,
        BoundedSemaphore as BoundedSemaphore,
        Condition as Condition,
        DummyProcess as DummyProcess,
        Event as Event,
        JoinableQueue as JoinableQueue,
        Lock as Lock,
        Manager as Manager,
        Namespace as Namespace,
        Pipe as Pipe,
        Pool as Pool,
        Process as Process,
        Queue as Queue,
        RLock as RLock,
        Semaphore as Semaphore,
        Value as Value,
        active_children as active_children,
        current_process as current_process,
        freeze_support as freeze_support,
        shutdown as shutdown,
    )

    from . import connection as connection
else:
    sys.modules[__name__] = standard("dummy")
    # By its place a second one would be found.
    sys.modules[f"{__name__}.connection"] = standard("dummy.connection")
