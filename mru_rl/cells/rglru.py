"""RG-LRU, the real-gated linear recurrent unit of Hawk and Griffin."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import ScanCell, spread_spans


class RGLRU(ScanCell):
    """Real-gated linear recurrent unit, De et al. 2024, arXiv:2402.19427.

        u[t] = W x[t] + c                                     the block's linear map before the unit
        r[t] = sigmoid(W_r u[t] + c_r),  i[t] = sigmoid(W_i u[t] + c_i)
        a[t] = exp(-8 r[t] softplus(Lambda)),  0 < a < 1
        h[t] = a[t] h[t-1] + sqrt(1 - a[t]^2) (i[t] u[t])

    x: [B, T, D] -> h: [B, T, H], real. Initialisation: exp(-softplus(Lambda))^2 uniform in [0.9^2, 0.999^2].
    Equations checked against google-deepmind/recurrentgemma's code. Departures: dense gate matrices (there block
    diagonal), no short convolution before the unit, and sqrt(1 - a^2) at an episode's first step too (there 1).
    """

    name = "rglru"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.input = nn.Linear(input_size, state_size)
        self.gate = nn.Linear(state_size, 2 * state_size)  # rows: recurrence, then input
        nn.init.normal_(self.gate.weight, std=state_size**-0.5)
        nn.init.zeros_(self.gate.bias)
        radius = (torch.rand(state_size) * (0.999**2 - 0.9**2) + 0.9**2).sqrt()
        self.decay = nn.Parameter(torch.log(torch.expm1(-torch.log(radius))))  # softplus(decay) = -log(radius)

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """exp(-4 softplus(Lambda)) = exp(-1 / span), which is a with the gate half open, for spans of 2 to horizon steps (at
        least the usual 250)."""
        span = spread_spans(self.state_size, 2.0, max(horizon, 250.0)).to(self.decay)
        self.decay.copy_(torch.log(torch.expm1(0.25 / span)))

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.input(x)
        recurrence, enter = torch.sigmoid(self.gate(u)).chunk(2, dim=-1)
        log_a = -8.0 * recurrence * F.softplus(self.decay)
        scale = (-torch.expm1(2 * log_a)).clamp(min=1e-12).sqrt()  # bounds the derivative of the root at a = 1
        return log_a.exp(), scale * enter * u
