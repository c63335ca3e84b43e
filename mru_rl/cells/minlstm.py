"""minLSTM, two gates that see the input alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, chrono_bias


class MinLSTM(ScanCell):
    """minLSTM, Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, arXiv:2410.01201.

        f[t] = sigmoid(W_f x[t] + c_f),  i[t] = sigmoid(W_i x[t] + c_i)
        h[t] = f[t] / (f[t] + i[t]) h[t-1] + i[t] / (f[t] + i[t]) (W x[t] + c)

    x: [B, T, D] -> h: [B, T, H], real. Departures: the candidate is linear (the paper's plain form), the scan runs
    on values and not on logarithms.
    """

    name = "minlstm"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.input = nn.Linear(input_size, 3 * state_size)  # rows: candidate, forget, input

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on f, negated on i: then f / (f + i) = sigmoid(bias) keeps."""
        n = self.state_size
        bias = chrono_bias(n, horizon).to(self.input.bias)
        self.input.bias[n : 2 * n], self.input.bias[2 * n :] = bias, -bias

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        candidate, forget, enter = self.input(x).chunk(3, dim=-1)
        # f / (f + i) = 1 / (1 + i / f) = sigmoid(log f - log i), which cannot divide zero by zero
        keep = torch.sigmoid(nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(enter))
        return keep, (1 - keep) * candidate
