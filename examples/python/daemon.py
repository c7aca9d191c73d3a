"""A daemon: a child that serves its parent in the background and never outlives it.

The parent is killed here, so it has no chance to end its daemon: the kernel does.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import procession

if TYPE_CHECKING:
    from procession.queues import Queue


def beat(beats: Any) -> None:
    """Count, for as long as it is let."""
    while True:
        with beats.get_lock():
            beats.value += 1
        time.sleep(0.001)


def serve(beats: Any, numbers: Queue[int]) -> None:
    """Start the daemon, see that it works, and die without a word."""
    heart = procession.Process(target=beat, args=(beats,), name="heart", daemon=True)
    heart.start()
    while beats.value < 10:
        time.sleep(0.001)
    assert heart.pid is not None
    numbers.put(heart.pid)
    os.kill(os.getpid(), signal.SIGKILL)


def lives(pid: int) -> bool:
    return any(
        member.pid == pid and member.state not in ("zombie", "ended")
        for member in procession.family()
    )


def main() -> None:
    beats = procession.Value("Q", 0)
    numbers: Queue[int] = procession.Queue()
    server = procession.Process(target=serve, args=(beats, numbers), name="server")
    server.start()
    heart = numbers.get()
    print(f"the daemon works: {'yes' if beats.value >= 10 else 'no'}")
    server.join()
    print(f"its parent ended with exit code {server.exitcode}")

    while lives(heart):
        time.sleep(0.001)
    print("the daemon ended with it")


if __name__ == "__main__":
    main()
