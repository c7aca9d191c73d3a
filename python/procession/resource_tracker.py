"""The standard library's :mod:`multiprocessing.resource_tracker`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_tracker import (
        ResourceTracker as ResourceTracker,
        ensure_running as ensure_running,
        getfd as getfd,
        main as main,
        register as register,
        unregister as unregister,
    )
else:
    sys.modules[__name__] = standard("resource_tracker")
