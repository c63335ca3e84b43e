"""alpha-CMRU, the cumulative memory recurrent unit whose level depends on the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mru_rl.cells.mru.base import MRU


class AlphaCMRU(MRU):
    """alpha-CMRU: a write adds a level read from the input, and nothing else changes the state.

        u[t], beta[t], z[t]   as in BMRU
        alpha[t] = W_a x[t] + c_a                        real, either sign
        h[t]     = h[t-1] + z[t] alpha[t] sign(u[t])

    The state is real and held exactly between writes; the gradient passes every write unchanged.
    x: [B, T, D] -> h: [B, T, H].
    Source: after Brandoit, Fyon, Ernst, Drion 2026, arXiv:2605.11855. The full text was not at hand: these equations
    are this project's derivation from the authors' summary. Initialisation: c_a = 1, W_a small. Departures: not known.
    """

    name = "acmru"
    carry = 1.0

    def __init__(self, input_size: int, state_size: int, **options: Any) -> None:
        super().__init__(input_size, state_size, **options)
        del self.alpha
        self.level_map = nn.Linear(input_size, state_size)
        with torch.no_grad():
            nn.init.normal_(self.level_map.weight, std=0.1 * input_size**-0.5)
            nn.init.ones_(self.level_map.bias)

    def level(self, x: Tensor) -> Tensor:
        return self.level_map(x)
