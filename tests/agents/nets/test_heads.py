from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from mru_rl.agents.nets.heads import action_head

SPACES = {
    "discrete": gymnasium.spaces.Discrete(5),
    "multi-discrete": gymnasium.spaces.MultiDiscrete([3, 4]),
    "box": gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_actions_given_to_the_env_lie_in_its_space(space):
    head, generator = action_head(space), torch.Generator().manual_seed(1)
    params = 3 * torch.randn(200, head.num_params)
    for action in (head.sample(params, generator), head.mode(params)):
        for one in head.to_env(action):
            assert space.contains(one.numpy().astype(space.dtype))


def test_log_probabilities_and_entropy_equal_torch_distributions():
    for name in ("discrete", "multi-discrete"):
        head = action_head(SPACES[name])
        params = torch.randn(7, 3, head.num_params)
        sizes = [head.num_params] if name == "discrete" else [3, 4]
        parts = [torch.distributions.Categorical(logits=p) for p in params.split(sizes, -1)]
        action = torch.stack([p.sample() for p in parts], -1)
        log_prob, entropy = head.log_prob_and_entropy(params, action.squeeze(-1) if name == "discrete" else action)
        want = sum(p.log_prob(a) for p, a in zip(parts, action.unbind(-1), strict=True))
        torch.testing.assert_close(log_prob, want)
        torch.testing.assert_close(entropy, sum(p.entropy() for p in parts))


def test_box_log_probabilities_and_entropy_equal_torch_distributions():
    head = action_head(SPACES["box"])
    params = torch.randn(7, 3, head.num_params).clamp(max=1.0)  # where the log-deviation is not clamped
    mean, log_std = params.chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    action = normal.sample()
    log_prob, entropy = head.log_prob_and_entropy(params, action)
    torch.testing.assert_close(log_prob, normal.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy, normal.entropy().sum(-1))


def test_samples_follow_the_probabilities_and_the_generator_alone():
    head = action_head(SPACES["discrete"])
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    first, again = (head.sample(logits.expand(40_000, 5), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    shares = torch.bincount(first, minlength=5) / 40_000
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)


def test_a_box_as_wide_as_float32_is_centred_on_zero():
    most = float(np.finfo(np.float32).max)
    head = action_head(gymnasium.spaces.Box(-most, most, (1,), np.float32))
    assert head.to_env(torch.tensor([[0.0], [1.0], [3.0]])).flatten().tolist() == [0, most, most]


def test_a_box_without_bounds_is_left_as_it_is():
    head = action_head(gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32))
    action = torch.tensor([[5.0, -7.0]])
    assert torch.equal(head.to_env(action), action)


def test_an_action_space_that_no_head_serves_is_named():
    with pytest.raises(ValueError, match=r"MultiBinary\(3\).*wrap the env"):
        action_head(gymnasium.spaces.MultiBinary(3))
