from __future__ import annotations

import gymnasium
import torch

import mru_rl
from mru_rl.agents.nets.activations import bytes_to_learn_from
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs.input_rules import InputRules


def test_wider_networks_and_inputs_take_more_and_a_step_takes_at_least_its_input():
    def taken(width: int, size: int) -> int:
        rules = InputRules(gymnasium.spaces.Box(-1, 1, (size,)), gymnasium.spaces.Discrete(2))
        policy = ActorCritic(mru_rl.make_core("bmru+mingru", rules.size, width), 2)
        before = [p.clone() for p in policy.parameters()]
        found = bytes_to_learn_from(policy, rules)
        assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, policy.parameters(), strict=True))
        return found

    narrow = taken(16, 4)
    assert 4 * 4 < narrow < 16 * 400
    assert 3 < taken(64, 4) / narrow < 5
    assert taken(16, 1004) - narrow >= 1000 * 4
