"""The standard library's :mod:`multiprocessing.managers`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.managers import (
        BaseListProxy as BaseListProxy,
        BaseManager as BaseManager,
        BaseProxy as BaseProxy,
        DictProxy as DictProxy,
        ListProxy as ListProxy,
        Namespace as Namespace,
        RemoteError as RemoteError,
        Server as Server,
        SharedMemoryManager as SharedMemoryManager,
        SharedMemoryServer as SharedMemoryServer,
        SyncManager as SyncManager,
        Token as Token,
        ValueProxy as ValueProxy,
    )

    if sys.version_info >= (3, 14):
        from multiprocessing.managers import SetProxy as SetProxy
else:
    sys.modules[__name__] = standard("managers")
