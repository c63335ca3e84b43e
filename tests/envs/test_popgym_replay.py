"""The ports of popgym's card games against the installed popgym, step by step."""

from __future__ import annotations

import gymnasium
import numpy as np
import popgym.envs
import pytest
import torch
from popgym.wrappers import Antialias, Flatten, PreviousAction
from scipy import stats

from mru_rl.envs import list_ids, make

PORTED = [env_id for env_id in list_ids() if env_id.startswith("popgym-")]
UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
STEPS = {
    "popgym-RepeatFirstEasy-v0": 51,
    "popgym-RepeatFirstMedium-v0": 415,
    "popgym-RepeatFirstHard-v0": 831,
    "popgym-RepeatPreviousEasy-v0": 51,
    "popgym-RepeatPreviousMedium-v0": 103,
    "popgym-RepeatPreviousHard-v0": 155,
}
LOOK_BACK = {"Easy": 4, "Medium": 32, "Hard": 64}


def perfect_action(env_id: str, seen: list[int]) -> int:
    if "RepeatFirst" in env_id:
        return seen[0]
    k = next(k for level, k in LOOK_BACK.items() if level in env_id)
    return seen[-k] if len(seen) >= k else 0


@pytest.mark.parametrize("policy", ["random", "perfect"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("env_id", PORTED)
def test_port_replays_upstream_popgym_step_by_step(env_id, seed, policy, deal, random_action):
    upstream, port = UPSTREAM[env_id](), make(env_id, 3, seed=seed)
    want_obs, _ = upstream.reset(seed=seed)
    deal(upstream)
    seen = port.reset().tolist()[1:2]
    assert seen == [want_obs]
    steps, total, ended = 0, 0.0, False
    while not ended:
        action = random_action(port)
        if policy == "perfect":
            action[1] = perfect_action(env_id, seen)
        want_obs, want_reward, want_terminated, want_truncated, _ = upstream.step(int(action[1]))
        got = port.step(action)
        assert got.final_obs[1] == want_obs
        assert got.reward[1] == np.float32(want_reward)
        assert (got.terminated[1], got.truncated[1]) == (want_terminated, want_truncated)
        ended = want_terminated or want_truncated
        seen.append(int(got.final_obs[1]))
        total += want_reward
        steps += 1
    assert steps == STEPS[env_id] == port.horizon
    if policy == "perfect":
        assert total == pytest.approx(1, abs=1e-9)
    assert got.obs[1] == seen[0]  # the same deck is dealt again in the same step


@pytest.mark.parametrize("env_id", PORTED)
def test_perfect_policy_earns_return_one_in_every_row_and_wrong_one_minus_one(env_id):
    env = make(env_id, 5, seed=3)
    obs = env.reset()
    seen, total = [obs], torch.zeros(5, dtype=torch.float64)
    for _ in range(env.horizon):
        action = torch.tensor([perfect_action(env_id, [int(o[row]) for o in seen]) for row in range(5)])
        action[4] = (action[4] + 1) % 4
        step = env.step(action)
        seen.append(step.obs)
        total += step.reward
    assert step.terminated.all()
    torch.testing.assert_close(total, torch.tensor([1.0, 1, 1, 1, -1], dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("env_id", [env_id for env_id in PORTED if "Easy" in env_id])
def test_flat_input_equals_upstream_flatten_antialias_previous_action(env_id, deal, random_action):
    upstream = Flatten(Antialias(PreviousAction(UPSTREAM[env_id]())))
    want, _ = upstream.reset(seed=5)
    deal(upstream)
    port = make(env_id, 2, flatten=True, previous_action=True, start_flag=True)
    assert port.obs_size == upstream.observation_space.shape[0] == 10
    first = port.reset()
    assert first[0].tolist() == want.tolist()
    ended = False
    while not ended:
        action = random_action(port)
        want, _, ended, _, _ = upstream.step(int(action[0]))
        step = port.step(action)
        assert step.final_obs[0].tolist() == want.tolist()
    assert torch.equal(step.obs, first)


def test_fresh_decks_are_uniform():
    env = make("popgym-RepeatFirstEasy-v0", 8000, seed=0)
    first = env.reset()
    last = env.shown[:, -1].long()
    assert all(env.shown.eq(suit).sum(1).eq(13).all() for suit in range(4))
    assert stats.chisquare(torch.bincount(first, minlength=4)).pvalue > 0.01
    pairs = torch.bincount(first * 4 + last, minlength=16).numpy()
    chance = np.where(np.eye(4, dtype=bool), 12 * 13, 13 * 13).ravel() / (51 * 52)
    assert stats.chisquare(pairs, chance * 8000).pvalue > 0.01


def test_fresh_decks_are_distributed_as_upstream_shuffles_them():
    upstream = gymnasium.make("popgym-RepeatFirstEasy-v0", disable_env_checker=True).unwrapped
    want = np.zeros(4, dtype=int)
    for seed in range(2000):
        upstream.reset(seed=seed)
        want[upstream.deck.suits_idx[upstream.deck.idx[0]]] += 1  # upstream's last card is our last column
    env = make("popgym-RepeatFirstEasy-v0", 2000, seed=1)
    env.reset()
    got = torch.bincount(env.shown[:, -1].long(), minlength=4).numpy()
    assert stats.chi2_contingency(np.stack([want, got])).pvalue > 0.01
