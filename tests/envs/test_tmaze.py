"""The passive T-maze by numbers."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from mru_rl.envs import make


def walk(env, choose) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Play one episode in every row; return the returns, the obs seen and the number of steps."""
    seen, total = [env.reset()], torch.zeros(env.num_envs)
    for steps in range(1, 1_000_000):
        step = env.step(choose(seen))
        seen.append(step.final_obs)
        total += step.reward
        if step.terminated.any():
            assert step.terminated.all()
            assert not step.truncated.any()
            return total, seen, steps
    raise AssertionError("never ended")


def follow_the_cue(seen: list[torch.Tensor]) -> torch.Tensor:
    return seen[0][:, 1].long()


@pytest.mark.parametrize("length", [1, 2, 10, 1000])
def test_following_the_cue_earns_one_after_length_plus_one_steps(length):
    env = make("mru_rl/TMaze-v0", 8, length=length)
    total, seen, steps = walk(env, follow_the_cue)
    assert total.tolist() == [1.0] * 8
    assert steps == length + 1 == env.horizon
    assert all(total >= env.success_return)
    shown = torch.stack(seen)  # [length + 2, 8, 4]
    assert shown[0, :, :2].sum(1).eq(1).all()
    assert shown[1:, :, :2].eq(0).all()
    assert shown[length, :, 2].eq(1).all()
    assert shown[..., 2].sum(0).eq(1).all()


def test_turning_against_the_cue_earns_minus_one_and_is_no_success():
    env = make("mru_rl/TMaze-v0", 8, length=3)
    total, _, _ = walk(env, lambda seen: 1 - follow_the_cue(seen))
    assert total.tolist() == [-1.0] * 8
    assert not (total >= env.success_return).any()


def test_without_memory_the_mean_return_is_zero_and_the_cue_is_a_fair_coin():
    env = make("mru_rl/TMaze-v0", 10_000, length=1, seed=0)
    total, _, _ = walk(env, lambda seen: torch.zeros(10_000, dtype=torch.int64))
    wins = int(total.gt(0).sum())
    assert stats.binomtest(wins, 10_000).pvalue > 0.01
    assert abs(total.mean()) < 0.03


def test_actions_in_the_corridor_change_nothing():
    one, other = (make("mru_rl/TMaze-v0", 4, length=5) for _ in range(2))
    assert torch.equal(one.reset(), other.reset())
    for _ in range(5):
        a, b = one.step(torch.zeros(4, dtype=torch.int64)), other.step(torch.ones(4, dtype=torch.int64))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_noise_is_uniform_within_its_width_and_new_at_every_step():
    env = make("mru_rl/TMaze-v0", 500, length=9, noise=0.25)
    _, seen, _ = walk(env, follow_the_cue)
    noise = torch.stack(seen)[..., 3]
    assert noise.abs().max() <= 0.25
    assert stats.kstest(noise.flatten().numpy(), stats.uniform(-0.25, 0.5).cdf).pvalue > 0.01
    assert noise.unique().numel() > 0.99 * noise.numel()


def test_noise_zero_switches_the_channel_off():
    _, seen, _ = walk(make("mru_rl/TMaze-v0", 4, length=4, noise=0), follow_the_cue)
    assert torch.stack(seen)[..., 3].eq(0).all()


def test_an_episode_is_drawn_as_ever_one_coin_and_then_one_number_a_step():
    """Runs trained before go on to the bit."""
    env, generator = make("mru_rl/TMaze-v0", 3, length=4, noise=0.5, seed=1), torch.Generator()
    generator.set_state(env.generator.get_state())
    _, seen, _ = walk(env, follow_the_cue)
    cue = torch.randint(2, (3,), generator=generator)
    noise = torch.stack([(2 * torch.rand(3, generator=generator) - 1) * 0.5 for _ in range(6)])
    assert torch.equal(seen[0][:, 1].long(), cue)
    assert torch.equal(torch.stack(seen)[..., 3], noise)
    assert env.options == {"length": 4, "noise": 0.5}
    assert set(env.state_dict()["tensors"]) == {"cue", "position", "noise"}


@pytest.mark.parametrize(
    ("rewards", "right", "wrong", "astray"), [("bakker", 4.0, -0.1, -0.1), ("memory-rl", 1.0, 0.0, -0.2)]
)
def test_other_rewards_pay_the_turn_differently_and_charge_for_turning_in_the_corridor(rewards, right, wrong, astray):
    env = make("mru_rl/TMaze-v0", 4, length=5, rewards=rewards)
    corridor = [2, 0, 2, 1, 2]  # twice astray
    for last, earned in (("cue", right), ("other", wrong), ("forward", wrong)):
        side = env.reset()[:, 1].long()
        turn = {"cue": side, "other": 1 - side, "forward": torch.full((4,), 2)}[last]
        steps = [env.step(action) for action in [*(torch.full((4,), a) for a in corridor), turn]]
        paid = torch.stack([step.reward for step in steps], dim=1)
        torch.testing.assert_close(paid, torch.tensor([[0, astray, 0, astray, 0, earned]] * 4))
        assert steps[-1].terminated.all()
        assert not torch.stack([step.terminated for step in steps[:-1]]).any()


def test_state_does_not_grow_with_length():
    short, long = (make("mru_rl/TMaze-v0", 3, length=length).state_dict()["tensors"] for length in (1, 10**6))
    assert {name: tensor.shape for name, tensor in short.items()} == {
        name: tensor.shape for name, tensor in long.items()
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": 0}, ValueError, "option length must be at least 1, got 0"),
        ({"length": 2.5}, TypeError, r"option length must be a whole number, got 2\.5"),
        (
            {"noise": -1.0},
            ValueError,
            r"option noise must be a number from 0 to 1e.30, got -1\.0; 0 switches the channel off",
        ),
        ({"noise": float("nan")}, ValueError, "option noise must be a number from 0 to 1e.30, got nan"),
        ({"length": 10**20}, ValueError, "option length must be at most 9007199254740992, got 100000000000000000000"),
        ({"noise": "loud"}, ValueError, "option noise must be a number from 0 to 1e.30, got 'loud'"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make("mru_rl/TMaze-v0", 2, **options)
