"""From a config to its env, its memory and its device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

import mru_rl.envs
from mru_rl.agents.config import TrainConfig
from mru_rl.agents.console.errors import require
from mru_rl.agents.curriculum import at_level
from mru_rl.blocks.core import MemoryCore, make_core
from mru_rl.blocks.spec import cell_options, parse_spec
from mru_rl.envs import AgentInput
from mru_rl.envs.from_gymnasium.vector import WORKER_OPTIONS


def make_env(
    config: TrainConfig, num_envs: int, seed: int, options: Mapping[str, Any] = MappingProxyType({})
) -> AgentInput:
    """The env of a config, with the agent's inputs (previous action and reward, start flag) switched as it says.

    options: override those of the config. Raises ValueError for what the env does not take.
    """
    kwargs = at_level(config.env_kwargs | dict(options))
    own = {*inspect.signature(mru_rl.envs.make).parameters, *WORKER_OPTIONS}  # what has an option of the command
    taken = sorted((own - {"state"}) & set(kwargs))
    require(not taken, f"{', '.join(taken)} cannot be set through --env-kwargs; see `mru-rl train ppo --help`")
    if config.workers == "process":
        kwargs |= {name: getattr(config, name) for name in WORKER_OPTIONS}
    try:
        env = mru_rl.envs.make(
            config.env, num_envs, seed=seed, device=pick_device(config.device), backend=config.backend, **kwargs
        )
    except (TypeError, OverflowError) as error:
        given = " ".join(f"{name}={value!r}" for name, value in kwargs.items())
        raise ValueError(f"{config.env} cannot be made with options {given or '(none)'}: {error}") from error
    previous_action = not env.open_loop if config.previous_action is None else config.previous_action
    return AgentInput(
        env, flatten=True, previous_action=previous_action,
        previous_reward=config.previous_reward, start_flag=config.start_flag,
    )  # fmt: skip


def make_memory(config: TrainConfig, env: Any) -> MemoryCore:
    """The memory core of a config for an env's inputs."""
    options: dict[str, Any] = {"read_before_write": config.read_before_write}
    taken = set().union(*(cell_options(name) for layer in parse_spec(config.core) for name in layer))
    if "slope" in taken:  # an option only memory recurrent units take
        options["slope"] = config.surrogate_slope
    return make_core(
        config.core, env.obs_size, config.hidden_size,
        state_size=config.state_size, num_layers=config.num_layers, **options,
    )  # fmt: skip


def pick_device(device: str) -> str:
    """auto -> cuda where there is one. Raises ValueError where cuda is asked for and absent."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    require(device != "cuda" or torch.cuda.is_available(), "--device cuda needs a GPU torch can see; use --device cpu")
    return device
