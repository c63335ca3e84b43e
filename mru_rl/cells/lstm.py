"""LSTM, long short-term memory."""

from __future__ import annotations

import torch
from torch import Tensor

from mru_rl.cells.base import chrono_bias, state_before
from mru_rl.cells.torch_rnn import TorchRNN
from mru_rl.scan.dispatch import linear_scan


class LSTM(TorchRNN):
    """Long short-term memory, Hochreiter, Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, in torch.nn.LSTM's form.

        i, f, o = sigmoid(W x[t] + c + U h[t-1] + d),  g = tanh(W_g x[t] + c_g + U_g h[t-1] + d_g)
        c[t]    = f c[t-1] + i g
        h[t]    = o tanh(c[t])

    x: [B, T, D] -> h: [B, T, S / 2]; the state keeps h, then c, and only h is read.
    Departures from torch.nn.LSTM: none; same weights, same numbers.
    """

    name = "lstm"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if state_size % 2:
            raise ValueError(f"lstm keeps two numbers per unit, h and c: state_size must be even, got {state_size}")
        self.make_maps(state_size // 2, gates=4)  # rows: input, forget, candidate, output, as torch orders them

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases: the forget gate keeps, the input gate is as closed."""
        u = self.readout_size
        bias = chrono_bias(u, horizon).to(self.input.bias)
        self.input.bias[:u], self.input.bias[u : 2 * u] = -bias, bias

    @property
    def readout_size(self) -> int:
        return self.state_size // 2

    def features(self, state: Tensor, x: Tensor) -> Tensor:
        return state[..., : self.readout_size]

    def run(self, x: Tensor, h0: Tensor) -> Tensor:
        start = tuple(part.contiguous() for part in h0.unsqueeze(0).chunk(2, dim=-1))
        return torch.lstm(x, start, self.weights(), True, 1, 0.0, False, False, True)[0]

    def complete(self, h: Tensor, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None) -> Tensor:
        """torch tells c only at the end, but with every h known c is a scan: c[t] = f[t] c[t-1] + i[t] g[t]."""
        h0, c0 = state.chunk(2, dim=-1)
        fresh_h, fresh_c = (None, None) if restart is None else restart.chunk(2, dim=-1)
        before = state_before(h, h0, is_init, fresh_h)
        i, f, g, _ = (self.input(x) + self.recurrent(before)).chunk(4, dim=-1)
        c, _ = linear_scan(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g), c0, is_init, fresh_c)
        return torch.cat([h, c], dim=-1)

    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        h, c = state.chunk(2, dim=-1)
        i, f, g, o = (drive + self.recurrent(h.to(drive.dtype))).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=-1)
