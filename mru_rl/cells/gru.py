"""GRU, the gated recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from mru_rl.cells.base import chrono_bias
from mru_rl.cells.torch_rnn import TorchRNN


class GRU(TorchRNN):
    """Gated recurrent unit, Cho et al. 2014, arXiv:1406.1078, in torch.nn.GRU's form.

        r[t] = sigmoid(W_r x[t] + U_r h[t-1] + c_r)
        z[t] = sigmoid(W_z x[t] + U_z h[t-1] + c_z)
        n[t] = tanh(W_n x[t] + c_n + r[t] (U_n h[t-1] + d_n))
        h[t] = (1 - z[t]) n[t] + z[t] h[t-1]

    x: [B, T, D] -> h: [B, T, H]. Departures from torch.nn.GRU: none; same weights, same numbers.
    """

    name = "gru"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.make_maps(state_size, gates=3)  # rows: reset, update, candidate, as torch orders them

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on the update gate, which keeps."""
        u = self.state_size
        self.input.bias[u : 2 * u] = chrono_bias(u, horizon).to(self.input.bias)

    def run(self, x: Tensor, h0: Tensor) -> Tensor:
        return torch.gru(x, h0.unsqueeze(0), self.weights(), True, 1, 0.0, False, False, True)[0]

    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        in_r, in_z, in_n = drive.chunk(3, dim=-1)
        rec_r, rec_z, rec_n = self.recurrent(state.to(drive.dtype)).chunk(3, dim=-1)
        r, z = torch.sigmoid(in_r + rec_r), torch.sigmoid(in_z + rec_z)
        n = torch.tanh(in_n + r * rec_n)
        return (n + z * (state - n)).to(state.dtype)
