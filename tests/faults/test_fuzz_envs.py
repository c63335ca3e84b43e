"""Envs that do not do what their spaces say: a step is what the contract promises, or an error that names row and step."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.envs import make
from mru_rl.envs.base import NonFiniteError
from mru_rl.envs.from_gymnasium.rows import EnvError

QUICK = settings(derandomize=True, deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=5000)


class Fuzzed(gymnasium.Env):
    """Returns the scripted values, one after the other: `first` from reset, `steps` from step, the last one for ever."""

    def __init__(self, observation_space, action_space, first, steps):
        self.observation_space, self.action_space = observation_space, action_space
        self.first, self.steps, self.count = first, steps, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.first

    def step(self, action):
        self.count += 1
        found = self.steps[min(self.count, len(self.steps)) - 1]
        if isinstance(found, Exception):
            raise found
        return found


FUZZED = "mru_rl-faults/Fuzzed-v0"
gymnasium.register(FUZZED, Fuzzed, disable_env_checker=True, order_enforce=False)

SPACES = [
    spaces.Discrete(3),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 4]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Box(-1, 1, (2,)),
    spaces.Box(0, 255, (2, 2, 1), np.uint8),
    spaces.Box(-np.inf, np.inf, ()),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (2,))}),
    spaces.Tuple([spaces.Discrete(2), spaces.Dict({"c": spaces.MultiBinary(2)})]),
]
ACTIONS = [
    spaces.Discrete(2),
    spaces.Discrete(3, start=-4),
    spaces.MultiDiscrete([2, 3]),
    spaces.Box(-2, 2, (2,)),
    spaces.MultiBinary([2, 2]),
    spaces.Box(-1, 3, (), np.int8),
    spaces.Dict({"a": spaces.Discrete(3, start=1), "b": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float16)])}),
]
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 10**12, 2**70, True, 0.5, 1e300, -1e300, float("nan"), float("inf")]),
    st.integers(-5, 5),
    st.floats(),
)
DTYPES = [
    "float32",
    "float64",
    "float16",
    "int8",
    "int64",
    "uint8",
    "uint64",
    "bool",
    "complex64",
    "object",
    "U3",
    "M8[s]",
]
ARRAYS = st.builds(
    lambda shape, dtype, fill: np.full(shape, fill).astype(dtype),
    st.sampled_from([(), (1,), (2,), (3,), (2, 2), (2, 2, 1), (4,), (0,), (1, 2)]),
    st.sampled_from(DTYPES),
    st.sampled_from([0, 1, 2, -1, 200]),
)
JUNK = st.one_of(
    NUMBERS,
    ARRAYS,
    st.none(),
    st.text(max_size=3),
    st.just([[1], [1, 2]]),
    st.just({}),
    st.just(()),
    st.just([0, 1]),
    st.just({"a": 1}),
    st.just({"a": 0, "b": [0, 0]}),
    st.just(torch.zeros(2)),
    st.just(object()),
)
FLAGS = st.one_of(st.booleans(), JUNK)


@st.composite
def scripts(draw):
    """Space, action space, what reset returns, what steps return: mostly right, wrong here and there."""
    space, action_space = draw(st.sampled_from(SPACES)), draw(st.sampled_from(ACTIONS))
    space.seed(draw(st.integers(0, 99)))

    def obs():
        return space.sample() if draw(st.integers(0, 5)) else draw(JUNK)

    def step():
        kind = draw(st.integers(0, 14))
        if kind == 0:
            return draw(st.sampled_from([(), (0,), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6), None, "12345", [1, 2, 3, 4, 5]]))
        if kind == 1:
            return draw(
                st.sampled_from([KeyError("x"), ValueError(), AssertionError("a\nb"), ZeroDivisionError(), EOFError()])
            )
        reward = draw(st.one_of(st.just(1.0), NUMBERS)) if kind > 3 else draw(JUNK)
        ends = (draw(st.booleans()), draw(st.booleans())) if kind > 2 else (draw(FLAGS), draw(FLAGS))
        return obs(), reward, *ends, {}

    first = (obs(), {}) if draw(st.integers(0, 9)) else draw(st.one_of(JUNK, st.tuples(JUNK, JUNK)))
    return space, action_space, first, [step() for _ in range(draw(st.integers(1, 5)))]


def open_env(script, **inputs):
    space, action_space, first, steps = script
    return make(FUZZED, 2, observation_space=space, action_space=action_space, first=first, steps=steps, **inputs)


def check_contract(script) -> None:
    env = open_env(script)
    with env:
        obs = env.reset()
        for _ in range(7):
            after = env.step(torch.zeros(env._check_action.shape, dtype=env._check_action.dtype))
            for shown in (after.obs, after.final_obs):
                assert (shown.dtype, shown.shape) == (obs.dtype, obs.shape)
                assert env.floats(shown).isfinite().all()
                assert env.encode(shown).shape == (2, env.obs_size)
            assert (after.reward.dtype, after.reward.shape) == (torch.float32, (2,))
            assert after.reward.isfinite().all()
            assert after.terminated.dtype == after.truncated.dtype == torch.bool


def check_acting(script) -> None:
    env = open_env(script, flatten=True, previous_action=True, previous_reward=True, start_flag=True)
    head, policy = PPOTrainer.make_agent(PPOConfig(core="bmru+gru", hidden_size=4), env.rules)
    data, _ = ActingLoop(env, policy, head, torch.Generator().manual_seed(0), Sampling()).collect(7)
    assert data["state_value"].isfinite().all()


@QUICK
@given(script=scripts())
def test_a_step_keeps_the_contract_or_names_what_is_wrong_with_the_env(documented, script):
    with documented(EnvError, NonFiniteError):
        check_contract(script)


@settings(QUICK, max_examples=60)
@given(script=scripts())
def test_acting_in_any_env_ends_well_or_names_what_is_wrong_with_it(documented, script):
    with documented(EnvError, NonFiniteError):
        check_acting(script)


@pytest.mark.slow
@LONG
@given(script=scripts())
def test_thousands_of_envs(documented, script):
    with documented(EnvError, NonFiniteError):
        check_contract(script)
    with documented(EnvError, NonFiniteError):
        check_acting(script)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            (7, 0.0, False, False, {}),
            r"an obs must fit observation_space Discrete\(3\), got 7 \(int64\) in row 0, step 1",
        ),
        ((-1, 0.0, False, False, {}), r"got -1 \(int64\) in row 0"),
        ((np.zeros(2), 0.0, False, False, {}), r"got float64 \[2\] in row 0"),
        ((0, "much", False, False, {}), "a reward must be one number, got str 'much'"),
        ((0, np.zeros(2), False, False, {}), r"a reward must be one number, got float64 \[2\]"),
        ((0, 0.0, None, False, {}), "must be one truth value each, got NoneType None"),
        ((0, 0.0, False, {}), r"step\(\) must return \(obs, reward, terminated, truncated, info\), got a tuple of 4"),
        (KeyError("door"), r"step\(\) mru_rl-faults/Fuzzed-v0 raised KeyError in row 0, step 1 of its episode: 'door'"),
    ],
)
def test_the_message_holds_the_rule_and_what_arrived(step, words):
    env = open_env((spaces.Discrete(3), spaces.Discrete(2), (0, {}), [step]))
    env.reset()
    with pytest.raises(EnvError, match=words + ".*mend the env"):
        env.step(torch.zeros(2, dtype=torch.int64))


def test_an_obs_too_large_for_float32_is_infinite_and_said_so():
    space = spaces.Box(-np.inf, np.inf, (), np.float64)
    env = open_env((space, spaces.Discrete(2), (np.array(1e300), {}), [(np.array(0.0), 0.0, False, False, {})]))
    with pytest.raises(NonFiniteError, match="observation values that are NaN or infinite in row 0"):
        env.reset()


def test_episodes_of_one_step_are_episodes():
    env = open_env((spaces.Discrete(3), spaces.Discrete(2), (0, {}), [(2, 1.0, True, False, {})]))
    env.reset()
    for _ in range(3):
        after = env.step(torch.zeros(2, dtype=torch.int64))
        assert (after.obs.tolist(), after.final_obs.tolist(), after.terminated.tolist()) == (
            [0, 0],
            [2, 2],
            [True, True],
        )


def test_floats_outside_a_box_are_taken_as_they_are():
    far = np.array([7, -9], dtype=np.float32)
    env = open_env((spaces.Box(-1, 1, (2,)), spaces.Discrete(2), (far, {}), [(far, 0.0, False, False, {})]))
    assert env.reset().tolist() == [[7, -9]] * 2
