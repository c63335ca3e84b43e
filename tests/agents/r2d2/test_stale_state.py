from __future__ import annotations

import pytest
import torch

import mru_rl
import mru_rl.envs
from mru_rl.agents.acting.behavior import EpsilonGreedy
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.nets.heads import value_head
from mru_rl.agents.nets.networks import QNetwork
from mru_rl.agents.r2d2.stale_state import EpisodeProbe, q_difference


def followed(core: str) -> tuple[QNetwork, EpisodeProbe]:
    """A fresh network and the episodes of 51 steps it acted in two of four rows, in pieces of 40 steps."""
    env = mru_rl.envs.make("popgym-RepeatFirstEasy-v0", 4, seed=1, flatten=True, start_flag=True)
    torch.manual_seed(0)
    head = value_head(env.action_space)
    policy = QNetwork(mru_rl.make_core(core, env.obs_size, 16), head.num_params)
    behavior = EpsilonGreedy(torch.full((4,), 0.1))
    collector = ActingLoop(env, policy, head, torch.Generator().manual_seed(3), behavior)
    probe = EpisodeProbe(2, keep=5)
    for _ in range(6):
        probe.follow(collector.collect(40).data, policy)
    return policy, probe


def measure(policy: QNetwork, probe: EpisodeProbe, burn_in: int = 10):
    return q_difference(policy, list(probe.episodes), burn_in=burn_in, length=12, stride=6)


def test_whole_episodes_of_the_followed_rows_are_kept_and_only_the_newest():
    _, probe = followed("bmru")
    assert len(probe.episodes) == 5  # 8 were finished
    for episode in probe.episodes:
        assert len(episode.observation) == 51
        assert (episode.state[0] == 0).all()
        assert episode.observation[:, -1].tolist() == [1.0] + [0.0] * 50  # the start flag


@pytest.mark.parametrize("core", ["bmru+mingru", "gru", "lru"])
def test_a_stored_state_of_the_same_weights_is_right_and_no_state_is_not(core):
    first, last = measure(*followed(core), burn_in=0)
    assert first["stored"] == pytest.approx(0, abs=1e-5)
    assert last["stored"] == pytest.approx(0, abs=1e-5)
    assert first["zero"] > 0.01


def test_burn_in_brings_a_fading_memory_back():
    policy, probe = followed("gru")
    without, burnt = (measure(policy, probe, burn_in) for burn_in in (0, 25))
    assert burnt.first["zero"] < 0.5 * without.first["zero"]


def test_signs_are_right_after_the_levels_have_moved_where_stored_floats_are_not():
    policy, probe = followed("bmru")
    (cell,) = policy.core.cells_by_layer()[0]
    with torch.no_grad():
        cell.alpha.mul_(1.5)
    difference = measure(policy, probe, burn_in=0)
    assert difference.first["stored"] > 0.01
    assert difference.first["signs"] == pytest.approx(0, abs=1e-5)
