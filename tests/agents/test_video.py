"""An episode as a moving picture."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from PIL import Image

from mru_rl.agents import PPOConfig, train
from mru_rl.agents.video import record_video


class Film(gymnasium.Env):
    """An episode of six steps; the picture grows brighter with each."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium's own form)
    observation_space = gymnasium.spaces.Box(0, 10, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == 6, False, {}

    def render(self):
        return np.full((8, 12, 3), 40 * self.t, np.uint8)


@pytest.fixture
def run(tmp_path):
    gymnasium.register("mru_rl-tests/Film-v0", Film)
    yield lambda env: train(
        PPOConfig(
            env=env, steps=64, num_envs=2, segment=16, hidden_size=8, tensorboard=False, run_dir=tmp_path / "run"
        ),
        progress=False,
    )
    del gymnasium.registry["mru_rl-tests/Film-v0"]


def test_an_episode_is_filmed_from_its_first_picture_to_its_last(run, tmp_path):
    assert record_video(run("mru_rl-tests/Film-v0"), tmp_path / "episode.gif", seed=3) == 7
    seen = []
    with Image.open(tmp_path / "episode.gif") as picture:
        assert (picture.n_frames, picture.size) == (7, (12, 8))
        for frame in range(7):
            picture.seek(frame)
            seen.append(picture.convert("RGB").getpixel((3, 3))[0])
    assert seen == pytest.approx([0, 40, 80, 120, 160, 200, 240], abs=8)


def test_a_task_of_pixels_is_filmed_without_being_told_to_draw(tmp_path):
    config = PPOConfig(
        env="mru_rl/KeyDoor-v0",
        env_kwargs={"length": 5, "pixels": True},
        steps=64,
        num_envs=2,
        segment=16,
        hidden_size=8,
        tensorboard=False,
        run_dir=tmp_path / "run",
    )
    frames = record_video(train(config, progress=False), tmp_path / "episode.gif", seed=3)
    with Image.open(tmp_path / "episode.gif") as picture:
        assert picture.size == (192, 192)
        assert 2 <= picture.n_frames <= frames == 7  # Pillow joins frames that are equal


def test_what_cannot_be_filmed_is_one_line(run, tmp_path):
    made = run("popgym-RepeatFirstEasy-v0")
    with pytest.raises(ValueError, match="video"):
        record_video(made, tmp_path / "episode.txt")
    with pytest.raises(ValueError, match="draws no pictures"):
        record_video(made, tmp_path / "episode.gif")
    assert not list(tmp_path.glob("*.gif"))
