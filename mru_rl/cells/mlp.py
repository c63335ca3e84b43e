"""No memory at all: what a core can do that sees the present input only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import Cell, CellOutput


class MLP(Cell):
    """A layer without memory: y[t] = silu(W x[t] + c). Its state is zero and stays zero.

    x: [B, T, D] -> y: [B, T, S]. For comparisons: what it solves needs no memory.
    """

    name = "mlp"

    def __init__(self, input_size: int, state_size: int, *, read_before_write: bool = True) -> None:
        super().__init__(input_size, state_size, read_before_write=read_before_write)
        self.input = nn.Linear(input_size, state_size)

    @property
    def feature_size(self) -> int:
        return self.state_size

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        self.check(x, state, is_init, restart)
        nothing = torch.zeros_like(state)
        return CellOutput(F.silu(self.input(x)), nothing.unsqueeze(1).expand(-1, x.shape[1], -1), nothing)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        self.check_step(x, state, is_init)
        return F.silu(self.input(x)), torch.zeros_like(state)
