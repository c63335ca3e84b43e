"""Runs and benchmarks that are stopped from outside, at any moment, and resumed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mru_rl.agents.records.checkpoint import list_checkpoints
from rig import faults, kills
from rig.commands import Moment
from rig.processes import alive, descendants
from rig.runs import Task, begin, complete, lost


def assert_survived(*tried: kills.Tried) -> None:
    assert not [one for one in tried if not one.survived]


@pytest.mark.parametrize("algorithm", ["ppo", "r2d2"])
def test_a_run_killed_inside_what_it_writes_ends_as_if_it_had_not_been(algorithm, task_and_end, tmp_path):
    task, end = task_and_end(algorithm)
    moments = [
        Moment("rename", "config.json"),
        Moment("write", "step_", 3),
        Moment("write", "metrics.jsonl", 4),
        Moment("time", seconds=0.2),
        Moment("write", "learning_curve.png"),
    ]
    tried = kills.kill_run(task, tmp_path / "run", moments, end)
    assert len(tried) >= 4  # the one at a random time may come after the end
    assert_survived(*tried)
    assert tried[1].lost.bytes > 0, "half a checkpoint was on disk"


def test_records_do_not_depend_on_how_often_a_run_was_killed_even_where_checkpoints_are_rare(tmp_path):
    task = Task(checkpoint_seconds=60)
    command = begin(task, tmp_path / "run", moment=Moment("write", "metrics.jsonl", 9))
    assert command.wait_for_moment()
    command.end_with(signal.SIGKILL)
    cost = lost(tmp_path / "run")
    assert cost.steps == 8 * 8 * 4, "eight updates of 8 steps of 4 envs had a record, and no checkpoint but the first"
    complete(begin(task, tmp_path / "run"))
    assert lost(tmp_path / "run") == (0, 0)


def test_the_harness_sees_a_run_that_does_not_go_on_exactly(task_and_end, tmp_path):
    task, end = task_and_end("ppo")
    other = {**end, "evaluation": {**end["evaluation"], "params_sha256": "of another run"}}
    (tried,) = kills.kill_run(task, tmp_path / "run", [Moment("write", "step_", 3)], other)
    assert (tried.survived, tried.what) == (False, "evaluation differ")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_update_with_a_checkpoint_and_says_how_to_go_on(signum, task_and_end, tmp_path):
    task, end = task_and_end("ppo")
    for trial in range(5):
        tried = kills.signal_run(task, tmp_path / str(trial), signum, 0.02, end)
        if tried is not None:
            return assert_survived(tried)
    raise AssertionError("five runs ended before the signal came")


def test_a_second_signal_ends_a_run_at_once_and_it_goes_on_from_its_checkpoint(task_and_end, tmp_path):
    task, end = task_and_end("ppo")
    assert_survived(kills.signal_twice(task, tmp_path / "run", signal.SIGTERM, end))


def test_a_benchmark_ended_by_a_signal_leaves_no_worker_and_says_how_to_go_on(tmp_path):
    command = kills.begin_grid(tmp_path / "grid")
    below = descendants(command.pid)
    assert len(below) >= 1, "a worker is training"
    assert command.end_with(signal.SIGTERM) == 143  # and waits until all of them are gone
    assert "0 finished runs in" in command.stderr
    assert "the same command goes on" in command.stderr
    assert not any(alive(pid) for pid in below)


def session(sid: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == sid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_ctrl_c_reaches_the_run_and_not_its_env_workers_which_end_with_it(tmp_path):
    words = (
        "train ppo --env CartPole-v1 --workers process --num-envs 2 --segment 8 --minibatches 1 --hidden-size 8 "
        "--steps 1000000 --checkpoint-seconds 0 --no-tensorboard --run-dir"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mru_rl.agents.cli", *words.split(), str(tmp_path / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list_checkpoints(tmp_path / "run" / "checkpoints")) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    assert len(session(process.pid)) >= 3, "the run and two workers at least"
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"`mru-rl resume {tmp_path / 'run'}` goes on" in said
    assert "Traceback" not in said
    while session(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.05)


@pytest.mark.parametrize("command", ["tests/faults/rig", "tests/faults/rig/soak.py"])
def test_the_rig_and_the_soak_start_as_commands_from_the_root_of_a_checkout(command):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, command, "--help"], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: python {command} ")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_kills_are_survived(tmp_path):
    tried = list(faults.killed_runs(tmp_path, random.Random(1), 200))
    assert len(tried) == 200
    assert_survived(*tried)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_benchmarks_are_killed_inside_every_file_they_write(tmp_path):
    tried = list(faults.harmed_grids(tmp_path, random.Random(1), 1))
    assert len(tried) >= len(kills.GRID_WRITES) + 2
    assert_survived(*tried)
