"""The standard library's :mod:`multiprocessing.reduction`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.reduction import (
        HAVE_SEND_HANDLE as HAVE_SEND_HANDLE,
        AbstractReducer as AbstractReducer,
        DupFd as DupFd,
        ForkingPickler as ForkingPickler,
        dump as dump,
        recv_handle as recv_handle,
        recvfds as recvfds,
        register as register,
        send_handle as send_handle,
        sendfds as sendfds,
    )

    if sys.version_info < (3, 14):
        from multiprocessing.reduction import ACKNOWLEDGE as ACKNOWLEDGE
else:
    sys.modules[__name__] = standard("reduction")
