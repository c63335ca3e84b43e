"""The block around a cell: norm before, a mix of its features after, and a residual past both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import Cell, CellOutput


class ResidualBlock(nn.Module):
    """y[t] = x[t] + SiLU(W features[t] + c), features from the cell's states after and before step t.

    x: [B, T, width] -> y: [B, T, width]; the cell reads LayerNorm(x).
    """

    cell: Cell

    def __init__(self, width: int, cell: Cell) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cell = cell
        self.mix = nn.Linear(cell.feature_size, width)

    def forward(
        self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None
    ) -> tuple[Tensor, CellOutput]:
        out: CellOutput = self.cell(self.norm(x), state, is_init, restart)
        return x + F.silu(self.mix(out.features)), out

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        features, state = self.cell.step(self.norm(x), state, is_init)
        return x + F.silu(self.mix(features)), state

    @torch.no_grad()
    def warm_up(self, x: Tensor, horizon: float) -> None:
        """Warm up the cell with what it reads of inputs x [B, T, width]."""
        self.cell.warm_up(self.norm(x), horizon)
