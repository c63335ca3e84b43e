"""carry-BMRU, between the bistable and the cumulative memory recurrent unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.cells.checks import check_fraction
from mru_rl.cells.mru.base import MRU


class CarryBMRU(MRU):
    """A BMRU whose write keeps a share eps of the old value: 0 is BMRU, 1 is CMRU.

        u[t], beta[t], z[t]   as in BMRU
        h[t] = (1 - (1 - eps) z[t]) h[t-1] + z[t] alpha sign(u[t]),   eps in [0, 1]

    With eps > 0 the gradient reaches what lies before a write, weakened by eps; annealed to 0 in training
    (`set_progress`), the unit ends as a BMRU. Held exactly between writes for every eps.
    x: [B, T, D] -> h: [B, T, H]. eps is a buffer: saved and loaded with the parameters, not learned.
    carry: eps at the start. carry_share: fraction of training over which `carry` is annealed to 0; 0 is none of it.
    Source: this project. Departures: none.
    """

    name = "carry-bmru"
    eps: Tensor

    def __init__(
        self, input_size: int, state_size: int, *, carry: float = 0.5, carry_share: float = 0.5, **options: Any
    ) -> None:
        super().__init__(input_size, state_size, **options)
        self.register_buffer("eps", torch.zeros((), dtype=torch.float64))
        self.register_load_state_dict_post_hook(lambda module, _: module.set_carry(module.eps.item()))
        check_fraction("carry_share, the fraction of training over which carry is annealed to 0,", carry_share)
        self.set_carry(carry)
        self.first_carry, self.carry_share = self.carry, carry_share

    def set_progress(self, progress: float) -> None:
        """Set eps to what is left of `carry` when this fraction of training is done."""
        left = max(0.0, 1.0 - progress / self.carry_share) if self.carry_share > 0 else 0.0
        self.set_carry(self.first_carry * left)

    def set_carry(self, eps: float) -> None:
        """Set the share of the old value that a write keeps, in [0, 1]."""
        check_fraction("carry, the share of the old value that a write keeps,", eps)
        self.carry = float(eps)  # a number and not the buffer in the forward pass: no read of a device per step
        self.eps.fill_(eps)
