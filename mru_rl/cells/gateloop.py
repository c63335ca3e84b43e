"""GateLoop, a complex unit whose decay and rotation depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mru_rl.cells.base import ScanCell, chrono_bias


class GateLoop(ScanCell):
    """GateLoop, Katsch 2023, arXiv:2311.01927, with one channel per head.

        w[t] = W_a x[t] + c_a                                  complex
        a[t] = sigmoid(|w[t]|) exp(i arg w[t])
        h[t] = a[t] h[t-1] + k[t] v[t],   k, v = W_k x, W_v x  real
        y[t] = q[t] Re(h[t]),             q = W_q x

    x: [B, T, D] -> y: [B, T, S / 2], state: S / 2 complex units. What is read is y at h[t] and at h[t-1].
    Checked against lucidrains' gateloop-transformer, which names the paper's section 3.2. Departures: biases; the
    output gate and projection are the block's.
    """

    name = "gateloop"
    complex_state = True

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        if state_size % 2:
            raise ValueError(f"gateloop keeps complex numbers in pairs: state_size must be even, got {state_size}")
        units = state_size // 2
        self.input = nn.Linear(input_size, 4 * units)  # rows: k, v, real and imaginary part of w
        self.query = nn.Linear(input_size, units)
        with torch.no_grad():
            self.input.bias[2 * units : 3 * units] = torch.linspace(1.0, 5.0, units)  # |a| from 0.73 to 0.993

    @torch.no_grad()
    def init_for_horizon(self, horizon: float) -> None:
        """Chrono biases on the size of w."""
        units = self.readout_size
        self.input.bias[2 * units : 3 * units] = chrono_bias(units, horizon).to(self.input.bias)

    @property
    def readout_size(self) -> int:
        return self.state_size // 2

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        drive = self.input(x)
        k, v, real, imag = drive.to(torch.promote_types(drive.dtype, torch.float32)).chunk(4, dim=-1)
        size = (real.square() + imag.square() + 1e-12).sqrt()
        rotation = torch.complex(real / size, imag / size)  # exp(i arg w), with a derivative at w = 0
        b = k * v
        return rotation * torch.sigmoid(size), torch.complex(b, torch.zeros_like(b))

    def features(self, h: Tensor, x: Tensor) -> Tensor:
        return self.query(x) * h.real
