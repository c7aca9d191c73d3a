"""The standard library's :mod:`multiprocessing.managers`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.managers import *  # noqa: F403
else:
    sys.modules[__name__] = standard("managers")
