"""Gaussian noise on the obs of another task, clipped to the bounds of its space."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Box
from torch import Tensor

from mru_rl.envs.tensor_env import TensorEnv


class Noisy(TensorEnv):
    """Put before the class of a task whose obs is a Box: `class NoisyX(Noisy, X)`. The task itself does not change.

    State per row: `noise` float32 [B, columns], what is added to the obs on show; drawn anew at every step and reset.
    """

    noise: Tensor

    def __init__(self, *, noise_sigma: float, **common: Any) -> None:
        super().__init__(**common)
        self.noise_sigma = noise_sigma
        space = self.observation_space
        assert isinstance(space, Box)
        self.low, self.high = (torch.as_tensor(bound, device=self.device) for bound in (space.low, space.high))
        self.register_state("noise", torch.zeros(self.num_envs, len(self.low), device=self.device))

    def _reset(self, mask: Tensor) -> None:
        super()._reset(mask)  # type: ignore[safe-super]  # the task's own class comes next
        rows = mask.nonzero().squeeze(1)
        self.noise[rows] = self._draw(len(rows))

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        paid_and_ended = super()._step(action)  # type: ignore[safe-super]
        self.noise.copy_(self._draw(self.num_envs))
        return paid_and_ended

    def _observe(self) -> Tensor:
        clean = super()._observe()  # type: ignore[safe-super]
        return (clean + self.noise).clamp(self.low, self.high)

    def _draw(self, rows: int) -> Tensor:
        return torch.randn(rows, len(self.low), generator=self.generator, device=self.device) * self.noise_sigma
