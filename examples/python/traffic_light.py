"""Cars wait at a traffic light, which is an Event that all of them see.

No car drives while it is red; when it turns green all that wait may pass. When
it is red again, the late cars wait for a moment only, and see red.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event, Semaphore

CARS = 8
LATE_CARS = 3


def drive(light: Event, arrivals: Semaphore, passed: Any, patience: float) -> None:
    """Wait at the light for `patience` seconds at most, and count up `passed` if it is green."""
    arrivals.release()
    if light.wait(timeout=patience):
        with passed.get_lock():
            passed.value += 1


def main() -> None:
    multiprocessing.set_start_method("fork")
    light = multiprocessing.Event()
    arrivals = multiprocessing.Semaphore(0)
    passed = multiprocessing.Value("i", 0)

    def send_cars(how_many: int, patience: float) -> list[multiprocessing.Process]:
        cars = [
            multiprocessing.Process(
                target=drive, args=(light, arrivals, passed, patience), daemon=True
            )
            for _ in range(how_many)
        ]
        for car in cars:
            car.start()
        for _ in cars:
            if not arrivals.acquire(timeout=60):
                raise SystemExit("a car never arrived")
        return cars

    early = send_cars(CARS, patience=60)
    passed_on_red = passed.value
    print(f"red: {CARS} cars are waiting, {passed_on_red} have passed")

    light.set()
    for car in early:
        car.join()
    passed_on_green = passed.value
    print(f"green: {passed_on_green} cars have passed")

    light.clear()
    late = send_cars(LATE_CARS, patience=0.1)
    for car in late:
        car.join()
    passed_late = passed.value - passed_on_green
    print(f"red again: {passed_late} of {LATE_CARS} late cars have passed")

    if any(car.exitcode != 0 for car in early + late):
        raise SystemExit("a car broke down")
    if passed_on_red or passed_late:
        raise SystemExit("a car drove through the red light")
    if passed_on_green != CARS:
        raise SystemExit("a car did not see the light turn green")
    if light.is_set():
        raise SystemExit("the light should be red")


if __name__ == "__main__":
    main()
