"""The standard library's :mod:`multiprocessing.util`, by this package's name."""

import sys

from ._stdlib import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.util import (
        DEBUG as DEBUG,
        DEFAULT_LOGGING_FORMAT as DEFAULT_LOGGING_FORMAT,
        INFO as INFO,
        LOGGER_NAME as LOGGER_NAME,
        MAXFD as MAXFD,
        NOTSET as NOTSET,
        SUBDEBUG as SUBDEBUG,
        SUBWARNING as SUBWARNING,
        Finalize as Finalize,
        ForkAwareLocal as ForkAwareLocal,
        ForkAwareThreadLock as ForkAwareThreadLock,
        abstract_sockets_supported as abstract_sockets_supported,
        close_all_fds_except as close_all_fds_except,
        debug as debug,
        get_logger as get_logger,
        get_temp_dir as get_temp_dir,
        info as info,
        is_abstract_socket_namespace as is_abstract_socket_namespace,
        is_exiting as is_exiting,
        log_to_stderr as log_to_stderr,
        register_after_fork as register_after_fork,
        spawnv_passfds as spawnv_passfds,
        sub_debug as sub_debug,
        sub_warning as sub_warning,
    )

    if sys.version_info >= (3, 14):
        from multiprocessing.util import WARNING as WARNING, warn as warn
else:
    sys.modules[__name__] = standard("util")
