"""VelocityOnlyCartPole: balance a pole seeing nothing but speeds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mru_rl.envs.popgym.cartpole import CartPole


class VelocityOnlyCartPole(CartPole):
    """Keep the pole upright and the cart on the track, seeing velocities and no positions.

    obs         float32 [B, 2]: speed of the cart, angular speed of the pole; no bounds. The first obs of an episode
                shows position and angle instead: upstream does, and so it is kept
    action      int64 [B], push 0 left, 1 right
    reward      1 / T at every step, the one where the pole falls too
    horizon     T steps; terminated when a limit is passed, truncated at step T (both where both happen)
    reset       the four numbers of the state uniform in [-0.05, 0.05]
    variants    Easy (T = 200), Medium (400), Hard (600); upstream's ids spell Cartpole
    baselines   perfect 1; at random 0.12, 0.06, 0.04. Success: all T steps
    markov      float32 [B, 4]: x, its speed, angle, its speed
    source      popgym VelocityOnlyCartPole 1.0.7, gymnasium CartPole 1.4.0. Departures: none
    """

    obs_high = (math.inf, math.inf)

    def _observe(self) -> Tensor:
        first = self.steps == 0
        cart = torch.where(first, self.x, self.x_dot)
        pole = torch.where(first, self.theta, self.theta_dot)
        return torch.stack((cart, pole), dim=1).float()
