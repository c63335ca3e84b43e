"""Wrappers of single gymnasium envs, to be named on the command line: --wrappers mru_rl.envs.wrappers:HideVelocity.

Light on imports: worker processes read this file and need no torch.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

_VELOCITIES = {
    "AcrobotEnv": (4, 5),
    "BipedalWalker": (1, 2, 3, 5, 7, 10, 12),
    "CartPoleEnv": (1, 3),
    "Continuous_MountainCarEnv": (1,),
    "LunarLander": (2, 3, 5),
    "MountainCarEnv": (1,),
    "PendulumEnv": (2,),
}
"""Which columns of gymnasium's envs are velocities, by class, after the table in the docstring of each."""


class HideColumns(gymnasium.ObservationWrapper):
    """Leave columns out of a vector observation, counted from 0: HideColumns(env, 1, 3), or "...:HideColumns(1, 3)".

    Raises ValueError if the observation is not a Box of one dimension, and for columns that it does not have or that
    leave nothing to see.
    """

    def __init__(self, env: gymnasium.Env, *columns: int) -> None:
        super().__init__(env)
        space = env.observation_space
        if not (isinstance(space, Box) and len(space.shape) == 1):
            raise ValueError(
                f"columns of a vector, a Box of one dimension, are hidden, got {space}; flatten it first with "
                "gymnasium.wrappers:FlattenObservation"
            )
        count = space.shape[0]
        whole = all(isinstance(column, int) and 0 <= column < count for column in columns)
        if not whole or not 0 < len(set(columns)) < count:
            raise ValueError(
                f"columns to hide are whole numbers from 0 to {count - 1}, at least one and not all of them, got {columns}; "
                "name others"
            )
        self._kept = np.array([column for column in range(count) if column not in columns])
        self.observation_space: Any = Box(space.low[self._kept], space.high[self._kept], dtype=space.dtype)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[self._kept]


class HideVelocity(HideColumns):
    """Leave the velocities out of what gymnasium's envs show, so that they have to be remembered.

    Knows CartPole, Pendulum, MountainCar, Acrobot, LunarLander, BipedalWalker, and those of MuJoCo that tell their
    `observation_structure`: HalfCheetah, Hopper, Walker2d, Ant, Swimmer, Humanoid and InvertedPendulum, version 5.
    Put it first, before wrappers that change the observation. Raises ValueError for any other env.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        columns = _velocities(env.unwrapped)
        if not columns or env.observation_space.shape != env.unwrapped.observation_space.shape:
            name = env.spec.id if env.spec else type(env.unwrapped).__name__
            raise ValueError(
                f"HideVelocity must know which columns are velocities, got {name} with {env.observation_space}; put it before "
                "other wrappers, or name the columns: mru_rl.envs.wrappers:HideColumns(1, 3)"
            )
        super().__init__(env, *columns)


class SuccessReturn(gymnasium.Wrapper):
    """Count an episode as a success if its return is at least `success_return`, whatever the env says of itself."""

    def __init__(self, env: gymnasium.Env, success_return: float) -> None:
        super().__init__(env)
        number = isinstance(success_return, (int, float)) and not isinstance(success_return, bool)
        if not number or not math.isfinite(success_return):
            raise ValueError(f"a success return is a finite number, got {success_return!r}; give one, as in (0.5)")
        self.success_return = float(success_return)


def _velocities(env: gymnasium.Env) -> tuple[int, ...]:
    """Return the columns of an env that are velocities, () if that is not known."""
    structure = getattr(env, "observation_structure", None)
    if isinstance(
        structure, dict
    ):  # MuJoCo: widths in the order of the observation, beside those of what it leaves out
        found: list[int] = []
        start = 0
        for name, width in structure.items():
            if not name.startswith("skipped_"):
                found += range(start, start + width) if name in ("qvel", "cvel") else ()
                start += width
        return tuple(found) if env.observation_space.shape == (start,) else ()
    known = (_VELOCITIES.get(kind.__name__) for kind in type(env).__mro__ if kind.__module__.startswith("gymnasium."))
    return next((columns for columns in known if columns), ())
