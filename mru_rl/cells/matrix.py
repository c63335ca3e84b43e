"""Base of cells whose state is a matrix: its shape, and how a query reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mru_rl.cells.base import Cell
from mru_rl.cells.checks import check_size


class MatrixState(Cell):
    """Mixin for a state that is one matrix M [key_size, value_size], flattened; what is read is q[t] M.

        y[t] = key_size^-1/2 q[t] M[t],   q = W_q x

    One head; several heads are several such cells side by side.
    """

    key_size: int
    value_size: int
    query: nn.Linear

    def set_matrix(self, key_size: int | None) -> None:
        """Set the shape of the matrix (nearly square if key_size is None) and make the query."""
        if key_size is not None:
            check_size("key_size", key_size)
        key_size = key_size or 2 ** round(self.state_size.bit_length() / 2 - 0.5)
        if self.state_size % key_size:
            raise ValueError(
                f"{self.name} keeps a matrix of {key_size} rows: state_size must be a multiple of {key_size}, "
                f"got {self.state_size}; change it or the option key_size"
            )
        self.key_size, self.value_size = key_size, self.state_size // key_size
        self.query = nn.Linear(self.input_size, key_size)

    @property
    def readout_size(self) -> int:
        return self.value_size

    def matrix(self, state: Tensor) -> Tensor:
        """[..., S] -> [..., key_size, value_size]."""
        return state.unflatten(-1, (self.key_size, self.value_size))

    def readout(self, after: Tensor, before: Tensor, x: Tensor) -> Tensor:
        """Features from the states after and before a step, [..., S] -> [..., feature_size]."""
        q = (self.query(x) * self.key_size**-0.5).unsqueeze(-2)
        read = [after, before] if self.read_before_write else [after]
        return torch.cat([(q @ self.matrix(s).to(q.dtype)).squeeze(-2) for s in read], dim=-1)
