"""Images in an episode: taken apart from the numbers beside them, and which frames are shown."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.agents.evaluate import load_agent
from mru_rl.agents.inspection.arrays import arrays
from mru_rl.agents.inspection.episode import CHUNK, record_episode
from mru_rl.agents.inspection.film import Film, moments, take_apart
from mru_rl.agents.inspection.filmstrip import spread_out
from mru_rl.agents.nets.images import image_shape
from mru_rl.envs import make
from mru_rl.envs.input_rules import InputRules
from mru_rl.envs.native import layout

RNG = np.random.default_rng(0)


def film(frames: np.ndarray, name: str = "") -> Film:
    high = 255 if frames.dtype == np.uint8 else 1
    return Film(name, frames, image_shape(spaces.Box(0, high, frames.shape[1:], frames.dtype.type)))


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((9, 12), lambda f: f[..., None].repeat(3, -1)),
        ((9, 12, 1), lambda f: f.repeat(3, -1)),
        ((9, 12, 3), lambda f: f),
        ((3, 9, 12), lambda f: f.transpose(0, 2, 3, 1)),
        ((4, 9, 12), lambda f: f[:, 3, ..., None].repeat(3, -1)),
        ((9, 12, 4), lambda f: f[..., 3:].repeat(3, -1)),
        ((9, 12, 6), lambda f: f[..., 3:]),
        ((4, 9, 12, 3), lambda f: f[:, 3]),
        ((2, 3, 9, 12), lambda f: f[:, 1].transpose(0, 2, 3, 1)),
    ],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else "picture",
)
def test_frames_of_every_layout_are_shown_in_their_colors_the_newest_of_a_stack(shape, wanted):
    frames = noise(5, *shape)
    steps = np.array([0, 3])
    shown = film(frames).rgb(steps)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, wanted(frames[steps]))


def test_floats_are_shown_as_bytes_and_codes_are_shown_brighter():
    real = film(np.linspace(0, 1, 2 * 3 * 8 * 9, dtype=np.float32).reshape(2, 3, 8, 9))
    shown = real.rgb(np.arange(2))
    assert (shown.min(), shown.max(), real.brighter) == (0, 255, 1)
    codes = film(np.arange(11, dtype=np.uint8).repeat(7 * 7 * 3).reshape(11, 7, 7, 3))
    assert codes.brighter == 25.5
    assert codes.rgb(np.arange(11))[:, 0, 0, 0].tolist() == [int(25.5 * code) for code in range(11)]
    assert film(np.zeros((2, 7, 7, 3), np.uint8)).brighter == 1


def test_all_frames_are_shown_where_they_fit():
    assert moments(film(noise(7, 8, 8)), 11).tolist() == list(range(7))
    assert moments(film(noise(1, 8, 8)), 11).tolist() == [0]


@pytest.mark.parametrize("steps", [100, 10_000])
def test_the_first_the_last_and_what_happens_once_are_among_the_frames_shown_however_much_flickers(steps):
    frames = np.full((steps, 8, 8), 90, np.uint8)
    frames[:, 6:] = noise(steps, 2, 8)
    flashes = [steps // 3, steps // 3 + 7, 2 * steps // 3 + 1]
    for flash in flashes:
        frames[flash, 2, 2] = 200
    frames[steps // 2 + 3 :, 4, 4] = 140  # from there on
    shown = moments(film(frames), 11).tolist()
    assert len(shown) == 11
    assert {0, steps - 1, flashes[-1], steps // 2 + 3} <= set(shown)
    assert set(flashes[:2]) & set(shown), "two in a place are one"
    assert shown == sorted(set(shown))


def test_a_film_in_which_nothing_happens_is_a_few_frames():
    assert moments(film(np.zeros((1000, 8, 8), np.uint8)), 11).tolist() == [0, 200, 400, 599, 799, 999]


def test_frames_stand_at_their_steps_or_as_near_as_there_is_room():
    free = np.array([0.1, 0.4, 0.8])
    assert spread_out(free, 0.2, 0.9).tolist() == pytest.approx(free.tolist())
    crowd = spread_out(np.array([-0.1, 0.0, 0.01, 0.88, 0.95]), 0.2, 0.9)
    assert crowd.tolist() == pytest.approx([0.0, 0.2, 0.4, 0.7, 0.9])


def test_images_and_numbers_of_an_obs_are_taken_apart_with_a_name_for_each():
    space = spaces.Dict(
        {
            "cam": spaces.Box(0, 255, (8, 9, 3), np.uint8),
            "gear": spaces.Discrete(3),
            "map": spaces.Box(0, 1, (1, 8, 8), np.float32),
            "word": spaces.Text(2, charset="ab"),
        }
    )
    space.seed(0)
    rules = InputRules(space, spaces.Discrete(2), previous_action=True, start_flag=True, previous_reward=True)
    obs = [space.sample() for _ in range(4)]
    rows = torch.cat([layout(space, one)[0] for one in obs])
    action, reward = torch.tensor([1, 0, 1, 1]), torch.tensor([0.5, 1, 2, 3])
    x = rules.encode(rows, start=torch.tensor([True, False, False, False]), action=action, reward=reward)
    numbers, names, films = take_apart(rules, x)
    assert names == [
        *(f"obs {i}" for i in range(5)),
        *("last action 0", "last action 1", "going on", "start", "last reward"),
    ]
    assert numbers.dtype == torch.float32
    assert numbers[:, :3].argmax(1).tolist() == [one["gear"] for one in obs]
    assert numbers[1:, 6].tolist() == [0, 1, 1]
    assert numbers[:, 8:].tolist() == [[1, 0], [0, 1], [0, 2], [0, 3]]
    assert [f.name for f in films] == ["cam", "map"]
    assert all(np.array_equal(f.frames, np.stack([one[f.name] for one in obs])) for f in films)


def test_an_episode_of_pixels_keeps_its_frames_as_bytes_and_its_memory_is_that_of_acting(trained):
    task = {"env": "mru_rl/KeyDoor-v0", "env_kwargs": {"length": 20, "pixels": True}}
    run, trainer = trained(core="bmru", previous_action=False, steps=512, minibatches=1, epochs=1, **task)
    episode = record_episode(run, number=2, env_kwargs={}, seed=5, max_steps=1000)
    (seen,) = episode.films
    assert episode.inputs.shape == (21, len(episode.channels))
    assert not any(name.startswith("obs") for name in episode.channels)
    pictures = make("mru_rl/KeyDoor-v0", 64, seed=5, length=20, pixels=True)
    pictures.reset()
    assert np.array_equal(seen.frames.reshape(21, -1), pictures.unroll(21).obs[2].numpy())
    saved = arrays(episode)
    assert saved["frames"] is seen.frames
    assert (saved["frames"].dtype, saved["frames"].shape) == (np.uint8, (21, 3, 24, 24))
    assert saved["inputs"].shape == (21, len(episode.channels))
    env = load_agent(run, 64, {}, 5).env
    state, obs = trainer.policy.core.initial_state(64), env.reset()
    is_init = torch.ones(64, dtype=torch.bool)
    with torch.inference_mode():
        for step in range(21):
            state = trainer.policy.step(obs, state, is_init).state
            np.testing.assert_allclose(episode.memory[0].states[step], state[2, 0].numpy(), atol=1e-6)
            obs, is_init = env.step(torch.zeros(64, dtype=torch.int64)).obs, torch.zeros_like(is_init)


class Ball(gymnasium.Env):
    """A ball that moves, and its speed beside it."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (10, 20, 3), np.uint8), "speed": spaces.Box(-1, 1, (2,), np.float32)}
    )
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 40):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.see(), {}

    def see(self):
        image = np.zeros((10, 20, 3), np.uint8)
        image[3:6, self.time % 18 : self.time % 18 + 2] = [250, 200, 40]
        return {"image": image, "speed": np.array([1, 0], np.float32)}

    def step(self, action):
        self.time += 1
        return self.see(), 0.0, self.time == self.length, False, {}


gymnasium.register("mru_rl-inspection/Ball-v0", Ball, disable_env_checker=True)


def test_an_obs_with_image_and_vector_is_a_strip_and_lines_and_long_episodes_are_read_in_parts(trained):
    run, _ = trained(env="mru_rl-inspection/Ball-v0", env_kwargs={"length": CHUNK + 9}, core="gru", steps=512)
    episode = record_episode(run, number=0, env_kwargs={}, seed=5, max_steps=10_000)
    assert episode.steps == CHUNK + 9 == len(episode.memory[0].states)
    (seen,) = episode.films
    assert (seen.name, seen.frames.shape) == ("image", (CHUNK + 9, 10, 20, 3))
    assert episode.channels[:2] == ["obs 0", "obs 1"]
    assert episode.inputs[:, 0].tolist() == [1.0] * (CHUNK + 9)
    assert "frames.image" in arrays(episode)
