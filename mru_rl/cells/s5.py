"""S5, one diagonal state space for all inputs, fixed over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, spread_spans
from mru_rl.cells.s4d import zero_order_hold


class S5(ScanCell):
    """Simplified structured state space, Smith, Warrington, Linderman 2022, arXiv:2208.04933, with zero-order hold.

        h[t] = exp(dt Lambda) h[t-1] + (exp(dt Lambda) - 1) / Lambda B x[t]     dt learned per state

    x: [B, T, D] -> real and imaginary parts of h, [B, T, S] with S / 2 complex units.
    Initialisation: Lambda = half of the eigenvalues (one of each conjugate pair) of the normal part of the HiPPO-LegS
    matrix; dt log-uniform in [dt_min, dt_max]. Discretisation checked against lindermanlab/S5's and scipy's.
    Departures: B starts normal and not as V^-1 times a normal matrix; Lambda's real part stays negative by an
    exponential; the output map Re(C h) is the block's first linear layer; no D x term.
    """

    name = "s5"
    complex_state = True

    def __init__(
        self,
        input_size: int,
        state_size: int,
        *,
        read_before_write: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if state_size % 2:
            raise ValueError(f"s5 keeps complex numbers in pairs: state_size must be even, got {state_size}")
        units = state_size // 2
        self.log_decay = nn.Parameter(torch.full((units,), math.log(0.5)))
        self.frequency = nn.Parameter(hippo_frequencies(units))
        self.log_dt = nn.Parameter(torch.empty(units).uniform_(math.log(dt_min), math.log(dt_max)))
        self.input = nn.Linear(input_size, state_size, bias=False)  # B: rows of real, then imaginary parts
        nn.init.normal_(self.input.weight, std=(2 * input_size) ** -0.5)

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """dt = 2 / span, since A's real part is -1/2, for spans of 20 to horizon steps (at least the usual 2,000)."""
        self.log_dt.copy_(
            (2 / spread_spans(self.log_dt.numel(), 20.0, max(horizon, 2000.0))).log().view_as(self.log_dt)
        )

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        drive = self.input(x)
        drive = drive.to(torch.promote_types(drive.dtype, torch.float32))
        decay, gain = zero_order_hold(self.log_decay, self.frequency, self.log_dt, drive.dtype)
        b = torch.complex(*drive.chunk(2, dim=-1)) * gain
        return decay.expand_as(b), b


def hippo_frequencies(units: int) -> Tensor:
    """Positive imaginary parts of the eigenvalues of HiPPO-LegS's normal part of size 2 units; the real parts are -1/2."""
    n = torch.arange(2 * units, dtype=torch.float64)
    lower = -((2 * n[:, None] + 1) * (2 * n + 1)).sqrt().tril(-1) - torch.diag(n + 1)  # HiPPO-LegS
    normal = lower + ((n[:, None] + 0.5) * (n + 0.5)).sqrt()  # plus its low-rank part: -1/2 and a skew matrix
    skew = normal - torch.diag(torch.diagonal(normal))
    return torch.linalg.eigvalsh(torch.complex(torch.zeros_like(skew), -skew))[units:].float()
