"""HGRN, a gated linear unit whose forget gate has a lower bound."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import ScanCell, chrono_bias


class HGRN(ScanCell):
    """Hierarchically gated recurrent unit, Qin, Yang, Zhong 2023, arXiv:2311.04823, in its real form.

        f[t] = bound + (1 - bound) sigmoid(W_f x[t] + c_f)
        h[t] = f[t] h[t-1] + (1 - f[t]) silu(W_i x[t] + c_i)

    x: [B, T, D] -> h: [B, T, H], real. lower_bound: in [0, 1), the least a step keeps; the paper raises it with depth.
    Checked against fla-org/flash-linear-attention, which also takes the real form. Departures: the bound is given
    per core and not learned across layers; no complex phase; the output gate is the block's.
    """

    name = "hgrn"

    def __init__(
        self, input_size: int, state_size: int, *, read_before_write: bool = True, lower_bound: float = 0.0
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if not 0.0 <= lower_bound < 1.0:
            raise ValueError(
                f"lower_bound, the least share of the state that a step keeps, must be in [0, 1); got {lower_bound}"
            )
        self.lower_bound = lower_bound
        self.input = nn.Linear(input_size, 2 * state_size)  # rows: forget, then input

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on the forget gate."""
        self.input.bias[: self.state_size] = chrono_bias(self.state_size, horizon).to(self.input.bias)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        forget, enter = self.input(x).chunk(2, dim=-1)
        keep = self.lower_bound + (1 - self.lower_bound) * torch.sigmoid(forget)
        return keep, (1 - keep) * F.silu(enter)
