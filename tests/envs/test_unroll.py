"""Many steps at once against as many single steps, and what is refused."""

from __future__ import annotations

import pytest
import torch

from mru_rl.envs import describe, list_ids, make

VARIANTS = [
    ("mru_rl/TMaze-v0", {"rewards": "bakker"}),
    ("mru_rl/TMaze-v0", {"rewards": "memory-rl", "noise": 0.0}),
    ("mru_rl/RecallFirst-v0", {"ask": "always", "symbols": 3}),
    ("mru_rl/RecallFirst-v0", {"state": "append"}),
    ("mru_rl/RecallFirst-v0", {"pixels": True, "state": "append"}),
    ("mru_rl/Contamination-v0", {"burst": 3}),
    ("mru_rl/Contamination-v0", {"burst": 3, "pixels": True}),
    ("mru_rl/DelayedRecall-v0", {"bits": 3, "symbols": 2, "numbered": False, "delay": 0}),
    ("mru_rl/DelayedRecall-v0", {"state": "append"}),
    ("mru_rl/TMaze-v0", {"pixels": True}),
    ("mru_rl/KeyDoor-v0", {"pixels": True}),
    ("mru_rl/KeyDoor-v0", {"state": "only"}),
    ("mru_rl/FlipFlop-v0", {"hold": 2, "state": "only"}),
    ("mru_rl/EventCount-v0", {"gap": 2, "modulus": 3, "state": "append"}),
    ("popgym-CountRecallEasy-v0", {}),
    ("popgym-HigherLowerEasy-v0", {}),
    ("popgym-AutoencodeEasy-v0", {}),
]
CASES = [(env_id, {}) for env_id in list_ids() if env_id.startswith("mru_rl/") and make(env_id, 1).open_loop] + VARIANTS
INPUTS = {"flatten": True, "start_flag": True}


@pytest.mark.parametrize("inputs", [{}, {"start_flag": True}, INPUTS], ids=["raw", "flag", "inputs"])
@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_a_stretch_is_the_same_to_the_bit_as_its_single_steps(env_id, options, inputs, short, random_action):
    options = short(env_id) | options | inputs
    stepped, unrolled = (make(env_id, 5, seed=3, **options) for _ in range(2))
    assert unrolled.can_unroll
    obs = stepped.reset()
    assert torch.equal(unrolled.reset(), obs)
    at = 0
    for wanted in (1, 3, 2, 1000, 4, 1000, 1, 1):
        stretch = unrolled.unroll(wanted)
        steps = stretch.obs.shape[1]
        assert steps == min(wanted, stepped.horizon - at)
        assert stretch.started == (at == 0)
        actions = torch.stack([random_action(stepped) for _ in range(steps)], dim=1)
        pay = stretch.pay(actions)
        assert stretch.asked.shape == pay.shape == (5, steps)
        assert pay[~stretch.asked].eq(0).all()
        for t in range(steps):
            assert torch.equal(stretch.obs[:, t], obs)
            obs, reward, terminated, truncated, _ = stepped.step(actions[:, t])
            assert torch.equal(pay[:, t], reward)
            assert (terminated | truncated).tolist() == [t == steps - 1 and stretch.ended] * 5
        at = 0 if stretch.ended else at + steps
        assert torch.equal(unrolled.generator.get_state(), stepped.generator.get_state())
        for name, tensor in stepped.state_dict()["tensors"].items():
            assert torch.equal(unrolled.state_dict()["tensors"][name], tensor), name


@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_where_nothing_is_asked_no_action_earns_or_costs_anything_and_elsewhere_it_does(env_id, options, short):
    env = make(env_id, 8, **short(env_id) | options)
    env.reset()
    stretch = env.unroll(1000)
    lowest = stretch.obs.new_zeros((8, stretch.obs.shape[1], *(env.action_space.shape or ())), dtype=torch.int64)
    paid = torch.stack([stretch.pay(lowest + number) for number in range(2)])
    assert paid[:, ~stretch.asked].eq(0).all()
    assert (paid[0] != paid[1])[stretch.asked].any()


def test_stretches_share_no_memory_with_the_env():
    env, twin = (make("mru_rl/FlipFlop-v0", 3, seed=1, length=14) for _ in range(2))
    env.reset()
    twin.reset()
    action = torch.zeros(3, 7, 3, dtype=torch.int64)
    for _ in range(4):
        stretch, same = env.unroll(7), twin.unroll(7)
        paid = stretch.pay(action)
        stretch.obs.fill_(9)
        stretch.asked.fill_(False)
        assert torch.equal(same.pay(action), paid)
        for tensor in twin._state.values():
            tensor.fill_(1)
        assert torch.equal(same.pay(action), paid)
        twin.load_state_dict(env.state_dict())


def test_pay_of_a_finished_episode_is_that_of_its_own_cue():
    env = make("mru_rl/TMaze-v0", 200, length=3)
    cue = env.reset()[:, 1].long()
    stretch = env.unroll(10)
    assert stretch.ended
    assert not torch.equal(env.cue, cue)  # the next episode has begun
    assert stretch.pay(cue[:, None].expand(-1, 4)).sum(1).tolist() == [1.0] * 200


def test_rows_that_were_restarted_singly_cannot_be_unrolled_until_all_restart():
    for env_id in ("mru_rl/TMaze-v0", "popgym-RepeatFirstEasy-v0"):
        env = make(env_id, 3)
        env.reset()
        env.unroll(2)
        env.reset_rows(torch.tensor([True, False, False]))
        with pytest.raises(RuntimeError, match=r"all rows stand at the same step.*env\.reset\(\) to restart all"):
            env.unroll(2)
        env.reset()
        assert env.unroll(2).started


def test_an_agent_that_sees_what_it_did_or_earned_cannot_be_unrolled():
    for name in ("previous_action", "previous_reward"):
        env = make("mru_rl/TMaze-v0", 2, **{name: True})
        assert not env.can_unroll
        env.reset()
        with pytest.raises(ValueError, match=f"shows {name}, so its steps wait for actions.*without {name}"):
            env.unroll(3)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [("popgym-BattleshipEasy-v0", {}), ("CartPole-v1", {}), ("popgym-RepeatFirstEasy-v0", {"state": "only"})],
)
def test_an_env_without_stretches_says_so(env_id, options):
    env = make(env_id, 2, **options)
    env.reset()
    assert not env.can_unroll
    with pytest.raises(RuntimeError, match=r"cannot be unrolled; check `env\.can_unroll` first and call env\.step"):
        env.unroll(3)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_impossible_numbers_of_steps_are_refused(steps, error):
    env = make("mru_rl/TMaze-v0", 2)
    env.reset()
    with pytest.raises(error, match="steps to unroll must be"):
        env.unroll(steps)


def test_a_stretch_before_the_first_reset_is_refused():
    with pytest.raises(RuntimeError, match=r"unrolls only after a reset; call env\.reset\(\) once"):
        make("mru_rl/TMaze-v0", 2).unroll(3)


def test_a_million_steps_need_no_more_state_than_one():
    for env_id in list_ids():
        if env_id.startswith("mru_rl/"):
            length = "delay" if "DelayedRecall" in env_id else "length"
            short, long = (make(env_id, 3, **{length: steps}).state_dict()["tensors"] for steps in (7, 10**6))
            assert {n: t.shape for n, t in short.items()} == {n: t.shape for n, t in long.items()}, env_id
            assert describe(env_id, **{length: 10**6}).horizon >= 10**6
