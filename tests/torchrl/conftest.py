"""What the torchrl tests share: random data in torchrl's layout, and the module played step by step."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")


@pytest.fixture
def random_data():
    """Return a function from a module and a batch shape to observations, stored states and resets; seeded."""

    def draw(module, *batch: int, reset_rate: float = 0.3) -> TensorDict:
        core = module.core
        state = 0.5 * torch.randn(*batch, core.num_layers, core.state_size, dtype=core.initial_state(0).dtype)
        columns = {
            "observation": torch.randn(*batch, core.input_size, dtype=core.encoder.weight.dtype),
            STATE: state,
            "is_init": torch.rand(*batch, 1) < reset_rate,
        }
        return TensorDict(columns, batch)

    return draw


@pytest.fixture
def play():
    """Return a function that steps a module through rows [B, T] and restarts it from the stored state at is_init.

    It uses nothing but single steps without resets: the definition that recurrent mode must meet.
    """

    def steps(module, data: TensorDict) -> TensorDict:
        state = data[STATE][:, 0]
        for t in range(data.shape[1]):
            at = data[:, t].select("observation", "is_init")
            state = torch.where(at["is_init"][..., None], data[STATE][:, t], state)
            at = module(at.set(STATE, state).set("is_init", torch.zeros_like(at["is_init"])))
            state = at[NEXT_STATE]
            yield at

    return lambda module, data: torch.stack(list(steps(module, data)), dim=1)
