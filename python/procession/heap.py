"""The standard library's :mod:`multiprocessing.heap`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.heap import (
        Arena as Arena,
        BufferWrapper as BufferWrapper,
        Heap as Heap,
        rebuild_arena as rebuild_arena,
        reduce_arena as reduce_arena,
    )
else:
    sys.modules[__name__] = standard("heap")
