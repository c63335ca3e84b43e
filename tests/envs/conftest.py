"""What the env tests share: random actions for any action space, short episodes for tasks of any length."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces


@pytest.fixture
def random_action():
    """Return a function that draws one action per row from the env's action space; seeded."""
    shared = torch.Generator().manual_seed(1)

    def draw(env, generator: torch.Generator = shared) -> torch.Tensor:
        space = env.action_space
        if isinstance(space, spaces.Discrete):
            return torch.randint(int(space.n), (env.num_envs,), generator=generator)
        if isinstance(space, spaces.MultiDiscrete):
            unit = torch.rand(env.num_envs, len(space.nvec), generator=generator)
            return (unit * torch.as_tensor(space.nvec)).long()
        unit = torch.rand(env.num_envs, *space.shape, generator=generator)
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        return low + unit * (high - low)

    return draw


@pytest.fixture
def short():
    """Return a function from an id to options under which the long-horizon tasks end within a few steps."""
    return lambda env_id: {"length": 7} if env_id.startswith("mru_rl/") else {}
