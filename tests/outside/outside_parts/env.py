"""A task of one's own, batched: say at the end what was shown at the start."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs import TensorEnv, register_env


@register_env("outside/Echo-v0")
class Echo(TensorEnv):
    """Say at the last step which of two signs the first step showed.

    obs         float32 [B, 3]: sign at the first step (-1 or 1, else 0), noise, 1 at the step that asks
    action      int64 [B]: 0 for -1, 1 for 1
    reward      1 for the right answer at the last step, -1 for the wrong one, else 0
    horizon     `length` steps, then terminated
    """

    credit_horizon = 0
    success_return = 1.0

    def __init__(self, *, length: int = 8, **common: Any) -> None:
        super().__init__(
            observation_space=spaces.Box(-10.0, 10.0, (3,)),
            action_space=spaces.Discrete(2),
            options={"length": length},
            **common,
        )
        self.horizon = length
        self.perfect_return, self.memoryless_return = 1.0, 0.0
        for name in ("sign", "position"):
            self.register_state(name, torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        drawn = torch.randint(2, self.sign.shape, generator=self.generator, device=self.device) * 2 - 1
        self.sign.copy_(torch.where(mask, drawn, self.sign))
        self.position.masked_fill_(mask, 0)

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        asked = self.position == self.horizon - 1
        reward = torch.where(asked, (2.0 * action - 1) * self.sign, 0.0)
        self.position += 1
        return reward, asked, torch.zeros_like(asked)

    def _observe(self) -> Tensor:
        first, asked = self.position == 0, self.position == self.horizon - 1
        noise = torch.sin(7.0 * self.position + self.sign)
        return torch.stack([self.sign * first, noise, asked], dim=1).float()
