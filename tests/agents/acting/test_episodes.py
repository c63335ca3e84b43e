"""What is counted of episodes: returns, lengths, success, and numbers in info, the same under every collector."""

from __future__ import annotations

import math
import os
import sys

import gymnasium
import numpy as np
import pytest
import torch

from mru_rl.agents import training
from mru_rl.agents.acting.episodes import EpisodeLog, info_means, success_rate
from mru_rl.agents.console import imports
from mru_rl.agents.run import Run

LOG = {"rows": 3, "device": torch.device("cpu")}


def count(log: EpisodeLog, reward: float, **ended: list[float]) -> None:
    """One step that ends the episodes of all rows."""
    done = torch.ones(3, dtype=torch.bool)
    log.count(torch.full((3,), reward), done, {name: torch.tensor(values) for name, values in ended.items()})


def test_success_in_info_goes_before_the_success_return_and_is_counted_as_it_is():
    log = EpisodeLog(success_return=1.0, **LOG)
    count(log, 2.0, success=[0.4, 0.0, math.nan])
    assert [success for _, _, success in log.recent] == pytest.approx([0.4, 0.0, 1.0])
    assert log.success_rate == pytest.approx(1.4 / 3)


def test_an_episode_that_says_nothing_among_others_that_do_is_no_success():
    log = EpisodeLog(success_return=None, **LOG)
    assert log.success_rate is None
    count(log, 2.0)
    assert log.success_rate is None
    count(log, 2.0, success=[1.0, math.nan, math.nan])
    assert log.success_rate == pytest.approx(1 / 6)
    assert success_rate([math.nan]) is None


def test_numbers_in_info_are_averaged_over_the_episodes_that_said_them():
    log = EpisodeLog(success_return=None, **LOG)
    count(log, 0.0, score=[1.0, math.nan, 2.0], success=[1.0, 1.0, 1.0], late=[math.nan] * 3)
    assert info_means(log.said) == {"score": 1.5}
    again = EpisodeLog(success_return=None, **LOG)
    again.load_state_dict(log.state_dict())
    assert (again.said, list(again.recent), again.success_rate) == (log.said, list(log.recent), 1.0)
    log.change_env(None)
    assert not log.said


class Task(gymnasium.Env):
    """Ends after four steps; says how many actions were 1, and whether all were."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = []
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.taken.append(int(action))
        info = {"success": np.mean(self.taken), "ones": sum(self.taken), "words": "many"}
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 0.0, len(self.taken) == 4, False, info


gymnasium.register("mru_rl-tests/Ones-v0", Task)
TASK = {"env": "mru_rl-tests/Ones-v0", "info_metrics": ("ones",), "steps": 1024, "core": "gru", "imports": (__name__,)}


def last_record(small, **changes) -> dict[str, float]:
    run, trainer = training.start(small(**TASK | changes))
    training.run_to_end(run, trainer)
    return run.records()[-1]


def test_records_hold_success_and_the_named_numbers_and_a_resumed_run_goes_on_with_them(small):
    run, trainer = training.start(small(**TASK))
    trainer.update()
    want = trainer.record({}, trainer.collector.collect(4), 1.0)
    assert want["info_ones"] == pytest.approx(4 * want["success_rate"])
    assert 0 < want["success_rate"] < 1
    training.Training(run, trainer)._save()
    said = list(trainer.collector.log.said)
    trainer.env.close()
    resumed, _ = training.take_up(Run.open(run.path), Run.open(run.path).config)
    assert list(resumed.collector.log.said) == said
    resumed.env.close()


def test_torchrls_collector_counts_the_same(small):
    want, got = (last_record(small, name=name, collector=name) for name in ("own", "torchrl"))
    for name in ("success_rate", "info_ones", "return_mean", "episodes"):
        assert got[name] == pytest.approx(want[name]), name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_collectors_on_ray_count_the_same(small, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    want, got = (last_record(small, name=name, collector=name) for name in ("own", "ray"))
    for name in ("success_rate", "info_ones", "episodes"):
        assert got[name] == pytest.approx(want[name]), name


def test_a_run_ends_at_the_success_its_env_names_in_info(small):
    run, trainer = training.start(small(**TASK | {"steps": 10**6, "stop_at_success": 0.1}))
    training.run_to_end(run, trainer)
    assert trainer.steps < 10**4


def test_r2d2_counts_them_too(tmp_path):
    from mru_rl.agents import R2D2Config

    config = R2D2Config(
        **TASK | {"steps": 512, "num_envs": 4, "hidden_size": 8, "tensorboard": False, "run_dir": tmp_path / "run"}
    )
    run, trainer = training.start(config)
    training.run_to_end(run, trainer)
    assert {"success_rate", "info_ones"} <= run.records()[-1].keys()


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """What a test imports by name is no import of those that follow."""
    monkeypatch.setattr(imports, "_IMPORTED", list(imports._IMPORTED))


@pytest.mark.parametrize("given", [("a,b",), ("a", "b"), ("a, b", "a"), ["a", "b"]])
def test_names_of_metrics_may_be_words_or_one_word_with_commas(small, given):
    assert small(info_metrics=given).info_metrics == ("a", "b")


def test_an_env_without_info_takes_no_names(small):
    with pytest.raises(ValueError, match="got ones for the batched env popgym-RepeatFirstEasy-v0, which has no info"):
        training.start(small(info_metrics=("ones",)))
    with pytest.raises(ValueError, match="has no option 'info_metrics'"):
        training.start(small(env="CartPole-v1", env_kwargs={"info_metrics": "ones"}))
