"""Start two children, wait for both, and read how each of them ended.

One leaves by itself with status 7. The other is ended by a signal, which the
parent sees as the signal's number with a minus sign in front.
"""

import multiprocessing
import signal
import sys
import time


def leave(status: int) -> None:
    sys.exit(status)


def sleep_long() -> None:
    time.sleep(60)


def main() -> None:
    multiprocessing.set_start_method("fork")

    leaver = multiprocessing.Process(target=leave, args=(7,), name="leaver")
    sleeper = multiprocessing.Process(target=sleep_long, name="sleeper", daemon=True)
    leaver.start()
    sleeper.start()

    leaver.join()
    print(f"{leaver.name} ended with exit code {leaver.exitcode}")
    still_running = multiprocessing.active_children()
    print(f"still running: {', '.join(child.name for child in still_running)}")

    sleeper.terminate()
    sleeper.join()
    print(f"{sleeper.name} ended with exit code {sleeper.exitcode}")

    if leaver.exitcode != 7:
        raise SystemExit("the leaver's status was lost")
    if still_running != [sleeper]:
        raise SystemExit("exactly the sleeper should have been running")
    if sleeper.exitcode != -signal.SIGTERM:
        raise SystemExit("the sleeper was not ended by the signal")
    if leaver.is_alive() or sleeper.is_alive() or multiprocessing.active_children():
        raise SystemExit("a child is still there after the wait")


if __name__ == "__main__":
    main()
