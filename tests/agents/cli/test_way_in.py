"""The way in from the command line: somebody's own env and wrappers beside them, options of any name, one line for what fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gymnasium
import pytest

from mru_rl.agents import PPOConfig, train
from mru_rl.agents.build import modules_of
from mru_rl.agents.cli.main import main
from mru_rl.agents.config import to_json
from mru_rl.agents.evaluate import evaluate_run
from mru_rl.agents.run import Run
from mru_rl.envs import make

TINY = ["--num-envs", "4", "--hidden-size", "6", "--segment", "8", "--no-tensorboard"]
MINE = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Discrete


class Mine(gymnasium.Env):
    observation_space, action_space = Box(-99, 99, (3,), np.float32), Discrete(2)

    def __init__(self, id=0, seed=0, workers=0, render_mode=None):
        self.pay, self.t = float(id + seed + workers), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(3, np.float32), self.pay, self.t == 4, False, {}


def half(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: reward / 2)


def Bad():
    raise RuntimeError("no luck")


def Late():
    env = Mine()
    env.reset = lambda **_: __import__("not_here_either")
    return env


for entry in (Mine, Bad, Late):
    gymnasium.register(f"{entry.__name__}-v0", entry, disable_env_checker=True)
"""


@pytest.fixture(autouse=True)
def _beside(tmp_path, monkeypatch):
    """A user who stands in a folder with mine_in_cli.py; what is imported and registered there is gone after the test."""
    (tmp_path / "mine_in_cli.py").write_text(MINE)
    (tmp_path / "broken_in_cli.py").write_text("raise OSError('no screen')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", os.getcwd())])
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    yield
    sys.modules.pop("mine_in_cli", None)


def evaluated(capsys, *options: str) -> dict:
    capsys.readouterr()
    main(["eval", "run", "--episodes", "4", "--json", *options])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_an_env_beside_the_user_is_trained_evaluated_inspected_and_resumed_as_it_was_wrapped(algorithm, capsys):
    words = ["--env", "mine_in_cli:Mine-v0", "--env-kwargs", "id=3", "seed=5", "--wrappers"]
    words += ["mine_in_cli:half,mru_rl.envs.wrappers:HideColumns(2)", "mru_rl.envs.wrappers:SuccessReturn(9)"]
    tiny = [word for word in TINY if algorithm == "ppo" or word not in ("--segment", "8")]
    main(["train", algorithm, *words, "--run-dir", "run", "--steps", "64", *tiny])
    config = json.loads(Path("run/config.json").read_text())
    assert config["wrappers"] == [
        "mine_in_cli:half",
        "mru_rl.envs.wrappers:HideColumns(2)",
        "mru_rl.envs.wrappers:SuccessReturn(9)",
    ]
    assert config["env_kwargs"] == {"id": 3, "seed": 5}
    found = evaluated(capsys)
    assert (found["return_mean"], found["success_rate"]) == (16, 1)
    assert evaluated(capsys, "--env-kwargs", "seed=0")["success_rate"] == 0
    main(["inspect", "run"])
    assert "return 16" in capsys.readouterr().out
    done = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["steps"]
    main(["resume", "run", "--steps", str(done + 64)])
    assert evaluated(capsys)["steps"] >= done + 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--env", "mine_in_cli:Bad-v0"], "Bad-v0 cannot be made, it raises RuntimeError: no luck; mend it"),
        (["--env", "mine_in_cli:Late-v0"], "Late-v0 needs another package: No module named 'not_here_either'; install"),
        (
            ["--env", "broken_in_cli:Bad-v0"],
            "named to register 'Bad-v0', cannot be imported, it raises OSError: no screen",
        ),
        (["--env", "mine_in_cli:None-v0"], "no env has the id 'None-v0'"),
        (["--env", "me/Mine-v0"], "PACKAGE:ID does, as in --env PACKAGE:ID, and --import PACKAGE"),
        (["--env", "mine_in_cli:Mine-v0", "--env-kwargs", "num_envs=2"], "mru-rl's own is --num-envs"),
        (["--env", "CartPole-v1", "--wrappers", "mine_in_cli:whole"], "has no wrapper 'whole'"),
        (["--env", "CartPole-v1", "--wrappers", "half"], "a wrapper is named module:Name"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing_behind(options, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "ppo", *options, "--run-dir", "run", *TINY])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in err
    assert (err.count("\n"), err.startswith("mru-rl: error: ")) == (1, True)


def test_wrappers_are_kept_by_name_and_anything_else_is_refused():
    assert PPOConfig(wrappers="a.b:C,d:E(1, 2)").wrappers == ("a.b:C", "d:E(1, 2)")
    assert to_json(PPOConfig(wrappers=["a:B"]))["wrappers"] == ["a:B"]
    for given in ([lambda env: env], lambda env: env, 3):
        with pytest.raises(
            ValueError, match="wrappers are names such as 'module:Name', which config.json can hold, got"
        ):
            PPOConfig(wrappers=given)


def test_an_env_given_as_a_function_is_wrapped_wherever_it_is_given(tmp_path):
    def factory():
        return gymnasium.make("CartPole-v1", max_episode_steps=20)

    tiny = {"num_envs": 4, "hidden_size": 8, "segment": 8, "steps": 64, "tensorboard": False, "progress": False}
    run = train(
        PPOConfig(env=factory, wrappers=("mru_rl.envs.wrappers:HideVelocity",), run_dir=tmp_path / "run"), **tiny
    )
    run = Run.open(run.path)
    assert evaluate_run(run, env=factory, episodes=4, num_envs=4, progress=False).episodes == 4
    batch = make("CartPole-v1", 4, wrappers="mru_rl.envs.wrappers:HideVelocity")
    assert evaluate_run(run, env=batch, episodes=4, progress=False).episodes == 4
    with pytest.raises(ValueError, match="wrappers go around single gymnasium envs"):
        train(PPOConfig(env=make("CartPole-v1", 4), wrappers=("a:B",), run_dir=tmp_path / "other"), **tiny)


def test_the_module_of_an_id_is_known_for_processes_elsewhere():
    assert modules_of("a.b:Mine-v0") == ("a.b",)
    assert modules_of("CartPole-v1") == modules_of(lambda: None) == ()
