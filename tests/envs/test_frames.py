"""Stacks of the last images, in an env and in rows of bytes."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

import mru_rl.envs
from mru_rl.envs import AgentInput, as_torchrl, from_object, make
from mru_rl.envs.encoding import pack
from mru_rl.envs.frames import Frames

IMAGE = spaces.Box(0, 255, (5, 6, 3), np.uint8)
NEST = spaces.Dict(
    [
        ("word", spaces.Text(4, min_length=0, charset="ab")),
        ("near", IMAGE),
        ("speed", spaces.Box(-9, 9, (2,))),
        ("far", spaces.Tuple([spaces.Box(0, 255, (4, 4), np.uint8), spaces.Box(0, 255, (7,), np.uint8)])),
    ]
)


class Film(gymnasium.Env):
    """Shows what its space draws; episodes end after 3 and 5 steps, in turn."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=IMAGE):
        self.observation_space = copy.deepcopy(space)  # a space draws from a generator of its own
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t, self.episodes = 0, self.episodes + 1
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(action), self.t == (3 if self.episodes % 2 else 5), False, {}


class Tape(mru_rl.envs.TensorEnv):
    """A batched env of images that can save its state; an episode ends at random."""

    def __init__(self, **common):
        super().__init__(observation_space=IMAGE, action_space=spaces.Discrete(2), **common)
        self.register_state("frame", torch.zeros(self.num_envs, 90, dtype=torch.uint8))

    def _draw(self, count):
        return torch.randint(256, (count, 90), dtype=torch.uint8, generator=self.generator)

    def _reset(self, mask):
        self.frame[mask] = self._draw(int(mask.sum()))

    def _step(self, action):
        self.frame.copy_(self._draw(self.num_envs))
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return action.float(), torch.rand(self.num_envs, generator=self.generator) < 0.3, never

    def _observe(self):
        return self.frame.clone()


def tape(seed=0, rows=4, **inputs):
    made = Tape(id="me/Tape-v0", num_envs=rows, seed=seed)
    return AgentInput(made, flatten=True, **inputs)


@pytest.mark.parametrize("count", [2, 4])
def test_an_env_shows_the_stacks_that_gymnasium_shows(count):
    ours = AgentInput(from_object(Film, 1, seed=3), flatten=True, frame_stack=count)
    theirs = from_object(lambda: FrameStackObservation(Film(), count), 1, seed=3)
    assert ours.rules.observation_space == theirs.observation_space
    assert torch.equal(ours.reset(), theirs.reset())
    for _ in range(12):
        got, want = ours.step(torch.zeros(1, dtype=torch.int64)), theirs.step(torch.zeros(1, dtype=torch.int64))
        assert torch.equal(got.obs, want.obs)
        assert torch.equal(got.final_obs, want.final_obs)
        assert (got.obs is got.final_obs) == (not want.terminated.any())


def test_the_first_frame_is_repeated_where_single_rows_begin_anew():
    env = tape(frame_stack=3)
    env.reset()
    kept = env.step(torch.zeros(4, dtype=torch.int64)).obs
    mask = torch.tensor([False, True, True, False])
    fresh = env.reset_rows(mask).unflatten(-1, (3, 90))
    assert (fresh == fresh[:, :1]).all()
    assert env.reset_rows(torch.zeros(4, dtype=torch.bool)).shape == (0, 270)
    step = env.step(torch.zeros(4, dtype=torch.int64))
    seen = step.final_obs.unflatten(-1, (3, 90))
    assert torch.equal(seen[mask][:, :2], fresh[:, :2])
    assert torch.equal(seen[~mask][:, :2], kept.unflatten(-1, (3, 90))[~mask][:, 1:])


def test_a_saved_env_goes_on_with_the_stacks_it_had():
    env, other = tape(frame_stack=3, start_flag=True), tape(seed=1, frame_stack=3, start_flag=True)
    env.reset()
    env.step(torch.zeros(4, dtype=torch.int64))
    other.load_state_dict(env.state_dict())
    for _ in range(6):
        got, want = (one.step(torch.zeros(4, dtype=torch.int64)) for one in (other, env))
        assert torch.equal(got.obs, want.obs)
    unopened = tape(seed=2, frame_stack=3, start_flag=True)
    other.load_state_dict(unopened.state_dict())
    assert torch.equal(other.reset(), unopened.reset())


def test_only_images_are_stacked_and_the_rest_is_the_newest_alone():
    plain, env = (AgentInput(from_object(lambda: Film(NEST), 2), frame_stack=count) for count in (1, 3))
    assert env.observation_space["near"].shape == (3, 5, 6, 3)
    assert env.observation_space["far"][0].shape == (3, 4, 4, 1)
    assert env.observation_space["far"][1].shape == (7,)
    assert list(env.observation_space.spaces) == list(NEST.spaces)
    shown = [plain.reset(), *(plain.step(torch.zeros(2, dtype=torch.int64)).final_obs for _ in range(3))]
    env.reset()
    stacks = [env.step(torch.zeros(2, dtype=torch.int64)).final_obs for _ in range(3)][-1]
    assert torch.equal(env.frames.newest(stacks), shown[-1])
    near = slice(8 + 4, 8 + 4 + 90)  # two floats and a text before it
    assert torch.equal(stacks[:, near.start : near.start + 270], torch.cat([row[:, near] for row in shown[1:]], dim=1))
    assert torch.equal(stacks[:, -7:], shown[-1][:, -7:])


def test_stacks_go_to_pieces_and_back_whatever_stands_before_the_bytes():
    frames, generator = Frames(NEST, 4), torch.Generator().manual_seed(0)
    rows = torch.randint(256, (2, 3, 4 + 90 + 16 + 7), dtype=torch.uint8, generator=generator)
    older = torch.randint(256, (2, 3, 3, 106), dtype=torch.uint8, generator=generator)
    stacks = frames(rows, older)
    assert frames.size == 106
    assert torch.equal(frames.newest(stacks), rows)
    numbers = torch.randn(2, 3, 5, generator=generator)
    assert torch.equal(frames(pack(numbers, rows), older), pack(numbers, stacks))
    assert torch.equal(frames.newest(pack(numbers, stacks)), pack(numbers, rows))
    assert torch.equal(frames.of(pack(numbers, rows)), frames.of(rows))


def test_an_image_in_an_action_mask_is_no_frame():
    mask = spaces.Box(0, 1, (2, 2), np.uint8)
    space = spaces.Dict({"action_mask": mask, "image": IMAGE})
    assert Frames(space, 2).space["action_mask"] == mask
    assert Frames(space, 2).size == 90


@pytest.mark.parametrize("env_id", ["CartPole-v1", "popgym-RepeatFirstEasy-v0"])
def test_an_env_without_images_has_no_stacks(env_id):
    assert make(env_id, 1, frame_stack=1).options.get("frame_stack") is None
    with pytest.raises(ValueError, match=r"frame_stack stacks images, .*uint8.*, got .*; leave it out"):
        make(env_id, 1, frame_stack=4)
    with pytest.raises(ValueError, match="frame_stack must be at least 1, got 0"):
        make(env_id, 1, frame_stack=0)


def test_a_stacking_env_is_made_again_from_its_options_and_passes_torchrls_checks(monkeypatch):
    monkeypatch.setattr(mru_rl.envs.registry, "_REGISTERED", {})
    mru_rl.envs.register_env("me/Tape-v0", Tape)
    env = make("me/Tape-v0", 3, seed=2, flatten=True, start_flag=True, frame_stack=3)
    again = make("me/Tape-v0", 3, seed=2, **env.options)
    assert torch.equal(env.reset(), again.reset())
    rolled = as_torchrl(again).rollout(6, break_when_any_done=False)
    assert rolled["observation"].shape == (3, 6, 16 + 270 - 8)
    gymnasium.registry.pop("me/Tape-v0", None)


def test_a_stack_waits_for_steps_so_nothing_is_unrolled():
    env = tape(frame_stack=2)
    assert not env.can_unroll
    with pytest.raises(RuntimeError, match="cannot be unrolled"):
        env.unroll(3)
