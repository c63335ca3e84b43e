"""The long tasks as pictures: the same episodes, and on each picture what the obs says, no more and no less."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mru_rl.envs import as_gymnasium, as_torchrl, make
from mru_rl.envs.horizon.pixels import (
    IMAGE,
    Burst,
    enlarged,
    key_door_pictures,
    recall_first_pictures,
    tmaze_pictures,
)
from mru_rl.envs.players.base import returns
from mru_rl.envs.players.horizon import WITHOUT_MEMORY, perfect_memory

CPU = torch.device("cpu")
TASKS = [
    ("TMaze", {"length": 5}),
    ("TMaze", {"length": 5, "noise": 0, "rewards": "bakker"}),
    ("TMaze", {"length": 5, "noise": 0.1, "rewards": "memory-rl"}),
    ("KeyDoor", {"length": 6}),
    ("KeyDoor", {"length": 6, "colors": 9, "things": 1}),
    ("RecallFirst", {"length": 6}),
    ("RecallFirst", {"length": 6, "symbols": 3, "ask": "always"}),
    ("Contamination", {"length": 6, "burst": 3}),
]
CASES = pytest.mark.parametrize(("task", "options"), TASKS)
ALL = {"flatten": True, "previous_action": True, "start_flag": True, "previous_reward": True}


def pair(task: str, rows: int, **options):
    """The same task as numbers and as pictures."""
    return (make(f"mru_rl/{task}-v0", rows, seed=3, pixels=pixels, **options) for pixels in (False, True))


def distinct(rows: torch.Tensor) -> torch.Tensor:
    """For each row the number of the kind it is of."""
    return rows.unique(dim=0, return_inverse=True)[1]


def same_partition(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two rows are equal in one exactly where they are in the other."""
    kinds = torch.stack((distinct(one), distinct(other)), dim=1)
    return len(kinds.unique(dim=0)) == len(kinds[:, 0].unique()) == len(kinds[:, 1].unique())


@CASES
def test_an_episode_of_pictures_is_that_of_the_numbers_with_the_same_seed_and_actions(task, options, random_action):
    numbers, pictures = pair(task, 7, **options)
    assert (pictures.observation_space, pictures.obs_size) == (IMAGE, 1728)
    assert pictures.options == numbers.options | {"pixels": True}
    for name in ("horizon", "perfect_return", "memoryless_return", "success_return", "open_loop", "can_unroll"):
        assert getattr(pictures, name) == getattr(numbers, name)
    obs, picture = numbers.reset(), pictures.reset()
    for _ in range(20):
        assert (picture.dtype, picture.shape) == (torch.uint8, (7, 1728))
        assert torch.equal(pictures.shown_numbers(), obs)
        action = random_action(numbers)
        obs, *paid_and_ended, _ = numbers.step(action)
        picture, *found, final = pictures.step(action)
        assert final.shape == picture.shape
        assert all(torch.equal(a, b) for a, b in zip(found, paid_and_ended, strict=True))
    rows = torch.tensor([True] + [False] * 6)
    assert pictures.reset_rows(rows).shape == (1, 1728)


@CASES
def test_players_earn_the_exact_returns_on_pictures(task, options):
    _, env = pair(task, 2000, **options)
    earned = returns(env, perfect_memory, torch.Generator().manual_seed(0))
    torch.testing.assert_close(earned, torch.full_like(earned, env.perfect_return), atol=1e-6, rtol=0)
    earned = returns(env, WITHOUT_MEMORY[task], torch.Generator().manual_seed(0))
    assert abs(earned.mean().item() - env.memoryless_return) <= 4 * earned.std().item() / math.sqrt(2000) + 1e-6


@CASES
def test_two_pictures_are_equal_exactly_where_the_numbers_are(task, options):
    numbers, pictures = pair(task, 200, **options)
    numbers.reset()
    pictures.reset()
    shown, seen = numbers.unroll(99).obs.flatten(0, 1), pictures.unroll(99).obs.flatten(0, 1)
    if task == "TMaze" and numbers.noise_width:  # 256 levels of it can be seen
        shown[:, 3] = ((shown[:, 3] / numbers.noise_width + 1) * 128).clamp(0, 255).floor()
    assert same_partition(shown, seen)
    assert len(seen.unique(dim=0)) > 3


def test_up_to_64_colors_and_symbols_can_be_told_apart():
    hot = torch.eye(64)
    nothing, some = torch.zeros(64, 1), torch.ones(64, 1)
    things = torch.cat([torch.cat((hot, *marks), dim=1) for marks in ((some, nothing), (nothing, some))])
    door = torch.cat((torch.zeros(2, 66), torch.tensor([[0.0], [1.0]])), dim=1)
    seen = key_door_pictures(64, CPU)(torch.cat((torch.cat((things, torch.zeros(128, 1)), dim=1), door)))
    assert len(seen.unique(dim=0)) == 130
    marks = [(cue, question) for cue in (nothing, some) for question in (nothing, some)]
    cards = torch.cat([torch.cat((hot, *pair), dim=1) for pair in marks])
    assert len(recall_first_pictures(64, CPU)(cards).unique(dim=0)) == 256


def test_noise_moves_a_strip_of_grey_alone_and_every_pixel_of_it_tells_the_level():
    obs = torch.zeros(256, 4)
    obs[:, 3] = (torch.arange(256) + 0.5) / 128 - 1
    seen = tmaze_pictures(1.0, CPU)(obs).view(256, 3, 24, 24)
    assert (seen == seen[0]).all(0)[:, :21].all()
    strip = seen[:, :, 21:]
    assert (strip == strip[:, :1]).all(), "grey"
    assert all(len(pixel.unique()) == 256 for pixel in strip[:, 0].flatten(1).T)
    quiet = tmaze_pictures(0.0, CPU)(torch.zeros(2, 4))
    assert torch.equal(quiet[0], quiet[1])


def test_a_corridor_looks_the_same_at_each_step_but_for_the_noise():
    env = make("mru_rl/TMaze-v0", 1, length=50, noise=0, pixels=True)
    env.reset()
    seen = env.unroll(51).obs[0]
    assert (seen[1:50] == seen[1]).all()
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[50], seen[1])


def test_a_burst_is_static_that_tells_every_channel_and_the_rest_is_as_ever():
    album = recall_first_pictures(3, CPU)
    draw = Burst(album, 10.0)
    usual = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 1, 0, 1]])
    assert torch.equal(draw(usual), album(usual))
    base = torch.full((1, 5), 4.0)
    odd = torch.cat((base, base + torch.eye(5), torch.zeros(1, 5)))
    seen = draw(torch.cat((usual, odd)))
    assert torch.equal(seen[:2], album(usual))
    assert len(seen.unique(dim=0)) == 9
    assert torch.equal(draw(odd[:1] * 100), draw(odd[:1] * 200)), "beyond three deviations all is one"
    blank = make("mru_rl/Contamination-v0", 3, length=6, burst=4, scale=0, pixels=True)
    blank.reset()
    assert (blank.unroll(7).obs[:, 2] == blank.reset()[0]).all(1).sum() == 0


@CASES
def test_an_obs_of_pixels_goes_through_saving_inputs_gymnasium_and_torchrl(task, options, random_action):
    env, twin = (make(f"mru_rl/{task}-v0", 3, seed=1, pixels=True, **options, **ALL) for _ in range(2))
    env.reset()
    twin.reset()
    for _ in range(4):
        env.step(random_action(env))
    twin.load_state_dict(env.state_dict())
    for _ in range(9):
        action = random_action(env)
        assert all(torch.equal(a, b) for a, b in zip(env.step(action), twin.step(action), strict=True))
    assert env.encode(env.reset()).dtype == torch.uint8
    vector = as_gymnasium(make(f"mru_rl/{task}-v0", 3, seed=1, pixels=True, **options))
    obs, _ = vector.reset()
    assert (obs.shape, obs.dtype) == ((3, 3, 24, 24), np.uint8)
    rolled = as_torchrl(make(f"mru_rl/{task}-v0", 3, seed=1, pixels=True, **options)).rollout(4)
    assert torch.equal(rolled["observation"][:, 0], torch.from_numpy(obs).flatten(1))


def test_the_hidden_state_stands_beside_a_picture_or_in_its_place():
    env = make("mru_rl/KeyDoor-v0", 4, length=3, pixels=True, state="append")
    obs = env.reset()
    assert (obs.dtype, obs.shape) == (torch.uint8, (4, 2 * 4 + 1728))
    assert torch.equal(obs[:, :8].clone().view(torch.float32), env.markov_state().float())
    only = make("mru_rl/KeyDoor-v0", 4, length=3, pixels=True, state="only")
    assert torch.equal(only.reset(), only.markov_state())
    assert only.render().shape == (192, 192, 3)


def test_render_is_the_picture_of_the_first_row_and_an_end_leaves_its_last():
    env = make("mru_rl/KeyDoor-v0", 3, length=2, pixels=True)
    assert env.can_render
    obs = env.reset()
    assert np.array_equal(env.render(), enlarged(obs[0]))
    for step in range(6):
        step_ = env.step(torch.zeros(3, dtype=torch.int64))
        assert np.array_equal(env.render(), enlarged(step_.obs[0]))
        assert (env.final_frame is None) == (step % 3 < 2)
    assert np.array_equal(env.final_frame, enlarged(step_.final_obs[0]))
    assert not make("mru_rl/KeyDoor-v0", 3).can_render
