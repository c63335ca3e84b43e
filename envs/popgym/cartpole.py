"""The cart with its pole, as gymnasium moves it: shared by the cartpole tasks, which differ in what they show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mru_rl.envs.popgym import physics
from mru_rl.envs.tensor_env import TensorEnv

GRAVITY = 9.8
CART_MASS, POLE_MASS = 1.0, 0.1
TOTAL_MASS = POLE_MASS + CART_MASS
HALF_LENGTH = 0.5
POLE_MOMENT = POLE_MASS * HALF_LENGTH
FORCE = 10.0
SECONDS = 0.02
X_LIMIT = 2.4
THETA_LIMIT = 12 * 2 * math.pi / 360
START = 0.05
"""Every number of the state starts uniform in [-START, START]."""


class CartPole(TensorEnv):
    """Base of the cartpole tasks. State per row: x, x_dot, theta, theta_dot in float64, as upstream, and steps.

    A task names `obs_high`, the bounds of its two columns, and says in `_observe` which numbers it shows.
    """

    obs_high: tuple[float, float]
    x: Tensor
    x_dot: Tensor
    theta: Tensor
    theta_dot: Tensor
    steps: Tensor

    def __init__(self, *, max_episode_length: int, **common: Any) -> None:
        high = np.array(self.obs_high, dtype=np.float32)
        super().__init__(observation_space=Box(-high, high), action_space=Discrete(2), **common)
        high = np.array([2 * X_LIMIT, np.inf, 2 * THETA_LIMIT, np.inf], dtype=np.float32)
        self.markov_space = Box(-high, high)
        self.horizon = max_episode_length
        self.credit_horizon = max_episode_length - 1
        self.success_return = 1 - 0.5 / max_episode_length
        self.pay = torch.tensor(1 / max_episode_length, device=self.device)
        for name in ("x", "x_dot", "theta", "theta_dot"):
            self.register_state(name, torch.zeros(self.num_envs, dtype=torch.float64, device=self.device))
        self.register_state("steps", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

    def _reset(self, mask: Tensor) -> None:
        rows = mask.nonzero().squeeze(1)
        unit = torch.rand(4, len(rows), dtype=torch.float64, generator=self.generator, device=self.device)
        start = (2 * unit - 1) * START
        for state, value in zip((self.x, self.x_dot, self.theta, self.theta_dot), start, strict=True):
            state[rows] = value
        self.steps[rows] = 0

    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sin, cos = physics.sin(self.theta), physics.cos(self.theta)
        force = action * (2 * FORCE) - FORCE
        push = (force + self.theta_dot.square() * POLE_MOMENT * sin) / TOTAL_MASS
        turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos.square() / TOTAL_MASS))
        slide = push - POLE_MOMENT * turn * cos / TOTAL_MASS
        self.x += SECONDS * self.x_dot
        self.x_dot += SECONDS * slide
        self.theta += SECONDS * self.theta_dot
        self.theta_dot += SECONDS * turn
        self.steps += 1
        terminated = (self.x.abs() > X_LIMIT) | (self.theta.abs() > THETA_LIMIT)
        return self.pay.repeat(self.num_envs), terminated, self.steps >= self.horizon

    def _markov(self) -> Tensor:
        return torch.stack((self.x, self.x_dot, self.theta, self.theta_dot), dim=1).float()
