"""An env that shows its agent more than the obs: its previous action, whether the episode just began, its last reward."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.base import BatchedEnv, Step, Stretch, check_count
from mru_rl.envs.encoding import Encoding
from mru_rl.envs.frames import Frames
from mru_rl.envs.input_rules import InputRules

_KEPT = (
    "id",
    "num_envs",
    "device",
    "generator",
    "action_space",
    "horizon",
    "credit_horizon",
    "open_loop",
    "success_return",
    "saves_state",
    "can_render",
    "perfect_return",
    "memoryless_return",
    "sources",
    "metrics",
)


class AgentInput(BatchedEnv):
    """An env whose obs carries more columns, in this order, each a switch:

    previous_action   the action that led here; at the start of an episode the null action: 0, or the lowest there is
    start_flag        Discrete(2), 1 on the first obs of an episode only
    previous_reward   the reward that came with this obs; 0 on the first
    frame_stack       not a column: this many of the last images, where the obs has some, are shown at once; at the start of
                      an episode the first one is repeated. See Frames, which `frames` is, None for 1
    flatten           all of it as one float32 vector, numbers one-hot, or as one vector of bytes where the obs has some: what
                      `rules`, an InputRules, encodes

    With flatten, previous_action and start_flag it is upstream popgym's `Flatten(Antialias(PreviousAction(env)))`.
    `final_obs` carries the action and reward of the step that ended the episode, and flag 0. All other attributes are
    those of the env inside, `env.env`; nothing but frames is kept between steps: without a stack the state to save is that
    env's.
    """

    def __init__(
        self,
        env: BatchedEnv,
        *,
        flatten: bool = False,
        previous_action: bool = False,
        start_flag: bool = False,
        previous_reward: bool = False,
        frame_stack: int = 1,
    ) -> None:
        self.env, self.flatten = env, flatten
        check_count(frame_stack, name="frame_stack", least=1)
        self.frames = Frames(env.observation_space, frame_stack) if frame_stack > 1 else None
        self.previous_action, self.start_flag, self.previous_reward = previous_action, start_flag, previous_reward
        added = {"previous_action": previous_action, "start_flag": start_flag, "previous_reward": previous_reward}
        switches = {"flatten": flatten, **added}
        self.options = env.options | {name: True for name, on in switches.items() if on}
        if self.frames is not None:
            self.options["frame_stack"] = frame_stack
        self._older: Tensor | None = None
        """The frames before the next one, [B, frame_stack - 1, size]."""
        for name in _KEPT:
            setattr(self, name, getattr(env, name))
        self.can_unroll = env.can_unroll and not previous_action and not previous_reward and self.frames is None
        rules = InputRules if flatten else _RawRules
        self.rules = rules(self._inner_space, env.action_space, **added, device=env.device)
        self.observation_space = self._structure()
        if flatten:
            self.observation_space = self._flat_space()
        self._encoding = Encoding(self.observation_space, device=self.device)

    @property
    def refuse_nonfinite(self) -> bool:
        return self.env.refuse_nonfinite

    @refuse_nonfinite.setter
    def refuse_nonfinite(self, refuse: bool) -> None:
        self.env.refuse_nonfinite = refuse

    @property
    def worker_restarts(self) -> int:  # type: ignore[override]
        return self.env.worker_restarts

    @property
    def ended(self) -> Mapping[str, Tensor]:  # type: ignore[override]
        return self.env.ended

    @property
    def final_frame(self) -> np.ndarray | None:  # type: ignore[override]
        return self.env.final_frame

    @property
    def native_observation_space(self) -> gymnasium.Space:
        """The space of the obs that the env inside shows, without the columns added here."""
        return self.env.native_observation_space

    @property
    def native_action_space(self) -> gymnasium.Space:
        return self.env.native_action_space

    @property
    def _inner_space(self) -> gymnasium.Space:
        """The space of the obs inside, with its stacks."""
        return self.env.observation_space if self.frames is None else self.frames.space

    def _structure(self) -> spaces.Space:
        """Return the space of the obs before it is flattened."""
        inner = self._inner_space
        parts: list[gymnasium.Space] = list(inner.spaces) if isinstance(inner, spaces.Tuple) else [inner]
        if self.previous_action:
            parts.append(self.action_space)
        if self.start_flag:
            parts.append(spaces.Discrete(2))
        if self.previous_reward:
            parts.append(spaces.Box(-np.inf, np.inf, (1,), np.float32))
        return spaces.Tuple(parts) if len(parts) > 1 or isinstance(inner, spaces.Tuple) else inner

    def _flat_space(self) -> spaces.Box:
        width = (self.rules.size,)
        return (
            spaces.Box(0, 255, width, np.uint8) if self.rules.packed else spaces.Box(-np.inf, np.inf, width, np.float32)
        )

    def reset(self) -> Tensor:
        obs = self.env.reset()
        if self.frames is not None:
            self._older = self.frames.first(obs)
            obs = self.frames(obs, self._older)
        return self._acted_on(self.rules.encode(obs, start=True))

    def reset_rows(self, mask: Tensor) -> Tensor:
        obs = self.env.reset_rows(mask)
        if self.frames is not None:
            assert self._older is not None
            first = self.frames.first(obs)
            self._older = self._older.index_put((mask,), first)
            obs = self.frames(obs, first)
        return self._acted_on(self.rules.encode(obs, start=True))

    def _acted_on(self, x: Tensor) -> Tensor:
        """Return what an agent chooses an action on. Raises ValueError where a mask leaves it none."""
        if self.rules.mask:
            floats, rest = self.rules.split(x)
            sides = {"bytes": floats if rest is None else rest}
            parts = [sides.get(part.kind, floats)[..., part.start : part.stop] for part in self.rules.mask]
            choice = torch.cat([part != 0 for part in parts], dim=-1).any(-1)
            if not choice.all():
                raise ValueError(
                    f"an action_mask of {self.id} leaves no action, in row {int((~choice).nonzero()[0])}; the env must end the "
                    "episode there, or allow an action that does nothing"
                )
        return x

    def reseed(self, seed: int) -> None:
        self.env.reseed(seed)

    def step(self, action: Tensor) -> Step:
        obs, reward, terminated, truncated, final_obs = self.env.step(action)
        if self.frames is not None:
            obs, final_obs = self._stack(obs, final_obs, terminated | truncated)
        seen = self.rules.encode(final_obs, action=action, reward=reward, start=False)
        if final_obs is obs:
            return Step(self._acted_on(seen), reward, terminated, truncated, seen)
        fresh = self.rules.encode(obs, start=True)
        done = (terminated | truncated).unsqueeze(1)
        return Step(self._acted_on(torch.where(done, fresh, seen)), reward, terminated, truncated, seen)

    def _stack(self, obs: Tensor, final_obs: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a step showed as stacks, and one and the same tensor where it was."""
        assert self.frames is not None
        assert self._older is not None
        seen = self.frames(final_obs, self._older)
        self._older = self.frames.after(self._older, final_obs)
        if final_obs is obs:
            return seen, seen
        first = self.frames.first(obs)
        self._older = torch.where(done.view(-1, 1, 1), first, self._older)
        return torch.where(done[:, None], self.frames(obs, first), seen), seen

    def unroll(self, steps: int) -> Stretch:
        if self.frames is not None:
            return super().unroll(steps)
        for name in ("previous_action", "previous_reward"):
            if getattr(self, name):
                raise ValueError(
                    f"{self.id} shows {name}, so its steps wait for actions and cannot be unrolled; "
                    f"call env.step(), or make it without {name}"
                )
        stretch = self.env.unroll(steps)
        start: bool | Tensor = False
        if stretch.started:
            start = torch.zeros_like(stretch.asked)
            start[:, 0] = True
        return stretch._replace(obs=self.rules.encode(stretch.obs, start=start))

    def floats(self, obs: Tensor) -> Tensor:
        return self.rules.split(obs)[0]

    def render(self) -> np.ndarray:
        return self.env.render()

    def state_dict(self) -> dict[str, Any]:
        inside = self.env.state_dict()
        if self.frames is None:
            return inside
        return {"env": inside, "frames": None if self._older is None else self._older.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.frames is not None:
            older, state = state["frames"], state["env"]
            self._older = None if older is None else older.to(self.device, copy=True)
        self.env.load_state_dict(state)

    def close(self) -> None:
        self.env.close()


class _RawRules(InputRules):
    """The same parts side by side as numbers, not one-hot: int64 where all of them count, else float32."""

    def _obs_size(self) -> int:
        return self._obs.raw_floats

    def _obs_part(self, obs: Tensor) -> Tensor:
        return self._as_columns(obs, self._obs)

    def _action_part(self, action: Tensor) -> Tensor:
        return self._as_columns(self._flat(action), self._action)

    def _flag_row(self, start: bool) -> Tensor:
        return torch.tensor([int(start)], device=self.device).to(self._dtype)

    @functools.cached_property
    def _dtype(self) -> torch.dtype:
        whole = self._obs.dtype == torch.int64 and not self.previous_reward
        if self.previous_action:
            whole &= self._action.dtype == torch.int64
        return torch.int64 if whole else torch.float32

    def _as_columns(self, raw: Tensor, encoding: Encoding) -> Tensor:
        return (raw if encoding.shape else raw.unsqueeze(-1)).to(self._dtype)
