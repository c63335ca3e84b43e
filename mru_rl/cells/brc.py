"""BRC, the bistable recurrent cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mru_rl.cells.base import chrono_bias
from mru_rl.cells.sequential import SequentialCell


class BRC(SequentialCell):
    """Bistable recurrent cell, Vecoven, Ernst, Drion 2021, doi:10.1371/journal.pone.0252676.

        a[t] = 1 + tanh(W_a x[t] + c_a + w_a h[t-1])         above 1 the unit is bistable; w_a, w_c: one number per unit
        c[t] = sigmoid(W_c x[t] + c_c + w_c h[t-1])
        h[t] = c[t] h[t-1] + (1 - c[t]) tanh(W x[t] + c_h + a[t] h[t-1])

    x: [B, T, D] -> h: [B, T, H]. Checked against torchrecurrent's BRCell. Departures: biases.
    """

    name = "brc"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.input = nn.Linear(input_size, 3 * state_size)  # rows: a, c, candidate
        self.recurrent = self.make_recurrent()

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on c, which keeps."""
        n = self.state_size
        self.input.bias[n : 2 * n] = chrono_bias(n, horizon).to(self.input.bias)

    def make_recurrent(self) -> nn.Module:
        """The map from h[t-1] to its part in a and c, [..., H] -> [..., 2 H]."""
        return _OwnState(self.state_size)

    def drive(self, x: Tensor) -> Tensor:
        return self.input(x)

    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        in_a, in_c, in_h = drive.chunk(3, dim=-1)
        rec_a, rec_c = self.recurrent(state.to(drive.dtype)).chunk(2, dim=-1)
        a, c = 1 + torch.tanh(in_a + rec_a), torch.sigmoid(in_c + rec_c)
        candidate = torch.tanh(in_h + a * state)
        return (candidate + c * (state - candidate)).to(state.dtype)


class _OwnState(nn.Module):
    """[h w_a, h w_c]: each unit sees itself alone."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * units))

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h, h], dim=-1) * self.weight
