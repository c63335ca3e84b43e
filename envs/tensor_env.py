"""An env whose whole state is a few tensors: restarts, final observations, checks and saving, written once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from mru_rl.envs.base import BatchedEnv, Step


class TensorEnv(BatchedEnv):
    """Base of all batched envs of this library. A new env is its spaces, its state and three small methods.

    The state lives in tensors named with `register_state` and is only ever changed in place, so that `state_dict` sees
    all of it. Randomness comes from `self.generator` alone.
    """

    saves_state = True

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._state: dict[str, Tensor] = {}
        self._started = False

    def register_state(self, name: str, tensor: Tensor) -> None:
        """Make `tensor` the attribute `name` and a part of `state_dict`."""
        self._state[name] = tensor
        setattr(self, name, tensor)

    @abstractmethod
    def _reset(self, mask: Tensor) -> None:
        """Draw a fresh episode for the rows where mask (bool [B]) is True; leave all others untouched."""

    @abstractmethod
    def _step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advance every row; return reward, terminated, truncated as new tensors."""

    @abstractmethod
    def _observe(self) -> Tensor:
        """Return what every row shows now as a new tensor; changes nothing, draws nothing."""

    def reset(self) -> Tensor:
        self._reset(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        self._started = True
        return self._observe()

    def step(self, action: Tensor) -> Step:
        if not self._started:
            raise RuntimeError(f"{self.id} steps only after a reset, got step() first; call env.reset() once")
        self._check_action(action)
        reward, terminated, truncated = self._step(action)
        obs = self._observe()
        done = terminated | truncated
        if not done.any():
            return Step(obs, reward, terminated, truncated, obs)
        self._reset(done)
        return Step(self._observe(), reward, terminated, truncated, obs)

    def state_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "options": dict(self.options),
            "num_envs": self.num_envs,
            "device": self.device.type,
            "started": self._started,
            "generator": self.generator.get_state(),
            "tensors": {name: tensor.clone() for name, tensor in self._state.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        mine = self.state_dict()
        if not isinstance(state, dict) or state.keys() != mine.keys():
            arrived = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"an env state has the keys {sorted(mine)}, got {arrived}; pass what env.state_dict() gave"
            )
        for name in ("id", "options", "num_envs", "device"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"the state was saved by an env with {name} {state[name]!r} but this one has {mine[name]!r}; "
                    "make the env with the same id, options, num_envs and device"
                )
        for name, have in _layout(mine["tensors"]).items():
            saved = _layout(state["tensors"]).get(name)
            if saved != have:
                raise ValueError(
                    f"tensor {name!r} of the state is {saved} but this env holds {have}; "
                    "the state comes from another version of the env: start fresh with env.reset()"
                )
        for name, tensor in self._state.items():
            tensor.copy_(state["tensors"][name])
        self.generator.set_state(state["generator"].cpu())
        self._started = bool(state["started"])


def _layout(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
