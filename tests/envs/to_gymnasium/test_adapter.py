"""Batched envs as gymnasium envs: gymnasium's own checker, and every transition against plain stepping."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from mru_rl.envs import BatchedEnv, GymnasiumEnv, as_gymnasium, list_ids, make
from mru_rl.envs.columns import columns
from mru_rl.envs.to_gymnasium.adapter import GymnasiumVectorEnv, to_native

INPUTS = {"flatten": True, "previous_action": True, "start_flag": True, "previous_reward": True}


def registered(env_id: str) -> str:
    return "mru_rl/" + env_id.removeprefix("mru_rl/")


def leaves_of(space, value) -> list[list]:
    """The arrays inside an obs of one env or of a batch."""
    if isinstance(space, spaces.Dict):
        return [leaf for name, part in space.spaces.items() for leaf in leaves_of(part, value[name])]
    if isinstance(space, spaces.Tuple):
        return [leaf for part, inner in zip(space.spaces, value, strict=True) for leaf in leaves_of(part, inner)]
    return [np.asarray(value).tolist()]


@pytest.mark.filterwarnings(
    "ignore:.*A Box observation space:UserWarning", "ignore:.*For Box action spaces:UserWarning"
)
@pytest.mark.parametrize("inputs", [{}, INPUTS], ids=["raw", "inputs"])
@pytest.mark.parametrize("env_id", list_ids())
def test_registered_env_passes_gymnasiums_checker(env_id, inputs, short):
    check_env(gymnasium.make(registered(env_id), **short(env_id), **inputs).unwrapped)


@pytest.mark.parametrize("env_id", list_ids())
def test_vector_env_equals_plain_stepping(env_id, short):
    vector = as_gymnasium(make(env_id, 3, **short(env_id)))
    plain = make(env_id, 3, seed=4, **short(env_id))
    space = vector.single_observation_space
    assert (space, vector.single_action_space, vector.num_envs) == (plain.observation_space, plain.action_space, 3)
    vector.action_space.seed(0)
    obs, info = vector.reset(seed=4)
    want = plain.reset()
    assert info == {}
    for _ in range(210 if "Easy" in env_id and "Labyrinth" not in env_id else 40):
        assert vector.observation_space.contains(obs)
        assert leaves_of(space, obs) == leaves_of(space, to_native(space, want))
        actions = vector.action_space.sample()
        obs, reward, terminated, truncated, info = vector.step(actions)
        want, *paid_and_ended, final = plain.step(torch.as_tensor(actions))
        for got, tensor in zip((reward, terminated, truncated), paid_and_ended, strict=True):
            assert got.tolist() == tensor.tolist()
        done = terminated | truncated
        assert ("final_obs" in info) == done.any()
        for row in done.nonzero()[0]:
            assert space.contains(info["final_obs"][row])
            assert leaves_of(space, info["final_obs"][row]) == leaves_of(space, to_native(space, final[row]))
        if done.any():
            assert info["_final_obs"].tolist() == done.tolist()
            assert [last is None for last in info["final_obs"]] == (~done).tolist()


@pytest.mark.parametrize(
    "env_id", [env_id for env_id in list_ids() if "Easy" in env_id or env_id.startswith("mru_rl/")]
)
def test_single_env_plays_the_episodes_of_a_batch_of_one(env_id, short):
    single = gymnasium.make(registered(env_id), **short(env_id))
    plain = make(env_id, 1, seed=9, **short(env_id))
    space = single.observation_space
    single.action_space.seed(0)
    (obs, _), want = single.reset(seed=9), plain.reset()
    ends = 0
    for _ in range(130):
        assert space.contains(obs)
        assert leaves_of(space, obs) == leaves_of(space, to_native(space, want[0]))
        action = single.action_space.sample()
        obs, reward, terminated, truncated, _ = single.step(action)
        want, *paid_and_ended, final = plain.step(torch.as_tensor(action)[None])
        assert [reward, terminated, truncated] == [tensor.item() for tensor in paid_and_ended]
        if terminated or truncated:
            ends += 1
            assert leaves_of(space, obs) == leaves_of(space, to_native(space, final[0]))
            obs, _ = single.reset()
    assert ends or plain.horizon > 130


def test_single_env_refuses_to_step_after_an_end_and_draws_anew_in_the_middle():
    env = gymnasium.make("mru_rl/TMaze-v0", length=1).unwrapped
    env.reset(seed=0)
    env.step(0)
    noise = {env.reset()[0][3] for _ in range(5)}
    assert len(noise) == 5
    env.step(0)
    assert env.step(0)[2]
    with pytest.raises(
        RuntimeError, match=r"the episode of mru_rl/TMaze-v0 has ended, got another step; call reset\(\)"
    ):
        env.step(0)


def test_seed_given_to_make_decides_too_and_without_any_two_envs_differ():
    first = lambda **seed: gymnasium.make("mru_rl/TMaze-v0", **seed).reset()[0].tolist()  # noqa: E731
    assert first(seed=3) == first(seed=3) != first(seed=4)
    assert first() != first()


def test_gymnasium_makes_vector_envs_of_the_registered_ids():
    vector = gymnasium.make_vec("mru_rl/TMaze-v0", num_envs=3, length=2)
    assert isinstance(vector, GymnasiumVectorEnv)
    assert vector.env.options["length"] == 2
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector)
    wrapped.reset(seed=0)
    for _ in range(3):
        info = wrapped.step(np.zeros(3, dtype=np.int64))[-1]
    assert info["episode"]["l"].tolist() == [3, 3, 3]
    assert set(np.abs(info["episode"]["r"])) == {1.0}
    vector.close()
    several = gymnasium.make_vec("mru_rl/TMaze-v0", num_envs=2, vectorization_mode="sync", length=2)
    assert several.reset(seed=0)[0].shape == (2, 4)


def test_vector_env_restarts_the_rows_of_a_mask():
    vector = as_gymnasium(make("popgym-PositionOnlyCartPoleEasy-v0", 3, seed=1))
    vector.reset()
    before, *_ = vector.step(np.array([0, 1, 0]))
    kept = before.copy()
    mask = np.array([False, True, False])
    after, _ = vector.reset(options={"reset_mask": mask})
    assert after[~mask].tolist() == before[~mask].tolist() == kept[~mask].tolist()
    assert (after[mask] != before[mask]).all()
    assert vector.env.steps.tolist() == [1, 0, 1]


def test_returned_arrays_alias_nothing():
    vector, twin = (as_gymnasium(make("mru_rl/TMaze-v0", 2, seed=0, length=2)) for _ in range(2))
    got, want = [vector.reset()[0]], [twin.reset()[0].copy()]
    for _ in range(7):
        for array in got:
            array[...] = 1
        got, want = vector.step(np.zeros(2, int))[:4], twin.step(np.zeros(2, int))[:4]
        assert all((a == b).all() for a, b in zip(got, want, strict=True))


def test_nested_and_shaped_spaces_come_back_as_they_were():
    space = spaces.Dict(
        {
            "a": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2, 2), np.float64)]),
            "b": spaces.MultiDiscrete([[2, 3], [4, 5]]),
            "c": spaces.MultiBinary(3),
        }
    )
    space.seed(0)
    for _ in range(5):
        value = space.sample()
        flat = np.concatenate([leaf.reshape(-1) for leaf in columns(space, value)])
        back = to_native(space, torch.from_numpy(flat))
        assert space.contains(back)
        assert leaves_of(space, back) == leaves_of(space, value)


def test_our_make_takes_the_registered_ids_and_keeps_port_and_original_apart():
    port = make("mru_rl/popgym-RepeatFirstEasy-v0", 2)
    assert (port.id, port.saves_state) == ("popgym-RepeatFirstEasy-v0", True)
    assert not isinstance(make("mru_rl/TMaze-v0", 2), GymnasiumEnv)
    assert isinstance(make("mru_rl/popgym-RepeatFirstEasy-v0", 2, backend="upstream"), GymnasiumEnv)
    assert isinstance(make("popgym-RepeatFirstEasy-v0", 2, backend="upstream"), GymnasiumEnv)
    with pytest.raises(ValueError, match="mru_rl/TMaze-v0 has no upstream"):
        make("mru_rl/TMaze-v0", 2, backend="upstream")
    with pytest.raises(ValueError, match=r"did you mean '(mru_rl/)?popgym-RepeatFirstEasy-v0'"):
        make("mru_rl/popgym-RepeatFrstEasy-v0", 2)


@pytest.mark.parametrize(
    "code",
    [
        "import gymnasium, mru_rl.envs; gymnasium.make('mru_rl/TMaze-v0')",
        "import mru_rl.envs, gymnasium; gymnasium.make('mru_rl/popgym-RepeatFirstEasy-v0')",
        "import gymnasium; gymnasium.make('mru_rl.envs:mru_rl/TMaze-v0')",
    ],
)
def test_gymnasium_knows_the_ids_whichever_is_imported_first(code):
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_as_gymnasium_takes_batched_envs_alone():
    with pytest.raises(TypeError, match=r"as_gymnasium takes an env of mru_rl\.envs\.make, got TimeLimit; pass make"):
        as_gymnasium(gymnasium.make("CartPole-v1"))
    assert isinstance(as_gymnasium(make("mru_rl/TMaze-v0", 1)).env, BatchedEnv)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": [1, 2]}, TypeError, r"seed of a vector env must be a whole number, got \[1, 2\]"),
        ({"seed": -1}, ValueError, "seed of a vector env must be at least 0, got -1"),
        ({"options": {"reset_mask": [True, False]}}, ValueError, r"must be a bool array \[2\] .*got \[True, False\]"),
        ({"options": {"reset_mask": np.zeros(2, bool)}}, ValueError, "at least one True"),
    ],
)
def test_wrong_resets_are_refused(arguments, error, message):
    vector = as_gymnasium(make("mru_rl/TMaze-v0", 2))
    vector.reset()
    with pytest.raises(error, match=message):
        vector.reset(**arguments)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (np.array([0.0, 1.0]), TypeError, r"actions for Discrete\(2\) must be an array of whole numbers, got float64"),
        (np.array([0, 2]), ValueError, "got 2 in row 1; number choices from 0"),
        (np.array([0]), ValueError, r"got shape \[1\]; give one action per env"),
        ("up", TypeError, "must be an array of whole numbers"),
    ],
)
def test_wrong_actions_are_refused(action, error, message):
    vector = as_gymnasium(make("mru_rl/TMaze-v0", 2))
    vector.reset()
    with pytest.raises(error, match=message):
        vector.step(action)


def test_a_single_env_of_pixels_renders_also_the_last_picture_of_an_episode():
    env = gymnasium.make("mru_rl/TMaze-v0", length=2, pixels=True, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        assert (obs.shape, obs.dtype, env.observation_space.contains(obs)) == ((3, 24, 24), np.uint8, True)
        frame = env.render()
        assert (frame.shape, frame.dtype) == ((192, 192, 3), np.uint8)
        assert np.array_equal(frame[::8, ::8], obs.transpose(1, 2, 0))
        obs, _, terminated, _, _ = env.step(0)
    assert terminated
    assert np.array_equal(env.render()[::8, ::8], obs.transpose(1, 2, 0))
    first, _ = env.reset()
    assert np.array_equal(env.render()[::8, ::8], first.transpose(1, 2, 0))
    assert not np.array_equal(first, obs)
    assert gymnasium.make("mru_rl/TMaze-v0", pixels=True).unwrapped.render() is None


@pytest.mark.parametrize("task", ["TMaze", "KeyDoor", "RecallFirst", "Contamination"])
def test_an_env_of_pixels_passes_gymnasiums_checker(task):
    check_env(gymnasium.make(f"mru_rl/{task}-v0", length=4, pixels=True).unwrapped)
    check_env(gymnasium.make(f"mru_rl/{task}-v0", length=4, pixels=True, render_mode="rgb_array").unwrapped)


def test_pictures_are_refused_where_there_are_none():
    with pytest.raises(TypeError, match="draws no pictures, got render_mode='rgb_array'; leave it out"):
        gymnasium.make("mru_rl/TMaze-v0", render_mode="rgb_array")
    with (
        pytest.warns(UserWarning, match="render_mode"),
        pytest.raises(TypeError, match="draws pictures as rgb_array alone, got render_mode='ansi'; leave it out"),
    ):
        gymnasium.make("mru_rl/TMaze-v0", pixels=True, render_mode="ansi")
