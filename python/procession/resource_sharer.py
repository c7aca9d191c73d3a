"""The standard library's :mod:`multiprocessing.resource_sharer`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_sharer import (
        DupFd as DupFd,
        stop as stop,
    )
else:
    sys.modules[__name__] = standard("resource_sharer")
