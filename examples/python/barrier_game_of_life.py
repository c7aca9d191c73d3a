"""The game of life in strips: each process computes its own, and a barrier parts the steps.

No process may read a neighbour's cells while they change, so all wait for each
other after each step; the last to come runs the barrier's action, which makes
the new board the present one before any goes on.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

SIZE = 24
STRIPS = 3
STEPS = 4 * SIZE  # a glider moves by one cell in four steps, so it comes back to where it began
GLIDER = {(0, 1), (1, 2), (2, 0), (2, 1), (2, 2)}


@dataclass
class Boards:
    """Two boards of bytes, of which one is the present: it is read, the other is written."""

    cells: tuple[Any, Any]
    present: Any  # a shared C integer: 0 or 1

    def is_alive(self, row: int, column: int) -> bool:
        cell = row % SIZE * SIZE + column % SIZE
        return bool(self.cells[self.present.value][cell])

    def swap(self) -> None:
        self.present.value = 1 - self.present.value

    def step(self, rows: range) -> None:
        """Write the next state of some rows."""
        following = self.cells[1 - self.present.value]
        for row in rows:
            for column in range(SIZE):
                neighbours = sum(
                    self.is_alive(row + down, column + right)
                    for down in (-1, 0, 1)
                    for right in (-1, 0, 1)
                    if (down, right) != (0, 0)
                )
                lives = neighbours == 3 or (neighbours == 2 and self.is_alive(row, column))
                following[row * SIZE + column] = lives

    def alive(self) -> set[tuple[int, int]]:
        return {
            (row, column)
            for row in range(SIZE)
            for column in range(SIZE)
            if self.is_alive(row, column)
        }


def live(boards: Boards, barrier: Barrier, rows: range) -> None:
    for _ in range(STEPS):
        boards.step(rows)
        barrier.wait(timeout=60)


def main() -> None:
    multiprocessing.set_start_method("fork")
    boards = Boards(
        cells=(
            multiprocessing.Array("b", SIZE * SIZE, lock=False),
            multiprocessing.Array("b", SIZE * SIZE, lock=False),
        ),
        present=multiprocessing.Value("i", 0, lock=False),
    )
    for row, column in GLIDER:
        boards.cells[0][row * SIZE + column] = 1
    barrier = multiprocessing.Barrier(STRIPS, action=boards.swap)

    height = SIZE // STRIPS
    processes = [
        multiprocessing.Process(target=live, args=(boards, barrier, range(top, top + height)))
        for top in range(0, SIZE, height)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    alive = boards.alive()
    print(f"steps: {STEPS}, cells alive: {len(alive)}")
    print(f"the glider is back: {'yes' if alive == GLIDER else 'no'}")
    if any(process.exitcode != 0 for process in processes):
        raise SystemExit("a process failed")
    if alive != GLIDER:
        raise SystemExit("a process read what another was writing")


if __name__ == "__main__":
    main()
