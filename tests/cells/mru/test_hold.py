"""A million silent steps."""

from __future__ import annotations

import pytest
import torch

from mru_rl.cells.mru.bmru import BMRU

STEPS = 1_000_000


def held(dtype: torch.dtype) -> tuple[BMRU, torch.Tensor, torch.Tensor]:
    """A cell, a state that it wrote, and an input that writes nothing."""
    cell = BMRU(2, 4).to(dtype)
    with torch.no_grad():
        cell.input.bias[4:] = 2.0  # thresholds no silent input reaches
        cell.alpha += 0.1 * torch.randn(4, dtype=dtype)
        state = cell(torch.full((1, 1, 2), 100.0, dtype=dtype), cell.initial_state(1), torch.ones(1, 1).bool()).last
    assert (state != 0).all()
    return cell, state, torch.full((1, 2), 1e-3, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_of_a_million_silent_steps_keeps_every_bit(dtype):
    cell, state, silent = held(dtype)
    with torch.no_grad():
        out = cell(silent.expand(1, STEPS, 2), state, torch.zeros(1, STEPS, dtype=torch.bool))
    assert torch.equal(out.last, state)
    assert (out.states == state.to(out.states.dtype)).all()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_million_single_silent_steps_keep_every_bit(dtype):
    cell, state, silent = held(dtype)
    now, is_init = state, torch.zeros(1, dtype=torch.bool)
    with torch.inference_mode():
        for _ in range(STEPS):
            _, now = cell.step(silent, now, is_init)
    assert torch.equal(now, state)
