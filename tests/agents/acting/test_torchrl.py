"""The batched envs under torchrl's Collector: what it gives is what our own acting loop gives."""

from __future__ import annotations

import pytest
import torch

import mru_rl
import mru_rl.envs
from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.collector import Collector
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.acting.torchrl import TorchRLCollector
from mru_rl.agents.nets.heads import action_head
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.envs.base import NonFiniteError

SEGMENT = 23
INPUTS = {"flatten": True, "previous_action": True, "previous_reward": True, "start_flag": True}
ENVS = {
    "cards": ("popgym-RepeatPreviousEasy-v0", {}),  # terminates
    "parts of an action": ("popgym-BattleshipEasy-v0", {}),  # ends early, at other steps in every row
    "an action in a box": ("popgym-PositionOnlyPendulumEasy-v0", {}),
    "cut": ("CartPole-v1", {"max_episode_steps": 9}),  # truncates, and terminates as well
    "one step": ("mru_rl/TMaze-v0", {"length": 1}),
}


def make(env_id: str, seed: int = 1, **options):
    return mru_rl.envs.make(env_id, 4, seed=seed, **INPUTS, **options)


def collectors(make_env, core: str = "bmru+mingru") -> tuple[Collector, Collector]:
    """Our acting loop and torchrl's, with one policy, in two envs of one seed."""
    own, other = make_env(), make_env()
    head = action_head(own.action_space)
    policy = ActorCritic(mru_rl.make_core(core, own.obs_size, 16), head.num_params)
    torch.nn.init.normal_(policy.actor[-1].weight)  # far from uniform, so that a wrong memory shows in the actions
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = ActingLoop(own, policy, head, generators[0], Sampling())
    return ours, TorchRLCollector(other, policy, head, generators[1], SEGMENT)


def assert_equal(got: Rollout, want: Rollout) -> None:
    assert got.data.shape == want.data.shape
    names = set(want.data.keys(include_nested=True, leaves_only=True))
    assert set(got.data.keys(include_nested=True, leaves_only=True)) == names
    for name in names:
        assert got.data[name].dtype == want.data[name].dtype, name
        assert torch.equal(got.data[name], want.data[name]), name
    assert torch.equal(got.start_state, want.start_state)


@pytest.mark.parametrize("name", list(ENVS))
@pytest.mark.parametrize("core", ["bmru+mingru", "lstm,lru"])
def test_a_rollout_of_torchrls_collector_equals_our_own_key_by_key(name, core):
    env_id, options = ENVS[name]
    own, torchrl = collectors(lambda: make(env_id, **options), core)
    done = []
    for _ in range(10):
        want, got = own.collect(SEGMENT), torchrl.collect(SEGMENT)
        assert_equal(got, want)
        done.append(want.data["next", "done"])
    ends = torch.cat(done, 1)
    assert ends.any()
    assert not ends.all(), "episodes end in the middle of segments too"
    assert torchrl.episodes == own.episodes == ends.sum()
    for got, want in zip(torchrl.recent, own.recent, strict=True):
        assert got == pytest.approx(want, nan_ok=True)
    torchrl.close()


def test_another_env_begins_in_both_alike():
    own, torchrl = collectors(lambda: make("mru_rl/TMaze-v0", length=3))
    for length in (3, 5):
        own.change_env(make("mru_rl/TMaze-v0", length=length))
        torchrl.change_env(make("mru_rl/TMaze-v0", length=length))
        for _ in range(2):
            assert_equal(torchrl.collect(SEGMENT), own.collect(SEGMENT))
    assert {n for _, n, _ in torchrl.recent} == {6}


def test_a_restored_torchrl_collector_starts_fresh_episodes_and_keeps_its_counts():
    _, torchrl = collectors(lambda: make("popgym-RepeatFirstEasy-v0"))
    for _ in range(3):
        torchrl.collect(SEGMENT)
    saved = torchrl.state_dict()
    _, other = collectors(lambda: make("popgym-RepeatFirstEasy-v0"))
    first = other.collect(SEGMENT)
    assert not other.load_state_dict(saved)
    assert (other.episodes, list(other.recent)) == (torchrl.episodes, list(torchrl.recent))
    fresh = other.collect(SEGMENT)
    assert fresh.data["is_init"][:, 0].all()
    assert not torch.equal(fresh.data["observation"], first.data["observation"]), "the same episodes again"


def test_a_segment_of_another_length_is_refused():
    _, torchrl = collectors(lambda: make("mru_rl/TMaze-v0"))
    with pytest.raises(ValueError, match="made for segments of 23 steps, got 24; make another"):
        torchrl.collect(24)


def test_an_env_that_returns_nonsense_is_named_under_torchrl_too(poisoned):
    _, torchrl = collectors(lambda: make(poisoned, size=float("inf")))
    with pytest.raises(NonFiniteError, match=f"{poisoned}.*row 0"):
        torchrl.collect(SEGMENT)
