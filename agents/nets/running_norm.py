"""Running mean and deviation of numbers an agent sees, by column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CLIP = 10.0
"""Deviations from the mean beyond which a number is cut."""
_SMALL, _LARGE = 0.2, 5.0
"""Numbers whose largest size lies between the two are left as they are."""
_CHUNK = 2**16
_CONSTANT = 1e-6


class RunningNorm(nn.Module):
    """(x - mean) / deviation, cut at 10, in columns that are switched on; others pass as they are. x: [..., D] -> [..., D].

    Means and deviations are those of all that `observe` was shown, merged exactly (Chan, Golub and LeVeque 1983); a forward
    pass changes nothing. All of it is in the state_dict. A column that was always the same becomes 0.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    on: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("on", torch.zeros(size, dtype=torch.bool))
        self.active = False
        """Whether any column is on."""
        self._refresh()

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        shift, scale, bound = self._factors
        return torch.maximum(torch.minimum((x - shift) * scale, bound), -bound)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take in more numbers, [..., D]."""
        for rows in x.reshape(-1, x.shape[-1]).split(_CHUNK):
            wide = rows.double()
            count, mean = float(len(wide)), wide.mean(0)
            squares = (wide - mean).square().sum(0)
            total = self.count + count
            apart = mean - self.mean
            self.squares += squares + apart.square() * self.count * count / total
            self.mean += apart * count / total
            self.count += count
        self._refresh()

    def switch_on(self, columns: Tensor) -> None:
        """Normalize these columns, bool [D], beside those that are already."""
        self.on |= columns
        self._refresh()

    def deviation(self) -> Tensor:
        """Deviation of every column, float64 [D]; 0 before anything was observed."""
        return (self.squares / self.count.clamp(min=1)).sqrt()

    def _refresh(self) -> None:
        self.active = bool(self.on.any())
        deviation = self.deviation()
        moves = deviation > _CONSTANT * self.mean.abs()
        scale = torch.where(moves, 1 / deviation.where(moves, torch.ones_like(deviation)), 0.0)
        one = torch.ones_like(deviation)
        self._factors = (
            torch.where(self.on, self.mean, 0.0).float(),
            torch.where(self.on, scale, one).float(),
            torch.where(self.on, CLIP * one, torch.inf).float(),
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()

    def _apply(self, *args: Any, **kwargs: Any) -> RunningNorm:
        super()._apply(*args, **kwargs)
        self._refresh()
        return self


def is_usual(size: float) -> bool:
    """Whether a network takes numbers of up to this size as they are; 0 says nothing and is."""
    return size == 0 or _SMALL <= size <= _LARGE
