"""NoisyPositionOnlyCartPole: balance a pole from blurred positions."""

from __future__ import annotations

from mru_rl.envs.popgym.noisy import Noisy
from mru_rl.envs.popgym.position_only_cartpole import PositionOnlyCartPole


class NoisyPositionOnlyCartPole(Noisy, PositionOnlyCartPole):
    """Keep the pole upright and the cart on the track, seeing noisy positions and no velocities.

    obs         float32 [B, 2]: x of the cart, angle of the pole, each plus Gaussian noise of width sigma, new at every
                step, then clipped to the bounds 4.8 and 24 degrees (0.42 rad: at sigma 0.3 the angle often hits them)
    action      int64 [B], push 0 left, 1 right
    reward      1 / 200 at every step, the one where the pole falls too
    horizon     200 steps; terminated when a limit is passed, truncated at step 200 (both where both happen)
    reset       the four numbers of the state uniform in [-0.05, 0.05]
    variants    Easy (sigma = 0.1), Medium (0.2), Hard (0.3)
    baselines   at random 0.12. Success: all 200 steps
    markov      float32 [B, 4]: x, its speed, angle, its speed, without noise
    source      popgym NoisyPositionOnlyCartPole 1.0.7, gymnasium CartPole 1.4.0. Departures: none
    """
