"""PositionOnlyCartPole: balance a pole without seeing any speed."""

from __future__ import annotations

import torch
from torch import Tensor

from mru_rl.envs.popgym.cartpole import THETA_LIMIT, X_LIMIT, CartPole


class PositionOnlyCartPole(CartPole):
    """Keep the pole upright and the cart on the track, seeing positions and no velocities.

    obs         float32 [B, 2]: x of the cart, angle of the pole; bounds are twice the limits 2.4 and 12 degrees
    action      int64 [B], push 0 left, 1 right
    reward      1 / T at every step, the one where the pole falls too
    horizon     T steps; terminated when a limit is passed, truncated at step T (both where both happen)
    reset       the four numbers of the state uniform in [-0.05, 0.05]
    variants    Easy (T = 200), Medium (400), Hard (600)
    baselines   perfect 1; at random 0.12, 0.06, 0.04. Success: all T steps
    markov      float32 [B, 4]: x, its speed, angle, its speed
    source      popgym PositionOnlyCartPole 1.0.7, gymnasium CartPole 1.4.0. Departures: none
    """

    obs_high = (2 * X_LIMIT, 2 * THETA_LIMIT)

    def _observe(self) -> Tensor:
        return torch.stack((self.x, self.theta), dim=1).float()
