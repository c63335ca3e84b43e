"""An env whose whole state is a few tensors: restarts, final observations, checks and saving, written once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.base import BatchedEnv, Step
from mru_rl.envs.encoding import Encoding, pack, unpack

STATES = ("none", "append", "only")


class TensorEnv(BatchedEnv):
    """Base of all batched envs of this library. A new env is its spaces, its state and three small methods.

        @mru_rl.envs.register_env("me/Guess-v0")
        class Guess(mru_rl.envs.TensorEnv):  # +1 for naming the bit on show
            def __init__(self, **common):
                super().__init__(observation_space=Discrete(2), action_space=Discrete(2), **common)
                self.register_state("bit", torch.zeros(self.num_envs, dtype=torch.int64, device=self.device))

            def _reset(self, mask):
                self.bit[mask] = torch.randint(2, (int(mask.sum()),), generator=self.generator, device=self.device)

            def _step(self, action):
                right = action == self.bit
                return right.float(), torch.ones_like(right), torch.zeros_like(right)

            def _observe(self):
                return self.bit.clone()

    The state lives in tensors named with `register_state` and is only ever changed in place, so that `state_dict` sees
    all of it. Randomness comes from `self.generator` alone.

    An env with a hidden Markov state, for oracle runs, sets `markov_space` and overrides `_markov`. The option `state`
    of `make` then shows it: "none" (the obs alone), "append" (the obs, then the state) or "only" (the state in place of
    the obs); these are upstream popgym's levels PARTIAL, FULL_AND_PARTIAL and FULL.
    """

    saves_state = True
    horizon: int
    markov_space: gymnasium.Space | None = None
    """Space of the hidden Markov state of one row; None where the env has none to show."""

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._state: dict[str, Tensor] = {}
        self._shared: dict[str, Tensor] = {}
        self._started = False
        self._shown_state = "none"

    def show_state(self, shown: str) -> None:
        """Show the hidden Markov state from now on: "append" it to the obs, or show it "only". Call before reset."""
        if shown not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {shown!r}; 'none' is the task itself")
        if shown == "none":
            return
        if self.markov_space is None:
            raise ValueError(f"{self.id} has no Markov state to show, got state={shown!r}; leave the option out")
        self._shown_state, self.options = shown, {**self.options, "state": shown}
        parts = [self.observation_space, self.markov_space]
        self.observation_space = self.markov_space if shown == "only" else _side_by_side(*parts)
        self._encoding = Encoding(self.observation_space, device=self.device)

    def register_state(self, name: str, tensor: Tensor) -> None:
        """Make `tensor`, one row per env, the attribute `name` and a part of `state_dict`."""
        self._state[name] = tensor
        setattr(self, name, tensor)

    def register_shared(self, name: str, tensor: Tensor) -> None:
        """Register as `register_state` does what belongs to no row: a stock that all rows draw from."""
        self._shared[name] = tensor
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

    def _markov(self) -> Tensor:
        """Return the hidden Markov state as a new tensor laid out as an obs of `markov_space` is; changes nothing."""
        raise NotImplementedError

    def _forget_draws(self) -> None:
        """Throw away what was drawn ahead of its use; called when the seed changes."""

    def markov_state(self) -> Tensor:
        """Return the hidden Markov state of every row, laid out as an obs of `markov_space` is."""
        if self.markov_space is None:
            raise ValueError(f"{self.id} has no Markov state; check that `env.markov_space` is not None first")
        return self._markov()

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._forget_draws()

    def _show(self) -> Tensor:
        if self._shown_state == "none":
            return self._observe()
        if self._shown_state == "only":
            return self._markov()
        columns = [part.unsqueeze(1) if part.ndim == 1 else part for part in (self._observe(), self._markov())]
        return self._append(*columns)

    def _append(self, obs: Tensor, markov: Tensor) -> Tensor:
        if not self._encoding.packed:
            return torch.cat((obs.to(self._encoding.dtype), markov.to(self._encoding.dtype)), dim=-1)
        floats, rest = unpack(obs, self._encoding.raw_floats - markov.shape[-1])
        return pack(torch.cat((floats, markov.float()), dim=-1), rest)

    def reset(self) -> Tensor:
        self._reset(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        self._started = True
        return self._show()

    def reset_rows(self, mask: Tensor) -> Tensor:
        if not self._started:
            raise RuntimeError(f"{self.id} resets single rows only after a full reset; call env.reset() once")
        self._check_mask(mask)
        self._reset(mask)
        return self._show()[mask]

    def step(self, action: Tensor) -> Step:
        if not self._started:
            raise RuntimeError(f"{self.id} steps only after a reset, got step() first; call env.reset() once")
        self._check_action(action)
        reward, terminated, truncated = self._step(action)
        obs = self._show()
        done = terminated | truncated
        if not done.any():
            return Step(obs, reward, terminated, truncated, obs)
        self._reset(done)
        return Step(self._show(), reward, terminated, truncated, obs)

    def state_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "options": dict(self.options),
            "num_envs": self.num_envs,
            "device": self.device.type,
            "started": self._started,
            "generator": self.generator.get_state(),
            "tensors": {name: tensor.clone() for name, tensor in self._state.items()},
            "shared": {name: tensor.clone() for name, tensor in self._shared.items()},
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
        for kind in ("tensors", "shared"):
            for name, have in _layout(mine[kind]).items():
                saved = _layout(state[kind]).get(name)
                if saved != have:
                    raise ValueError(
                        f"tensor {name!r} of the state is {saved} but this env holds {have}; "
                        "the state comes from another version of the env: start fresh with env.reset()"
                    )
        for kind, tensors in (("tensors", self._state), ("shared", self._shared)):
            for name, tensor in tensors.items():
                tensor.copy_(state[kind][name])
        self.generator.set_state(state["generator"].cpu())
        self._started = bool(state["started"])


def _layout(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}


def _side_by_side(*parts: gymnasium.Space) -> spaces.Tuple:
    """Return one flat Tuple of the spaces and of what is inside those that are Tuples."""
    inner = [part.spaces if isinstance(part, spaces.Tuple) else [part] for part in parts]
    return spaces.Tuple([space for group in inner for space in group])
