from __future__ import annotations

import pytest
import torch

import mru_rl
import mru_rl.envs
from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.nets.heads import action_head
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs.base import NonFiniteError


def make_collector(env) -> ActingLoop:
    head = action_head(env.action_space)
    policy = ActorCritic(mru_rl.make_core("bmru+mingru", env.obs_size, 16), head.num_params)
    return ActingLoop(env, policy, head, torch.Generator().manual_seed(5), Sampling())


@pytest.fixture
def collector():
    return make_collector(mru_rl.envs.make("popgym-RepeatFirstEasy-v0", 4, seed=1, flatten=True, start_flag=True))


def test_the_sequence_pass_gives_the_values_and_log_probabilities_of_acting(collector):
    for _ in range(3):  # the third segment starts in the middle of an episode, from a carried state
        data, start_state = collector.collect(37)
    out = collector.policy(data["observation"], start_state, data["is_init"])
    log_prob, _ = collector.head.log_prob_and_entropy(out.params, data["action"])
    torch.testing.assert_close(log_prob, data["action_log_prob"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.value, data["state_value"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.state, collector.state)
    assert start_state.abs().sum() > 0


def test_segments_follow_each_other_without_a_gap_and_start_flags_follow_ends(collector):
    first, second = collector.collect(60).data, collector.collect(60).data
    done = torch.cat([first["next", "done"], second["next", "done"]], 1)
    is_init = torch.cat([first["is_init"], second["is_init"]], 1)
    assert is_init[:, 0].all()
    assert torch.equal(is_init[:, 1:], done[:, :-1])
    assert done.nonzero()[:, 1].unique().tolist() == [50, 101]  # episodes of 51 steps
    flag = torch.cat([first["observation"], second["observation"]], 1)[..., -1]
    assert torch.equal(flag.bool(), is_init)


def test_a_truncated_episode_is_valued_at_its_true_last_observation():
    env = mru_rl.envs.make("CartPole-v1", 3, seed=0, flatten=True, max_episode_steps=7)
    collector = make_collector(env)
    seen = []
    step = env.step

    def recording_step(action):
        after = step(action)
        seen.append((after.final_obs.clone(), collector.state))
        return after

    env.step = recording_step
    data = collector.collect(7).data
    assert data["next", "truncated"][:, 6].all()
    never = torch.zeros(3, dtype=torch.bool)
    with torch.inference_mode():
        final_obs, state_found = seen[6]
        state = collector.policy.step(data["observation"][:, 6], state_found, never).state
        want = collector.policy.step(final_obs, state, never).value
    torch.testing.assert_close(data["next", "state_value"][:, 6], want.clone())
    torch.testing.assert_close(data["next", "state_value"][:, :6], data["state_value"][:, 1:])


def test_finished_episodes_are_counted_with_their_returns_and_lengths(collector):
    data = collector.collect(102).data
    returns = data["next", "reward"].unflatten(1, (2, 51)).sum(-1)
    assert collector.episodes == 8
    assert sorted(r for r, _, _ in collector.recent) == pytest.approx(sorted(returns.flatten().tolist()), abs=1e-5)
    assert {n for _, n, _ in collector.recent} == {51}


def test_a_collector_goes_on_exactly_from_its_state_dict(collector, tmp_path):
    collector.collect(20)
    torch.save(collector.state_dict(), tmp_path / "collector.pt")
    want = collector.collect(45).data
    other = make_collector(mru_rl.envs.make("popgym-RepeatFirstEasy-v0", 4, seed=9, flatten=True, start_flag=True))
    other.policy.load_state_dict(collector.policy.state_dict())
    assert other.load_state_dict(torch.load(tmp_path / "collector.pt", weights_only=True))
    got = other.collect(45).data
    for key in ("observation", "action", "action_log_prob", ("next", "reward"), ("next", "state_value")):
        assert torch.equal(got[key], want[key]), key


def test_an_env_that_returns_nan_is_named_with_row_and_step(poisoned):
    collector = make_collector(mru_rl.envs.make(poisoned, 2, flatten=True, reward=float("nan")))
    with pytest.raises(NonFiniteError, match=f"{poisoned}.*row 0"):
        collector.collect(8)
