"""The standard library's :mod:`multiprocessing.resource_tracker`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_tracker import *  # noqa: F403
else:
    sys.modules[__name__] = standard("resource_tracker")
