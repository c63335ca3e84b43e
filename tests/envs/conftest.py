"""What the env tests share: random actions for any action space, and upstream's deck dealt by the port."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from mru_rl.envs.popgym import deck


@pytest.fixture
def random_action():
    """Return a function that draws one action per row from the env's action space; seeded."""
    generator = torch.Generator().manual_seed(1)

    def draw(env):
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
def deal(monkeypatch):
    """Return a function that makes every row of every port be dealt upstream's hidden deck from now on."""

    def deal_from(upstream):
        cards = deck.dealt_from(upstream.unwrapped.deck.idx.copy())
        monkeypatch.setattr(deck, "shuffled", lambda rows, num_cards, *, generator: cards.repeat(rows, 1))

    return deal_from
