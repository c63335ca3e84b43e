"""carry-BMRU, between the bistable and the cumulative memory recurrent unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mru_rl.cells.mru.base import MRU


class CarryBMRU(MRU):
    """A BMRU whose write keeps a share eps of the old value: 0 is BMRU, 1 is CMRU.

        u[t], beta[t], z[t]   as in BMRU
        h[t] = (1 - (1 - eps) z[t]) h[t-1] + z[t] alpha sign(u[t]),   eps in [0, 1]

    With eps > 0 the gradient reaches what lies before a write, weakened by eps; annealed from `carry` to 0 in training
    (`anneal_carry`), the unit ends as a BMRU. Held exactly between writes for every eps.
    x: [B, T, D] -> h: [B, T, H]. eps is a buffer: saved and loaded with the parameters, not learned.
    Source: this project. Departures: none.
    """

    name = "carry-bmru"
    eps: Tensor

    def __init__(self, input_size: int, state_size: int, *, carry: float = 0.5, **options: Any) -> None:
        super().__init__(input_size, state_size, **options)
        self.register_buffer("eps", torch.zeros((), dtype=torch.float64))
        self.register_load_state_dict_post_hook(lambda module, _: module.set_carry(module.eps.item()))
        self.set_carry(carry)
        self.first_carry = self.carry

    def set_carry(self, eps: float) -> None:
        """Set the share of the old value that a write keeps, in [0, 1]."""
        if not isinstance(eps, int | float) or not 0.0 <= eps <= 1.0:
            raise ValueError(f"carry is the share of the old value a write keeps, a number in [0, 1]; got {eps!r}")
        self.carry = float(eps)  # a number and not the buffer in the forward pass: no read of a device per step
        self.eps.fill_(eps)


def anneal_carry(module: nn.Module, progress: float, *, share: float = 0.5) -> None:
    """Set every carry-BMRU in a module: eps falls linearly from what it was made with to 0 over the first `share` of training.

    progress: how much of training is done, in [0, 1]; from `share` on the units are BMRUs.
    """
    left = max(0.0, 1.0 - progress / share) if share > 0 else 0.0
    for cell in module.modules():
        if isinstance(cell, CarryBMRU):
            cell.set_carry(cell.first_carry * left)
