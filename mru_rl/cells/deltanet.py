"""DeltaNet and DeltaProduct: a matrix of associations, corrected key by key."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import chrono_bias
from mru_rl.cells.matrix import MatrixState
from mru_rl.cells.sequential import SequentialCell


class DeltaNet(MatrixState, SequentialCell):
    """DeltaNet, Schlag, Irie, Schmidhuber 2021, arXiv:2102.11174; DeltaProduct, Siems et al. 2025, arXiv:2502.10297.

        for j = 1 .. steps:   M <- M + beta_j k_j (v_j - k_j M)^T      towards v_j for key k_j
        k_j = l2norm(silu(W_kj x)),  v_j = silu(W_vj x),  beta_j = sigmoid(w_j x)
        y[t] = key_size^-1/2 q[t] M[t]

    steps: Householder steps per input; 1 is DeltaNet. negative_eigenvalues: beta in (0, 2), so that a step can
    reflect (Grazzi et al. 2024, arXiv:2411.12537). x: [B, T, D] -> y: [B, T, value_size], state: key_size *
    value_size. What is read is y at M[t] and at M[t-1]. Checked against fla-core's naive recurrences.
    Departures: one head, no short convolution, biases, a plain query; a loop over time and not the chunked form.
    """

    name = "deltanet"

    def __init__(
        self,
        input_size: int,
        state_size: int,
        *,
        read_before_write: bool = True,
        key_size: int | None = None,
        steps: int = 1,
        negative_eigenvalues: bool = False,
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if steps < 1:
            raise ValueError(f"steps counts Householder steps per input and must be at least 1, got {steps}")
        self.set_matrix(key_size)
        self.steps, self.negative_eigenvalues = steps, negative_eigenvalues
        self.input = nn.Linear(input_size, steps * (self.key_size + self.value_size + 1))  # per step: k, v, beta

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on beta, negated: it writes."""
        bias = self.input.bias.unflatten(0, (self.steps, -1))
        bias[:, -1] = -chrono_bias(self.steps, horizon).to(bias)

    def drive(self, x: Tensor) -> Tensor:
        parts = self.input(x).unflatten(-1, (self.steps, -1)).split([self.key_size, self.value_size, 1], dim=-1)
        key, value = F.silu(parts[0]), F.silu(parts[1])
        key = key * torch.rsqrt(key.square().sum(-1, keepdim=True) + 1e-6)
        beta = torch.sigmoid(parts[2]) * (2.0 if self.negative_eigenvalues else 1.0)
        return torch.cat([key, value, beta], dim=-1)

    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        m = self.matrix(state)
        for key, value, beta in zip(
            *(p.unbind(-2) for p in drive.to(state.dtype).split([self.key_size, self.value_size, 1], dim=-1)),
            strict=True,
        ):
            error = value - (key.unsqueeze(-2) @ m).squeeze(-2)
            m = m + (beta * key).unsqueeze(-1) * error.unsqueeze(-2)
        return m.flatten(-2)
