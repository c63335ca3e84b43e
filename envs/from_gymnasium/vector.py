"""Any gymnasium env behind the same contract, upstream popgym included: stepped one by one or in worker processes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.actions import action_layout
from mru_rl.envs.base import BatchedEnv, NonFiniteError, Step, check_count, derive_seeds
from mru_rl.envs.from_gymnasium.rows import EnvError, Rows
from mru_rl.envs.from_gymnasium.workers import WorkerRows

MAKE_OPTIONS = {"max_episode_steps", "disable_env_checker", "render_mode"}
"""Options of gymnasium.make itself, open to every id."""
WORKERS = ("sync", "process")
WORKER_OPTIONS = {"workers", "worker_seconds", "worker_restarts"}


class GymnasiumEnv(BatchedEnv):
    """A gymnasium id as a batched env; restarts in the same step, so that no phantom transition is ever seen.

    options     workers: "sync" steps the envs one after the other here, "process" gives each a daemon process (a
                script that uses those keeps its code under `if __name__ == "__main__":`). A process that dies, raises
                or does not answer within `worker_seconds` is replaced and the row's episode cut (truncated), up to
                `worker_restarts` times; then EnvError is raised. Everything else goes to the env's constructor or
                to gymnasium.make
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
        worker_seconds: float = 60.0,
        worker_restarts: int = 10,
        **options: Any,
    ) -> None:
        if workers not in WORKERS:
            raise ValueError(f"workers must be one of {sorted(WORKERS)}, got {workers!r}; use 'sync' for cheap envs")
        check_count(num_envs, name="num_envs", least=1)
        check_count(worker_restarts, name="worker_restarts", least=0)
        if not worker_seconds > 0:
            raise ValueError(f"worker_seconds must be positive, got {worker_seconds}; give how long a step may take")
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
                options={
                    "workers": workers,
                    "worker_seconds": worker_seconds,
                    "worker_restarts": worker_restarts,
                    **options,
                },
            )
            self.horizon = probe.spec.max_episode_steps if probe.spec else None
            if self.horizon is None and is_popgym(id):
                self.horizon = getattr(probe.unwrapped, "max_episode_length", None)
            self.success_return = probe.spec.reward_threshold if probe.spec else None
            self.summary = (inspect.getdoc(type(probe.unwrapped)) or "").split("\n")[0]
        finally:
            probe.close()
        self._seeds: list[int] | None = derive_seeds(seed, num_envs).tolist()
        self._rows: Rows | WorkerRows | None = None
        self._restarts_before = 0
        self._make = partial(gymnasium.make, gymnasium.spec(id), **arguments)
        self._workers = workers
        self._worker_limits: dict[str, Any] = {"seconds": worker_seconds, "restarts": worker_restarts}
        self._action_start = action_start(self._native_action_space)

    def _open(self) -> Rows | WorkerRows:
        if self._workers == "process":
            return WorkerRows(self._make, self.num_envs, **self._worker_limits)
        return Rows(self._make, self.num_envs)

    def reset(self) -> Tensor:
        if self._rows is None:
            self._rows = self._open()
        seeds: Sequence[int | None] = self._seeds or [None] * self.num_envs
        self._seeds = None
        return self._to_tensor(self._ask(self._rows.reset, range(self.num_envs), seeds), range(self.num_envs))

    def reset_rows(self, mask: Tensor) -> Tensor:
        if self._rows is None:
            raise RuntimeError(f"{self.id} resets single rows only after a full reset; call env.reset() once")
        self._check_mask(mask)
        chosen = mask.nonzero().flatten().tolist()
        if not chosen:
            return torch.empty((0, *self._encoding.shape), dtype=self._encoding.dtype, device=self.device)
        return self._to_tensor(self._ask(self._rows.reset, chosen, [None] * len(chosen)), chosen)

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._seeds = derive_seeds(seed, self.num_envs).tolist()

    def step(self, action: Tensor) -> Step:
        if self._rows is None:
            raise RuntimeError(f"{self.id} steps only after a reset, got step() first; call env.reset() once")
        self._check_action(action)
        native = action.detach().cpu().numpy().astype(self._native_action_space.dtype) + self._action_start
        shown, paid, ended, cut, last = zip(*self._ask(self._rows.step, native), strict=True)
        obs = self._to_tensor(shown, range(self.num_envs))
        reward = torch.tensor(paid, dtype=torch.float32, device=self.device)
        self._require_finite(reward, "reward", range(self.num_envs))
        done = [row for row, final in enumerate(last) if final is not None]
        final_obs = obs
        if done:
            finals = self._to_tensor([last[row] for row in done], done)
            final_obs = obs.index_copy(0, torch.tensor(done, device=self.device), finals)
        return Step(obs, reward, self._flags(ended), self._flags(cut), final_obs)

    def _ask(self, method: Callable[..., Any], *args: Any) -> Any:
        """What the rows answer; where one of them fails for good, all of them are closed."""
        try:
            return method(*args)
        except EnvError:
            self.close()
            raise

    @property
    def worker_restarts(self) -> int:  # type: ignore[override]
        """Worker processes that were replaced so far."""
        return self._restarts_before + (0 if self._rows is None else self._rows.restarts)

    def close(self) -> None:
        """Close the envs and end their processes; a later reset opens them again."""
        if self._rows is not None:
            self._restarts_before = self.worker_restarts
            rows, self._rows = self._rows, None
            rows.close()

    def _flags(self, flags: Sequence[bool]) -> Tensor:
        return torch.tensor(flags, dtype=torch.bool, device=self.device)

    def _to_tensor(self, obs: Sequence[np.ndarray], rows: Sequence[int]) -> Tensor:
        """One new tensor of what some rows show."""
        tensor = torch.from_numpy(np.stack(obs)).reshape(len(obs), *self._encoding.shape)
        if tensor.dtype == torch.float32:
            self._require_finite(tensor, "observation", rows)
        return tensor.to(self.device)

    def _require_finite(self, values: Tensor, what: str, rows: Sequence[int]) -> None:
        if not self.refuse_nonfinite or values.isfinite().all():
            return
        row = rows[int((~values.isfinite()).reshape(values.shape[0], -1).any(1).nonzero()[0])]
        raise NonFiniteError(
            f"env {self.id} returned {what} values that are NaN or infinite in row {row}; mend the env or wrap it: an agent "
            "cannot learn from it"
        )


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
            f"{id} has no option {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known | WORKER_OPTIONS))}, and "
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


def action_start(space: spaces.Space) -> Any:
    """Return what to add to an action counted from 0."""
    return space.start if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) else np.zeros((), space.dtype)
