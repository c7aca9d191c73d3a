"""The standard library's :mod:`multiprocessing.connection`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import (
        Client as Client,
        Connection as Connection,
        Listener as Listener,
        Pipe as Pipe,
        answer_challenge as answer_challenge,
        deliver_challenge as deliver_challenge,
        wait as wait,
    )
else:
    sys.modules[__name__] = standard("connection")
