"""The option `state` of make: upstream's hidden Markov state beside or in place of the obs."""

from __future__ import annotations

import numpy as np
import popgym.envs
import pytest
import torch
from gymnasium import spaces

from mru_rl.envs import list_ids, make
from mru_rl.envs.popgym.deck import SUITS

pytestmark = pytest.mark.filterwarnings("ignore:Maze environments have been shown:DeprecationWarning")
UPSTREAM = {entry["id"]: cls for cls, entry in popgym.envs.ALL.items()}
PORTED = [env_id for env_id in list_ids() if env_id in UPSTREAM]
REPEATS = [env_id for env_id in PORTED if "Repeat" in env_id]


def columns(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.ndim > 1 else tensor.unsqueeze(1)


@pytest.mark.parametrize("env_id", PORTED)
def test_state_space_is_upstreams(env_id):
    assert make(env_id, 1, state="only").observation_space == UPSTREAM[env_id]().state_space


@pytest.mark.parametrize("env_id", PORTED)
def test_state_stands_in_place_of_the_obs_or_beside_it_and_plays_the_same_episodes(env_id, random_action):
    plain, only, beside = (make(env_id, 3, seed=2, state=state) for state in ("none", "only", "append"))
    obs, state, both = plain.reset(), only.reset(), beside.reset()
    for number in range(min(plain.horizon, 120) + 3):
        assert torch.equal(state, plain.markov_state())
        assert torch.equal(both, torch.cat((columns(obs), columns(state)), dim=1).to(both.dtype))
        assert all(only.observation_space.contains(native(only.observation_space, row)) for row in state[:1])
        assert beside.encode(both).shape == (3, plain.obs_size + only.obs_size) == (3, beside.obs_size)
        action = random_action(plain)
        steps = [env.step(action) for env in (plain, only, beside)]
        obs, state, both = (step.obs for step in steps)
        final = [columns(step.final_obs) for step in steps]
        assert torch.equal(final[2], torch.cat(final[:2], dim=1).to(both.dtype)), number
        assert all(torch.equal(a, b) for step in steps[1:] for a, b in zip(step[1:4], steps[0][1:4], strict=True))


def native(space: spaces.Space, row: torch.Tensor):
    """Return one row of an obs as a member of its space."""
    if not isinstance(space, spaces.Tuple):
        return row.numpy().reshape(space.shape).astype(space.dtype)
    sizes = [int(np.prod(part.shape)) for part in space.spaces]
    return tuple(native(part, leaf) for part, leaf in zip(space.spaces, row.split(sizes), strict=True))


@pytest.mark.parametrize("env_id", REPEATS)
def test_state_of_repeat_games_equals_upstream_get_state_at_every_step(env_id, random_action):
    upstream, port = UPSTREAM[env_id](), make(env_id, 2, state="only")
    upstream.reset(seed=1)
    port.reset()
    cards = torch.from_numpy(upstream.deck.idx.copy())
    if len(upstream.deck) < len(cards):  # one is on the table already; idx still holds all of them
        assert len(upstream.deck) == len(cards) - 1
    port.shown.copy_(SUITS.of(cards.flip(0)).to(torch.uint8).expand(2, -1))
    state = port.markov_state()
    for number in range(port.horizon):
        want = np.concatenate([np.atleast_1d(part) for part in upstream.get_state()])
        np.testing.assert_allclose(state[1].numpy(), want, atol=1e-6, err_msg=str(number))
        action = random_action(port)
        upstream.step(int(action[1]))
        state = port.step(action).final_obs
    want = np.concatenate([np.atleast_1d(part) for part in upstream.get_state()])
    np.testing.assert_allclose(state[1].numpy(), want, atol=1e-6)


def test_state_combines_with_the_inputs_of_an_agent_and_is_one_of_the_options():
    env = make("popgym-RepeatPreviousEasy-v0", 2, state="append", flatten=True, previous_action=True, start_flag=True)
    assert env.obs_size == 4 + (4 * 4 + 4) + 4 + 2 == env.reset().shape[1]
    assert env.options == {"state": "append", "flatten": True, "previous_action": True, "start_flag": True}
    again = make(env.id, 2, **env.options)
    assert torch.equal(again.reset(), make(env.id, 2, **env.options).reset())
    with pytest.raises(ValueError, match=r"options \{'state': 'append'\} but this one has \{\}"):
        make(env.id, 2).load_state_dict(env.state_dict())


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("popgym-RepeatFirstEasy-v0", {"state": "full"}, "state must be one of none, append, only, got 'full'"),
        ("mru_rl/TMaze-v0", {"state": "only"}, "TMaze-v0 has no Markov state to show, got state='only'; leave the"),
        (
            "CartPole-v1",
            {"state": "only"},
            "CartPole-v1 runs through gymnasium, which shows no state, got state='only'",
        ),
    ],
)
def test_a_state_that_cannot_be_shown_is_refused(env_id, options, message):
    with pytest.raises(ValueError, match=message):
        make(env_id, 1, **options)


def test_an_env_without_a_state_says_so():
    with pytest.raises(ValueError, match="TMaze-v0 has no Markov state; check that `env.markov_space` is not None"):
        make("mru_rl/TMaze-v0", 1).markov_state()
