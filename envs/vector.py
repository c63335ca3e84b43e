"""Any gymnasium env behind the same contract, upstream popgym included: stepped one by one or in worker processes."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from mru_rl.envs.actions import action_layout
from mru_rl.envs.base import BatchedEnv, NonFiniteError, Step, check_count, derive_seeds
from mru_rl.envs.encoding import leaves

MAKE_OPTIONS = {"max_episode_steps", "disable_env_checker", "render_mode"}
"""Options of gymnasium.make itself, open to every id."""
WORKERS = {"sync": "sync", "process": "async"}
START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Never fork: a forked child of a process that has run torch can hang in its thread pools."""


class GymnasiumEnv(BatchedEnv):
    """A gymnasium id as a batched env; restarts in the same step, so that no phantom transition is ever seen.

    options     workers: "sync" steps the envs one after the other here, "process" gives each a daemon process (a
                script that uses those keeps its code under `if __name__ == "__main__":`); everything else goes to the
                env's constructor or to gymnasium.make
    spaces      numbers start at 0 on both sides, also where the env's own do not; obs is laid out as BatchedEnv says
    seeds       row i is seeded once, from `seed` and i; later episodes go on with the env's own generator
    horizon     the id's max_episode_steps, or upstream popgym's max_episode_length; success is its reward_threshold
    state       cannot be saved: after a resume, episodes start fresh
    """

    def __init__(
        self,
        *,
        id: str,
        num_envs: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        workers: str = "sync",
        **options: Any,
    ) -> None:
        if workers not in WORKERS:
            raise ValueError(f"workers must be one of {sorted(WORKERS)}, got {workers!r}; use 'sync' for cheap envs")
        check_count(num_envs, name="num_envs", least=1)
        arguments = options if not is_popgym(id) else {"disable_env_checker": True, **options}
        probe = make_single(id, arguments)
        try:
            action_layout(probe.action_space)
            self._native_observation_space, self._native_action_space = probe.observation_space, probe.action_space
            super().__init__(
                id=id,
                num_envs=num_envs,
                observation_space=from_zero(probe.observation_space),
                action_space=from_zero(probe.action_space),
                seed=seed,
                device=device,
                options={"workers": workers, **options},
            )
            self.horizon = probe.spec.max_episode_steps if probe.spec else None
            if self.horizon is None and is_popgym(id):
                self.horizon = getattr(probe.unwrapped, "max_episode_length", None)
            self.success_return = probe.spec.reward_threshold if probe.spec else None
            self.summary = (inspect.getdoc(type(probe.unwrapped)) or "").split("\n")[0]
        finally:
            probe.close()
        self._seeds: list[int] | None = derive_seeds(seed, num_envs).tolist()
        self._vec: Any = None
        self._workers, self._arguments = workers, arguments
        self._action_start = action_start(self._native_action_space)

    def _open(self) -> Any:
        vector_kwargs: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "copy": False}
        if self._workers == "process":
            vector_kwargs |= {"context": START_METHOD, "daemon": True}
        return gymnasium.make_vec(
            self.id,
            self.num_envs,
            vectorization_mode=WORKERS[self._workers],
            vector_kwargs=vector_kwargs,
            wrappers=[partial(leave_group_of, os.getpid())],
            **self._arguments,
        )

    def reset(self) -> Tensor:
        if self._vec is None:
            self._vec = self._open()
        obs, _ = self._vec.reset(seed=self._seeds)
        self._seeds = None
        return self._to_tensor(obs, rows=self.num_envs)

    def reset_rows(self, mask: Tensor) -> Tensor:
        if self._vec is None:
            raise RuntimeError(f"{self.id} resets single rows only after a full reset; call env.reset() once")
        self._check_mask(mask)
        if not mask.any():
            return torch.empty((0, *self._encoding.shape), dtype=self._encoding.dtype, device=self.device)
        obs, _ = self._vec.reset(options={"reset_mask": mask.cpu().numpy()})
        return self._to_tensor(obs, rows=self.num_envs)[mask]

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._seeds = derive_seeds(seed, self.num_envs).tolist()

    def step(self, action: Tensor) -> Step:
        if self._vec is None:
            raise RuntimeError(f"{self.id} steps only after a reset, got step() first; call env.reset() once")
        self._check_action(action)
        native = action.detach().cpu().numpy().astype(self._native_action_space.dtype) + self._action_start
        raw_obs, raw_reward, ended, cut, info = self._vec.step(native)
        obs = self._to_tensor(raw_obs, rows=self.num_envs)
        reward = torch.from_numpy(raw_reward.astype(np.float32)).to(self.device)
        self._require_finite(reward, "reward")
        done = np.flatnonzero(ended | cut)
        final_obs = obs
        if done.size:
            last = [self._to_tensor(info["final_obs"][row], rows=1, first=int(row)) for row in done]
            final_obs = obs.index_copy(0, torch.from_numpy(done).to(self.device), torch.cat(last))
        return Step(obs, reward, self._flags(ended), self._flags(cut), final_obs)

    def close(self) -> None:
        """Close the envs and end their processes; a later reset opens them again."""
        if self._vec is not None:
            self._vec.close()
            self._vec = None

    def _flags(self, flags: np.ndarray) -> Tensor:
        return torch.tensor(flags, dtype=torch.bool, device=self.device)

    def _to_tensor(self, obs: Any, *, rows: int, first: int = 0) -> Tensor:
        """Lay a native obs of `rows` envs, from the row `first` on, out as one new tensor."""
        dtype = np.int64 if self._encoding.dtype == torch.int64 else np.float32
        columns = [part.reshape(rows, -1).astype(dtype) for part in native_leaves(self._native_observation_space, obs)]
        tensor = torch.from_numpy(np.concatenate(columns, axis=1)).reshape(rows, *self._encoding.shape)
        if tensor.dtype == torch.float32:
            self._require_finite(tensor, "observation", first)
        return tensor.to(self.device)

    def _require_finite(self, values: Tensor, what: str, first: int = 0) -> None:
        if values.isfinite().all():
            return
        row = first + int((~values.isfinite()).reshape(values.shape[0], -1).any(1).nonzero()[0])
        raise NonFiniteError(
            f"env {self.id} returned {what} values that are NaN or infinite in row {row}; mend the env or wrap it: an agent "
            "cannot learn from it"
        )


def leave_group_of(process: int, env: Any) -> Any:
    """In a worker of that process: leave its process group, so that Ctrl-C in a terminal and a signal to the group reach
    the run alone, which then finishes its update and ends its workers."""
    if os.getpid() != process:
        os.setpgid(0, 0)
    return env


def is_popgym(id: str) -> bool:
    return id.startswith("popgym-")


def make_single(id: str, arguments: dict[str, Any]) -> gymnasium.Env:
    """Make one env of a registered id, or say which arguments it takes."""
    if is_popgym(id):
        importlib.import_module("popgym")
    known, takes_any = constructor_options(gymnasium.spec(id).entry_point)
    unknown = [] if takes_any else [name for name in arguments if name not in known | MAKE_OPTIONS]
    if unknown:
        raise ValueError(
            f"{id} has no option {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known | {'workers'}))}, and "
            f"gymnasium.make's {', '.join(sorted(MAKE_OPTIONS))}"
        )
    try:
        return gymnasium.make(id, **arguments)
    except TypeError as error:
        if not arguments:
            raise
        raise ValueError(f"{id} does not take the options {arguments}: {error}; leave out the one it names") from error


def constructor_options(entry_point: str | Callable[..., Any] | None) -> tuple[set[str], bool]:
    """Return the names of the options an env's constructor takes, and whether it takes any others too."""
    if entry_point is None:
        return set(), True
    module, _, name = entry_point.partition(":") if isinstance(entry_point, str) else ("", "", "")
    constructor: Any = getattr(importlib.import_module(module), name) if module else entry_point
    parameters = inspect.signature(constructor).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def from_zero(space: spaces.Space) -> spaces.Space:
    """Return the space with every Discrete and MultiDiscrete in it counted from 0."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        return spaces.Discrete(space.n)
    if isinstance(space, spaces.MultiDiscrete) and space.start.any():
        return spaces.MultiDiscrete(space.nvec)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([from_zero(part) for part in space.spaces])
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, from_zero(part)) for name, part in space.spaces.items()])
    return space


def native_leaves(space: spaces.Space, value: Any) -> list[np.ndarray]:
    """Return the arrays inside a native obs (one env's or a batch) in the order of `leaves`, counted from 0."""
    if isinstance(space, spaces.Dict):
        return [leaf for name, part in space.spaces.items() for leaf in native_leaves(part, value[name])]
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, value, strict=True)
        return [leaf for part, inner in parts for leaf in native_leaves(part, inner)]
    (leaf,) = leaves(space)
    start = leaf.space.start if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)) else None
    return [np.asarray(value) if start is None else np.asarray(value) - start]


def action_start(space: spaces.Space) -> Any:
    """Return what to add to an action counted from 0."""
    return space.start if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) else np.zeros((), space.dtype)
