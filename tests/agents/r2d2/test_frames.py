"""Replay of stacked images: each is held once, and what is drawn is what whole stacks would have been."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

import mru_rl.envs
from mru_rl.agents.r2d2.config import R2D2Config
from mru_rl.agents.r2d2.replay import bytes_per_sequence
from mru_rl.agents.r2d2.sequences import SequenceCutter, stacked
from mru_rl.agents.r2d2.trainer import R2D2Trainer
from mru_rl.envs.agent_input import AgentInput

SPACE = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (4, 5), np.uint8),
        "speed": spaces.Box(-9, 9, (2,)),
        "wide": spaces.Box(0, 255, (3, 3, 2), np.uint8),
    }
)


class Film(mru_rl.envs.TensorEnv):
    """Two images and a vector, drawn anew at every step; an episode ends with some probability."""

    def __init__(self, *, over=0.2, **common):
        super().__init__(observation_space=SPACE, action_space=spaces.Discrete(3), options={"over": over}, **common)
        self.over = over
        self.register_state("shown", torch.zeros(self.num_envs, 8 + 20 + 18, dtype=torch.uint8))

    def _draw(self, count):
        speed = torch.randn(count, 2, generator=self.generator)
        images = torch.randint(1, 256, (count, 38), dtype=torch.uint8, generator=self.generator)
        return torch.cat([speed.view(torch.uint8), images], dim=1)

    def _reset(self, mask):
        self.shown[mask] = self._draw(int(mask.sum()))

    def _step(self, action):
        self.shown.copy_(self._draw(self.num_envs))
        over, cut = (torch.rand(self.num_envs, generator=self.generator) < self.over / 2 for _ in range(2))
        return action.float(), over, cut & ~over

    def _observe(self):
        return self.shown.clone()


def rollout(env: AgentInput, obs: torch.Tensor, is_init: torch.Tensor, steps: int):
    """A rollout as acting makes it, and what to go on from."""
    shown, after, flags, ends, over = [], [], [], [], []
    for _ in range(steps):
        step = env.step(torch.zeros(env.num_envs, dtype=torch.int64))
        done = step.terminated | step.truncated
        for column, value in zip(
            (shown, after, flags, ends, over), (obs, step.final_obs, is_init, done, step.terminated), strict=True
        ):
            column.append(value)
        obs, is_init = step.obs, done
    observation, last, flag, done, terminated = (
        torch.stack(column, dim=1) for column in (shown, after, flags, ends, over)
    )
    zeros = torch.zeros(flag.shape)
    data = {
        "observation": observation, "is_init": flag, "state": zeros[..., None, None], "action": zeros.long(),
        "next": {"observation": last, "reward": zeros, "terminated": terminated, "done": done},
    }  # fmt: skip
    return TensorDict(data, batch_size=flag.shape), obs, is_init


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    count=st.integers(2, 5), length=st.integers(1, 6), burn_in=st.integers(0, 4), overlap=st.integers(0, 5),
    over=st.sampled_from([0.02, 0.2, 0.8]), segment=st.integers(1, 7), seed=st.integers(0, 9),
)  # fmt: skip
def test_what_is_drawn_is_to_the_bit_what_whole_stacks_would_be(count, length, burn_in, overlap, over, segment, seed):
    made = Film(id="me/Film-v0", num_envs=3, seed=seed, over=over)
    env = AgentInput(made, flatten=True, start_flag=True, frame_stack=count)
    overlap = min(overlap, length - 1)
    whole, once = SequenceCutter(length, burn_in, overlap), SequenceCutter(length, burn_in, overlap, env.frames)
    obs, is_init, found = env.reset(), torch.ones(3, dtype=torch.bool), 0
    for part in range(6):
        data, obs, is_init = rollout(env, obs, is_init, segment)
        want, held = whole.cut(data), once.cut(data)
        assert held["older"].shape == (len(want), count - 1, 38)
        got = stacked(held, env.frames)
        for key in want.keys(include_nested=True, leaves_only=True):
            assert torch.equal(got[key], want[key]), key
        found += len(want)
        if part == 3:  # as from a checkpoint
            saved, once = once.state_dict(), SequenceCutter(length, burn_in, overlap, env.frames)
            once.load_state_dict(saved)
    assert found or length > 6 * segment or over < 0.1


@pytest.fixture
def trainer(monkeypatch):
    """Make an R2D2 trainer in an env of images; keyword arguments change its config."""
    monkeypatch.setattr(mru_rl.envs.registry, "_REGISTERED", {})
    mru_rl.envs.register_env("me/Film-v0", Film)
    common = {
        "env": "me/Film-v0", "env_kwargs": {"over": 0.1}, "core": "bmru", "hidden_size": 8, "num_envs": 3, "steps": 600,
        "sequence": 8, "burn_in": 4, "overlap": 4, "batch": 4, "learning_starts": 8, "segment": 8,
    }  # fmt: skip
    yield lambda **changes: R2D2Trainer(R2D2Config(**common | changes))
    gymnasium.registry.pop("me/Film-v0", None)


def test_a_sequence_takes_a_part_of_what_its_stacks_would_and_the_notes_say_so(trainer):
    size, one = (bytes_per_sequence(trainer(frame_stack=k).sequence_like("floats")) for k in (6, 1))
    made = trainer(frame_stack=6)
    for _ in range(5):
        made.update()
    assert bytes_per_sequence(made.replay._buffer[:1]) == size
    assert size - one == 5 * 38, "the five frames before a sequence, and none twice"
    assert any(f"{size:,} bytes each" in note for note in made.notes())


def test_learning_from_frames_held_once_is_learning_from_whole_stacks(trainer, monkeypatch):
    once, whole = trainer(frame_stack=3), trainer(frame_stack=3)
    whole.cutter.frames = None  # it holds whole stacks then
    for _ in range(12):
        metrics = once.update()[0], whole.update()[0]
        assert metrics[0] == metrics[1]
    assert once.learner.gradient_steps > 10
    for name, want in whole.policy.state_dict().items():
        assert torch.equal(once.policy.state_dict()[name], want), name


def test_replay_of_another_stack_is_refused_with_what_differs(trainer):
    made = trainer(frame_stack=3)
    for _ in range(3):
        made.update()
    saved, other = made.replay.state_dict(), trainer(frame_stack=4)
    with pytest.raises(
        ValueError, match=r"older of replayed sequences is uint8 \[3, 38\] in this run and uint8 \[2, 38\]"
    ):
        other.replay.load_state_dict(saved, other.sequence_like("floats"))
