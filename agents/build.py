"""From a config to its env, its memory core, its device, and torch's settings while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import gymnasium
import torch

import mru_rl.envs
from mru_rl.agents.config import GivenEnv, TrainConfig, env_name, field_types
from mru_rl.agents.console.errors import OptionError, require
from mru_rl.agents.curriculum import at_level
from mru_rl.agents.nets.encoders import InputEncoder
from mru_rl.blocks.core import MemoryCore, make_core
from mru_rl.blocks.spec import cell_options, parse_spec
from mru_rl.envs import AgentInput, BatchedEnv
from mru_rl.envs.actions import action_leaves, choices
from mru_rl.envs.from_gymnasium.named import OWN_OPTIONS, WORKER_OPTIONS
from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv
from mru_rl.envs.input_rules import InputRules

_SEEDING = threading.RLock()


def make_env(
    config: TrainConfig, num_envs: int, seed: int, options: Mapping[str, Any] = MappingProxyType({})
) -> AgentInput:
    """The env of a config, with the agent's inputs (previous action and reward, start flag) switched as it says.

    options: override those of the config. Raises ValueError for what the env does not take, and for an env that was given
    as an object and is not at hand.
    """
    kwargs = at_level(config.env_kwargs | dict(options))
    if isinstance(config.env, str):
        env = _make_by_id(config, num_envs, seed, kwargs)
    else:
        env = _make_from_object(config, num_envs, seed, kwargs)
    lacking = [name for name in config.info_metrics if name not in env.metrics]
    require(
        not lacking,
        f"{{info_metrics}} names numbers in the info of a gymnasium env, got {', '.join(lacking)} for the batched env {env.id}, "
        "which has no info; leave them out",
    )
    previous_action = not env.open_loop if config.previous_action is None else config.previous_action
    return AgentInput(
        env,
        flatten=True,
        previous_action=previous_action,
        previous_reward=config.previous_reward,
        start_flag=config.start_flag,
        frame_stack=config.frame_stack,
    )


def _wrappers(config: TrainConfig) -> tuple[str, ...]:
    """What goes around each single env, the first innermost."""
    skip = (f"mru_rl.envs.wrappers:FrameSkip({config.frame_skip})",) if config.frame_skip > 1 else ()
    return *skip, *config.wrappers


def _make_by_id(config: TrainConfig, num_envs: int, seed: int, kwargs: dict[str, Any]) -> BatchedEnv:
    workers = {name: getattr(config, name) for name in WORKER_OPTIONS} if config.workers == "process" else {}
    said: dict[str, Any] = {}
    if config.info_metrics and (config.backend == "upstream" or config.env not in mru_rl.envs.list_ids()):
        said["info_metrics"] = config.info_metrics
    try:
        return mru_rl.envs.make(
            config.env,
            num_envs,
            seed=seed,
            device=pick_device(config.device),
            backend=config.backend,
            wrappers=_wrappers(config),
            options=kwargs,
            **workers,
            **said,
        )
    except (TypeError, OverflowError) as error:
        given = " ".join(f"{name}={value!r}" for name, value in kwargs.items())
        raise ValueError(f"{config.env} cannot be made with options {given or '(none)'}: {error}") from error
    except ValueError as error:
        ours = [name for name in kwargs if name in field_types(type(config)) and f"'{name}'" in str(error)]
        if not ours:
            raise
        flags = ", ".join(f"{{{name}}}" for name in ours)
        raise OptionError(f"{error}; {{env_kwargs}} holds options of the env alone, mru-rl's own is {flags}") from error


def _make_from_object(config: TrainConfig, num_envs: int, seed: int, kwargs: dict[str, Any]) -> BatchedEnv:
    env = config.env
    require(
        not isinstance(env, GivenEnv),
        f"this run was trained in an env given from Python as an object, {env_name(env)}; give it again, as in "
        "run.evaluate(env=...) or resume(run, env=...); the command line needs a registered id",
    )
    require(
        not kwargs,
        f"an env given as an object has no options to set, got {', '.join(kwargs)}; give them where you make it",
    )
    return mru_rl.envs.from_object(
        env,
        num_envs,
        seed=seed,
        device=pick_device(config.device),
        wrappers=_wrappers(config),
        **{name: getattr(config, name) for name in OWN_OPTIONS},
    )


def modules_of(env: Any) -> tuple[str, ...]:
    """The module that an env id names before its colon; made elsewhere, the env needs it there as well."""
    module = env.rpartition(":")[0] if isinstance(env, str) else ""
    return (module,) if module else ()


def with_rows_of_env(config: TrainConfig) -> TrainConfig:
    """The config with num_envs as an env given as a batch has it; that of an id or a factory as it is."""
    rows = rows_of(config.env)
    return config if rows is None else dataclasses.replace(config, num_envs=rows)


def rows_of(env: Any) -> int | None:
    """The rows of an env given as a batch; None for an id or a factory, of which any number can be made."""
    rows = getattr(env, "num_envs", None)
    return rows if isinstance(rows, int) else None


def for_evaluation(config: TrainConfig, env: Any = None) -> TrainConfig:
    """The config with an env that evaluation can have for itself: another one that is given, or more of the same.

    A batch of envs that is given is taken as it is, an id or a factory with the config's wrappers and frame skip.
    Raises ValueError where the training env was given as an object of which no second can be made.
    """
    if env is not None:
        config = dataclasses.replace(config, env=env, env_kwargs={})
        return config if rows_of(env) is None else dataclasses.replace(config, wrappers=(), frame_skip=1)
    if rows_of(config.env) is None:
        return config
    require(
        isinstance(config.env, BatchedEnv)
        and not isinstance(config.env, GymnasiumEnv)
        and config.env.id in mru_rl.envs.list_ids(),
        f"evaluation needs an env of its own, and the training env, {env_name(config.env)}, was given as an object that "
        "cannot be made again; give one with train(..., eval_env=...) or run.evaluate(env=...)",
    )
    kwargs = dict(config.env.options)
    return dataclasses.replace(config, env=config.env.id, env_kwargs={**kwargs, **kwargs.pop("options", {})})


def make_memory(config: TrainConfig, input_size: int) -> MemoryCore:
    """The memory core of a config for inputs of some width."""
    usual = {"slope": config.surrogate_slope, "carry_share": config.carry_share}
    taken = set().union(*(cell_options(name) for layer in parse_spec(config.core) for name in layer))
    return make_core(
        config.core,
        input_size,
        config.hidden_size,
        state_size=config.state_size,
        num_layers=config.num_layers,
        read_before_write=config.read_before_write,
        **{name: value for name, value in usual.items() if name in taken} | config.core_options,
    )


def make_body(config: TrainConfig, inputs: InputRules) -> tuple[InputEncoder | None, MemoryCore]:
    """What stands before the heads of a network: the encoder, None where inputs go into the memory as they are, and the core.

    Raises ValueError for an encoder that there is not, or that the observation space does not suit, and for an action mask
    of another length than there are actions.
    """
    masked = sum(part.stop - part.start for part in inputs.mask)
    counted = [leaf for leaf in action_leaves(inputs.action_space) if not isinstance(leaf, gymnasium.spaces.Box)]
    actions = int(sum(choices(leaf).sum() for leaf in counted))
    require(
        not masked or masked == actions,
        f"an action_mask has one number for each of {actions} action(s) of {inputs.action_space}, the one that is shown has "
        f"{masked}; mend the env's observation_space",
    )
    plain = all(part.kind == "one-hot" for part in inputs.parts[: inputs.obs_parts])
    if plain and config.encoder == "auto" and not inputs.mask and not config.normalize_obs:
        return None, make_memory(config, inputs.size)
    encoder = InputEncoder(inputs, config.encoder)
    return encoder, make_memory(config, encoder.out_size)


def pick_device(device: str) -> str:
    """auto -> cuda where there is one. Raises ValueError where cuda is asked for and absent."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    require(device != "cuda" or torch.cuda.is_available(), "{device} cuda needs a GPU torch can see; use {device} cpu")
    return device


@contextlib.contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """torch with so many threads and float32 by default; afterwards its settings are what they were."""
    before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generators at a seed, for networks that are drawn inside; afterwards they go on as if nothing had been.

    One thread at a time: the generators are everybody's.
    """
    with _SEEDING, torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
