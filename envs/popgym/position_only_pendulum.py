"""PositionOnlyPendulum: swing up without seeing the speed."""

from __future__ import annotations

from mru_rl.envs.popgym.pendulum import Pendulum


class PositionOnlyPendulum(Pendulum):
    """Swing the pendulum up and hold it there, seeing its angle and not its speed.

    obs         float32 [B, 2]: cos and sin of the angle, which is 0 at the top
    action      float32 [B, 1], torque in [-2, 2]
    reward      (1 - 2 cost / 16.2736044) / T; cost = angle^2 + 0.1 speed^2 + 0.001 torque^2 before the step, angle in
                [-pi, pi); so |return| <= 1
    horizon     T steps, then truncated; never terminated
    reset       angle uniform in [-pi, pi], speed in [-1, 1]
    variants    Easy (T = 200), Medium (150), Hard (100): the harder, the shorter
    baselines   at random 0.24 to 0.26; below 1 for anybody, for the swing-up costs
    markov      float32 [B, 3]: cos, sin, speed
    source      popgym PositionOnlyPendulum 1.0.7, gymnasium Pendulum 1.4.0. Departures: none
    """
