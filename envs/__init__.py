"""Batched envs for memory agents, and every other env behind the same contract: see BatchedEnv.

    env = mru_rl.envs.make("popgym-RepeatFirstEasy-v0", num_envs=8, seed=0)
    obs = env.reset()

`make` takes an id, `from_object` an env of yours, `register_env` gives a batched env of yours an id.
The names below are resolved on first use, so that listing ids does not wait for torch.
gymnasium.make knows the envs as `mru_rl/...` once this package was imported; `mru_rl.envs:mru_rl/...` imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mru_rl.envs.registry import register_with_gymnasium

if TYPE_CHECKING:
    from mru_rl.envs.agent_input import AgentInput
    from mru_rl.envs.base import BatchedEnv, Step, Stretch
    from mru_rl.envs.from_gymnasium.objects import from_object
    from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv
    from mru_rl.envs.from_gymnasium.vector_env import VectorEnvAsBatched
    from mru_rl.envs.input_rules import InputRules
    from mru_rl.envs.registry import Description, describe, list_ids, list_upstream_ids, make, register_env
    from mru_rl.envs.tensor_env import TensorEnv
    from mru_rl.envs.to_gymnasium.adapter import as_gymnasium
    from mru_rl.envs.to_torchrl import as_torchrl

_HOME = {
    "AgentInput": "agent_input",
    "BatchedEnv": "base",
    "Description": "registry",
    "GymnasiumEnv": "from_gymnasium.vector",
    "InputRules": "input_rules",
    "Step": "base",
    "Stretch": "base",
    "TensorEnv": "tensor_env",
    "VectorEnvAsBatched": "from_gymnasium.vector_env",
    "as_gymnasium": "to_gymnasium.adapter",
    "as_torchrl": "to_torchrl",
    "describe": "registry",
    "from_object": "from_gymnasium.objects",
    "list_ids": "registry",
    "list_upstream_ids": "registry",
    "make": "registry",
    "register_env": "registry",
}
__all__ = [
    "AgentInput",
    "BatchedEnv",
    "Description",
    "GymnasiumEnv",
    "InputRules",
    "Step",
    "Stretch",
    "TensorEnv",
    "VectorEnvAsBatched",
    "as_gymnasium",
    "as_torchrl",
    "describe",
    "from_object",
    "list_ids",
    "list_upstream_ids",
    "make",
    "register_env",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mru_rl.envs' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"mru_rl.envs.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_gymnasium()  # so that gymnasium.make finds mru_rl/... as soon as this package was imported
