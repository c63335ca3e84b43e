"""What gymnasium envs and vector envs say of themselves, and what their info says at the end of an episode."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from mru_rl.envs import AgentInput, as_torchrl, from_object, make
from mru_rl.envs.from_gymnasium.rows import EnvError
from mru_rl.envs.from_gymnasium.said import said_at_end, said_by
from mru_rl.envs.to_torchrl import TorchRLEnv


class Lift(gymnasium.Env):
    """Ends after three steps; the first action of an episode is its success, which the last info says."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, **said) -> None:
        self.said = {"is_success": lambda first: bool(first)} | said

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {"is_success": True}

    def step(self, action):
        self.first = action if self.steps == 0 else self.first
        self.steps += 1
        info = {name: say(self.first) for name, say in self.said.items()}
        return np.zeros(2, np.float32), 1.0, self.steps == 3, False, info


class Known(Lift):
    """Says everything of itself."""

    horizon, credit_horizon, open_loop = 3, np.int64(2), True
    success_return, perfect_return, memoryless_return = 2.5, 3, 0.0


class Foreign(Lift):
    """Has properties of these names that it was not asked for."""

    @property
    def horizon(self):
        raise RuntimeError("call reset() first")


def told(env) -> dict:
    return {
        name: getattr(env, name)
        for name in (
            "horizon",
            "credit_horizon",
            "open_loop",
            "success_return",
            "perfect_return",
            "memoryless_return",
        )
    }


EVERYTHING = {
    "horizon": 3, "credit_horizon": 2, "open_loop": True, "success_return": 2.5, "perfect_return": 3.0,
    "memoryless_return": 0.0,
}  # fmt: skip
NOTHING = dict.fromkeys(EVERYTHING, None) | {"open_loop": False}


class InMetadata(Lift):
    metadata = {"mru_rl": EVERYTHING, "render_modes": []}  # noqa: RUF012 (gymnasium's own form)


@pytest.mark.parametrize("kind", [Known, InMetadata])
@pytest.mark.parametrize(
    "around",
    [
        lambda kind: from_object(kind, 2),
        lambda kind: from_object(lambda: TimeLimit(kind(), 10), 2),
        lambda kind: from_object(SyncVectorEnv([kind] * 2, autoreset_mode=AutoresetMode.SAME_STEP), 2),
        lambda kind: AgentInput(from_object(kind, 2), flatten=True),
    ],
    ids=["factory", "wrapped", "vector", "agent input"],
)
def test_an_env_says_what_it_is_as_attributes_or_in_its_metadata(kind, around):
    env = around(kind)
    assert told(env) == EVERYTHING
    assert all("metadata['mru_rl']" in source or "Known." in source for source in env.sources.values())
    assert env.sources.keys() == EVERYTHING.keys()


def test_processes_of_a_vector_env_say_it_in_their_metadata():
    vector = AsyncVectorEnv([InMetadata] * 2)
    with from_object(vector, 2) as env:
        assert told(env) == EVERYTHING


def test_an_env_that_says_nothing_or_cannot_is_left_alone():
    for kind in (Lift, Foreign):
        env = from_object(kind, 2)
        assert (told(env), dict(env.sources)) == (NOTHING, {})


def test_the_horizon_is_what_cuts_first_and_its_source_is_named():
    def around(steps):
        return from_object(lambda: TimeLimit(Known(), steps), 1)

    assert (around(10).horizon, around(10).sources["horizon"]) == (3, "the env (Known.horizon)")
    assert (around(2).horizon, around(2).sources["horizon"]) == (2, "a TimeLimit around the env")
    cart = make("CartPole-v1", 1)
    assert (cart.horizon, cart.sources["horizon"]) == (500, "the env's time limit (max_episode_steps)")
    assert (cart.success_return, cart.sources["success_return"]) == (475.0, "the env's reward_threshold")
    assert make("CartPole-v1", 1, max_episode_steps=-1).horizon is None, "nothing cuts it"
    assert from_object(lambda: gymnasium.make("Pendulum-v1").unwrapped, 1).horizon is None, "its limit was taken off"


def test_the_metadata_of_a_wrapper_counts_before_attributes():
    class Corrected(gymnasium.Wrapper):
        metadata = {"mru_rl": {"horizon": 7}}  # noqa: RUF012

    env = from_object(lambda: Corrected(Known()), 1)
    assert (env.horizon, env.credit_horizon) == (7, 2)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("horizon", 0, "horizon must be a whole number of steps, at least 1, got 0 in Lift.horizon"),
        ("horizon", 2.5, "horizon must be a whole number of steps"),
        ("horizon", True, "horizon must be a whole number of steps"),
        ("credit_horizon", -1, "credit_horizon must be a whole number of steps, at least 0, got -1"),
        ("open_loop", 1, "open_loop must be True or False, got 1"),
        ("success_return", "much", "success_return must be a finite number, got 'much'"),
        ("perfect_return", math.inf, "perfect_return must be a finite number, got inf"),
        ("horison", 3, "got 'horison'; did you mean 'horizon'"),
        ("colors", 3, "metadata\\['mru_rl'\\] may hold horizon, credit_horizon, .*, got 'colors'; leave it out"),
    ],
)
def test_a_wrong_word_of_an_env_is_one_line(name, value, rule):
    def say():
        env = Lift()
        if rule.startswith(name):
            setattr(env, name, value)
        else:
            env.metadata = {"mru_rl": {name: value}}
        return env

    with pytest.raises(ValueError, match=rule) as error:
        from_object(say, 1)
    assert "\n" not in str(error.value)


def test_metadata_that_is_no_dict_and_a_scale_without_length_are_refused():
    lift = Lift()
    lift.metadata = {"mru_rl": 3}
    with pytest.raises(ValueError, match="must be a dict such as"):
        said_by(lift, "Lift")
    lift.metadata = {"mru_rl": {"perfect_return": 1, "memoryless_return": 1.0}}
    with pytest.raises(ValueError, match=r"perfect_return must be above memoryless_return, got 1.0 and 1.0"):
        said_by(lift, "Lift")


def step_through(env, firsts, steps=3):
    """Take the first actions, then zeros; what `ended` held after every step."""
    env.reset()
    found = []
    for step in range(steps):
        env.step(torch.tensor(firsts) if step % 3 == 0 else torch.zeros(len(firsts), dtype=torch.int64))
        found.append({name: values.tolist() for name, values in env.ended.items()})
    return found


METRICS = {"score": lambda first: np.array([0.25 + first])}
WAYS = {
    "here": lambda kind, metrics: from_object(kind, 2, info_metrics=metrics),
    "processes": lambda kind, metrics: from_object(kind, 2, workers="process", info_metrics=metrics),
    **{
        mode.name: lambda kind, metrics, mode=mode: from_object(
            SyncVectorEnv([kind] * 2, autoreset_mode=mode), 2, info_metrics=metrics
        )
        for mode in AutoresetMode
    },
}


def lift_with_a_score() -> Lift:
    return Lift(score=METRICS["score"])


@pytest.mark.parametrize("way", WAYS)
def test_the_last_info_of_an_episode_arrives_from_everywhere(way):
    with WAYS[way](lift_with_a_score, ("score",)) as env:
        assert env.metrics == ("success", "score")
        found = step_through(env, [1, 0], steps=6)
        assert found[:2] == found[3:5] == [{}, {}] or all(
            math.isnan(value) for step in (0, 1, 3, 4) for values in found[step].values() for value in values
        )
        assert found[2] == {"success": [1.0, 0.0], "score": [1.25, 0.25]}
        assert found[5] == found[2]


@pytest.mark.parametrize(
    ("value", "want"),
    [(True, 1.0), (np.bool_(False), 0.0), (1, 1.0), (0.4, 0.4), (np.array([1]), 1.0), (np.float32(0.5), 0.5)],
)
def test_success_is_a_truth_value_or_a_number(value, want):
    assert said_at_end({"is_success": value}, (), "Lift")["success"] == pytest.approx(want)
    assert said_at_end({"success": value}, (), "Lift")["success"] == pytest.approx(want)
    assert said_at_end({"success": not value, "is_success": value}, (), "Lift")["success"] == pytest.approx(want)


@pytest.mark.parametrize("value", [None, "yes", {"a": 1}, [1, 2], [[1], [2, 3]], math.nan])
def test_success_that_is_no_number_says_nothing(value):
    assert said_at_end({"is_success": value}, (), "Lift") == {}


def test_a_metric_that_is_named_and_is_no_number_is_one_line():
    env = from_object(lambda: Lift(score=lambda first: "high"), 2, info_metrics=("score",))
    with pytest.raises(EnvError, match=r"Lift, row 0, step 3 of its episode: info\['score'\] must be one number"):
        step_through(env, [1, 0])
    vector = SyncVectorEnv([lambda: Lift(score=lambda first: "high")] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(EnvError, match=r"Lift, row 0: info\['score'\] must be one number, .*got str 'high'"):
        step_through(from_object(vector, 2, info_metrics=("score",)), [1, 0])


def test_rows_that_say_nothing_are_nan():
    env = from_object(lambda: Lift(is_success=lambda first: True if first else None), 2)
    success = step_through(env, [1, 0])[2]["success"]
    assert success[0] == 1
    assert math.isnan(success[1])


def test_torchrl_sees_the_metrics_that_are_named_and_none_else():
    env = from_object(lift_with_a_score, 2, info_metrics=("score",))
    shown = TorchRLEnv(env, metrics=env.metrics)
    data = shown.rollout(3, policy=lambda td: td.set("action", torch.tensor([1, 0])), break_when_any_done=False)
    score = data["next", "ended", "score"]
    assert score[:, 2].tolist() == [1.25, 0.25]
    assert score[:, :2].isnan().all()
    assert "ended" not in as_torchrl(from_object(Lift, 2)).observation_spec.keys()  # noqa: SIM118
