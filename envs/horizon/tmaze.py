"""The passive T-maze: one bit seen once, asked for at the end of a corridor of any length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.tensor_env import TensorEnv


class TMaze(TensorEnv):
    """Walk a corridor whatever you do, then turn the way the cue pointed at the very start.

    obs         float32 [B, 4]: cue up, cue down, junction, noise. One of the cues is 1 at step 0 only; junction is 1
                at step `length` only; noise is uniform in [-noise, noise], drawn anew at every step
    action      int64 [B], 0 up, 1 down; counts at the junction only
    reward      0 in the corridor; at the junction +1 for the side of the cue, -1 for the other
    horizon     length + 1 steps, then terminated; never truncated. `final_obs` shows nothing but noise
    reset       the side of the cue is a fair coin per env
    options     length (>= 1, default 100), noise (>= 0, default 1.0; 0 switches the channel off)
    baselines   perfect 1; without memory 0. Success is a return of at least 0.5, that is: the right turn
    source      after Ni et al., arXiv:2307.03864 (passive T-maze). Departures: no reward for moving, a noise channel.
                State per env is O(1) in length
    """

    credit_horizon = 0
    open_loop = True
    success_return = 0.5
    cue: Tensor
    position: Tensor
    noise: Tensor

    def __init__(self, *, length: int = 100, noise: float = 1.0, **common: Any) -> None:
        self.length = check_count(length, name="TMaze's option length", least=1)
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < math.inf:
            raise ValueError(f"TMaze's option noise must be a number >= 0, got {noise!r}; 0 switches the channel off")
        self.noise_width = float(noise)
        high = np.array([1, 1, 1, self.noise_width], dtype=np.float32)
        low = np.array([0, 0, 0, -self.noise_width], dtype=np.float32)
        options = {"length": self.length, "noise": self.noise_width}
        super().__init__(observation_space=Box(low, high), action_space=Discrete(2), options=options, **common)
        self.horizon = self.length + 1
        self.won, self.lost = torch.ones((), device=self.device), -torch.ones((), device=self.device)
        self.nothing = torch.zeros((), device=self.device)
        self.register_state("cue", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("position", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))
        self.register_state("noise", torch.zeros(self.num_envs, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        self.cue[rows] = torch.randint(2, (len(rows),), generator=self.generator, device=self.device)
        self.noise[rows] = self._draw(len(rows))
        self.position[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turned = self.position == self.length
        reward = torch.where(turned, torch.where(action == self.cue, self.won, self.lost), self.nothing)
        self.position += 1
        self.noise.copy_(self._draw(self.num_envs))
        return reward, turned, torch.zeros_like(turned)

    def _observe(self) -> Tensor:
        start = self.position == 0
        up, down = start & (self.cue == 0), start & (self.cue == 1)
        return torch.stack((up, down, self.position == self.length, self.noise), dim=1)

    def _draw(self, rows: int) -> Tensor:
        unit = torch.rand(rows, generator=self.generator, device=self.device)
        return (2 * unit - 1) * self.noise_width
