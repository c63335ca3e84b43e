from __future__ import annotations

import pytest
from torch import nn

import mru_rl
from mru_rl.blocks.budget import count_parameters, flops_per_step, state_size_for_parameters


def test_parameters_are_those_that_train():
    layer = nn.Linear(3, 2)
    assert count_parameters(layer) == 8
    layer.bias.requires_grad_(False)
    assert count_parameters(layer) == 6


def test_flops_count_two_for_every_weight_a_step_multiplies_by():
    core = mru_rl.make_core("bmru", 5, 16, state_size=8)
    products = 5 * 16 + 16 * 2 * 8 + 2 * 8 * 16  # encoder; candidate and threshold; mix of the state after and before
    assert flops_per_step(core) == 2 * products


@pytest.mark.parametrize("spec", ["bmru", "lru", "gru", "bmru+mingru", "bmru,lru"])
def test_a_core_of_the_found_state_size_has_as_many_parameters_as_asked_for(spec):
    size = state_size_for_parameters(spec, 5, 16, 3000)
    found = count_parameters(mru_rl.make_core(spec, 5, 16, state_size=size))
    assert abs(found - 3000) <= 300
