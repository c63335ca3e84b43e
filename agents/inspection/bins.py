"""More steps or channels than a picture has room for: neighbors share a bin, and nothing rare is lost by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bins:
    """`count` neighbors, `width` of them in each of B bins; the last bin has fewer if they do not divide."""

    count: int
    width: int

    @classmethod
    def at_most(cls, bins: int, count: int) -> Bins:
        """Return the narrowest bins of which there are at most `bins`."""
        return cls(count, max(-(-count // bins), 1))

    @property
    def firsts(self) -> np.ndarray:
        """First neighbor of each bin, int [B]."""
        return np.arange(0, self.count, self.width)

    @property
    def lasts(self) -> np.ndarray:
        """Last neighbor of each bin, int [B]."""
        return np.minimum(self.firsts + self.width, self.count) - 1

    @property
    def centers(self) -> np.ndarray:
        """Middle of each bin, float [B]."""
        return (self.firsts + self.lasts) / 2

    @property
    def edges(self) -> np.ndarray:
        """Where bins begin and the last one ends, float [B + 1]; neighbor i covers i - 0.5 to i + 0.5."""
        return np.append(self.firsts, self.count) - 0.5

    def any(self, flags: np.ndarray) -> np.ndarray:
        """bool [count, ...] -> [B, ...]: True if at least one of the bin is True."""
        return np.logical_or.reduceat(flags, self.firsts, axis=0)

    def last(self, values: np.ndarray) -> np.ndarray:
        """[count, ...] -> [B, ...]: the value of the bin's last neighbor."""
        return values[self.lasts]

    def low(self, values: np.ndarray) -> np.ndarray:
        """[count, ...] -> [B, ...]: the smallest value of the bin."""
        return np.minimum.reduceat(values, self.firsts, axis=0)

    def high(self, values: np.ndarray) -> np.ndarray:
        """[count, ...] -> [B, ...]: the largest value of the bin."""
        return np.maximum.reduceat(values, self.firsts, axis=0)

    def strongest(self, values: np.ndarray) -> np.ndarray:
        """[count, ...] -> [B, ...]: the value farthest from 0, so that a flash of one step stays visible."""
        low, high = self.low(values), self.high(values)
        return np.where(high >= -low, high, low)
