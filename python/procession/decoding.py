"""Where an exception came from that was raised while a message was decoded or encoded.

Decoding and encoding run any code, and a signal handler may raise an exception in the middle of it.
The exception does not show where it came from. Where it may be either, the same is done a second
time in a thread, in which no handler runs. What is not raised there came from a handler.
"""

from __future__ import annotations

import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_PATIENCE = 1.0
"""Seconds that another thread has to repeat the interrupted call."""


def comes_from_a_handler(load: Callable[[], Any], error: BaseException) -> bool:
    """Return whether a signal handler raised the exception that an encoder or decoder raised."""
    return _may_be_of_a_handler(error) and not _raises_again(load, error)


def _may_be_of_a_handler(error: BaseException) -> bool:
    """Return whether a signal handler may have raised an exception in this thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if isinstance(error, KeyboardInterrupt):
        return True
    handlers = map(signal.getsignal, signal.valid_signals())
    return any(callable(each) and each is not signal.default_int_handler for each in handlers)


def _raises_again(load: Callable[[], Any], error: BaseException) -> bool:
    """Return whether a function raises the same type of exception in a thread without signals."""
    again: list[BaseException] = []

    def run() -> None:
        try:
            load()
        except BaseException as raised:
            again.append(raised)

    thread = threading.Thread(target=run, name="procession decoding", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return False
    # It may wait for this thread, for a module that is being imported.
    thread.join(_PATIENCE)
    return bool(again) and type(again[0]) is type(error)
