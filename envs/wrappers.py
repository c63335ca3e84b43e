"""Wrappers of single gymnasium envs, to be named on the command line: --wrappers mru_rl.envs.wrappers:HideVelocity.

Light on imports: worker processes read this file and need no torch.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from mru_rl.envs.columns import GRID

KEY = "mru_rl"
"""Where in its metadata an env may say what it is."""
SUCCESS = ("is_success", "success")
"""Names in info under which envs tell whether an episode succeeded; the first that is there counts."""
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
        said = (env.metadata or {}).get(KEY, {})
        self.metadata = {**(env.metadata or {}), KEY: {**said, "success_return": self.success_return}}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *rest, info = self.env.step(action)
        return *rest, {name: value for name, value in info.items() if name not in SUCCESS}


class FrameSkip(gymnasium.Wrapper):
    """Repeat each action for `frames` steps of the env, fewer where the episode ends, and add up the rewards.

    An image, uint8 of two to four dimensions and over 16 x 16, is the elementwise maximum of the last two, since some games
    draw a thing on every other frame only; everything else is as the last step shows it. The `horizon` and `credit_horizon`
    that the env says of itself, and time limits inside, count its own steps; outside they are those of the agent.

    Not gymnasium's MaxAndSkipObservation: it takes the maximum of vectors too, and of frames before an early end.
    """

    def __init__(self, env: gymnasium.Env, frames: int) -> None:
        super().__init__(env)
        if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
            raise ValueError(f"frames to skip are a whole number of at least 1, got {frames!r}; give one, as in (4)")
        self.frames = frames
        self._shows_images = _has_picture(env.observation_space)
        said = self.metadata.get("mru_rl")
        if isinstance(said, Mapping):
            self.metadata = {**self.metadata, "mru_rl": {name: self._in_steps(name, n) for name, n in said.items()}}
        for name in ("horizon", "credit_horizon"):
            with contextlib.suppress(Exception):  # it says nothing, or not before a reset
                setattr(self, name, self._in_steps(name, env.get_wrapper_attr(name)))

    def _in_steps(self, name: str, value: Any) -> Any:
        counted = name in ("horizon", "credit_horizon") and isinstance(value, (int, np.integer))
        return -(-value // self.frames) if counted else value

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        before: Any = None
        total: Any = None
        for step in range(self.frames):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total = reward if total is None else total + reward
            over = terminated or truncated or step == self.frames - 1
            if over and before is not None:
                obs = _brightest(self.observation_space, before, obs)
            if over:
                break
            if self._shows_images:
                before = copy.deepcopy(obs)  # the env may write the next one into the same array
        return obs, total, terminated, truncated, info


def _brightest(space: gymnasium.Space, before: Any, obs: Any) -> Any:
    """Return an obs whose images are the elementwise maximum of two, everything else that of the second."""
    if isinstance(space, Dict):
        return {name: _brightest(part, before[name], obs[name]) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_brightest(*parts) for parts in zip(space.spaces, before, obs, strict=True))
    return np.maximum(before, obs) if _has_picture(space) else obs


def _has_picture(space: gymnasium.Space) -> bool:
    if isinstance(space, (Dict, Tuple)):
        return any(map(_has_picture, space.spaces.values() if isinstance(space, Dict) else space.spaces))
    if not isinstance(space, Box) or space.dtype != np.uint8:
        return False
    return 2 <= len(space.shape) <= 4 and max(space.shape[-3:]) > GRID


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


class MaskFromInfo(gymnasium.Wrapper):
    """Show info["action_mask"], which actions there are, beside the observation: {"observation": ..., "action_mask": int8 [n]}.

    Put around envs that have one in the info of their first reset, also where nobody names it. A mask is an array, or a
    Tuple, list or dict of them for the parts of an action, in the order of its space; at the end of an episode it may be
    left out. Raises ValueError for an env whose reset gives none, and for one of another length later.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        _, info = env.reset(seed=0)
        first = _flat_mask(env.action_space, info)
        if first is None:
            raise ValueError('info has no "action_mask" after reset(); leave MaskFromInfo out')
        self._count = first.size
        mask = Box(0, 1, (self._count,), np.int8)
        self.observation_space: Any = Dict({"observation": env.observation_space, "action_mask": mask})

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**arguments)
        return self._beside(obs, info, over=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._beside(obs, info, over=terminated or truncated), reward, terminated, truncated, info

    def _beside(self, obs: Any, info: Any, *, over: bool) -> dict[str, Any]:
        mask = _flat_mask(self.action_space, info)
        if mask is None and over:
            mask = np.ones(self._count, dtype=np.int8)
        if mask is None or mask.size != self._count:
            got = "none" if mask is None else f"{mask.size} numbers"
            raise ValueError(f'info["action_mask"] had {self._count} numbers after the first reset(), got {got}')
        return {"observation": obs, "action_mask": mask}


def _flat_mask(space: gymnasium.Space, info: Any) -> np.ndarray | None:
    """Return info["action_mask"] as int8 [n], its parts in the order of the action space; None where there is none."""
    given = info.get("action_mask") if isinstance(info, Mapping) else None
    return None if given is None else np.concatenate(list(_mask_parts(space, given)))


def _mask_parts(space: gymnasium.Space, mask: Any) -> Iterator[np.ndarray]:
    if isinstance(mask, Mapping):
        spaces = space.spaces if isinstance(space, Dict) else dict.fromkeys(mask, space)
        unknown = [name for name in mask if name not in spaces]
        if unknown:
            raise ValueError(
                f'info["action_mask"] has a part for each part of an action, {", ".join(map(str, spaces))}, got one for '
                f"{unknown[0]!r}; mend the env"
            )
        for name in spaces:
            if name in mask:
                yield from _mask_parts(spaces[name], mask[name])
    elif isinstance(mask, (tuple, list)):
        inner = list(space.spaces) if isinstance(space, Tuple) else [space] * len(mask)
        for part, one in zip(inner, mask, strict=True):
            if one is not None:
                yield from _mask_parts(part, one)
    else:
        flags = np.asarray(mask).reshape(-1)
        if not np.isin(flags, (0, 1)).all():
            raise ValueError(
                f'info["action_mask"] is 1 where there is an action and 0 where there is none, got {flags[:8].tolist()}; '
                "mend the env"
            )
        yield flags.astype(np.int8)


def masks_in_info(env: gymnasium.Env) -> bool:
    """Return True if an env has an action mask in the info of its reset, which is called once, and shows none itself."""
    space = env.observation_space
    if isinstance(space, Dict) and "action_mask" in space.spaces:
        return False
    try:
        _, info = env.reset(seed=0)
    except Exception:  # raised again, and told, at the first reset that counts
        return False
    return isinstance(info, Mapping) and info.get("action_mask") is not None
