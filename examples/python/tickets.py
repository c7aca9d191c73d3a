"""Twenty buyers, fifteen tickets, and one lock over the file that counts them.

Each buyer reads the file, and if a ticket is left takes it and writes the file
back. Without the lock two buyers could read the same count and both take the last.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.synchronize import Lock

BUYERS = 20
TICKETS = 15

# A buyer's exit status says how it went.
BOUGHT = 0
SOLD_OUT = 3


def buy(office: Path, lock: Lock) -> None:
    with lock:
        tickets = json.loads(office.read_text())
        time.sleep(0.002)
        if tickets["left"] == 0:
            sys.exit(SOLD_OUT)
        tickets["left"] -= 1
        tickets["buyers"].append(multiprocessing.current_process().name)
        office.write_text(json.dumps(tickets))


def main() -> None:
    multiprocessing.set_start_method("fork")
    lock = multiprocessing.Lock()

    with tempfile.TemporaryDirectory() as directory:
        office = Path(directory, "tickets.json")
        office.write_text(json.dumps({"left": TICKETS, "buyers": []}))
        buyers = [
            multiprocessing.Process(target=buy, args=(office, lock), name=f"buyer {number}")
            for number in range(1, BUYERS + 1)
        ]
        for buyer in buyers:
            buyer.start()
        for buyer in buyers:
            buyer.join()
        tickets = json.loads(office.read_text())

    lucky = [buyer.name for buyer in buyers if buyer.exitcode == BOUGHT]
    unlucky = [buyer.name for buyer in buyers if buyer.exitcode == SOLD_OUT]
    print(f"buyers with a ticket: {len(lucky)}")
    print(f"buyers without: {len(unlucky)}")
    print(f"tickets left: {tickets['left']}")

    if len(lucky) + len(unlucky) != BUYERS:
        raise SystemExit("a buyer failed")
    if len(lucky) != TICKETS or tickets["left"] != 0:
        raise SystemExit("the tickets sold are not those there were")
    if sorted(tickets["buyers"]) != sorted(lucky):
        raise SystemExit("the office and the buyers do not agree on which buyers have a ticket")


if __name__ == "__main__":
    main()
