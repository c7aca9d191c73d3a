"""The standard library's :mod:`multiprocessing.shared_memory`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.shared_memory import (
        ShareableList as ShareableList,
        SharedMemory as SharedMemory,
    )
else:
    sys.modules[__name__] = standard("shared_memory")
