"""sLSTM, the scalar memory of xLSTM: an exponential input gate and a normaliser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import chrono_bias
from mru_rl.cells.sequential import SequentialCell


class SLSTM(SequentialCell):
    """sLSTM, Beck et al. 2024, arXiv:2405.04517.

        i, f, z, o    = W x[t] + c + R h[t-1]                        before their nonlinearities
        c[t]          = sigmoid(f) c[t-1] + exp(i) tanh(z)
        n[t]          = sigmoid(f) n[t-1] + exp(i)
        h[t]          = sigmoid(o) c[t] / n[t]
    c and n are kept divided by exp(m), with m[t] = max(log sigmoid(f) + m[t-1], i), so that no exponential overflows.

    x: [B, T, D] -> h: [B, T, S / 4]; the state keeps h, c, n, m, and only h is read.
    Checked against NX-AI/xlstm's plain version. Departures: one head (R is dense), no group norm, no convolution.
    """

    name = "slstm"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if state_size % 4:
            raise ValueError(
                f"slstm keeps four numbers per unit, h, c, n and m: state_size must be a multiple of 4, got {state_size}"
            )
        units = state_size // 4
        self.input = nn.Linear(input_size, 4 * units)  # rows: input, forget, candidate, output
        self.recurrent = nn.Linear(units, 4 * units, bias=False)
        bound = units**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.input.bias[units : 2 * units] = torch.linspace(3.0, 6.0, units)  # forget slowly at first

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases: the forget gate keeps, the exponential input gate is as closed."""
        u = self.readout_size
        bias = chrono_bias(u, horizon).to(self.input.bias)
        self.input.bias[:u], self.input.bias[u : 2 * u] = -bias, bias

    @property
    def readout_size(self) -> int:
        return self.state_size // 4

    def features(self, state: Tensor, x: Tensor) -> Tensor:
        return state[..., : self.readout_size]

    def drive(self, x: Tensor) -> Tensor:
        return self.input(x)

    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        h, c, n, m = state.chunk(4, dim=-1)
        i, f, z, o = (drive + self.recurrent(h.to(drive.dtype))).to(state.dtype).chunk(4, dim=-1)
        kept = torch.where(n == 0, -torch.inf, F.logsigmoid(f) + m)  # n = 0: nothing seen yet, m means nothing
        m = torch.maximum(kept, i)
        enter, keep = torch.exp(i - m), torch.exp(kept - m)
        c = keep * c + enter * torch.tanh(z)
        n = keep * n + enter
        return torch.cat([torch.sigmoid(o) * c / n, c, n, m], dim=-1)
