"""FFM, fast and forgetful memory: traces that decay, seen through rotating contexts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, spread_spans


class FFM(ScanCell):
    """Fast and forgetful memory, Morad, Kortvelesy, Liwicki, Prorok 2023, arXiv:2310.04128.

        u[t]    = (W x[t] + c) sigmoid(W_g x[t] + c_g)             one number per trace
        h[t]    = exp(-|alpha_i| + i omega_j) h[t-1] + u_i[t]      for trace i and context j, complex

    x: [B, T, D] -> real and imaginary parts of h, [B, T, S], S = traces * contexts * 2.
    Initialisation as in proroklab/memory-monoids: alpha uniform in [1e-6, 0.1], periods 2 pi / omega log-uniform in
    [1, 10000] steps; the equations were checked against that code.
    Departures: the map that mixes the state is the block's first linear layer, output gate and skip are the block's.
    """

    name = "ffm"
    complex_state = True

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True, contexts: int = 4) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if contexts < 1 or state_size % (2 * contexts):
            raise ValueError(
                f"ffm keeps {contexts} complex numbers per trace: state_size must be a multiple of {2 * contexts}, "
                f"got {state_size}; change it or the option contexts"
            )
        self.traces, self.contexts = state_size // (2 * contexts), contexts
        self.input = nn.Linear(input_size, 2 * self.traces)  # rows: value, then gate
        self.alpha = nn.Parameter(torch.empty(self.traces).uniform_(1e-6, 0.1))
        self.omega = nn.Parameter(2 * math.pi * torch.empty(contexts).uniform_(-math.log(10_000), 0.0).exp())

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """alpha = 1 / span for spans of 10 to horizon steps."""
        self.alpha.copy_(1 / spread_spans(self.traces, 10.0, max(horizon, 20.0)))

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.input(x).chunk(2, dim=-1)
        u = value * torch.sigmoid(gate)
        u = u.to(torch.promote_types(u.dtype, torch.float32)).repeat_interleave(self.contexts, dim=-1)
        rate = self.alpha.to(u.dtype).abs().neg().exp().repeat_interleave(self.contexts)
        decay = torch.polar(rate, self.omega.to(u.dtype).repeat(self.traces))
        b = torch.complex(u, torch.zeros_like(u))
        return decay.expand_as(b), b
