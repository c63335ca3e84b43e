"""minGRU, a gated unit whose gate sees the input alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, chrono_bias


class MinGRU(ScanCell):
    """minGRU, Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, arXiv:2410.01201.

        z[t] = sigmoid(W_z x[t] + c_z)
        h[t] = (1 - z[t]) h[t-1] + z[t] (W x[t] + c)

    x: [B, T, D] -> h: [B, T, H], real. Departures: the candidate is linear (the paper's plain form), the scan runs
    on values and not on logarithms.
    """

    name = "mingru"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.input = nn.Linear(input_size, 2 * state_size)  # rows: gate, then candidate

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on the gate, negated: it writes."""
        self.input.bias[: self.state_size] = -chrono_bias(self.state_size, horizon).to(self.input.bias)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, candidate = self.input(x).chunk(2, dim=-1)
        z = torch.sigmoid(gate)
        return 1 - z, z * candidate
