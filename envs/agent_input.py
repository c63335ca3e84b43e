"""What a memory agent is shown beside the obs: its previous action, whether the episode just began, its last reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.actions import null_action
from mru_rl.envs.base import BatchedEnv, Step, Stretch
from mru_rl.envs.encoding import Encoding


class AgentInput(BatchedEnv):
    """An env whose obs carries more columns, in this order, each a switch:

    previous_action   the action that led here; at the start of an episode the null action: 0, or the lowest there is
    start_flag        Discrete(2), 1 on the first obs of an episode only
    previous_reward   the reward that came with this obs; 0 on the first
    flatten           all of it as one float32 vector, numbers one-hot

    With flatten, previous_action and start_flag it is upstream popgym's `Flatten(Antialias(PreviousAction(env)))`.
    `final_obs` carries the action and reward of the step that ended the episode, and flag 0. All other attributes are
    those of the env inside, `env.env`; nothing is kept between steps, so the state to save is that env's.
    """

    def __init__(
        self,
        env: BatchedEnv,
        *,
        flatten: bool = False,
        previous_action: bool = False,
        start_flag: bool = False,
        previous_reward: bool = False,
    ) -> None:
        self.env, self.flatten = env, flatten
        self.previous_action, self.start_flag, self.previous_reward = previous_action, start_flag, previous_reward
        switches = {
            "flatten": flatten,
            "previous_action": previous_action,
            "start_flag": start_flag,
            "previous_reward": previous_reward,
        }
        self.options = env.options | {name: True for name, on in switches.items() if on}
        for name in ("id", "num_envs", "device", "generator", "action_space", "horizon", "credit_horizon", "open_loop",
                     "success_return", "saves_state", "perfect_return", "memoryless_return"):  # fmt: skip
            setattr(self, name, getattr(env, name))
        self.can_unroll = env.can_unroll and not previous_action and not previous_reward

        structure = self._structure()
        self._encoding = Encoding(structure, device=self.device)
        self._dtype = torch.float32 if flatten else self._encoding.dtype
        self._encode_action = Encoding(self.action_space, device=self.device)
        self.observation_space = structure
        if flatten:
            self.observation_space = spaces.Box(-np.inf, np.inf, (self._encoding.size,), np.float32)
            self._encoding = Encoding(self.observation_space, device=self.device)
        self._flags = {on: self._flag(on) for on in (False, True)}
        start = null_action(self.action_space).to(self.device)
        self._start_extras = self._extras(
            start.expand(self.num_envs, *start.shape), torch.zeros(self.num_envs, device=self.device), start=True
        )

    @property
    def refuse_nonfinite(self) -> bool:
        return self.env.refuse_nonfinite

    @refuse_nonfinite.setter
    def refuse_nonfinite(self, refuse: bool) -> None:
        self.env.refuse_nonfinite = refuse

    @property
    def worker_restarts(self) -> int:  # type: ignore[override]
        return self.env.worker_restarts

    def _structure(self) -> spaces.Space:
        """Return the space of the obs before it is flattened."""
        inner = self.env.observation_space
        parts: list[gymnasium.Space] = list(inner.spaces) if isinstance(inner, spaces.Tuple) else [inner]
        if self.previous_action:
            parts.append(self.action_space)
        if self.start_flag:
            parts.append(spaces.Discrete(2))
        if self.previous_reward:
            parts.append(spaces.Box(-np.inf, np.inf, (1,), np.float32))
        return spaces.Tuple(parts) if len(parts) > 1 or isinstance(inner, spaces.Tuple) else inner

    def _flag(self, start: bool) -> Tensor:
        row = [float(not start), float(start)] if self.flatten else [float(start)]
        return torch.tensor(row, dtype=self._dtype, device=self.device).repeat(self.num_envs, 1)

    def _extras(self, action: Tensor, reward: Tensor, *, start: bool) -> list[Tensor]:
        """Return the columns beside the obs, [B, w] each."""
        extras = []
        if self.previous_action:
            rows = action.flatten(1) if action.ndim > 1 else action
            extras.append(self._encode_action(rows) if self.flatten else self._columns(rows))
        if self.start_flag:
            extras.append(self._flags[start])
        if self.previous_reward:
            extras.append(self._columns(reward))
        return extras

    def _columns(self, rows: Tensor) -> Tensor:
        return (rows.unsqueeze(1) if rows.ndim == 1 else rows).to(self._dtype)

    def _assemble(self, obs: Tensor, extras: list[Tensor]) -> Tensor:
        return torch.cat([self.env.encode(obs) if self.flatten else self._columns(obs), *extras], dim=1)

    def reset(self) -> Tensor:
        return self._assemble(self.env.reset(), self._start_extras)

    def reset_rows(self, mask: Tensor) -> Tensor:
        obs = self.env.reset_rows(mask)
        return self._assemble(obs, [column[: len(obs)] for column in self._start_extras])

    def reseed(self, seed: int) -> None:
        self.env.reseed(seed)

    def step(self, action: Tensor) -> Step:
        obs, reward, terminated, truncated, final_obs = self.env.step(action)
        seen = self._assemble(final_obs, self._extras(action, reward, start=False))
        if final_obs is obs:
            return Step(seen, reward, terminated, truncated, seen)
        fresh = self._assemble(obs, self._start_extras)
        done = (terminated | truncated).unsqueeze(1)
        return Step(torch.where(done, fresh, seen), reward, terminated, truncated, seen)

    def unroll(self, steps: int) -> Stretch:
        for name in ("previous_action", "previous_reward"):
            if getattr(self, name):
                raise ValueError(
                    f"{self.id} shows {name}, so its steps wait for actions and cannot be unrolled; "
                    f"call env.step(), or make it without {name}"
                )
        stretch = self.env.unroll(steps)
        obs = self.env.encode(stretch.obs) if self.flatten else stretch.obs.to(self._dtype)
        parts = [obs.unsqueeze(-1) if obs.ndim == 2 else obs]
        if self.start_flag:
            flags = self._flags[False].unsqueeze(1).repeat(1, obs.shape[1], 1)
            flags[:, 0] = self._flags[stretch.started]
            parts.append(flags)
        return stretch._replace(obs=torch.cat(parts, dim=-1))

    def state_dict(self) -> dict[str, Any]:
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state)

    def close(self) -> None:
        self.env.close()
