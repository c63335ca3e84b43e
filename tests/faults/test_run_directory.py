"""A run's directory may move, be copied, lose files, or be asked for by two processes."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import subprocess
import sys

import pytest

from mru_rl.agents import training, training_loop
from mru_rl.agents.cli.main import main
from mru_rl.agents.evaluate import evaluate_run
from mru_rl.agents.records.run import exclusive_lock
from mru_rl.agents.report.page import write_report
from mru_rl.agents.run import Run
from rig.commands import Command, Limits

_TINY = "--env mru_rl/TMaze-v0 --env-kwargs length=5 --num-envs 4 --hidden-size 4 --no-tensorboard"
_REPLAY = "--sequence 6 --burn-in 0 --overlap 0 --batch 4 --learning-starts 8"
TINY, REPLAY = _TINY.split(), _REPLAY.split()


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Make a run that was stopped half-way, with records."""
    monkeypatch.setattr(training_loop, "_LOG_SECONDS", 0.0)

    def build(name: str = "run", algorithm: str = "ppo", *words: str) -> Run:
        from mru_rl.agents.algorithms import config_class
        from mru_rl.agents.cli.main import _parse_config

        config = _parse_config(
            config_class(algorithm), [*TINY, "--steps", "1600", *words, "--run-dir", str(tmp_path / name)], ""
        )
        run, trainer = training.start(config)
        training.run_to_end(run, trainer, lambda: trainer.steps >= 800)
        assert run.records()
        return run

    return build


def finish(run: Run) -> str:
    """Resume a run, train it to its end, and return the digest of its parameters."""
    trainer, _ = training.take_up(run, run.config)
    training.run_to_end(run, trainer)
    assert trainer.steps >= 1600
    return evaluate_run(run, episodes=8, env_kwargs={}, seed=0, sample=False).params_sha256


def test_copies_of_a_run_with_replay_on_disk_go_on_each_in_its_own_directory(stopped, tmp_path):
    run = stopped("run", "r2d2", *REPLAY, "--replay-storage", "disk", "--replay-sequences", "100")
    shutil.copytree(run.path, tmp_path / "copy")
    moved = run.path.rename(tmp_path / "moved")
    ends = {finish(Run.open(path)) for path in (moved, tmp_path / "copy")}
    assert len(ends) == 1
    assert not run.path.exists(), "nothing is left where the run was made"


def test_a_disk_that_cannot_hold_replay_is_one_line(tmp_path):
    words = [
        *TINY,
        *REPLAY,
        "--steps",
        "16000",
        "--replay-storage",
        "disk",
        "--replay-sequences",
        "40000",
        "--no-save-replay",
    ]
    command = Command(
        ["train", "r2d2", *words, "--run-dir", str(tmp_path / "run")],
        tmp_path / "said",
        limits=Limits(file_bytes=1_500_000),
    )
    assert command.join() == 2
    (line,) = [line for line in command.stderr.splitlines() if line]
    assert "no room for replay" in line
    assert f"`mru-rl resume {tmp_path / 'run'}` goes on" in line


def test_replay_on_disk_has_its_room_before_it_fills_it(stopped):
    run = stopped("run", "r2d2", *REPLAY, "--replay-storage", "disk", "--replay-sequences", "5000")
    saved = run.checkpoint()["replay"]
    filled = saved["count"] / len(saved["sampler"]["priority"])
    files = list((run.path / "replay").rglob("*.memmap"))
    assert files
    for path in files:
        assert path.stat().st_blocks * 512 >= filled * path.stat().st_size, f"{path.name} has holes"


def test_one_process_trains_a_run_and_a_second_is_told_so(stopped, capsys):
    run = stopped()
    records = run.metrics_file.read_text()
    with exclusive_lock(run.path), pytest.raises(SystemExit) as stop:
        main(["resume", str(run.path)])
    assert stop.value.code == 2
    assert f"another process is at work in {run.path}; wait for its end" in capsys.readouterr().err
    assert run.metrics_file.read_text() == records
    with exclusive_lock(run.path):
        script = "import sys; from mru_rl.agents.cli.main import main; main(sys.argv[1:])"
        other = subprocess.run(
            [sys.executable, "-c", script, "resume", run.path], capture_output=True, text=True, check=False
        )
    assert (other.returncode, "another process" in other.stderr) == (2, True)
    finish(run)
    assert not (run.path / ".lock").exists()


def test_of_two_runs_begun_in_one_directory_at_once_one_writes_there(tmp_path, stopped):
    run = stopped()
    made = run.config_values(), run.spaces(), "cpu"
    path = tmp_path / "new"
    path.mkdir()
    with (
        exclusive_lock(path),
        pytest.raises(ValueError, match="another process is at work in .*; give another run_dir"),
    ):
        Run.create(path, *made)
    assert not (path / "config.json").exists()
    Run.create(path, *made)


def test_a_file_system_without_locks_is_said_and_trained_on(stopped, monkeypatch, capsys):
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    run = stopped()
    monkeypatch.setattr(fcntl, "flock", no_lock)
    finish(run)
    assert f"{run.path} is on a file system without locks" in capsys.readouterr().err


def test_a_lock_that_a_kill_left_holds_nobody_up(stopped):
    run = stopped()
    (run.path / ".lock").touch()
    finish(run)
    assert not (run.path / ".lock").exists()


def test_records_without_checkpoints_are_kept_and_the_run_is_not_begun_again(stopped):
    run = stopped()
    records = run.metrics_file.read_text()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(
        ValueError, match="holds no checkpoint, and metrics.jsonl has records.*put its checkpoints back"
    ):
        training.take_up(run, run.config)
    assert run.metrics_file.read_text() == records


@pytest.mark.parametrize("damage", ["\0\0\0\0", "{}", "5", "[1]", '{"steps": '])
def test_damaged_records_are_left_out_and_said_so(stopped, damage, capsys):
    run = stopped()
    lines = run.metrics_file.read_text().splitlines()
    whole = len(run.records())
    run.metrics_file.write_text("\n".join([damage, *lines]) + "\n")
    finish(run)
    assert f"1 line(s) of {run.metrics_file} are damaged; they are left out" in capsys.readouterr().err
    assert run.records()[:whole] == [json.loads(line) for line in lines]
    write_report(run.path)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "\0"])
def test_a_report_does_without_a_provenance_that_is_gone_or_damaged(stopped, content):
    run = stopped()
    made = run.path / "provenance.json"
    made.unlink() if content is None else made.write_text(content)
    assert "unknown command" in write_report(run.path).read_text()


def test_a_config_that_is_no_text_is_named(stopped):
    run = stopped()
    (run.path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        Run.open(run.path).config_values()


def test_a_report_goes_to_an_html_file_and_nowhere_else(stopped):
    run = stopped()
    config = (run.path / "config.json").read_text()
    for out in (run.path / "config.json", run.path / "report"):
        with pytest.raises(ValueError, match=r"a name that ends in \.html, got"):
            write_report(run.path, out)
    assert (run.path / "config.json").read_text() == config
