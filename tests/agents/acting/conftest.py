from __future__ import annotations

import gymnasium
import pytest


class Poisoned(gymnasium.Env):
    """Returns a reward, and an observation of one size, that are given, at its fifth step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, reward: float = 0.0, size: float = 1.0) -> None:
        self.fifth = reward, size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.low.copy(), {}

    def step(self, action):
        self.count += 1
        reward, size = self.fifth if self.count == 5 else (0.0, 1.0)
        return self.observation_space.low * size, reward, False, False, {}


@pytest.fixture
def poisoned():
    """The id of an env whose fifth step can be made to return NaN or infinity."""
    gymnasium.register("mru_rl-tests/Poisoned-v0", Poisoned)
    yield "mru_rl-tests/Poisoned-v0"
    del gymnasium.registry["mru_rl-tests/Poisoned-v0"]
