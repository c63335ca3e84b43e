"""S4D, a diagonal state space per channel, fixed over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, spread_spans


class S4D(ScanCell):
    """Diagonal state space, Gu, Gupta, Goel, Re 2022, arXiv:2206.11893, with zero-order hold.

        u[t]   = W x[t]                                     one number per channel
        A      = -exp(log_decay) + i frequency              N complex numbers per channel
        h[t]   = exp(dt A) h[t-1] + (exp(dt A) - 1) / A u[t]    dt learned per channel

    x: [B, T, D] -> real and imaginary parts of h, [B, T, S], S = channels * N * 2.
    modes: N. Initialisation S4D-Lin: A = -1/2 + i pi n; dt log-uniform in [dt_min, dt_max].
    Checked against state-spaces/s4's kernel. Departures: B = 1 as there; the output map 2 Re(C h) is the block's first
    linear layer, which reads both parts; no D u term, the block's residual carries it.
    """

    name = "s4d"
    complex_state = True

    def __init__(
        self,
        input_size: int,
        state_size: int,
        *,
        read_before_write: bool = True,
        modes: int = 4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if modes < 1 or state_size % (2 * modes):
            raise ValueError(
                f"s4d keeps {modes} complex numbers per channel: state_size must be a multiple of {2 * modes}, "
                f"got {state_size}; change it or the option modes"
            )
        channels = state_size // (2 * modes)
        self.modes = modes
        self.input = nn.Linear(input_size, channels, bias=False)
        self.log_decay = nn.Parameter(torch.full((channels, modes), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(modes).float().repeat(channels, 1))
        self.log_dt = nn.Parameter(torch.empty(channels, 1).uniform_(math.log(dt_min), math.log(dt_max)))

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """dt = 2 / span, since A's real part is -1/2, for spans of 20 to horizon steps (at least the usual 2,000)."""
        self.log_dt.copy_(
            (2 / spread_spans(self.log_dt.numel(), 20.0, max(horizon, 2000.0))).log().view_as(self.log_dt)
        )

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.input(x)
        u = u.to(torch.promote_types(u.dtype, torch.float32))
        decay, gain = zero_order_hold(self.log_decay, self.frequency, self.log_dt, u.dtype)
        b = (gain * u.unsqueeze(-1)).flatten(-2)
        return decay.flatten().expand_as(b), b


def zero_order_hold(log_decay: Tensor, frequency: Tensor, log_dt: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """exp(dt A) and (exp(dt A) - 1) / A for A = -exp(log_decay) + i frequency, complex, in precision `wide`."""
    a = torch.complex(-log_decay.to(wide).exp(), frequency.to(wide))
    step = a * log_dt.to(wide).exp()
    decay = step.exp()
    return decay, (decay - 1) / a
