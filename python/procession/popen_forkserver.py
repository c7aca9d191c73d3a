"""The standard library's :mod:`multiprocessing.popen_forkserver`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.popen_forkserver import *  # noqa: F403
else:
    sys.modules[__name__] = standard("popen_forkserver")
