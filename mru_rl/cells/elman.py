"""The simple recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor

from mru_rl.cells.torch_rnn import TorchRNN


class Elman(TorchRNN):
    """Simple recurrent network, Elman 1990, doi:10.1207/s15516709cog1402_1, in torch.nn.RNN's form.

        h[t] = tanh(W x[t] + c + U h[t-1] + d)

    x: [B, T, D] -> h: [B, T, H]. Departures from torch.nn.RNN: none; same weights, same numbers.
    """

    name = "elman"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.make_maps(state_size, gates=1)

    def run(self, x: Tensor, h0: Tensor) -> Tensor:
        return torch.rnn_tanh(x, h0.unsqueeze(0), self.weights(), True, 1, 0.0, False, False, True)[0]

    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(drive + self.recurrent(state.to(drive.dtype))).to(state.dtype)
