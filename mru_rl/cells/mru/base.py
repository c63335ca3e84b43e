"""Base of the memory recurrent units: candidate, threshold and level make a gate; the gate makes a scan."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, alike
from mru_rl.cells.checks import check_horizon, check_warm_up, check_width
from mru_rl.cells.mru.hold import hold
from mru_rl.cells.mru.surrogate import SURROGATES, Surrogate, write
from mru_rl.scan.dispatch import linear_scan, resolve


class MRU(ScanCell):
    """Base of the memory recurrent units: a unit holds its state, exactly, until an input is strong enough to write.

        candidate  u[t]    = W x[t] + c
        threshold  beta[t] = |W_b x[t] + c_b|
        gate       z[t]    = 1 if |u[t]| > beta[t] else 0
        state      h[t]    = (1 - (1 - carry) z[t]) h[t-1] + z[t] level sign(u[t])

    For a unit of one's own, override `carry`, `candidate_and_threshold` or `level`; scan, step, laws, warm-up and
    write inspection follow.

    slope, sign_slope, surrogate: the surrogate derivative of the gate and of the sign.
    init_horizon: steps that a unit should be able to hold at the start of training. Thresholds are spread so that the
        write rates of the units cover [1/2, 1/init_horizon] log-uniformly (a derivation), for inputs and candidates of
        unit variance. Random weights give that only on average, so that the rarest writers may not write at all.
        `warm_up` sets the rates from real observations.
    Source: after De Geeter, Lambrechts, Ernst, Drion, arXiv:2601.09495; the equations are this project's derivation.
    """

    carry = 0.0
    has_gates = True

    def __init__(
        self,
        input_size: int,
        state_size: int,
        *,
        read_before_write: bool = True,
        slope: float = 4.0,
        sign_slope: float = 1.0,
        surrogate: Surrogate = "tanh",
        init_horizon: float = 100.0,
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        for label, value in (("slope", slope), ("sign_slope", sign_slope)):
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"surrogate slopes must be positive, finite numbers, got {label}={value!r}")
        check_horizon(init_horizon)
        if surrogate not in SURROGATES:
            raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}, got {surrogate!r}")
        self.slope, self.sign_slope, self.surrogate = slope, sign_slope, surrogate
        self.input = nn.Linear(input_size, 2 * state_size)  # rows: candidate, then threshold
        self.alpha = nn.Parameter(torch.ones(state_size))  # its size is the level: no exp, exports keep the bits
        self.reset_parameters(init_horizon)

    def init_for_horizon(self, horizon: float) -> None:
        """Thresholds spread so that the write rates cover [1/2, 1/horizon]."""
        self.reset_parameters(horizon)

    def reset_parameters(self, horizon: float) -> None:
        """Candidates of unit variance for inputs of unit variance; thresholds spread over units, never one constant."""
        n = self.state_size
        with torch.no_grad():
            nn.init.normal_(self.input.weight[:n], std=self.input_size**-0.5)
            nn.init.normal_(self.input.weight[n:], std=0.1 * self.input_size**-0.5)
            nn.init.zeros_(self.input.bias)
            rates = spread_rates(n, horizon)
            self.input.bias[n:] = math.sqrt(2) * torch.erfinv(1 - rates)  # P(|u| > beta) for u normal

    def candidate_and_threshold(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and beta: [..., H] for x: [..., D]; beta >= 0."""
        u, threshold = self.input(x).chunk(2, dim=-1)
        return u, threshold.abs()

    def level(self, x: Tensor) -> Tensor:
        """The size of what a write leaves: alpha > 0, [H] or [..., H]."""
        return self.alpha.abs()

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._write(*self.candidate_and_threshold(x), self.level(x))

    def _write(self, u: Tensor, beta: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return write(
            u,
            beta,
            level,
            carry=self.carry,
            slope=self.slope,
            sign_slope=self.sign_slope,
            surrogate=self.surrogate,
        )

    def solve(self, x: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gate and scan, on a GPU in one kernel if a write replaces and the level does not depend on the input."""
        own = type(self).coefficients is not MRU.coefficients
        if own or self.carry != 0 or resolve("auto", x.device) != "triton":
            return super().solve(x, h0, is_init, restart)
        (u, beta), level = self.candidate_and_threshold(x), self.level(x)
        if level.shape != u.shape[-1:] or not u.dtype == beta.dtype == level.dtype:
            return linear_scan(*alike(*self._write(u, beta, level)), h0, is_init, restart)
        return hold(
            u,
            beta,
            level,
            h0,
            is_init,
            restart,
            slope=self.slope,
            sign_slope=self.sign_slope,
            surrogate=self.surrogate,
        )

    def gates(self, x: Tensor) -> Tensor:
        check_width(x, self.input_size)
        u, beta = self.candidate_and_threshold(x)
        return (u.abs() > beta).to(x.dtype)

    @torch.no_grad()
    def warm_up(self, x: Tensor, horizon: float) -> None:
        """Set the thresholds so that on inputs x [B, T, D] the units' write rates spread over [1/2, 1/horizon].

        In the spirit of Lambrechts et al. 2023, doi:10.1016/j.neunet.2023.07.023 (warm-up). A threshold lies midway
        between two neighbouring drives, so that inputs of few distinct values leave no unit on the edge. Raises
        ValueError if the inputs are of another width or not finite, or horizon is below 1.
        """
        check_warm_up(x, horizon, self.input_size)
        n = self.state_size
        u, threshold = self.input(x.reshape(-1, self.input_size)).chunk(2, dim=-1)
        drive = (u.abs() - (threshold - self.input.bias[n:])).sort(dim=0, descending=True).values  # writes iff > bias
        samples = drive.shape[0]
        count = (spread_rates(n, horizon).to(x.device) * samples).round().long().clamp(1, max(samples - 1, 1))
        unit = torch.arange(n, device=x.device)
        upper, lower = drive[count - 1, unit], drive[count.clamp(max=samples - 1), unit]
        strictly_below = torch.where(drive < upper, drive, -torch.inf).amax(dim=0)
        lower = torch.where(lower < upper, lower, strictly_below)
        edge = torch.where(lower.isfinite(), (upper + lower) / 2, upper - 0.1 * upper.abs())
        self.input.bias[n:] = edge.clamp(min=1e-3)


def spread_rates(units: int, horizon: float) -> Tensor:
    """Write rates [units], log-uniform from 1/2 down to 1/horizon."""
    return torch.logspace(math.log10(0.5), -math.log10(max(horizon, 2.0)), units)
