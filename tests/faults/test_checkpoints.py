"""Checkpoints that are damaged, forged, of another run or version, or cannot be written."""

from __future__ import annotations

import json

import pytest

from mru_rl.agents import training
from mru_rl.agents.cli.main import main
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.records.checkpoint import (
    FormatError,
    checkpoint_path,
    keep_newest,
    list_checkpoints,
    newest_checkpoint,
    save_checkpoint,
)
from mru_rl.agents.run import Run
from rig import files


@pytest.fixture
def short_run(tmp_path) -> Run:
    config = PPOConfig(
        env="mru_rl/TMaze-v0",
        core="bmru",
        steps=64,
        num_envs=4,
        segment=8,
        minibatches=2,
        hidden_size=8,
        checkpoint_seconds=0,
        tensorboard=False,
        run_dir=tmp_path / "run",
    )
    run, trainer = training.start(config)
    training.run_to_end(run, trainer)
    return run


def say_wrong(capsys, *words: str) -> str:
    """Run a command that must fail and return the one line it prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("how", ["cut short", "forged to run code"])
def test_the_checkpoint_before_a_bad_one_is_used_and_the_run_ends_as_if_nothing_had_been(how, task_and_end, tmp_path):
    task, end = task_and_end("ppo")
    tried = files.damage(task, tmp_path / "run", how, end)
    assert tried.survived, tried.what


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
@pytest.mark.parametrize("how", files.DAMAGES)
def test_every_damage_is_survived(how, algorithm, task_and_end, tmp_path):
    task, end = task_and_end(algorithm)
    tried = files.damage(task, tmp_path / "run", how, end)
    assert tried.survived, tried.what


def test_a_forged_checkpoint_would_run_code_where_pickle_reads_it(short_run):
    """The forgery the tests above refuse is a real one."""
    import torch

    newest = list_checkpoints(short_run.checkpoints)[0]
    files.forge(newest)
    assert not (newest.parent / "code-was-run").exists()
    body = newest.read_bytes().partition(b"\n")[2]
    (newest.parent / "body").write_bytes(body)
    torch.load(newest.parent / "body", weights_only=False)
    assert (newest.parent / "code-was-run").is_dir()


@pytest.mark.parametrize("fault", [files.over_the_size_limit, files.directory_read_only, files.disk_full])
def test_what_cannot_be_written_is_one_clear_line_and_the_last_checkpoint_is_intact(fault, task_and_end, tmp_path):
    task, end = task_and_end("ppo")
    try:
        tried = fault(task, tmp_path / "run", end)
    except PermissionError as error:
        pytest.skip(f"this machine lets nobody mount a small disk: {error}")
    assert tried.survived, tried.what


@pytest.mark.parametrize("command", ["resume", "eval"])
@pytest.mark.parametrize(
    ("change", "sides"),
    [
        ({"core": "gru"}, ("core 'bmru'", "core 'gru'")),
        ({"env": "mru_rl/FlipFlop-v0", "env_kwargs": {}}, ("env 'mru_rl/TMaze-v0'", "env 'mru_rl/FlipFlop-v0'")),
        ({"hidden_size": 16}, ("is [8", "in the checkpoint and [16")),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_both_sides(command, change, sides, short_run, capsys):
    config = short_run.path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    said = say_wrong(capsys, command, str(short_run.path))
    assert all(side in said for side in sides), said


def test_a_checkpoint_of_another_algorithm_is_refused_naming_both(short_run, capsys):
    config = json.loads((short_run.path / "config.json").read_text())
    shared = {name: config[name] for name in ("env", "core", "steps", "num_envs", "hidden_size", "seed")}
    (short_run.path / "config.json").write_text(json.dumps({"algorithm": "r2d2", **shared}))
    assert "algorithm 'ppo', config.json names algorithm 'r2d2'" in say_wrong(capsys, "resume", str(short_run.path))


def test_a_newer_format_is_named_with_ours_and_older_checkpoints_are_not_taken_instead(short_run, capsys):
    newest = list_checkpoints(short_run.checkpoints)[0]
    newest.write_bytes(newest.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 2 ", 1))
    with pytest.raises(FormatError):
        newest_checkpoint(short_run.checkpoints)
    said = say_wrong(capsys, "resume", str(short_run.path))
    assert "format 2, this version of mru_rl reads format 1" in said


def test_the_last_three_checkpoints_are_kept_and_damaged_ones_do_not_count(tmp_path):
    for steps in (10, 20, 30, 40, 50):
        save_checkpoint(checkpoint_path(tmp_path, steps), {"steps": steps})
    for steps in (40, 50):
        checkpoint_path(tmp_path, steps).write_bytes(b"damaged")
    assert newest_checkpoint(tmp_path, lambda said: None)[1] == {"steps": 30}
    save_checkpoint(checkpoint_path(tmp_path, 35), {"steps": 35})
    keep_newest(tmp_path, 3, last=checkpoint_path(tmp_path, 35))
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, steps) for steps in (35, 30, 20)]


def test_a_run_that_was_killed_while_it_was_made_can_be_started_again_and_no_other_directory(short_run):
    config = short_run.config
    with pytest.raises(ValueError, match="exists"):
        Run.check_free(short_run.path)
    for file in short_run.path.rglob("*.*"):
        if file.name != "provenance.json":
            file.unlink()
    Run.check_free(short_run.path)
    (short_run.path / ".config.json.123.tmp").write_text("{ha")
    run, _ = training.start(config)
    assert {path.name for path in run.path.iterdir()} == {
        "checkpoints",
        "provenance.json",
        "spaces.json",
        "config.json",
    }
