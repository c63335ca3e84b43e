"""A batched env as torchrl's EnvBase: the same episodes, told in torchrl's way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from mru_rl.envs.base import BatchedEnv
from mru_rl.envs.columns import is_packed
from mru_rl.envs.encoding import Encoding, leaves


def as_torchrl(env: BatchedEnv) -> TorchRLEnv:
    """Show a batched env as a torchrl env; stepping either of the two moves both."""
    return TorchRLEnv(env)


class TorchRLEnv(EnvBase):
    """A BatchedEnv of B rows as an EnvBase with batch size [B].

    keys        "observation" and "action" laid out as in BatchedEnv, "reward", "terminated", "truncated" and "done"
                [B, 1]. Numbers are Categorical and MultiCategorical; for one-hot floats make the env with flatten=True
    restarts    a finished row has restarted already inside `env`: ("next", "observation") is the last obs of the old
                episode, the reset that follows hands out the new one, which is not drawn twice. Rows that have not
                finished are drawn anew when a reset names them. A finished row that is stepped without a reset goes on
                in its new episode
    "_step"     rows left out must have finished; they wait for their reset
    seed        set_seed does what `env.reseed` does, and takes effect at the next reset, which is one of all rows
    state       state_dict holds all of it where the env can save itself; where not, loading starts fresh episodes
    metrics     names of `env.metrics` to show as ("ended", name) [B], beside the observation, as `env.ended` has them: NaN
                but where an episode ends and says it
    """

    def __init__(self, env: BatchedEnv, *, metrics: Sequence[str] = ()) -> None:
        if not isinstance(env, BatchedEnv):
            raise TypeError(
                f"as_torchrl takes an env of mru_rl.envs.make, got {type(env).__name__}; for a gymnasium id pass "
                "make(id, num_envs), for an env object use torchrl's GymWrapper"
            )
        super().__init__(device=env.device, batch_size=[env.num_envs])
        self.env, self._metrics = env, tuple(metrics)
        one = (env.num_envs, 1)
        flag = Categorical(2, shape=one, dtype=torch.bool, device=env.device)
        self.observation_spec = Composite(
            observation=spec_of(env.observation_space, env.num_envs, env.device), shape=self.batch_size
        )
        if self._metrics:
            number = Unbounded((env.num_envs,), dtype=torch.float32, device=env.device)
            ended = {name: number.clone() for name in self._metrics}
            self.observation_spec["ended"] = Composite(ended, shape=self.batch_size)
        self.action_spec = spec_of(env.action_space, env.num_envs, env.device)
        self.reward_spec = Unbounded(one, dtype=torch.float32, device=env.device)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=self.batch_size, device=env.device
        )
        self._obs: Tensor | None = None
        """What every row shows now, the first obs of the new episode if one has finished; None: nothing started."""
        self._waiting = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
        """Rows that have finished and were not reset since."""
        self._stale = self._waiting.clone()
        """Waiting rows whose new episode has moved on unseen, so that a reset must draw another."""

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        everything = torch.ones_like(self._waiting)
        mask = everything if mask is None or self._obs is None else mask.reshape(self.batch_size)
        drawn = mask & ~(self._waiting & ~self._stale)
        if self._obs is None or drawn.all():
            self._obs = self.env.reset()
        elif drawn.any():
            fresh = self.env.reset_rows(drawn)
            self._obs = self._obs.clone()  # the old one is in somebody's hands
            self._obs[drawn] = fresh
        self._waiting, self._stale = self._waiting & ~mask, self._stale & ~mask
        return self._tensordict(self._obs)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._obs is None:
            raise RuntimeError(f"{self.env.id} steps only after a reset, got step() first; call reset() once")
        stepped = tensordict.get("_step", None)
        held = None if stepped is None else ~stepped.reshape(self.batch_size)
        if held is not None and (held & ~self._waiting).any():
            row = int((held & ~self._waiting).nonzero()[0, 0])
            raise ValueError(
                f'"_step" may leave out only rows that have finished and wait for a reset, got row {row} that has not; '
                "all rows of a batched env move together: reset or step it"
            )
        action = tensordict.get("action")
        if held is not None and held.any():
            action = torch.where(held.view(-1, *[1] * (action.ndim - 1)), self._any_action(action), action)
        obs, reward, terminated, truncated, final_obs = self.env.step(action)
        self._obs = obs
        moved = self._tensordict(final_obs, reward, terminated, truncated, self.env.ended)
        if held is None or not held.any():
            self._waiting, self._stale = terminated | truncated, torch.zeros_like(terminated)
            return moved
        self._waiting, self._stale = held | terminated | truncated, held
        stayed = self._tensordict(
            tensordict.get("observation"),
            torch.zeros_like(reward),
            *(tensordict.get(name).reshape(self.batch_size) for name in ("terminated", "truncated")),
        )
        return TensorDict.where(moved, ~held, stayed)

    def _any_action(self, like: Tensor) -> Tensor:
        """Return an action for rows whose own action means nothing."""
        return self.full_action_spec["action"].zero().to(like.dtype)

    def _tensordict(
        self,
        obs: Tensor,
        reward: Tensor | None = None,
        terminated: Tensor | None = None,
        truncated: Tensor | None = None,
        ended: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> TensorDict:
        none = torch.zeros_like(self._waiting)
        terminated = none if terminated is None else terminated
        truncated = none if truncated is None else truncated
        columns: dict[str, Any] = {"observation": obs} | ({} if reward is None else {"reward": reward[:, None]})
        flags = {"done": terminated | truncated, "terminated": terminated.clone(), "truncated": truncated.clone()}
        columns |= {name: flag[:, None] for name, flag in flags.items()}
        if self._metrics:
            unsaid = torch.full((self.env.num_envs,), math.nan, device=self.device)
            columns["ended"] = {name: ended.get(name, unsaid) for name in self._metrics}
        return TensorDict(columns, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.env.reseed(seed)
            self._start_over()

    def _start_over(self) -> None:
        self._obs = None
        self._waiting.fill_(False)
        self._stale.fill_(False)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` holds: the state of the env, and which rows wait for their reset with which obs."""
        if self._obs is None or not self.env.saves_state:
            return {"env": self.env.state_dict() if self.env.saves_state else None, "obs": None}
        mine = {"obs": self._obs, "waiting": self._waiting, "stale": self._stale}
        return {"env": self.env.state_dict(), **{name: tensor.clone() for name, tensor in mine.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_extra_state` gave."""
        self._start_over()
        if state["env"] is None:
            return
        self.env.load_state_dict(state["env"])
        if state["obs"] is not None:
            self._obs = state["obs"].to(self.device, copy=True)
            self._waiting.copy_(state["waiting"])
            self._stale.copy_(state["stale"])

    def close(self, **kwargs: Any) -> None:
        """Close the env inside too."""
        if not self.is_closed:
            self.env.close()
        super().close(**kwargs)


def spec_of(space: spaces.Space, rows: int, device: torch.device) -> TensorSpec:
    """Return torchrl's spec for `rows` values of a gymnasium space laid out as BatchedEnv does."""
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), shape=(rows,), dtype=torch.int64, device=device)
    parts = list(leaves(space))
    if is_packed(space):
        width = Encoding(space, device=device).shape
        return Bounded(0, 255, shape=(rows, *width), dtype=torch.uint8, device=device)
    if isinstance(space, spaces.Box):
        return _float_spec(space.low, space.high, rows, device)
    if all(part.counts for part in parts):
        categories = [n for part in parts for n in part.categories or (2,) * part.columns]
        return MultiCategorical(categories, shape=(rows, len(categories)), dtype=torch.int64, device=device)
    low = [part.space.low.flatten() if isinstance(part.space, spaces.Box) else np.zeros(part.columns) for part in parts]
    high = [
        part.space.high.flatten()
        if isinstance(part.space, spaces.Box)
        else np.asarray(part.categories or (2,) * part.columns) - 1
        for part in parts
    ]
    return _float_spec(np.concatenate(low), np.concatenate(high), rows, device)


def _float_spec(low: np.ndarray, high: np.ndarray, rows: int, device: torch.device) -> TensorSpec:
    shape = (rows, *low.shape)
    with np.errstate(over="ignore"):  # what float32 cannot hold is no bound
        low, high = low.astype(np.float32), high.astype(np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return Unbounded(shape, dtype=torch.float32, device=device)
    bounds = [torch.as_tensor(b, device=device).expand(shape).clone() for b in (low, high)]
    return Bounded(*bounds, shape=shape, dtype=torch.float32, device=device)
