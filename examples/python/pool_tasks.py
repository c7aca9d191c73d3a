"""Hand tasks to a pool of four workers, in three ways.

map() brings twenty results in the order of the tasks, apply_async() calls back
as each is done, and an exception comes home with the worker's traceback.
"""

import multiprocessing
import os
import time


def square(number: int) -> int:
    return number * number


def slow_square(number: int) -> tuple[int, int]:
    """Square `number` and say which process did it; the first tasks are the slowest."""
    time.sleep((20 - number) * 0.002)
    return os.getpid(), square(number)


def divide(dividend: int, divisor: int) -> float:
    return dividend / divisor


def main() -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print(f"apply: {pool.apply(square, (12,))}")

        pids, squares = zip(*pool.map(slow_square, range(20), chunksize=1), strict=True)
        print(f"map: {list(squares)}")

        called_back: list[int] = []
        pending = [
            pool.apply_async(square, (number,), callback=called_back.append) for number in range(20)
        ]
        results = [result.get(timeout=60) for result in pending]
        print(f"apply_async: {len(called_back)} results by callback, the sum is {sum(called_back)}")

        failing = pool.apply_async(divide, (1, 0))
        try:
            failing.get(timeout=60)
        except ZeroDivisionError as error:
            message, cause = str(error), error.__cause__
        else:
            raise SystemExit("the exception did not come back")
        print(f"exception: {message}, with a {type(cause).__name__}")

        pool.close()
        pool.join()

    expected = [number * number for number in range(20)]
    if list(squares) != expected or results != expected:
        raise SystemExit("the results are not those of the tasks, in their order")
    if sorted(called_back) != expected:
        raise SystemExit("a callback was lost or called twice")
    if os.getpid() in pids or len(set(pids)) > 4:
        raise SystemExit("the tasks did not run in the four workers")
    if "in divide" not in str(cause) or "return dividend / divisor" not in str(cause):
        raise SystemExit("the remote traceback does not show where it happened")


if __name__ == "__main__":
    main()
