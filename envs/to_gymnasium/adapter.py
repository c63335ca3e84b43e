"""A batched env as gymnasium's VectorEnv, and one row of it as a plain gymnasium Env that gymnasium.make makes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from mru_rl.envs.base import BatchedEnv, check_count
from mru_rl.envs.columns import is_bytes, is_packed, text_of
from mru_rl.envs.encoding import Encoding, leaves
from mru_rl.envs.native import from_native
from mru_rl.envs.registry import make


def as_gymnasium(env: BatchedEnv) -> GymnasiumVectorEnv:
    """Show a batched env as a gymnasium vector env; stepping either of the two moves both."""
    return GymnasiumVectorEnv(env)


class GymnasiumVectorEnv(VectorEnv):
    """A BatchedEnv of B rows as a VectorEnv of B sub-environments.

    obs         arrays as gymnasium batches the single observation space: tuples and dicts of arrays where it has such
    reward      float64 [B]; terminated, truncated: bool [B]
    restarts    in the same step: obs is the first of the new episode, info["final_obs"][i] the last of the old one for
                the rows where info["_final_obs"][i] is True; "final_info" is there too and empty
    seed        reset(seed=s) starts all randomness again, as `env.reseed(s)` does; one seed for all rows
    options     "reset_mask" (bool [B]) restarts these rows only
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, env: BatchedEnv) -> None:
        if not isinstance(env, BatchedEnv):
            raise TypeError(
                f"as_gymnasium takes an env of mru_rl.envs.make, got {type(env).__name__}; pass make(id, num_envs)"
            )
        self.env, self.num_envs = env, env.num_envs
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._obs: Tensor | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            check_count(seed, name=f"{self.env.id}: the seed of a vector env", least=0)
        super().reset(seed=seed)
        if seed is not None:
            self.env.reseed(seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._obs = self.env.reset()
        else:
            rows = self._checked_mask(mask)
            fresh = self.env.reset_rows(rows)
            assert self._obs is not None  # reset_rows has refused it
            self._obs = self._obs.clone()
            self._obs[rows] = fresh
        return to_native(self.single_observation_space, self._obs), {}

    def _checked_mask(self, mask: Any) -> Tensor:
        if (
            not isinstance(mask, np.ndarray)
            or mask.dtype != np.bool_
            or mask.shape != (self.num_envs,)
            or not mask.any()
        ):
            raise ValueError(
                f"options['reset_mask'] must be a bool array [{self.num_envs}] with at least one True, got {mask!r}; "
                "leave it out to restart all rows"
            )
        return torch.as_tensor(mask, device=self.env.device)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        obs, reward, terminated, truncated, final_obs = self.env.step(to_action(actions, self.env))
        self._obs, space = obs, self.single_observation_space
        info: dict[str, Any] = {}
        done = (terminated | truncated).cpu().numpy()
        if done.any():
            last = np.full(self.num_envs, None, dtype=object)
            for row in done.nonzero()[0]:
                last[row] = to_native(space, final_obs[row])
            info = {"final_obs": last, "_final_obs": done, "final_info": {}, "_final_info": done.copy()}
        return (
            to_native(space, obs),
            reward.double().cpu().numpy(),
            terminated.cpu().numpy(),
            truncated.cpu().numpy(),
            info,
        )

    def close_extras(self, **_: Any) -> None:
        self.env.close()


class GymnasiumSingleEnv(gymnasium.Env):
    """One row of a batched env as a plain gymnasium Env; gymnasium.make makes these for the ids of `list_ids`.

    Its episodes are those of make(env_id, 1, seed=seed, **options): when one has ended, the next reset hands out the
    episode that the batched env has begun already. reset(seed=s) starts all randomness again from s; a reset in the
    middle of an episode draws a new one. Without any seed, gymnasium's own random one is used. render_mode="rgb_array" is
    for envs that render, such as those with pixels=True.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, env_id: str, *, seed: int | None = None, render_mode: str | None = None, **options: Any) -> None:
        # stable-baselines3 tries pictures on every id, torchrl's GymEnv frameskip: both leave it out after this very error
        if "frameskip" in options:
            raise TypeError(
                f"{env_id} got an unexpected keyword argument 'frameskip'; it shows every step: leave it out"
            )
        self.env = make(env_id, 1, seed=0 if seed is None else seed, **options)
        if not self.env.can_render:
            self.metadata = {"render_modes": []}
        if render_mode not in (None, *self.metadata["render_modes"]):
            draws = "pictures as rgb_array alone" if self.env.can_render else "no pictures"
            raise TypeError(f"{env_id} draws {draws}, got render_mode={render_mode!r}; leave it out")
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self.horizon, self.success_return = self.env.horizon, self.env.success_return
        self._seeded = seed is not None
        self._next_obs: Tensor | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**31))
        if seed is not None:
            self.env.reseed(seed)
            self._seeded, self._next_obs = True, None
        obs, self._next_obs = self._next_obs, None
        return to_native(self.observation_space, (self.env.reset() if obs is None else obs)[0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._next_obs is not None:
            raise RuntimeError(f"the episode of {self.env.id} has ended, got another step; call reset() first")
        one = (
            tuple(np.asarray(part)[None] for part in action) if isinstance(action, tuple) else np.asarray(action)[None]
        )
        batch = to_action(one, self.env)
        obs, reward, terminated, truncated, final_obs = self.env.step(batch)
        ended, cut = bool(terminated), bool(truncated)
        if ended or cut:
            self._next_obs = obs
        return to_native(self.observation_space, final_obs[0]), float(reward), ended, cut, {}

    def render(self) -> np.ndarray | None:
        """Return a picture, uint8 [height, width, 3]; None without a render_mode."""
        if self.render_mode is None:
            return None
        last = None if self._next_obs is None else self.env.final_frame  # the batched env has begun again
        return self.env.render() if last is None else last

    def close(self) -> None:
        self.env.close()


def make_vector(env_id: str, num_envs: int = 1, **options: Any) -> GymnasiumVectorEnv:
    """Make a vector env for gymnasium.make_vec."""
    return as_gymnasium(make(env_id, num_envs, **options))


def to_native(space: spaces.Space, obs: Tensor) -> Any:
    """Return the obs of one row, or of a batch, as the value that the space holds; it shares no memory with the tensor."""
    flat = obs.detach().cpu().numpy()
    if isinstance(space, spaces.Discrete):
        return flat.astype(space.dtype) if flat.ndim else np.dtype(space.dtype).type(flat)
    if not is_packed(space):
        return _unflatten(space, _Columns(flat, flat[..., :0]))
    encoding = Encoding(space, device=obs.device)
    floats, rest = encoding.split(obs.detach())
    assert rest is not None
    return _unflatten(space, _Columns(floats.cpu().numpy(), rest.cpu().numpy()))


class _Columns:
    """The columns [..., n] of an obs, taken one leaf after the other."""

    def __init__(self, floats: np.ndarray, rest: np.ndarray) -> None:
        self._left = {False: floats, True: rest}

    def take(self, count: int, *, bytes: bool) -> np.ndarray:
        left = self._left[bytes]
        self._left[bytes] = left[..., count:]
        return left[..., :count]


def _unflatten(space: spaces.Space, columns: _Columns) -> Any:
    """Return the value whose columns come next."""
    if isinstance(space, spaces.Tuple):
        return tuple(_unflatten(part, columns) for part in space.spaces)
    if isinstance(space, spaces.Dict):
        return {name: _unflatten(part, columns) for name, part in space.spaces.items()}
    (leaf,) = leaves(space)
    taken = columns.take(leaf.columns, bytes=is_bytes(space))
    if isinstance(space, spaces.Text):
        return text_of(space, taken) if taken.ndim == 1 else tuple(text_of(space, row) for row in taken)
    values = taken.astype(space.dtype)
    shaped = values.reshape((*values.shape[:-1], *(space.shape or ())))
    return shaped if shaped.ndim else np.dtype(space.dtype).type(shaped)


def to_action(actions: Any, env: BatchedEnv) -> Tensor:
    """Return gymnasium's batch of actions in the layout of BatchedEnv.

    Raises TypeError if it holds other numbers, or is not a tuple of arrays where the action space is a Tuple.
    """
    if isinstance(env.action_space, spaces.Tuple):
        try:
            return from_native(env.action_space, actions, batched=True)[0].to(env.device)
        except ValueError as error:
            raise TypeError(
                f"actions for {env.action_space} are a tuple of one array per part, got {error}; give what action_space.sample() "
                "of the vector env does"
            ) from error
    array = np.asarray(actions)
    kinds = "fiu" if isinstance(env.action_space, spaces.Box) else "iu"
    if array.dtype.kind not in kinds:
        raise TypeError(
            f"actions for {env.action_space} must be an array of {'numbers' if 'f' in kinds else 'whole numbers'}, got "
            f"{array.dtype}; convert it with actions.astype({env.action_space.dtype})"
        )
    dtype = torch.float32 if isinstance(env.action_space, spaces.Box) else torch.int64
    return torch.as_tensor(array).to(dtype).to(env.device)
