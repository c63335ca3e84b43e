"""Mamba's selective state space: a diagonal per channel that the input steers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import ScanCell, spread_spans


class Mamba(ScanCell):
    """Selective state space (S6), Gu, Dao 2023, arXiv:2312.00752.

        u[t]    = silu(W x[t] + c)                                     one number per channel
        Delta   = softplus(W_up W_down u[t] + c_D)                     per channel
        B, C    = W_B u[t], W_C u[t]                                   N numbers each, shared by the channels
        h[t]    = exp(Delta A) h[t-1] + Delta B u[t],   A = -exp(log_A)    N numbers per channel
        y[t]    = C h[t]                                                   one number per channel

    x: [B, T, D] -> y: [B, T, S / N], state: S = channels * N. modes: N. What is read is y at h[t] and at h[t-1].
    Initialisation: A = -1 .. -N, Delta log-uniform in [0.001, 0.1]. Checked against mambapy.
    Departures: no short convolution (a window of raw inputs would be state too); the output gate is the block's; no
    D u term, the block's residual carries it.
    """

    name = "mamba"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True, modes: int = 4) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if modes < 1 or state_size % modes:
            raise ValueError(
                f"mamba keeps {modes} numbers per channel: state_size must be a multiple of {modes}, got {state_size}; "
                "change it or the option modes"
            )
        channels, rank = state_size // modes, math.ceil(input_size / 16)
        self.modes, self.rank = modes, rank
        self.input = nn.Linear(input_size, channels)
        self.select = nn.Linear(channels, rank + 2 * modes, bias=False)  # rows: Delta's low rank, B, C
        self.delta = nn.Linear(rank, channels)
        self.log_a = nn.Parameter(torch.arange(1, modes + 1).float().log().repeat(channels, 1))
        with torch.no_grad():
            nn.init.uniform_(self.delta.weight, -(rank**-0.5), rank**-0.5)
            dt = torch.empty(channels).uniform_(math.log(0.001), math.log(0.1)).exp()
            self.delta.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(bias) = dt

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Delta = 1 / span at input 0, for spans of 10 to horizon steps (at least the usual 1,000)."""
        dt = 1 / spread_spans(self.delta.out_features, 10.0, max(horizon, 1000.0)).to(self.delta.bias)
        self.delta.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus(bias) = dt

    @property
    def readout_size(self) -> int:
        return self.state_size // self.modes

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = F.silu(self.input(x))
        low, b, _ = self.select(u).split([self.rank, self.modes, self.modes], dim=-1)
        delta = F.softplus(self.delta(low)).unsqueeze(-1)
        a = torch.exp(-delta * self.log_a.exp())
        return a.flatten(-2), (delta * b.unsqueeze(-2) * u.unsqueeze(-1)).flatten(-2)

    def readout(self, after: Tensor, before: Tensor, x: Tensor) -> Tensor:
        c = F.linear(F.silu(self.input(x)), self.select.weight[self.rank + self.modes :]).unsqueeze(-1)
        read = [after, before] if self.read_before_write else [after]
        return torch.cat([(s.unflatten(-1, (-1, self.modes)).to(c.dtype) @ c).squeeze(-1) for s in read], dim=-1)
