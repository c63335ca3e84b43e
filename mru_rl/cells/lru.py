"""LRU, the linear recurrent unit: a complex diagonal, fixed over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, spread_spans


class LRU(ScanCell):
    """Linear recurrent unit, Orvieto et al. 2023, arXiv:2303.06349.

        lambda = exp(-exp(nu) + i exp(theta)),  |lambda| < 1
        h[t]   = lambda h[t-1] + gamma B x[t],  gamma = sqrt(1 - |lambda|^2) at initialisation, then learned

    x: [B, T, D] -> real and imaginary parts of h, [B, T, S] with S / 2 complex units.
    Initialisation: |lambda|^2 uniform in [r_min^2, r_max^2], phase uniform in [0, max_phase].
    Departures: the output map Re(C h) is the block's first linear layer, which reads both parts; no D x term, the
    block's residual carries it.
    """

    name = "lru"
    complex_state = True

    def __init__(
        self,
        input_size: int,
        state_size: int,
        *,
        read_before_write: bool = True,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if state_size % 2:
            raise ValueError(f"lru keeps complex numbers in pairs: state_size must be even, got {state_size}")
        if not 0.0 <= r_min <= r_max <= 1.0:
            raise ValueError(
                f"radii lie in [0, 1], r_min below r_max, or states grow, got {r_min} and {r_max}; change r_min or r_max"
            )
        units = state_size // 2
        radius = (torch.rand(units) * (r_max**2 - r_min**2) + r_min**2).sqrt()
        self.nu = nn.Parameter(torch.log(-torch.log(radius)))
        self.theta = nn.Parameter(torch.log(torch.rand(units) * max_phase + 1e-8))
        self.log_gamma = nn.Parameter(0.5 * torch.log(1 - radius**2))
        self.input = nn.Linear(input_size, state_size, bias=False)  # B: rows of real, then imaginary parts
        nn.init.normal_(self.input.weight, std=(2 * input_size) ** -0.5)

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """|lambda| = exp(-1 / span) for spans of 10 to horizon steps (at least the usual 1,000), at most one turn a span."""
        span = spread_spans(self.state_size // 2, 10.0, max(horizon, 1000.0)).to(self.nu)
        self.nu.copy_(-span.log())
        self.theta.copy_(torch.log(torch.rand_like(span) * 2 * math.pi / span + 1e-8))
        self.log_gamma.copy_(0.5 * torch.log(-torch.expm1(-2 / span)))

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        drive = self.input(x)
        wide = torch.promote_types(drive.dtype, torch.float32)  # there is no complex bfloat16
        real, imag = (drive.to(wide) * self.log_gamma.exp().repeat(2)).chunk(2, dim=-1)
        b = torch.complex(real, imag)
        decay = torch.polar(torch.exp(-self.nu.to(wide).exp()), self.theta.to(wide).exp())
        return decay.expand_as(b), b
