"""The standard library's :mod:`multiprocessing.heap`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.heap import *  # noqa: F403
else:
    sys.modules[__name__] = standard("heap")
