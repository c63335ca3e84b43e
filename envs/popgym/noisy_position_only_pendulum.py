"""NoisyPositionOnlyPendulum: swing up seeing a blurred angle."""

from __future__ import annotations

from mru_rl.envs.popgym.noisy import Noisy
from mru_rl.envs.popgym.position_only_pendulum import PositionOnlyPendulum


class NoisyPositionOnlyPendulum(Noisy, PositionOnlyPendulum):
    """Swing the pendulum up and hold it there, seeing its angle through noise and not its speed.

    obs         float32 [B, 2]: cos and sin of the angle, which is 0 at the top, each plus Gaussian noise of width sigma,
                new at every step, then clipped to [-1, 1]
    action      float32 [B, 1], torque in [-2, 2]
    reward      (1 - 2 cost / 16.2736044) / 200; cost = angle^2 + 0.1 speed^2 + 0.001 torque^2 before the step, angle in
                [-pi, pi); so |return| <= 1
    horizon     200 steps, then truncated; never terminated
    reset       angle uniform in [-pi, pi], speed in [-1, 1]
    variants    Easy (sigma = 0.1), Medium (0.2), Hard (0.3)
    baselines   at random 0.24 to 0.26
    markov      float32 [B, 3]: cos, sin, speed, without noise
    source      popgym NoisyPositionOnlyPendulum 1.0.7, gymnasium Pendulum 1.4.0. Departures: none
    """
