"""Any gymnasium env behind the same contract, upstream popgym included: stepped one by one or in worker processes."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from mru_rl.envs.actions import action_layout
from mru_rl.envs.base import BatchedEnv, Step, check_count, derive_seeds
from mru_rl.envs.columns import described, from_zero, shown_space
from mru_rl.envs.from_gymnasium.named import WORKER_OPTIONS, Wrapper, make_wrapped, raised, split_wrappers, wrap
from mru_rl.envs.from_gymnasium.rows import MISSING, EnvError, Rows, missing_package, name_of
from mru_rl.envs.from_gymnasium.said import adopt, layers
from mru_rl.envs.from_gymnasium.workers import WorkerRows
from mru_rl.envs.native import native_action, native_rows
from mru_rl.envs.wrappers import FrameSkip, MaskFromInfo, masks_in_info

MAKE_OPTIONS = {"max_episode_steps", "disable_env_checker", "render_mode"}
"""Options of gymnasium.make itself, open to every id."""
WORKERS = ("sync", "process")


class GymnasiumEnv(BatchedEnv):
    """A gymnasium id, or a function that makes a gymnasium env, as a batched env.

    A finished row restarts in the same step, so that no phantom transition is ever seen.

    id          a registered id; or None with `factory`, called without arguments once per row and once to look at the
                spaces. The id is then that of the env's spec, or the name of its class
    options     workers: "sync" steps the envs one after the other here, "process" gives each a daemon process (a
                script that uses those keeps its code under `if __name__ == "__main__":`; a factory is sent there by
                cloudpickle). A process that dies, raises or does not answer within `worker_seconds` is replaced and the
                row's episode cut (truncated), up to `worker_restarts` times; then EnvError is raised. With an id,
                everything else goes to the env's constructor or to gymnasium.make, and what is in `options` to the
                constructor under any name, those of the parameters here included
    wrappers    around each env, the first innermost: "module:Name", "module:Name(2, x=3)" or functions env -> env, which
                go to worker processes by cloudpickle
    masks       info["action_mask"], if there is one after a reset, is shown beside the obs: see wrappers.MaskFromInfo
    spaces      numbers start at 0, also where the env's own do not: see `native_observation_space`; obs and action are laid
                out as BatchedEnv says, and the env gets actions of its own space
    seeds       row i is seeded once, from `seed` and i; later episodes go on with the env's own generator
    itself      an env may say horizon, credit_horizon, open_loop, success_return, perfect_return and memoryless_return,
                which mean what they do in BatchedEnv: in metadata["mru_rl"], a dict, which counts first, or as attributes
                of its own or of a wrapper, of which the outermost counts. Without it, or where that is less, horizon is
                the limit of a TimeLimit around it, which gymnasium.make puts there by the id's max_episode_steps, or
                upstream popgym's max_episode_length; success_return is the id's reward_threshold. See `sources`
    info        of the last step of an episode: "is_success" or else "success", a truth value or a number, is the metric
                "success"; info_metrics names others, one number each. See `ended`
    pictures    with render_mode="rgb_array" and workers="sync"
    state       cannot be saved: after a resume, episodes start fresh

    Raises ValueError for options that the env does not take, a package that is not installed and spaces that are not
    supported, TypeError for a factory that does not return a gymnasium.Env.
    """

    def __init__(
        self,
        *,
        id: str | None = None,
        num_envs: int,
        factory: Callable[[], gymnasium.Env] | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        workers: str = "sync",
        worker_seconds: float = 60.0,
        worker_restarts: int = 10,
        info_metrics: Sequence[str] = (),
        wrappers: str | Sequence[Wrapper] = (),
        options: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> None:
        if (id is None) == (factory is None) or (factory is not None and (named or options)):
            raise ValueError(
                f"an env is made from an id and options or from a factory alone, got id={id!r}, factory={factory!r} and "
                f"options {named | dict(options or {})}; give options inside the factory"
            )
        wrappers = split_wrappers(wrappers)
        if workers not in WORKERS:
            raise ValueError(f"workers must be one of {sorted(WORKERS)}, got {workers!r}; use 'sync' for cheap envs")
        check_count(num_envs, name="num_envs", least=1)
        check_count(worker_restarts, name="worker_restarts", least=0)
        if not worker_seconds > 0:
            raise ValueError(f"worker_seconds must be positive, got {worker_seconds}; give how long a step may take")
        if id is not None:
            arguments = named if not is_popgym(id) else {"disable_env_checker": True, **named}
            probe = make_single(id, arguments, options or {})
            spec = with_options(gymnasium.spec(id), options or {})
            self._make: Callable[[], gymnasium.Env] = partial(gymnasium.make, spec, **arguments)
        else:
            assert factory is not None
            probe, self._make = call_factory(factory), factory
            id = name_of(probe)
        if wrappers:
            probe, self._make = wrap(probe, wrappers), partial(make_wrapped, self._make, wrappers)
        if masks_in_info(probe):
            probe, self._make = MaskFromInfo(probe), partial(make_wrapped, self._make, (MaskFromInfo,))
        try:
            action_layout(probe.action_space)
            self._native_observation_space = shown_space(probe.observation_space, probe.action_space)
            self._native_action_space = probe.action_space
            super().__init__(
                id=id,
                num_envs=num_envs,
                observation_space=from_zero(self._native_observation_space),
                action_space=probe.action_space,
                seed=seed,
                device=device,
                options={
                    "workers": workers,
                    "worker_seconds": worker_seconds,
                    "worker_restarts": worker_restarts,
                    **({"info_metrics": tuple(info_metrics)} if info_metrics else {}),
                    **({"wrappers": wrappers} if wrappers else {}),
                    **named,
                    **({"options": dict(options)} if options else {}),
                },
            )
            limit = time_limit(probe)
            if limit is None and is_popgym(id):
                longest = getattr(probe.unwrapped, "max_episode_length", None)
                skipped = math.prod(layer.frames for layer in layers(probe) if isinstance(layer, FrameSkip))
                limit = None if longest is None else (-(-longest // skipped), "the env's max_episode_length")
            adopt(self, probe, limit)
            self.summary = (type(probe.unwrapped).__doc__ or "").strip().split("\n")[0]
            self.can_render = workers == "sync" and probe.render_mode == "rgb_array"
        finally:
            probe.close()
        self._seeds: list[int] | None = derive_seeds(seed, num_envs).tolist()
        self._rows: Rows | WorkerRows | None = None
        self._restarts_before = 0
        self._workers = workers
        self._worker_limits: dict[str, Any] = {"seconds": worker_seconds, "restarts": worker_restarts}
        self._info_metrics = tuple(info_metrics)
        self.metrics = ("success", *self._info_metrics)

    @property
    def native_observation_space(self) -> gymnasium.Space:
        return self._native_observation_space

    @property
    def native_action_space(self) -> gymnasium.Space:
        return self._native_action_space

    def _open(self) -> Rows | WorkerRows:
        if self._workers == "process":
            return WorkerRows(self._make, self.num_envs, metrics=self._info_metrics, **self._worker_limits)
        return Rows(self._make, self.num_envs, metrics=self._info_metrics)

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
        space = self._native_action_space
        native = native_rows(space, native_action(space, action, batched=True))
        shown, paid, ended, cut, last, said = zip(*self._ask(self._rows.step, native), strict=True)
        obs = self._to_tensor(shown, range(self.num_envs))
        reward = torch.tensor(paid, dtype=torch.float32, device=self.device)
        self._require_finite(reward, "reward", range(self.num_envs))
        done = [row for row, final in enumerate(last) if final is not None]
        final_obs = obs
        self.ended = by_name(said, self.device) if done else {}
        if done:
            finals = self._to_tensor([last[row] for row in done], done)
            final_obs = obs.index_copy(0, torch.tensor(done, device=self.device), finals)
        return Step(obs, reward, self._flags(ended), self._flags(cut), final_obs)

    def _ask(self, method: Callable[..., Any], *args: Any) -> Any:
        """Return what the rows answer; if one of them fails for good, close all of them."""
        try:
            return method(*args)
        except EnvError:
            self.close()
            raise

    @property
    def worker_restarts(self) -> int:  # type: ignore[override]
        """Number of worker processes that were replaced so far."""
        return self._restarts_before + (0 if self._rows is None else self._rows.restarts)

    def render(self) -> np.ndarray:
        """Return a picture of row 0 as it is now, uint8 [height, width, 3]; see `final_frame` for the end of an episode."""
        if not self.can_render:
            return super().render()
        if self._rows is None:
            raise RuntimeError(f"{self.id} draws only after a reset; call env.reset() once")
        assert isinstance(self._rows, Rows)
        return self._rows.rows[0].draw()

    @property
    def final_frame(self) -> np.ndarray | None:  # type: ignore[override]
        """Last picture of the episode of row 0 that the last step ended; None: it ended none, or the env draws none."""
        return self._rows.rows[0].final_frame if isinstance(self._rows, Rows) else None

    def close(self) -> None:
        """Close the envs and end their processes; a later reset opens them again."""
        if self._rows is not None:
            self._restarts_before = self.worker_restarts
            rows, self._rows = self._rows, None
            rows.close()

    def _flags(self, flags: Sequence[bool]) -> Tensor:
        return torch.tensor(flags, dtype=torch.bool, device=self.device)

    def _to_tensor(self, obs: Sequence[np.ndarray], rows: Sequence[int]) -> Tensor:
        """Return one new tensor of what some rows show."""
        tensor = torch.from_numpy(np.stack(obs)).reshape(len(obs), *self._encoding.shape)
        self._require_finite(self.floats(tensor), "observation", rows)
        return tensor.to(self.device)


def is_popgym(id: str) -> bool:
    """Return True for an id of upstream popgym."""
    return id.startswith("popgym-")


def make_single(id: str, arguments: dict[str, Any], options: Mapping[str, Any]) -> gymnasium.Env:
    """Make one env of a registered id. arguments: for gymnasium.make; options: for the constructor, whatever their names.

    Raises ValueError for arguments that it does not take, naming those it takes, for a package that is missing, and for
    whatever its module or its constructor raises.
    """
    if is_popgym(id):
        importlib.import_module("popgym")
    spec, given = gymnasium.spec(id), {**arguments, **options}
    try:
        known, takes_any = constructor_options(spec.entry_point)
    except Exception as error:
        raise not_made(id, error) from error
    open_to_all = MAKE_OPTIONS - options.keys()
    unknown = [] if takes_any else [name for name in given if name not in known | open_to_all]
    if unknown:
        has = sorted((known | WORKER_OPTIONS) - set(unknown))
        raise ValueError(
            f"{id} has no option {', '.join(map(repr, unknown))}; it has {', '.join(has)}, and gymnasium.make's "
            f"{', '.join(sorted(MAKE_OPTIONS))}"
        )
    try:
        return gymnasium.make(with_options(spec, options), **arguments)
    except Exception as error:
        raise not_made(id, error, given) from error


def with_options(spec: EnvSpec, options: Mapping[str, Any]) -> EnvSpec:
    """Return the spec with more options for the constructor, which may have names that gymnasium.make has itself."""
    if options:
        spec = copy.copy(spec)
        spec.kwargs = {**spec.kwargs, **options}
    return spec


def not_made(id: str, error: Exception, options: Mapping[str, Any] | None = None) -> ValueError:
    """Return the error for what an env's module or constructor raised, in one line."""
    if isinstance(error, MISSING):
        return ValueError(missing_package(id, error))
    if options and isinstance(error, TypeError):
        return ValueError(f"{id} does not take the options {dict(options)}: {error}; leave out the one it names")
    return ValueError(f"{id} cannot be made, it {raised(error, 'mend it, or change its options')}")


def call_factory(factory: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Return the env that a factory makes. Raises TypeError if it takes arguments or returns no gymnasium.Env."""
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise TypeError(
            f"a factory is called without arguments, got {factory!r} ({error}); wrap it: lambda: {_name(factory)}(...)"
        ) from None
    except ValueError:  # built in, without a signature
        pass
    env = factory()
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            f"a factory must return a gymnasium.Env, got {described(env)}; give VectorEnvs and batched envs as they are, "
            "without a function around them"
        )
    return env


def _name(factory: Any) -> str:
    return getattr(factory, "__name__", type(factory).__name__)


def time_limit(env: gymnasium.Env) -> tuple[int, str] | None:
    """Return the most steps an episode can take by the TimeLimits around an env, and where that is from; None: unknown.

    Steps are those of the outermost wrapper: a limit inside a FrameSkip is reached in fewer.

    The max_episode_steps of a spec alone cut nothing: gymnasium.make puts a TimeLimit there for it.
    """
    limits, skipped = [], 1
    for layer in layers(env):
        skipped *= layer.frames if isinstance(layer, FrameSkip) else 1
        if isinstance(layer, gymnasium.wrappers.TimeLimit):
            limits.append((-(-layer._max_episode_steps // skipped), layer._max_episode_steps))
    if not limits:
        return None
    shortest, counted = min(limits)
    of_id = env.spec is not None and env.spec.max_episode_steps == counted
    return shortest, "the env's time limit (max_episode_steps)" if of_id else "a TimeLimit around the env"


def by_name(said: Sequence[Mapping[str, float] | None], device: torch.device) -> dict[str, Tensor]:
    """Return what rows say, float32 [B] by name, NaN in rows that do not."""
    rows = [row or {} for row in said]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: torch.tensor([row.get(name, math.nan) for row in rows], device=device) for name in names}


def success_return(env: gymnasium.Env) -> float | None:
    """Return what the env or a wrapper calls success_return, or else the reward_threshold of its spec; None: unknown."""
    named = env.get_wrapper_attr("success_return") if env.has_wrapper_attr("success_return") else None
    return named if named is not None or env.spec is None else env.spec.reward_threshold


def constructor_options(entry_point: str | Callable[..., Any] | None) -> tuple[set[str], bool]:
    """Return the names of the options an env's constructor takes, and whether it takes any others too."""
    if entry_point is None:
        return set(), True
    module, _, name = entry_point.partition(":") if isinstance(entry_point, str) else ("", "", "")
    constructor: Any = getattr(importlib.import_module(module), name) if module else entry_point
    try:
        parameters = inspect.signature(constructor).parameters.values()
    except ValueError:  # built in, without a signature
        return set(), True
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)
