"""Share queues, a lock and a total with a program in another language.

Usage: interop.py PROGRAM [COUNT]. PROGRAM is the Rust example `interop`, which is told where
things are by handles: it attaches to this process's family by its number, takes part in the work
that another Python process does as well, and both raise the same total under the same lock.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import procession
from procession.sharedctypes import Block

if TYPE_CHECKING:
    from procession.queues import Queue
    from procession.synchronize import Lock

TIMEOUT = 30.0


def answer(messages: Queue[bytes], lock: Lock, total: Block, replies: Queue[bytes]) -> None:
    """Do what the Rust program does: reply in upper case, and count; stop at an empty message."""
    numbers = memoryview(total)
    while message := messages.get():
        with lock:
            count, size = struct.unpack("<QQ", numbers)
            numbers[:] = struct.pack("<QQ", count + 1, size + len(message))
        replies.put(message.upper())


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: interop.py PROGRAM [COUNT]")
    count = int(sys.argv[2]) if len(sys.argv) == 3 else 2000
    messages: Queue[bytes] = procession.Queue()
    replies: Queue[bytes] = procession.Queue()
    lock, total = procession.Lock(), Block(16)
    helper = procession.Process(target=answer, args=(messages, lock, total, replies), daemon=True)
    helper.start()
    handles = [messages.handle, lock.handle, total.handle, replies.handle]
    with subprocess.Popen([sys.argv[1], str(os.getpid()), *handles]) as program:
        sent = [f"message {number} from python".encode() for number in range(count)]
        for message in sent:
            messages.put(message)
        received = [replies.get(timeout=TIMEOUT) for _ in sent]
        messages.put(b"")
        messages.put(b"")
        status = program.wait(TIMEOUT)
    helper.join(TIMEOUT)
    if status != 0:
        raise SystemExit(f"the program left with status {status}")
    if sorted(received) != sorted(message.upper() for message in sent):
        raise SystemExit("the replies are not the messages in upper case")
    if struct.unpack("<QQ", memoryview(total)) != (count, sum(map(len, sent))):
        raise SystemExit("the total is not what both have done")
    print(f"{count} messages answered by a Python process and a Rust program, total right")


if __name__ == "__main__":
    main()
