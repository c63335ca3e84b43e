from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from mru_rl.agents.algorithms import config_class
from mru_rl.agents.cli.main import main
from mru_rl.agents.config import field_docs
from mru_rl.agents.console.errors import flag
from mru_rl.agents.evaluate import params_sha256
from mru_rl.agents.records.checkpoint import list_checkpoints

TINY = ["--steps", "600", "--num-envs", "4", "--minibatches", "2", "--hidden-size", "8", "--no-tensorboard"]


def run(*words: str) -> None:
    main([str(w) for w in words])


@pytest.fixture
def fails(capsys):
    """Run a command that must end with exit status 2 and one line on stderr; returns the line."""

    def check(*words) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*words)
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == ""
        assert err.startswith("mru-rl: error: ")
        assert err.count("\n") == 1
        return err

    return check


def test_train_eval_and_resume_from_the_command_line(tmp_path, capsys):
    path = tmp_path / "run"
    run("train", "ppo", "--env", "mru_rl/TMaze-v0", "--env-kwargs", "length=6", "noise=0.2", "--run-dir", path, *TINY)
    printed = capsys.readouterr().out
    assert "--segment" in printed, "chosen values are shown when the run starts"
    assert f"next: mru-rl eval {path}" in printed
    run("eval", path, "--episodes", "10", "--env-kwargs", "length=40", "--json")
    result = json.loads(capsys.readouterr().out)
    assert {"return_mean", "return_ci95", "success_rate", "episodes", "steps", "params_sha256"} <= set(result)
    assert result["length_mean"] == 41
    assert result["episodes"] >= 10
    assert result["env_kwargs"] == {"length": 40, "noise": 0.2}
    run("eval", path, "--episodes", "4")
    assert "success" in capsys.readouterr().out
    run("resume", path)
    assert "done" in capsys.readouterr().out


class Lamp(gymnasium.Env):
    """Never ends; with `steps` it does, and its last info says a success and a brightness."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        info = {"is_success": self.count % 2, "brightness": 0.25}
        return np.zeros(2, np.float32), 1.0, self.count == self.steps, False, info


@pytest.fixture
def lamp():
    gymnasium.register("mru_rl-tests/Lamp-v0", Lamp)
    yield "mru_rl-tests/Lamp-v0"
    del gymnasium.registry["mru_rl-tests/Lamp-v0"]


def test_success_and_numbers_in_info_and_cut_episodes_are_told(tmp_path, capsys, fails, lamp):
    path = tmp_path / "run"
    words = ["--env", lamp, "--env-kwargs", "steps=3", "--info-metrics", "brightness,warmth"]
    run("train", "ppo", *words, "--run-dir", path, *TINY)
    assert "success 1.00 over" in capsys.readouterr().out
    assert json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["info_brightness"] == 0.25
    run("eval", path, "--episodes", "4")
    out = capsys.readouterr().out
    assert "success  1.000" in out
    assert "brightness 0.250  (info)" in out
    assert "cut" not in out
    run("eval", path, "--episodes", "4", "--env-kwargs", "steps=0", "--max-steps", "9")
    assert (
        "cut      4 of 4 episodes after 9 steps (--max-steps): their return is that so far" in capsys.readouterr().out
    )
    run("eval", path, "--episodes", "4", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["success_rate"], found["info"], found["cut"]) == (1.0, {"brightness": 0.25}, 0)
    assert "--max-steps must be at least 1, got 0" in fails("eval", path, "--max-steps", "0")


def test_the_printed_hash_is_that_of_the_parameters_in_name_order(tmp_path, capsys):
    import hashlib

    from mru_rl.agents.records.checkpoint import load_checkpoint

    path = tmp_path / "run"
    run("train", "ppo", "--run-dir", path, *TINY)
    capsys.readouterr()
    run("eval", path, "--episodes", "2", "--json")
    printed = json.loads(capsys.readouterr().out)["params_sha256"]
    policy = load_checkpoint(list_checkpoints(path / "checkpoints")[0])["policy"]
    policy.pop("value_scale")  # a buffer: what values are in units of
    raw = b"".join(policy[name].numpy().tobytes() for name in sorted(policy))
    assert printed == hashlib.sha256(raw).hexdigest()
    assert params_sha256.__doc__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "NoSuchEnv-v0"], "no env has the id 'NoSuchEnv-v0'"),
        (["--env", "popgym-RepeatFirstEazy-v0"], "did you mean 'popgym-RepeatFirstEasy-v0'"),
        (["--env-kwargs", "lenght=3"], "has no option 'lenght'"),
        (["--env-kwargs", "length"], "name=value"),
        (["--env-kwargs", "flatten=True"], "has no option 'flatten'; it has previous_action"),
        (
            ["--env-kwargs", "workers=2"],
            "has no option 'workers'; it has flatten, previous_action, start_flag, previous_reward, ",
        ),
        (["--env-kwargs", "num_envs=2"], "--env-kwargs holds options of the env alone, mru-rl's own is --num-envs"),
        (["--core", "bmruu"], "did you mean 'bmru'"),
        (["--core", "bmru+"], "empty part"),
        (["--core", ""], "at least one cell"),
        (["--core", "lru", "--state-size", "3"], "must be even"),
        (["--stepss", "5"], "did you mean --steps"),
        (["--steps", "many"], "'many'"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--num-envs", "-3"], "--num-envs must be at least 1, got -3"),
        (["--num-envs", "10", "--minibatches", "4"], "try --minibatches 2"),
        (["--discount", "1.5"], "--discount must lie in [0, 1], got 1.5"),
        (["--learning-rate", "0"], "--learning-rate must be positive"),
        (["--device", "gpu"], "gpu"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing_behind(fails, tmp_path, options, message):
    word = options if options[0] == "surplus" else ["ppo", *options]
    assert message in fails("train", *word, *([] if "--run-dir" in word else ["--run-dir", tmp_path / "run"]))
    assert list(tmp_path.iterdir()) == []


def test_unknown_commands_and_algorithms_are_named(fails):
    assert "did you mean train" in fails("trian")
    assert "algorithms are ppo" in fails("train", "sac")


def test_a_run_directory_that_exists_is_left_alone(fails, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert "exists; continue it with `mru-rl resume" in fails("train", "ppo", "--run-dir", tmp_path / "run", *TINY)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("command", ["resume", "eval"])
def test_a_directory_that_is_no_run_is_refused(fails, tmp_path, command):
    assert "is not a run directory" in fails(command, tmp_path)
    assert "is not a run directory" in fails(command, tmp_path / "absent")


@pytest.mark.parametrize("command", ["resume", "eval"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_a_damaged_checkpoint_is_refused(fails, tmp_path, capsys, command, damage):
    path = tmp_path / "run"
    run("train", "ppo", "--run-dir", path, *TINY)
    capsys.readouterr()
    for file in list_checkpoints(path / "checkpoints"):
        raw = file.read_bytes()
        file.write_bytes({"truncated": raw[: len(raw) // 2], "foreign": b"PK\x03\x04" + raw, "empty": b""}[damage])
    assert "checkpoint" in fails(command, path)


class _Nan(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(2, np.nan, np.float32), {}


class _Graph(_Nan):
    observation_space = gymnasium.spaces.Text(5)


class _Words(_Nan):
    action_space = gymnasium.spaces.Text(3)


@pytest.mark.parametrize(
    ("env", "message"),
    [(_Nan, "NaN"), (_Graph, "Text"), (_Words, "Text")],
    ids=["nan", "obs space", "action space"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_env_that_cannot_be_trained_on_is_named(fails, tmp_path, env, message):
    gymnasium.register("mru_rl-tests/Bad-v0", env)
    try:
        line = fails("train", "ppo", "--env", "mru_rl-tests/Bad-v0", "--run-dir", tmp_path / "run", *TINY)
    finally:
        del gymnasium.registry["mru_rl-tests/Bad-v0"]
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "eval", "inspect", "report", "resume", "envs", "cores", "doctor"])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0
    assert "--" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_every_option_of_training_is_explained(capsys, algorithm):
    with pytest.raises(SystemExit):
        run("train", algorithm, "--help")
    text = capsys.readouterr().out
    kind = config_class(algorithm)
    heads = [text.index(f" {group} options ") for group in ("task", "memory", "learning", "run", "faults")]
    assert heads == sorted(heads), "options stand in groups, in this order"
    for field in dataclasses.fields(kind):
        assert flag(field.name) in text
    assert set(field_docs(kind)) == {field.name for field in dataclasses.fields(kind)}, (
        "every field has a line under it"
    )


def test_r2d2_trains_and_evaluates_from_the_command_line(tmp_path, capsys):
    options = ["--num-envs", "8", "--hidden-size", "16", "--learning-starts", "8", "--batch", "4", "--no-tensorboard"]
    run("train", "r2d2", "--steps", "2048", "--run-dir", str(tmp_path / "run"), *options)
    assert "replay of 40 sequences of 51 steps" in capsys.readouterr().out
    run("eval", str(tmp_path / "run"), "--episodes", "8", "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 8
    assert -1 <= result["return_mean"] <= 1
    run("resume", str(tmp_path / "run"))
    assert "resuming" in capsys.readouterr().out


def test_envs_and_cores_list_what_there_is(capsys):
    import mru_rl
    import mru_rl.envs

    run("envs")
    listed = capsys.readouterr().out
    assert all(env_id in listed for env_id in mru_rl.envs.list_ids())
    run("cores")
    listed = capsys.readouterr().out
    assert all(name in listed for name in mru_rl.list_cells())


def test_help_and_a_misspelt_option_do_not_wait_for_torch():
    code = (
        "import sys\nfrom mru_rl.agents.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchrl', 'gymnasium', 'matplotlib', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for words in (["--help"], ["train", "ppo", "--help"], ["train", "ppo", "--stepss", "1"], ["evall"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_progress_in_a_pipe_is_lines_and_not_control_codes(tmp_path):
    started = time.monotonic()
    command = [sys.executable, "-m", "mru_rl.agents.cli", "train", "ppo", "--run-dir", str(tmp_path / "run"), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(tmp_path))
    assert "\x1b" not in done.stdout + done.stderr
    assert "steps/s" in done.stderr
    assert time.monotonic() - started < 120
