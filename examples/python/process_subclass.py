"""Subclass Process: state is set in __init__, the work is in run().

Four processes count the primes in a range each. What run() finds is put into
a shared value, so that the object in the parent can be asked for it.
"""

import math
import multiprocessing


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


class PrimeCounter(multiprocessing.Process):
    """Counts the primes in `numbers`; `found` holds the answer once it is joined."""

    def __init__(self, numbers: range) -> None:
        super().__init__(name=f"primes in {numbers.start}..{numbers.stop - 1}")
        self.numbers = numbers
        self._found = multiprocessing.Value("i", 0, lock=False)

    def run(self) -> None:
        self._found.value = sum(map(is_prime, self.numbers))

    @property
    def found(self) -> int:
        return int(self._found.value)


def main() -> None:
    multiprocessing.set_start_method("fork")

    counters = [PrimeCounter(range(start, start + 5_000)) for start in range(0, 20_000, 5_000)]
    for counter in counters:
        counter.start()
    for counter in counters:
        counter.join()
        print(f"{counter.name}: {counter.found}")

    total = sum(counter.found for counter in counters)
    print(f"primes below 20000: {total}")
    if any(counter.exitcode != 0 for counter in counters):
        raise SystemExit("a counter failed")
    if total != 2262:
        raise SystemExit("there are 2262 primes below 20000")


if __name__ == "__main__":
    main()
