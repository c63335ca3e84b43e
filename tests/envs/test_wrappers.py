"""The wrappers that come with the library: what is hidden, and what counts as a success."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.envs import from_object, make
from mru_rl.envs.wrappers import HideColumns, HideVelocity, SuccessReturn

NAMED = "mru_rl.envs.wrappers:"


class Robot(gymnasium.Env):
    """As gymnasium's MuJoCo envs tell what they show: 2 places, 3 velocities, 1 force, 2 more velocities."""

    observation_structure = {"skipped_qpos": 1, "qpos": 2, "qvel": 3, "cfrc_ext": 1, "cvel": 2}  # noqa: RUF012
    observation_space, action_space = spaces.Box(-9, 9, (8,), np.float64), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.arange(8.0), {}

    def step(self, action):
        return np.arange(8.0), 1.0, True, False, {}


@pytest.mark.parametrize(
    ("env_id", "kept"),
    [
        ("CartPole-v1", [0, 2]),
        ("Pendulum-v1", [0, 1]),
        ("MountainCar-v0", [0]),
        ("MountainCarContinuous-v0", [0]),
        ("Acrobot-v1", [0, 1, 2, 3]),
    ],
)
def test_velocities_are_hidden_and_the_rest_is_as_it_was(env_id, kept):
    whole, part = gymnasium.make(env_id), HideVelocity(gymnasium.make(env_id))
    assert whole.reset(seed=3)[0][kept].tolist() == part.reset(seed=3)[0].tolist()
    action = whole.action_space.sample()
    assert whole.step(action)[0][kept].tolist() == part.step(action)[0].tolist()
    assert part.observation_space == spaces.Box(whole.observation_space.low[kept], whole.observation_space.high[kept])


def test_the_velocities_of_mujoco_are_found_by_what_the_env_tells():
    env = HideVelocity(Robot())
    assert env.reset()[0].tolist() == [0, 1, 5]
    assert env.observation_space == spaces.Box(-9, 9, (3,), np.float64)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Ant-v5"])
def test_mujoco_itself_loses_as_many_columns_as_it_has_velocities(env_id):
    pytest.importorskip("mujoco")
    with make(env_id, 1) as whole, make(env_id, 1, wrappers=f"{NAMED}HideVelocity") as part:
        velocities = {"HalfCheetah-v5": 9, "Ant-v5": 14}[env_id]
        assert whole.obs_size - part.obs_size == velocities


def test_the_velocity_of_an_unknown_env_is_refused_naming_what_does_it():
    changed = gymnasium.wrappers.TransformObservation(
        gymnasium.make("CartPole-v1"), lambda obs: obs[:3], spaces.Box(-9, 9, (3,))
    )
    for env in (gymnasium.make("FrozenLake-v1"), changed):
        with pytest.raises(ValueError, match=r"which columns are velocities, got .*; .*wrappers:HideColumns\(1, 3\)$"):
            HideVelocity(env)


def test_columns_are_hidden_by_number():
    env = make("CartPole-v1", 2, seed=1, wrappers=[f"{NAMED}HideColumns(0, 3)"])
    assert env.reset().tolist() == make("CartPole-v1", 2, seed=1).reset()[:, 1:3].tolist()


@pytest.mark.parametrize("columns", [(), (4,), (-1,), (0, 1, 2, 3), (1.0,), ("1",)])
def test_columns_that_are_not_there_are_refused(columns):
    with pytest.raises(ValueError, match="columns to hide are whole numbers from 0 to 3, at least one and not all"):
        HideColumns(gymnasium.make("CartPole-v1"), *columns)


def test_columns_of_what_is_no_vector_are_refused():
    with pytest.raises(ValueError, match=r"got Discrete\(16\); flatten it first"):
        HideColumns(gymnasium.make("FrozenLake-v1"), 1)


def test_a_success_return_of_ones_own_counts():
    assert make("Pendulum-v1", 1).success_return is None
    assert make("Pendulum-v1", 1, wrappers=f"{NAMED}SuccessReturn(-250)").success_return == -250
    assert make("CartPole-v1", 1).success_return == 475
    env = make("CartPole-v1", 1, wrappers=[f"{NAMED}SuccessReturn(success_return=9.5)", f"{NAMED}HideVelocity"])
    assert env.success_return == 9.5


@pytest.mark.parametrize("value", ["9", None, True, float("nan")])
def test_a_success_return_is_a_number(value):
    with pytest.raises(ValueError, match=r"a success return is a finite number, got .*; give one, as in \(0.5\)"):
        SuccessReturn(gymnasium.make("CartPole-v1"), value)


class Boastful(Robot):
    """Says of itself and in info what a success is."""

    metadata = {"mru_rl": {"success_return": 100.0, "horizon": 7}}  # noqa: RUF012

    def step(self, action):
        return np.arange(8.0), 1.0, True, False, {"success": False, "is_success": False, "other": 2.0}


def test_a_success_return_of_ones_own_counts_whatever_the_env_says():
    env = from_object(
        Boastful, 1, wrappers=[lambda env: SuccessReturn(env, 1.0), f"{NAMED}HideColumns(0)"], info_metrics=["other"]
    )
    assert (env.success_return, env.horizon) == (1.0, 7)
    env.reset()
    env.step(torch.zeros(1, dtype=torch.int64))
    assert env.ended.keys() == {"other"}
