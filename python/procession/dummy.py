"""The standard library's :mod:`multiprocessing.dummy`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.dummy import *  # noqa: F403
else:
    sys.modules[__name__] = standard("dummy")
    # By its place a second one would be found.
    sys.modules[f"{__name__}.connection"] = standard("dummy.connection")
