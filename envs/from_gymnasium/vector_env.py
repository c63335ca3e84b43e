"""A gymnasium VectorEnv behind the contract of BatchedEnv, whichever way it restarts the envs that have finished."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from gymnasium.wrappers.vector import NormalizeObservation
from torch import Tensor

from mru_rl.envs.actions import action_layout
from mru_rl.envs.base import BatchedEnv, Step, check_count, derive_seeds
from mru_rl.envs.columns import described, from_zero, shown_space, to_array
from mru_rl.envs.from_gymnasium.named import WORKER_OPTIONS
from mru_rl.envs.from_gymnasium.rows import MISSING, EnvError, MissingPackage, missing_package, name_of
from mru_rl.envs.from_gymnasium.said import adopt, info_of_row, said_at_end
from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv, by_name, not_made, time_limit, with_options
from mru_rl.envs.native import from_native, native_action


class VectorEnvAsBatched(BatchedEnv):
    """A gymnasium VectorEnv as a batched env; stepping either of the two moves both.

    Every transition is one of a single env, and no step that only resets is ever seen. How that is done depends on
    `metadata["autoreset_mode"]`, NEXT_STEP where the env names none, as gymnasium has it:

    SAME_STEP   the env restarts a finished row itself; `final_obs` is info["final_obs"], which must be there
    DISABLED    finished rows are restarted at once by reset(options={"reset_mask": rows}), as gymnasium asks of the caller
    NEXT_STEP   likewise, so that the step in which the env would reset a row does not come up. gymnasium's SyncVectorEnv,
                and its AsyncVectorEnv with shared memory, drop the reset they had planned when they are told to reset a
                row; another VectorEnv need not, and with several rows it is refused. One of a single row is stepped once
                more where its episode has ended

    spaces      of a single env; numbers start at 0, also where the env's own do not: see `native_observation_space`
    seeds       reset(seed=...) is called with a number drawn from `seed` at the first reset, and after `reseed`
    itself      what it says of itself as a task, in metadata["mru_rl"] or as attributes, as in GymnasiumEnv; those of the
                first env of a SyncVectorEnv count too. Without it, or where that is less, horizon is the
                max_episode_steps of its spec, or the TimeLimit of that first env
    info        success and `info_metrics` as in GymnasiumEnv, from info["final_info"] in the mode SAME_STEP
    state       cannot be saved: after a resume, episodes start fresh
    errors      EnvError if the env raises, returns what its spaces do not allow, or moves rows that a mask leaves out

    Raises TypeError if `env` is not a VectorEnv, ValueError for spaces and for a NEXT_STEP that are not supported.
    """

    def __init__(
        self,
        env: VectorEnv,
        *,
        id: str | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        options: dict[str, Any] | None = None,
        info_metrics: Sequence[str] = (),
    ) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"VectorEnvAsBatched takes a gymnasium VectorEnv, got {described(env)}; for a function that makes a single env "
                "use mru_rl.envs.from_object"
            )
        self.env, self._mode = env, _mode_of(env)
        spec, inner = env.spec, _first_env(env)
        if id is None:
            id = spec.id if spec else type(env.unwrapped).__name__ if inner is None else name_of(inner)
        self._native_observation_space = shown_space(env.single_observation_space, env.single_action_space)
        self._native_action_space = env.single_action_space
        action_layout(env.single_action_space)
        super().__init__(
            id=id,
            num_envs=env.num_envs,
            observation_space=from_zero(self._native_observation_space),
            action_space=env.single_action_space,
            seed=seed,
            device=device,
            options=(options or {}) | ({"info_metrics": tuple(info_metrics)} if info_metrics else {}),
        )
        self._info_metrics = tuple(info_metrics)
        self.metrics = ("success", *self._info_metrics)
        self._steps_once_more = _plans_resets(env)
        if self._steps_once_more and self.num_envs > 1:
            raise ValueError(
                f"{id} resets a finished row in the step after its last (autoreset_mode NEXT_STEP) while the other rows go on, "
                f"got {type(env.unwrapped).__name__} with {self.num_envs} rows; make it with autoreset_mode SAME_STEP or "
                "DISABLED, or as gymnasium's SyncVectorEnv or AsyncVectorEnv with shared memory and no NormalizeObservation"
            )
        adopt(self, env, _time_limit(env))
        self.summary = (type(env.unwrapped).__doc__ or "").strip().split("\n")[0]
        self._seed: int | None = int(derive_seeds(seed, 1)[0])
        self._seen: Tensor | None = None
        """What all rows show now; None: nothing started."""

    @property
    def native_observation_space(self) -> gymnasium.Space:
        return self._native_observation_space

    @property
    def native_action_space(self) -> gymnasium.Space:
        return self._native_action_space

    def reset(self) -> Tensor:
        seed, self._seed = self._seed, None
        return self._keep(self._reset(seed=seed))

    def reset_rows(self, mask: Tensor) -> Tensor:
        if self._seen is None:
            raise RuntimeError(f"{self.id} resets single rows only after a full reset; call env.reset() once")
        self._check_mask(mask)
        if not mask.any():
            return self._seen[mask]
        obs = self._reset() if self._steps_once_more else self._restarted(mask, self._seen)
        return self._keep(obs)[mask]

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._seed = int(derive_seeds(seed, 1)[0])

    def step(self, action: Tensor) -> Step:
        if self._seen is None:
            raise RuntimeError(f"{self.id} steps only after a reset, got step() first; call env.reset() once")
        self._check_action(action)
        native = native_action(self._native_action_space, action, batched=True)
        obs, reward, terminated, truncated, info = self._step(native)
        done = terminated | truncated
        self.ended = self._said(info, done)
        if not done.any():
            return Step(self._keep(obs), reward, terminated, truncated, obs)
        if self._mode is AutoresetMode.SAME_STEP:
            final_obs = obs.clone()
            final_obs[done] = self._final_obs(info, done)
            fresh = obs
        elif self._steps_once_more:
            final_obs = obs
            fresh, _, terminated_again, truncated_again, _ = self._step(native)
            if terminated_again or truncated_again:
                self._refuse("the step after an end must start an episode (autoreset_mode NEXT_STEP)", "another end")
        else:
            final_obs = obs
            fresh = self._restarted(done, obs)
        return Step(self._keep(fresh), reward, terminated, truncated, final_obs)

    def close(self) -> None:
        """Close the VectorEnv for good: gymnasium has no way to open one again."""
        self._seen = None
        self.env.close()

    def _keep(self, obs: Tensor) -> Tensor:
        self._seen = obs.clone()  # the caller may write into what it gets
        return obs

    def _restarted(self, mask: Tensor, shown: Tensor) -> Tensor:
        """Start fresh episodes in the rows of a mask; return what all rows show, which was `shown` before."""
        obs = self._reset(options={"reset_mask": mask.cpu().numpy()})
        before, after = shown[~mask], obs[~mask]
        same = (before == after) | ((before != before) & (after != after))  # NaN stays NaN
        if not same.all():
            row = int((~mask).nonzero()[int((~same).reshape(len(same), -1).any(1).nonzero()[0, 0]), 0])
            self._refuse(
                "reset(options={'reset_mask': rows}) must leave all other rows as they are", f"a change of row {row}"
            )
        return obs

    def _reset(self, **arguments: Any) -> Tensor:
        returned = self._call("reset()", self.env.reset, **arguments)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            self._refuse("reset() must return (obs, info)", described(returned))
        space, info = self.observation_space, returned[1]
        shown = isinstance(space, gymnasium.spaces.Dict) and "action_mask" in space.spaces
        if isinstance(info, Mapping) and "action_mask" in info and not shown:
            self._refuse(
                "an action mask of a vector env is shown in its obs, a Dict with 'action_mask'",
                "one in info; or give a function that makes a single env, whose info is read",
            )
        return self._obs(returned[0])

    def _step(self, native: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Any]:
        returned = self._call("step()", self.env.step, native)
        if not (isinstance(returned, tuple) and len(returned) == 5):
            self._refuse("step() must return (obs, reward, terminated, truncated, info)", described(returned))
        reward = self._column("reward", returned[1], "biuf").to(torch.float32)
        self._require_finite(reward, "reward", range(self.num_envs))
        terminated, truncated = (
            self._column(name, flags, "biu").to(torch.bool)
            for name, flags in zip(("terminated", "truncated"), returned[2:4], strict=True)
        )
        return self._obs(returned[0]), reward, terminated, truncated, returned[4]

    def _said(self, info: Any, done: Tensor) -> dict[str, Tensor]:
        """Return what info says of the episodes of the rows that are done, by name."""
        if self._mode is AutoresetMode.SAME_STEP and isinstance(info, Mapping):
            info = info.get("final_info", info)
        said: list[Mapping[str, float] | None] = [None] * self.num_envs
        for row in done.nonzero().flatten().tolist():
            try:
                said[row] = said_at_end(info_of_row(info, row), self._info_metrics, f"{self.id}, row {row}")
            except ValueError as error:
                raise EnvError(str(error)) from None
        return by_name(said, self.device)

    def _final_obs(self, info: Any, done: Tensor) -> Tensor:
        """Return the last obs of the rows that are done, [rows, ...], from the info of an env that restarts them itself."""
        last = info.get("final_obs") if isinstance(info, Mapping) else None
        if last is None:
            self._refuse("info must hold 'final_obs' in a step that ends an episode (autoreset_mode SAME_STEP)", "none")
        if not (isinstance(last, np.ndarray) and last.dtype == object):
            return self._obs(last)[done]
        if last.shape != (self.num_envs,):
            self._refuse(f"info['final_obs'] must hold {self.num_envs} obs", described(last))
        rows = done.nonzero().flatten().tolist()
        return torch.cat([self._obs(last[row], rows=[row]) for row in rows])

    def _obs(self, value: Any, rows: Sequence[int] | None = None) -> Tensor:
        """Return a new tensor of what some rows show; rows: the one row that `value` is an obs of; None: all of them."""
        try:
            obs, _ = from_native(self._native_observation_space, value, batched=rows is None)
        except ValueError as error:
            self._refuse(f"an obs must fit single_observation_space {self._native_observation_space}", str(error))
        if rows is None and len(obs) != self.num_envs:
            self._refuse(f"an obs must have {self.num_envs} rows", f"{len(obs)}")
        self._require_finite(self.floats(obs), "observation", range(self.num_envs) if rows is None else rows)
        return obs.to(self.device)

    def _column(self, name: str, value: Any, kinds: str) -> Tensor:
        """Return one number per row, of one of numpy's kinds, as a new tensor."""
        try:
            array = to_array(value)
        except ValueError:
            array = np.empty(0, dtype=object)
        if array.shape != (self.num_envs,) or array.dtype.kind not in kinds:
            self._refuse(f"{name} must be one number per row [{self.num_envs}]", described(value))
        return torch.tensor(array.tolist(), device=self.device)

    def _call(self, what: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except MISSING as error:
            raise MissingPackage(missing_package(self.id, error)) from error
        except Exception as error:
            raise EnvError(
                f"{what} of {self.id} raised {type(error).__name__}: {error}; mend the env", traceback.format_exc()
            ) from error

    def _refuse(self, rule: str, arrived: str) -> NoReturn:
        raise EnvError(f"{self.id}: {rule}, got {arrived}; mend the env or wrap it")


def _first_env(env: VectorEnv) -> gymnasium.Env | None:
    """Return the first single env inside a vector env if it is in this process."""
    base = env.unwrapped
    return base.envs[0] if isinstance(base, SyncVectorEnv) else None


def _time_limit(env: VectorEnv) -> tuple[int, str] | None:
    """Return the most steps of an episode, and where that is from: a single env inside, or the spec; None: unknown."""
    inner = _first_env(env)
    if inner is not None:
        return time_limit(inner)
    longest = None if env.spec is None else env.spec.kwargs.get("max_episode_steps", env.spec.max_episode_steps)
    return None if longest is None else (longest, "the env's time limit (max_episode_steps)")


def _mode_of(env: VectorEnv) -> AutoresetMode:
    return AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def _plans_resets(env: VectorEnv) -> bool:
    """Return True if a finished row may be reset in the next step even though it was told to reset before."""
    if _mode_of(env) is not AutoresetMode.NEXT_STEP:
        return False
    while isinstance(env, VectorWrapper):
        if isinstance(env, NormalizeObservation):  # refuses to reset some rows
            return True
        env = env.env
    # without shared memory gymnasium 1.4's workers keep their plan
    return not (isinstance(env, SyncVectorEnv) or (isinstance(env, AsyncVectorEnv) and bool(env.shared_memory)))


def make_vector_env(
    id: str,
    num_envs: int,
    *,
    seed: int,
    device: str | torch.device,
    options: Mapping[str, Any],
    named: dict[str, Any],
) -> BatchedEnv:
    """Make an id that has only a vector_entry_point; see `mru_rl.envs.make`. options, named: as in GymnasiumEnv.

    Where its VectorEnv resets finished rows in the step after their last and others go on meanwhile, each row is a
    VectorEnv of its own, which then has nobody to wait for: right, and slower.
    Raises ValueError for options that it does not take, for a package that is not installed, and for whatever its module
    or its constructor raises.
    """
    check_count(num_envs, name="num_envs", least=1)
    named = dict(named)
    info_metrics = named.pop("info_metrics", ())
    if "num_envs" in options:
        raise ValueError(
            f"{id} is a vector env, whose num_envs is the number of rows, got it as an option; leave it out"
        )
    own = {name: value for name, value in named.items() if name not in WORKER_OPTIONS}
    spec = with_options(gymnasium.spec(id), options)  # a process need not know the id
    vector = _make_vec(spec, num_envs, own)
    kept = own | ({"options": dict(options)} if options else {})
    if not _plans_resets(vector) or num_envs == 1:
        taken = sorted(named.keys() - own.keys())
        if taken:
            vector.close()
            raise ValueError(f"{id} is a vector env and steps its rows itself, got {', '.join(taken)}; leave it out")
        return VectorEnvAsBatched(vector, id=id, seed=seed, device=device, options=kept, info_metrics=info_metrics)
    vector.close()
    limits = {name: value for name, value in named.items() if name in WORKER_OPTIONS}
    limits["info_metrics"] = info_metrics
    env = GymnasiumEnv(factory=partial(_make_row, spec, own), num_envs=num_envs, seed=seed, device=device, **limits)
    env.options |= kept
    adopt(env, vector, _time_limit(vector))
    return env


def _make_vec(spec: EnvSpec, num_envs: int, options: dict[str, Any]) -> VectorEnv:
    try:
        return gymnasium.make_vec(spec, num_envs=num_envs, **options)
    except Exception as error:
        raise not_made(spec.id, error, options) from error


def _make_row(spec: EnvSpec, options: dict[str, Any]) -> gymnasium.Env:
    return _OneRow(_make_vec(spec, 1, options))


class _OneRow(gymnasium.Env):
    """A VectorEnv of one row that resets it in the step after its last, as a single env."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.observation_space, self.action_space = env.single_observation_space, env.single_action_space
        self.spec = env.spec
        self._last: Any = None
        """The action that ended the episode; None: it goes on."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is None and self._last is not None:
            obs, *_, info = self.env.step(self._last)  # a reset would leave the one that is planned
        else:
            obs, info = self.env.reset(seed=seed, options=options)
        self._last = None
        return self._row(obs), dict(info_of_row(info, 0))

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        actions = _batch_of_one(action)
        obs, reward, terminated, truncated, info = self.env.step(actions)
        if terminated[0] or truncated[0]:
            self._last = actions
        return self._row(obs), reward[0], terminated[0], truncated[0], dict(info_of_row(info, 0))

    def close(self) -> None:
        self.env.close()

    def _row(self, obs: Any) -> Any:
        return next(iter(iterate(self.env.observation_space, obs)))


def _batch_of_one(action: Any) -> Any:
    if isinstance(action, Mapping):
        return {name: _batch_of_one(part) for name, part in action.items()}
    return tuple(map(_batch_of_one, action)) if isinstance(action, tuple) else np.asarray(action)[None]
