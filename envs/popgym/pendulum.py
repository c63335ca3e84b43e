"""The pendulum with its weak motor, as gymnasium moves it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from mru_rl.envs.popgym import physics
from mru_rl.envs.tensor_env import TensorEnv

GRAVITY = 10.0
MASS = LENGTH = 1.0
SECONDS = 0.05
MAX_SPEED = 8.0
MAX_TORQUE = 2.0
WORST_COST = 16.2736044
"""Popgym's number for the largest cost of a step; it is mapped to -1, no cost to +1."""


class Pendulum(TensorEnv):
    """Base of the pendulum tasks, seen as (cos, sin). State per row: angle and speed in float64, as upstream, and steps.

    The torque is float32 as in upstream, and so are the two terms it enters by.
    """

    angle: Tensor
    speed: Tensor
    steps: Tensor

    def __init__(self, *, max_episode_length: int, **common: Any) -> None:
        super().__init__(
            observation_space=Box(-1.0, 1.0, (2,), np.float32),
            action_space=Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32),
            **common,
        )
        high = np.array([1.0, 1.0, MAX_SPEED], dtype=np.float32)
        self.markov_space = Box(-high, high)
        self.horizon = max_episode_length
        self.credit_horizon = max_episode_length - 1
        for name in ("angle", "speed"):
            self.register_state(name, torch.zeros(self.num_envs, dtype=torch.float64, device=self.device))
        self.register_state("steps", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        unit = torch.rand(2, len(rows), dtype=torch.float64, generator=self.generator, device=self.device)
        self.angle[rows] = (2 * unit[0] - 1) * math.pi
        self.speed[rows] = 2 * unit[1] - 1
        self.steps[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torque = action[:, 0]
        from_top = (self.angle + math.pi) % (2 * math.pi) - math.pi
        cost = from_top.square() + 0.1 * self.speed.square() + 0.001 * torque.square()
        pull = 3 * GRAVITY / (2 * LENGTH) * physics.sin(self.angle) + 3.0 / (MASS * LENGTH**2) * torque
        self.speed += pull * SECONDS
        self.speed.clamp_(-MAX_SPEED, MAX_SPEED)
        self.angle += self.speed * SECONDS
        self.steps += 1
        half = WORST_COST / 2
        reward = ((half - cost) / half / self.horizon).float()
        truncated = self.steps >= self.horizon
        return reward, torch.zeros_like(truncated), truncated

    def _observe(self) -> Tensor:
        return torch.stack((physics.cos(self.angle), physics.sin(self.angle)), dim=1).float()

    def _markov(self) -> Tensor:
        return torch.stack((physics.cos(self.angle), physics.sin(self.angle), self.speed), dim=1).float()
