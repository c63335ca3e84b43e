"""A leaky integrator, as a cell of one's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mru_rl


@mru_rl.register_cell
class Leaky(mru_rl.ScanCell):
    """h[t] = a h[t-1] + W x[t], with one learned decay per unit."""

    name = "leaky"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True, keep: float = 0.9) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.input = nn.Linear(input_size, state_size)
        self.decay = nn.Parameter(torch.full((state_size,), torch.logit(torch.tensor(keep)).item()))

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        drive = self.input(x)
        return torch.sigmoid(self.decay).expand_as(drive), drive
