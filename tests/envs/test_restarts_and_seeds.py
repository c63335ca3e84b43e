"""reset_rows and reseed: what adapters build on."""

from __future__ import annotations

import pytest
import torch

from mru_rl.envs import list_ids, make

INPUTS = {"flatten": True, "previous_action": True, "start_flag": True, "previous_reward": True}
CASES = [(env_id, {}) for env_id in list_ids()] + [
    ("CartPole-v1", {}),
    ("popgym-BattleshipEasy-v0", {"backend": "upstream"}),
]


@pytest.mark.parametrize("inputs", [{}, INPUTS], ids=["raw", "inputs"])
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_reseed_makes_what_follows_the_next_reset_that_of_a_new_env(env_id, options, inputs, short, random_action):
    options = short(env_id) | options | inputs
    used, fresh = make(env_id, 5, seed=1, **options), make(env_id, 5, seed=2, **options)
    used.reset()
    used.step(random_action(used))
    used.reseed(2)
    assert torch.equal(used.reset(), fresh.reset())
    for _ in range(30):
        action = random_action(used)
        assert all(torch.equal(a, b) for a, b in zip(used.step(action), fresh.step(action), strict=True))


@pytest.mark.parametrize("inputs", [{}, INPUTS], ids=["raw", "inputs"])
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_reset_rows_restarts_these_rows_and_no_others(env_id, options, inputs, short, random_action):
    options = short(env_id) | options | inputs
    env = make(env_id, 4, **options)
    first = env.reset()
    env.step(random_action(env))
    twin_actions = random_action(env)
    mask = torch.tensor([False, True, True, False])
    started = env.reset_rows(mask)
    assert started.shape == (2, *first.shape[1:])
    assert started.dtype == first.dtype
    if inputs:  # null action, start flag 1, reward 0
        assert torch.equal(started[:, -3:], torch.tensor([[0.0, 1.0, 0.0]] * 2))
    assert env.reset_rows(torch.zeros(4, dtype=torch.bool)).shape == (0, *first.shape[1:])
    if env.saves_state:
        before = env.state_dict()["tensors"]
        env.reset_rows(mask)
        for name, tensor in env.state_dict()["tensors"].items():
            assert torch.equal(tensor[~mask], before[name][~mask]), name
    step = env.step(twin_actions)
    if inputs:
        assert step.final_obs[:, -2].eq(0).all()


def test_rows_reset_before_a_full_reset_are_refused_with_the_next_move():
    mask = torch.ones(2, dtype=torch.bool)
    for env_id in ("mru_rl/TMaze-v0", "CartPole-v1"):
        with pytest.raises(RuntimeError, match=r"resets single rows only after a full reset; call env\.reset\(\) once"):
            make(env_id, 2).reset_rows(mask)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(3, dtype=torch.bool), ValueError, r"bool \[2\] on cpu, got bool \[3\] on cpu; one flag per env"),
        (torch.ones(2, 1, dtype=torch.bool), ValueError, r"got bool \[2, 1\]"),
        (torch.ones(2), ValueError, r"got float32 \[2\]"),
        ([True, False], ValueError, "got list"),
    ],
)
def test_wrong_mask_is_refused(mask, error, message):
    for env_id in ("mru_rl/TMaze-v0", "CartPole-v1"):
        env = make(env_id, 2)
        env.reset()
        with pytest.raises(error, match=message):
            env.reset_rows(mask)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_wrong_seed_is_refused(seed, error):
    with pytest.raises(error, match="seed must be"):
        make("mru_rl/TMaze-v0", 2).reseed(seed)
