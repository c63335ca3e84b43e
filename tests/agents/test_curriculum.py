from __future__ import annotations

import gymnasium
import pytest

import mru_rl.envs
from mru_rl.agents import training
from mru_rl.agents.algorithms import make_trainer
from mru_rl.agents.curriculum import Curriculum, at_level, split_curriculum
from mru_rl.agents.evaluate import evaluate_run, params_sha256
from mru_rl.agents.run import Run
from mru_rl.envs import registry
from mru_rl.envs.horizon.tmaze import TMaze

TMAZE = {"env": "mru_rl/TMaze-v0", "env_kwargs": {"length": "2..12", "noise": 0.0}}


def test_levels_double_and_end_at_the_far_end():
    curriculum = split_curriculum({"length": "10..100", "noise": 0.5})
    assert curriculum == Curriculum("length", 10, 100)
    levels = [curriculum.first]
    while levels[-1] != curriculum.last:
        levels.append(curriculum.after(levels[-1]))
    assert levels == [10, 20, 40, 80, 100]
    assert curriculum.after(100) == 100


def test_options_at_a_level_and_at_the_far_end():
    assert at_level({"length": "10..100", "noise": 0.5}, 40) == {"length": 40, "noise": 0.5}
    assert at_level({"length": "10..100"}) == {"length": 100}
    assert at_level({"length": 7}) == {"length": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": "100..10"}, r"rises from 1 or more, got length=100\.\.10; try length=10\.\.1000"),
        ({"length": "0..10"}, "rises from 1 or more, got length="),
        ({"length": "1..10", "noise": "1..2"}, "one env option can be a range, got length, noise"),
    ],
)
def test_ranges_that_make_no_curriculum_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        split_curriculum(options)


def test_a_batched_env_without_a_success_takes_no_curriculum(small, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))

    @mru_rl.envs.register_env("mru_rl-tests/Silent-v0")
    class Silent(TMaze):
        def __init__(self, *, length: int, **common) -> None:
            super().__init__(length=length, **common)
            self.success_return = None

    with pytest.raises(ValueError, match=r"names a success, mru_rl-tests/Silent-v0 does not"):
        make_trainer(small(env="mru_rl-tests/Silent-v0", env_kwargs={"length": "10..20"}))


class Echo(gymnasium.Env):
    """Asks for the color on show, `length` times; the last info says the success where it is told to."""

    action_space = observation_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int = 1, says: bool = True) -> None:
        self.length, self.says = length, says

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.right = self.length, True
        return self._show(), {}

    def _show(self):
        self.color = int(self.np_random.integers(2))
        return self.color

    def step(self, action):
        self.right &= int(action) == self.color
        reward, self.left = float(int(action) == self.color), self.left - 1
        return self._show(), reward, self.left == 0, False, {"is_success": self.right} if self.says else {}


@pytest.fixture
def echo():
    gymnasium.register("mru_rl-tests/Echo-v0", Echo)
    yield {"env": "mru_rl-tests/Echo-v0", "segment": 16, "num_envs": 32, "hidden_size": 32, "core": "mlp"}
    del gymnasium.registry["mru_rl-tests/Echo-v0"]


def test_a_curriculum_climbs_in_a_foreign_env_by_the_success_in_its_info(small, echo):
    trainer = make_trainer(small(**echo, env_kwargs={"length": "1..4"}, steps=60_000))
    while trainer.level < 4 and trainer.steps < 60_000:
        trainer.update()
    assert trainer.level == 4
    trainer.env.close()


def test_a_curriculum_that_hears_of_no_success_says_so_once(small, echo, capsys):
    trainer = make_trainer(small(**echo, env_kwargs={"length": "1..4", "says": False}))
    for _ in range(3):
        trainer.update()
    said = capsys.readouterr().err
    assert said.count("none of the last 100 episodes of mru_rl-tests/Echo-v0 said whether it was one") == 1
    assert trainer.level == 1


def test_a_run_climbs_its_curriculum_and_is_evaluated_at_the_far_end(small):
    run, trainer = training.start(small(**TMAZE, steps=40_000, num_envs=32, hidden_size=32, segment=26, epochs=4))
    training.run_to_end(run, trainer)
    levels = [record["level"] for record in run.records()]
    assert levels == sorted(levels)
    assert trainer.level == 12
    result = evaluate_run(run, episodes=64, env_kwargs={}, seed=5, sample=False)
    assert result.length_mean == 13
    assert result.success_rate >= 0.95  # chance is 0.5


def test_a_run_resumed_in_the_middle_of_its_curriculum_ends_with_the_same_parameters(small):
    settings = {**TMAZE, "steps": 30_000, "num_envs": 32, "hidden_size": 32, "segment": 26}
    whole_run, whole = training.start(small("whole", **settings))
    training.run_to_end(whole_run, whole)
    run, trainer = training.start(small("cut", **settings))
    while trainer.level == 2:
        trainer.update()
    training.Training(run, trainer)._save()
    resumed, lost = training.take_up(Run.open(run.path), Run.open(run.path).config)
    assert not lost
    assert resumed.level == trainer.level > 2
    training.run_to_end(run, resumed)
    assert params_sha256(resumed.policy) == params_sha256(whole.policy)
