"""Envs given as objects: a factory, a vector env, a batched env."""

from __future__ import annotations

import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from mru_rl.envs import AgentInput, GymnasiumEnv, VectorEnvAsBatched, from_object, make
from mru_rl.envs.from_gymnasium.rows import EnvError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import a test file


class Counter(gymnasium.Env):
    """Shows how often it was stepped."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's own form)
    observation_space = spaces.Box(0, 100, (1,))
    action_space = spaces.Discrete(2, start=3)

    def __init__(self, start=0, render_mode=None):
        self.start, self.render_mode = start, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = self.start
        return self._see(), {}

    def step(self, action):
        assert action in (3, 4)
        self.count += 1
        return self._see(), float(action), False, False, {}

    def _see(self):
        return np.array([self.count], dtype=np.float32)

    def render(self):
        return np.full((2, 3, 3), self.count, dtype=np.uint8)


@pytest.mark.parametrize("workers", ["sync", "process"])
def test_a_factory_makes_every_row(workers):
    with from_object(lambda: TimeLimit(Counter(start=7), 3), 2, workers=workers, worker_restarts=1) as env:
        assert isinstance(env, GymnasiumEnv)
        assert (env.id, env.num_envs, env.horizon, env.success_return) == ("Counter", 2, 3, None)
        assert env.summary == "Shows how often it was stepped."
        assert env.options["worker_restarts"] == 1
        assert (env.action_space, env.native_action_space) == (spaces.Discrete(2), spaces.Discrete(2, start=3))
        assert env.reset().tolist() == [[7], [7]]
        steps = [env.step(torch.tensor([0, 1])) for _ in range(3)]
        assert [step.reward.tolist() for step in steps] == [[3, 4]] * 3
        assert steps[2].truncated.tolist() == [True, True]
        assert (steps[2].obs.tolist(), steps[2].final_obs.tolist()) == ([[7], [7]], [[10], [10]])


def test_a_factory_of_a_registered_env_keeps_what_its_spec_says():
    env = from_object(lambda: gymnasium.make("CartPole-v1"), 2, seed=3)
    assert (env.id, env.horizon, env.success_return) == ("CartPole-v1", 500, 475.0)
    assert torch.equal(env.reset(), make("CartPole-v1", 2, seed=3).reset())
    shorter = from_object(lambda: TimeLimit(gymnasium.make("CartPole-v1"), 9), 1)
    assert shorter.horizon == 9
    longer = from_object(lambda: TimeLimit(gymnasium.make("CartPole-v1"), 900), 1)
    assert longer.horizon == 500
    assert from_object(Counter, 1).horizon is None  # a class is a factory too


def test_batched_and_vector_envs_are_taken_with_the_rows_they_have():
    env = make("mru_rl/TMaze-v0", 3)
    assert from_object(env, 3) is env
    vector = SyncVectorEnv([Counter] * 2)
    assert isinstance(from_object(vector, 2), VectorEnvAsBatched)
    for given in (env, vector):
        with pytest.raises(
            ValueError, match=rf"num_envs=7 and an env of {given.num_envs}; pass the same number to both"
        ):
            from_object(given, 7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "CartPole-v1",
            r"as a gymnasium VectorEnv or as a BatchedEnv, got 'CartPole-v1'; an id goes to mru_rl.envs.make",
        ),
        (
            Counter(),
            r"\(lambda: MyEnv\(\)\).*got one Counter; pass a function, since every row needs an env of its own",
        ),
        (None, "got NoneType None; put it into one of these forms"),
        (lambda: 3, "a factory must return a gymnasium.Env, got int 3"),
        (
            lambda: SyncVectorEnv([Counter]),
            "a factory must return a gymnasium.Env, got SyncVectorEnv .*give VectorEnvs",
        ),
        (lambda: make("mru_rl/TMaze-v0", 1), "a factory must return a gymnasium.Env, got TMaze"),
        (lambda size: Counter(), r"is called without arguments, got .*'size'.*; wrap it: lambda: "),
    ],
)
def test_other_objects_are_refused_with_the_forms_there_are(given, words):
    with pytest.raises(TypeError, match=words) as stop:
        from_object(given, 2)
    assert "\n" not in str(stop.value)


def test_what_a_factory_gets_wrong_is_said():
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        from_object(Counter, 0)
    with pytest.raises(ValueError, match=r"workers must be one of \['process', 'sync'\], got 'thread'"):
        from_object(Counter, 1, workers="thread")
    with pytest.raises(ZeroDivisionError):  # its own error, from the first call
        from_object(lambda: 1 / 0, 1)
    with pytest.raises(ValueError, match="made from an id and options or from a factory alone, got id='CartPole-v1'"):
        GymnasiumEnv(id="CartPole-v1", factory=Counter, num_envs=1)
    with pytest.raises(ValueError, match="give options inside the factory"):
        GymnasiumEnv(factory=Counter, num_envs=1, start=3)


def test_pictures_are_those_of_row_0_and_of_the_end_of_its_episode():
    env = from_object(lambda: TimeLimit(Counter(render_mode="rgb_array"), 2), 2)
    assert env.can_render
    with pytest.raises(RuntimeError, match="Counter draws only after a reset"):
        env.render()
    env.reset()
    frames, finals = [env.render()], [env.final_frame]
    for _ in range(3):
        env.step(torch.tensor([0, 1]))
        frames.append(env.render())
        finals.append(env.final_frame)
    assert [frame.shape for frame in frames] == [(2, 3, 3)] * 4
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 1, 0, 1]
    assert [None if frame is None else int(frame[0, 0, 0]) for frame in finals] == [None, None, 2, None]


def test_pictures_need_a_render_mode_and_this_process():
    gymnasium.register("mru_rl_test/Counter-v0", Counter, disable_env_checker=True)
    try:
        for options in ({}, {"render_mode": "rgb_array", "workers": "process"}):
            env = make("mru_rl_test/Counter-v0", 1, **options)
            assert not env.can_render
            with pytest.raises(RuntimeError, match="draws no pictures; .*render_mode='rgb_array' and workers='sync'"):
                env.render()
    finally:
        del gymnasium.registry["mru_rl_test/Counter-v0"]


def test_a_picture_of_another_form_is_refused():
    class Blank(Counter):
        def render(self):
            return np.zeros((2, 3), dtype=np.float32)

    env = from_object(lambda: Blank(render_mode="rgb_array"), 1)
    env.reset()
    with pytest.raises(
        EnvError, match=r"Blank: render\(\) must return uint8 \[height, width, 3\], got float32 \[2, 3\]"
    ):
        env.render()


def test_agent_input_passes_pictures_and_native_spaces_on():
    env = AgentInput(
        from_object(lambda: TimeLimit(Counter(render_mode="rgb_array"), 1), 1), flatten=True, start_flag=True
    )
    assert env.can_render
    env.reset()
    env.step(torch.tensor([0]))
    assert (int(env.render()[0, 0, 0]), int(env.final_frame[0, 0, 0])) == (0, 1)
    assert env.native_action_space == spaces.Discrete(2, start=3)
    assert env.native_observation_space == Counter.observation_space
