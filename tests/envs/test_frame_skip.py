"""An action repeated: rewards add up, flicker goes, lengths count the agent's steps."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from mru_rl.agents.build import for_evaluation, make_env
from mru_rl.agents.config import TrainConfig
from mru_rl.envs import from_object, make
from mru_rl.envs.wrappers import FrameSkip

PICTURE = spaces.Box(0, 255, (20, 20), np.uint8)
SPACE = spaces.Dict(
    {
        "picture": PICTURE,
        "grid": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "both": spaces.Tuple([spaces.Box(0, 99, (2,)), PICTURE]),
    }
)


class Flickers(gymnasium.Env):
    """At step t everything shows t, pictures 100 - t in the left half of even and the right half of odd steps; step t pays t.

    All pictures are one array that is written anew.
    """

    observation_space, action_space = SPACE, spaces.Discrete(2)
    horizon, credit_horizon = 9, 4

    def __init__(self, length=9):
        self.length, self.buffer = length, np.zeros((20, 20), np.uint8)

    def _shown(self):
        self.buffer[:] = 0
        self.buffer[:, :10] = 100 - self.t if self.t % 2 == 0 else 0
        self.buffer[:, 10:] = 100 - self.t if self.t % 2 else 0
        vector = np.full(2, 100 - self.t, np.float32)
        return {
            "picture": self.buffer,
            "grid": np.full((7, 7, 3), 100 - self.t, np.uint8),
            "both": (vector, self.buffer),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._shown(), {}

    def step(self, action):
        self.t += 1
        return self._shown(), self.t, self.t == self.length, False, {"t": self.t}


def halves(picture):
    return [int(picture[0, 0]), int(picture[0, 19])]


def test_rewards_add_up_and_a_picture_is_the_maximum_of_the_last_two():
    env = FrameSkip(Flickers(), 3)
    env.reset()
    obs, reward, terminated, _, info = env.step(0)
    assert (reward, terminated, info["t"]) == (1 + 2 + 3, False, 3)
    assert halves(obs["picture"]) == halves(obs["both"][1]) == [98, 97]
    assert obs["grid"].max() == 97, "a grid holds codes, of which there is no maximum"
    assert obs["both"][0].tolist() == [97, 97], "nor is there of a vector"
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(("length", "shown", "paid"), [(4, [96, 0], 4), (5, [96, 95], 9)])
def test_an_action_ends_with_the_episode_and_shows_no_frame_from_before_it_began(length, shown, paid):
    env = FrameSkip(Flickers(length), 3)
    env.reset()
    env.step(0)
    obs, reward, terminated, _, _ = env.step(0)
    assert (reward, terminated) == (paid, True)
    assert halves(obs["picture"]) == shown


def test_lengths_count_the_steps_of_the_agent():
    env = from_object(Flickers, 1, wrappers=[lambda inner: FrameSkip(inner, 4)])
    assert (env.horizon, env.credit_horizon) == (3, 1)
    assert "FrameSkip" in env.sources["horizon"]

    class Says(Flickers):
        metadata = {"mru_rl": {"horizon": 9, "success_return": 7.0}}  # noqa: RUF012

    said = from_object(Says, 1, wrappers=[lambda inner: FrameSkip(inner, 4)])
    assert (said.horizon, said.success_return) == (3, 7.0)
    skip = "mru_rl.envs.wrappers:FrameSkip(3)"
    assert make("CartPole-v1", 1, wrappers=skip).horizon == 167
    assert make("CartPole-v1", 1, wrappers=[skip, "gymnasium.wrappers:TimeLimit(100)"]).horizon == 100
    assert make("CartPole-v1", 1, wrappers=["gymnasium.wrappers:TimeLimit(100)", skip]).horizon == 34
    assert make("popgym-RepeatFirstEasy-v0", 1, backend="upstream", wrappers=skip).horizon == 17


def test_the_option_goes_around_the_env_before_other_wrappers():
    config = TrainConfig(
        env=lambda: TimeLimit(Flickers(), 8), frame_skip=2, wrappers=("gymnasium.wrappers:TimeLimit(3)",)
    )
    env = make_env(config, 2, 0)
    assert env.horizon == 3
    env.reset()
    rewards = [env.step(torch.zeros(2, dtype=torch.int64)) for _ in range(3)]
    assert [step.reward.tolist() for step in rewards] == [[3, 3], [7, 7], [11, 11]]
    assert rewards[-1].truncated.all()


def test_a_batched_env_of_ours_is_stepped_row_by_row_and_a_batch_given_as_it_is_is_refused():
    config = TrainConfig(env="mru_rl/TMaze-v0", env_kwargs={"length": 8}, frame_skip=3)
    plain = make_env(TrainConfig(env="mru_rl/TMaze-v0", env_kwargs={"length": 8}), 2, 0)
    assert make_env(config, 2, 0).horizon == -(-plain.horizon // 3)
    batch = make("CartPole-v1", 2)
    with pytest.raises(ValueError, match=r"wrappers go around single gymnasium envs, .*FrameSkip\(3\).*; wrap the env"):
        make_env(TrainConfig(env=batch, frame_skip=3), 2, 0)
    assert for_evaluation(config, batch).frame_skip == 1
    assert for_evaluation(config, "CartPole-v1").frame_skip == 3


@pytest.mark.parametrize("frames", [0, 1.5, True, "4"])
def test_a_number_of_frames_that_is_none_is_refused(frames):
    with pytest.raises(
        ValueError, match=r"frames to skip are a whole number of at least 1, got .*; give one, as in \(4\)"
    ):
        FrameSkip(Flickers(), frames)


@pytest.mark.parametrize("name", ["frame_skip", "frame_stack"])
def test_the_options_are_whole_numbers_from_one_on(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TrainConfig(**{name: 0})
