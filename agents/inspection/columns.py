"""Long episodes on a picture of limited width: neighbouring steps share a column, and nothing rare is lost by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Columns:
    """`steps` time steps in columns of `width` steps each, the last one narrower where they do not divide."""

    steps: int
    width: int

    @classmethod
    def at_most(cls, columns: int, steps: int) -> Columns:
        """The narrowest columns of which there are no more than so many."""
        return cls(steps, -(-steps // columns))

    @property
    def starts(self) -> np.ndarray:
        """First step of each column [C]."""
        return np.arange(0, self.steps, self.width)

    @property
    def last_steps(self) -> np.ndarray:
        """Last step of each column [C]."""
        return np.minimum(self.starts + self.width, self.steps) - 1

    @property
    def centres(self) -> np.ndarray:
        return (self.starts + self.last_steps) / 2

    def any(self, flags: np.ndarray) -> np.ndarray:
        """bool [T, ...] -> [C, ...]: whether it holds at one step at least."""
        return np.logical_or.reduceat(flags, self.starts, axis=0)

    def last(self, values: np.ndarray) -> np.ndarray:
        """[T, ...] -> [C, ...]: the value at the column's last step."""
        return values[self.last_steps]

    def low(self, values: np.ndarray) -> np.ndarray:
        return np.minimum.reduceat(values, self.starts, axis=0)

    def high(self, values: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(values, self.starts, axis=0)

    def strongest(self, values: np.ndarray) -> np.ndarray:
        """[T, ...] -> [C, ...]: the value farthest from zero, so that a flash of one step stays to be seen."""
        low, high = self.low(values), self.high(values)
        return np.where(high >= -low, high, low)
