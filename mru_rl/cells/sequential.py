"""Cells whose gates read the state: no scan, one step after the other."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from mru_rl.cells.base import Cell, CellOutput, state_before


class SequentialCell(Cell):
    """A unit given by its transition; the sequence is a loop over time, its input part computed at once."""

    @abstractmethod
    def drive(self, x: Tensor) -> Tensor:
        """The part of a step that needs the input alone, [..., D] -> [..., K]."""

    @abstractmethod
    def transition(self, drive: Tensor, state: Tensor) -> Tensor:
        """One step: drive [B, K], state [B, S] -> state [B, S]."""

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        self.check(x, state, is_init, restart)
        states = self.sequence(x, state, is_init, restart)
        features = self.readout(states, state_before(states, state, is_init, restart), x)
        return CellOutput(features, states, states[:, -1])

    def sequence(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None) -> Tensor:
        """States [B, T, S] after every step; a unit with a faster way than the loop overrides this."""
        return self.unroll(self.drive(x), state, is_init, restart)

    def unroll(self, drive: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None) -> Tensor:
        """States [B, T, S] after every step."""
        states = []
        for t in range(drive.shape[1]):
            state = torch.where(is_init[:, t, None], 0.0 if restart is None else restart[:, t], state)
            state = self.transition(drive[:, t], state)
            states.append(state)
        return torch.stack(states, dim=1)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        self.check_step(x, state, is_init)
        before = torch.where(is_init[:, None], 0.0, state)
        after = self.transition(self.drive(x), before)
        return self.readout(after, before, x), after
