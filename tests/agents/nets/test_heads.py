from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import mru_rl
from mru_rl.agents.nets.heads import action_head
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs.native import native_action

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


@pytest.mark.parametrize("most", [1e6, 1e10, float(np.finfo(np.float32).max)])
def test_a_box_with_far_bounds_is_not_stretched_to_them_and_says_so(most):
    head = action_head(gymnasium.spaces.Box(-most, most, (1,), np.float32))
    assert head.to_env(torch.tensor([[0.0], [1.0], [3.0]])).flatten().tolist() == [0, 1, 3]
    (note,) = head.notes
    assert "bounds beyond 1,000,000" in note
    assert action_head(gymnasium.spaces.Box(-1e5, 1e5)).notes == []


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (5, np.inf, [5, 6, 8]),
        (-np.inf, 5, [2, 4, 5]),
        (-1e9, 5, [2, 4, 5]),
        (-2, 2, [-2, 0, 2]),
        (-np.inf, np.inf, [-2, 0, 2]),
    ],
)
def test_what_one_side_bounds_is_moved_there_and_keeps_its_scale(low, high, want):
    head = action_head(gymnasium.spaces.Box(low, high, (1,), np.float32))
    assert head.to_env(torch.tensor([[-2.0], [0.0], [2.0]])).flatten().tolist() == want


def test_a_box_without_bounds_is_left_as_it_is():
    head = action_head(gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32))
    action = torch.tensor([[5.0, -7.0]])
    assert torch.equal(head.to_env(action), action)


def test_an_action_space_that_no_head_serves_is_named():
    with pytest.raises(ValueError, match=r"Text\(.*wrap the env"):
        action_head(gymnasium.spaces.Text(3))


BOX = SPACES["box"]


def test_a_squashed_head_is_torchs_transformed_normal():
    head = action_head(BOX, squash=True)
    params = torch.randn(50, head.num_params).double().clamp(max=1.0).requires_grad_()
    mean, log_std = params.chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform()])
    action = head.sample(params.detach(), torch.Generator().manual_seed(0))
    log_prob, entropy = head.log_prob_and_entropy(params, action)
    torch.testing.assert_close(log_prob, squashed.log_prob(action.tanh()).sum(-1))
    many = normal.sample((100_000,))
    estimate = -(normal.log_prob(many) - squashed.transforms[0].log_abs_det_jacobian(many, many.tanh())).sum(-1).mean(0)
    torch.testing.assert_close(entropy, estimate, atol=0.05, rtol=0)
    (got,) = torch.autograd.grad((log_prob + entropy).sum(), params)
    assert got.isfinite().all()


def test_log_probability_and_gradient_of_a_squashed_action_far_out_are_finite():
    head = action_head(BOX, squash=True)
    params = torch.tensor([[40.0, -40.0, 1.0, -9.0]], requires_grad=True)
    for action in (params[:, :2].detach(), torch.tensor([[-90.0, 90.0]])):
        log_prob, entropy = head.log_prob_and_entropy(params, action)
        (got,) = torch.autograd.grad((log_prob + entropy).sum(), params)
        assert torch.cat([log_prob, entropy, got.flatten()]).isfinite().all()


def test_a_wide_spread_has_less_entropy_once_it_is_squashed():
    head = action_head(gymnasium.spaces.Box(-1, 1, (1,)), squash=True)
    log_std = torch.tensor([-2.0, 0.0, 1.0], requires_grad=True)
    entropy = head.log_prob_and_entropy(torch.stack([torch.zeros(3), log_std], -1), torch.zeros(3, 1))[1]
    (slope,) = torch.autograd.grad(entropy.sum(), log_std)
    assert entropy.max() < np.log(2), "that of the uniform distribution on [-1, 1]"
    assert slope[0] > 0.9
    assert slope[2] < 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("squash", [False, True])
def test_actions_of_any_float_lie_in_their_box_at_both_ends(dtype, squash):
    space = gymnasium.spaces.Box(np.array([-0.1, 0.3], dtype), np.array([0.7, 1000.1], dtype), dtype=dtype)
    head = action_head(space, squash=squash)
    for number in (-50.0, -1.0, -0.3, 0.0, 0.2, 1.0, 50.0):
        action = head.to_env(head.mode(torch.full((1, 4), number)))
        assert space.contains(native_action(space, action, batched=False))
    middle = head.to_env(head.mode(torch.tensor([[0.5, -0.5, 0.0, 0.0]])))
    share = np.tanh(0.5) if squash else 0.5
    torch.testing.assert_close(
        middle, torch.tensor([[0.3 + 0.4 * share, 500.2 - 499.9 * share]]).float(), rtol=2e-3, atol=0
    )


def test_a_learned_spread_is_one_vector_that_begins_at_one_and_learns():
    space = gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(3), BOX, gymnasium.spaces.Discrete(2)])
    head = action_head(space, gaussian_std="learned")
    assert head.learned == (5, 6)
    policy = ActorCritic(mru_rl.make_core("bmru", 4, 8), head.num_params, learned=head.learned)
    params, _ = policy.read(torch.randn(7, 8))
    assert params.shape == (7, 9)
    assert (params[:, [5, 6]] == 0).all()
    assert (params[:, [0, 1, 2, 3, 4, 7, 8]] != 0).all()
    action = head.sample(params.detach(), torch.Generator().manual_seed(0))
    log_prob, entropy = head.log_prob_and_entropy(params, action)
    (log_prob + entropy).sum().backward()
    assert (policy.actor.learned.grad != 0).all()


def test_a_mixed_head_is_its_parts_side_by_side():
    space = gymnasium.spaces.Dict(
        {"a": gymnasium.spaces.Discrete(5), "b": BOX, "c": gymnasium.spaces.MultiDiscrete([3, 4])}
    )
    head = action_head(space)
    parts = [action_head(part) for part in space.values()]
    params = torch.randn(6, 2, head.num_params)
    action = head.sample(params, torch.Generator().manual_seed(1))
    assert (action.dtype, action.shape) == (torch.float32, (6, 2, 5))
    log_prob, entropy = head.log_prob_and_entropy(params, action)
    split = params.split([part.num_params for part in parts], -1)
    chosen = [action[..., 0].long(), action[..., 1:3], action[..., 3:].long()]
    pairs = [part.log_prob_and_entropy(p, a) for part, p, a in zip(parts, split, chosen, strict=True)]
    torch.testing.assert_close(log_prob, sum(pair[0] for pair in pairs))
    torch.testing.assert_close(entropy, sum(pair[1] for pair in pairs))
    env_action, mode = head.to_env(action), head.to_env(head.mode(params))
    assert torch.equal(env_action[..., 1:3], parts[1].to_env(action[..., 1:3]))
    assert torch.equal(mode[..., 3:], parts[2].mode(split[2]).float())
    assert torch.equal(mode[..., 0], parts[0].mode(split[0]).float())


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        (
            gymnasium.spaces.Discrete(3),
            {"squash": True},
            r"squash.* is for Box actions, got Discrete\(3\); leave it out",
        ),
        (
            gymnasium.spaces.MultiBinary(3),
            {"gaussian_std": "learned"},
            "gaussian_std.* is for Box actions, got MultiBinary",
        ),
        (
            gymnasium.spaces.Box(0, np.inf, (2,)),
            {"squash": True},
            "none of Box.* has two within a million; leave it out",
        ),
    ],
)
def test_an_option_for_boxes_is_refused_where_it_changes_nothing(space, options, words):
    with pytest.raises(ValueError, match=words):
        action_head(space, **options)
