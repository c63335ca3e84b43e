"""Gated linear attention: a matrix of key-value products that decays row by row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import ScanCell, chrono_bias
from mru_rl.cells.matrix import MatrixState


class LinearAttention(MatrixState, ScanCell):
    """Gated linear attention, Yang et al. 2023, arXiv:2312.06635 (GLA); tied: HGRN2, Qin et al. 2024, arXiv:2404.07904.

        g[t] = sigmoid(W_g x[t] + c_g)^(1 / 16)                    share each row keeps (GLA)
        M[t] = diag(g[t]) M[t-1] + k[t] v[t]^T,                    k, v = W_k x, W_v x
        y[t] = key_size^-1/2 q[t] M[t]

    tied: g = sigmoid(W_g x + c_g) and k = 1 - g, HGRN2's form with lower bound 0.
    x: [B, T, D] -> y: [B, T, value_size], state: key_size * value_size. What is read is y at M[t] and at M[t-1].
    The recurrence is elementwise, so it runs in the scan. Checked against fla-core's naive GLA, tied as well, with k and
    v as HGRN2's layer of flash-linear-attention passes them. Departures: one head, a full-rank gate (there of rank 16),
    biases, no SiLU on HGRN2's query; norm and output gate are the block's.
    """

    name = "linear-attention"

    def __init__(
        self,
        input_size: int,
        state_size: int,
        *,
        read_before_write: bool = True,
        key_size: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.set_matrix(key_size)
        self.tied = tied
        self.gate = nn.Linear(input_size, self.key_size)
        self.input = nn.Linear(input_size, self.value_size + (0 if tied else self.key_size))  # rows: v, then k

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on the gate, less what its root of 16 keeps by itself."""
        bias = chrono_bias(self.key_size, horizon).to(self.gate.bias)
        keep = torch.sigmoid(bias) if self.tied else torch.sigmoid(bias) ** 16
        self.gate.bias.copy_(torch.logit(keep, eps=1e-6))

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.tied:
            keep, value = torch.sigmoid(self.gate(x)), self.input(x)
            key = 1 - keep
        else:
            keep = torch.exp(F.logsigmoid(self.gate(x)) / 16)
            value, key = self.input(x).split([self.value_size, self.key_size], dim=-1)
        b = key.unsqueeze(-1) * value.unsqueeze(-2)
        return keep.unsqueeze(-1).expand_as(b).flatten(-2), b.flatten(-2)
