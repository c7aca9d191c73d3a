"""The standard library's :mod:`multiprocessing.popen_spawn_posix`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.popen_spawn_posix import *  # noqa: F403
else:
    sys.modules[__name__] = standard("popen_spawn_posix")
