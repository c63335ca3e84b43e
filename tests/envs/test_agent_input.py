"""Encoding of spaces, and the columns that AgentInput adds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from mru_rl.envs import make
from mru_rl.envs.actions import null_action
from mru_rl.envs.columns import columns
from mru_rl.envs.encoding import Encoding

SPACES = [
    spaces.Discrete(5),
    spaces.MultiDiscrete([2, 5, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (2, 3), np.float64),
    spaces.Tuple([spaces.Discrete(2), spaces.Discrete(4)]),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2)]),
    spaces.Dict({"b": spaces.Box(0, 1, ()), "a": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_encoding_equals_gymnasium_flatten(space):
    space.seed(0)
    encoding = Encoding(space, device=torch.device("cpu"))
    samples = [space.sample() for _ in range(6)]
    dtype = np.int64 if encoding.dtype == torch.int64 else np.float32
    rows = [np.concatenate([leaf.reshape(-1) for leaf in columns(space, s)]).astype(dtype) for s in samples]
    raw = torch.from_numpy(np.stack(rows)).reshape(6, *encoding.shape)
    flat = encoding(raw)
    assert encoding.size == flatdim(space)
    assert flat.dtype == torch.float32
    np.testing.assert_array_equal(flat.numpy(), np.stack([flatten(space, s) for s in samples]).astype(np.float32))
    assert torch.equal(encoding(raw.reshape(2, 3, *encoding.shape)), flat.reshape(2, 3, -1))  # [B, T, ...] too
    assert flat.data_ptr() != raw.data_ptr()


def test_an_unsupported_observation_space_is_named_with_what_is_supported():
    with pytest.raises(
        ValueError, match=r"observation space Sequence\(.*not supported; supported are Discrete, Multi.*wrap"
    ):
        Encoding(spaces.Sequence(spaces.Discrete(2)), device=torch.device("cpu"))


def test_null_action_is_zero_or_the_lowest_there_is():
    assert null_action(spaces.Discrete(3)).item() == 0
    assert null_action(spaces.MultiDiscrete([2, 3])).tolist() == [0, 0]
    assert null_action(spaces.Box(-2, 2, (2,))).tolist() == [0.0, 0.0]
    assert null_action(spaces.Box(1, 2, (2,))).tolist() == [1.0, 1.0]


def test_raw_inputs_stand_beside_the_obs_as_numbers():
    env = make("popgym-RepeatFirstEasy-v0", 3, previous_action=True, start_flag=True)
    obs = env.reset()
    assert obs.dtype == torch.int64
    assert obs[:, 1:].tolist() == [[0, 1]] * 3
    step = env.step(torch.tensor([3, 1, 0]))
    assert step.obs[:, 1:].tolist() == [[3, 0], [1, 0], [0, 0]]
    assert env.observation_space == spaces.Tuple([spaces.Discrete(4), spaces.Discrete(4), spaces.Discrete(2)])
    assert env.encode(step.obs).shape == (3, env.obs_size) == (3, 10)


def test_previous_reward_comes_last_and_only_where_the_episode_goes_on():
    env = make(
        "mru_rl/TMaze-v0",
        3,
        length=1,
        noise=0.0,
        flatten=True,
        previous_action=True,
        start_flag=True,
        previous_reward=True,
    )
    assert env.obs_size == 4 + 2 + 2 + 1
    cue = env.reset()[:, 1].long()
    env.step(1 - cue)
    step = env.step(cue)
    going = torch.nn.functional.one_hot(cue, 2).float()
    want_final = torch.cat([torch.zeros(3, 4), going, torch.tensor([[1.0, 0, 1]] * 3)], dim=1)
    assert torch.equal(step.final_obs, want_final)  # action and reward of the last step, flag 0
    assert step.obs[:, 4:].tolist() == [[1.0, 0, 0, 1, 0]] * 3  # null action, flag 1, reward 0
    assert step.obs[:, :2].sum(1).eq(1).all()


def test_rows_that_go_on_keep_their_inputs_when_others_restart():
    env = make("mru_rl/TMaze-v0", 2, length=2, flatten=True, previous_action=True, start_flag=True)
    env.reset()
    env.step(torch.tensor([0, 0]))
    env.env._reset(torch.tensor([False, True]))
    env.step(torch.tensor([1, 1]))
    step = env.step(torch.tensor([1, 1]))
    assert step.terminated.tolist() == [True, False]
    assert step.obs[0, 4:].tolist() == [1, 0, 0, 1]
    assert step.obs[1, 4:].tolist() == [0, 1, 1, 0]
    assert torch.equal(step.obs[1], step.final_obs[1])


def test_flatten_alone_is_the_encoded_obs():
    flat, raw = make("popgym-RepeatFirstEasy-v0", 5, flatten=True), make("popgym-RepeatFirstEasy-v0", 5)
    assert torch.equal(flat.reset(), raw.encode(raw.reset()))
    assert flat.observation_space.shape == (flat.obs_size,) == (4,)
    action = torch.zeros(5, dtype=torch.int64)
    assert torch.equal(flat.step(action).obs, raw.encode(raw.step(action).obs))


def test_wrapper_keeps_the_attributes_of_the_env_inside():
    env, inner = (make("mru_rl/TMaze-v0", 2, length=5, **inputs) for inputs in ({"start_flag": True}, {}))
    for name in ("id", "num_envs", "device", "horizon", "credit_horizon", "open_loop", "success_return", "saves_state"):
        assert getattr(env, name) == getattr(inner, name), name
    assert env.options == {"length": 5, "noise": 1.0, "start_flag": True}
