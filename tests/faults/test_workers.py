"""An env process that dies, hangs or raises is replaced, and none outlives the run."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mru_rl.agents import training
from mru_rl.agents.cli.main import main
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.envs import make
from mru_rl.envs.from_gymnasium.rows import EnvError
from rig.processes import alive, descendants

ROWS = 3
ACTION = torch.zeros(ROWS, dtype=torch.int64)
FAULTS = ["dies", "is_killed", "hangs", "hangs_without_yielding", "raises"]


def open_files() -> int:
    gc.collect()  # what tests before this one left behind
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_row_of_a_failed_worker_is_cut_and_goes_on_while_the_others_notice_nothing(misbehaving, once, fault):
    with make(misbehaving, ROWS, workers="process", worker_seconds=2.0, fault=fault, once=once) as env:
        env.reset()
        steps = [env.step(ACTION) for _ in range(6)]
        (row,) = steps[2].truncated.nonzero().flatten().tolist()
        others = [i for i in range(ROWS) if i != row]
        cut = steps[2]
        assert cut.final_obs[row].tolist() == [2, 1], "what it showed last"
        assert cut.obs[row].tolist() == [0, 1], "a fresh episode"
        assert (cut.reward[row], cut.terminated.any()) == (0, False)
        assert sum(step.truncated.sum() for step in steps) == 1
        assert [step.obs[others, 0].tolist() for step in steps] == [[i] * 2 for i in range(1, 7)]
        assert [step.obs[row, 0].item() for step in steps[2:]] == [0, 1, 2, 3]
        assert env.worker_restarts == 1


def test_a_worker_that_stops_in_the_middle_of_an_answer_hangs_like_any_other(misbehaving):
    with make(misbehaving, 1, workers="process", worker_seconds=1.0, width=2**21) as env:
        env.reset()
        worker = env._rows._workers[0]
        worker.send(("step", 0))
        time.sleep(0.5)  # the pipe is full by now, and most of the answer to come
        os.kill(worker.process.pid, signal.SIGSTOP)
        cut = env.step(ACTION[:1])
        assert (cut.truncated.item(), cut.obs[0, 0].item(), env.worker_restarts) == (True, 0, 1)
        assert env.step(ACTION[:1]).obs[0].tolist() == [1] * 2**21


@pytest.mark.parametrize(
    ("fault", "words", "traced"),
    [
        ("raises", r"raised KeyError in row \d, step 3.*the simulator is gone", "in raises"),
        ("hangs", r"row \d did not answer within 1 seconds", "in hangs"),
        ("dies", r"row \d died \(exit status 7\)", ""),
        ("is_killed", r"row \d died \(killed by SIGKILL\)", ""),
    ],
)
def test_after_the_last_restart_it_stops_with_the_worker_s_own_traceback(misbehaving, fault, words, traced):
    env = make(misbehaving, 1, workers="process", worker_seconds=1.0, worker_restarts=1, fault=fault)
    env.reset()
    with pytest.raises(EnvError, match=words + r".*1 restart\(s\) of workers are allowed.*used up") as stop:
        steps_until_it_fails(env)
    assert traced in stop.value.traceback
    assert not multiprocessing.active_children()


def steps_until_it_fails(env) -> None:
    for _ in range(10):
        env.step(ACTION[:1])


def test_an_env_that_cannot_be_made_in_a_worker_is_an_error_and_no_endless_loop(misbehaving):
    with pytest.raises(EnvError, match="the making of an env raised RuntimeError.*another process.*2 restart") as stop:
        make(misbehaving, 1, workers="process", worker_restarts=2, home=os.getpid()).reset()
    assert "in __init__" in stop.value.traceback


def test_the_first_obs_after_a_restart_follows_from_the_seed(tmp_path):
    def first_obs(name: str) -> list[float]:
        with make("CartPole-v1", 2, seed=3, workers="process") as env:
            env.reset()
            env._rows._workers[1].process.kill()
            step = env.step(ACTION[:2])
            assert step.truncated.tolist() == [False, True]
            return step.obs[1].tolist()

    assert first_obs("a") == first_obs("b")


def test_restarts_leave_no_open_files_behind(misbehaving):
    with make(misbehaving, 1, workers="process", worker_restarts=20, fault="raises", at=1) as env:
        env.reset()
        env.step(ACTION[:1])
        before = open_files()
        for _ in range(5):
            env.step(ACTION[:1])
        assert open_files() == before
        assert env.worker_restarts == 6


def test_restarts_are_counted_in_the_metrics_and_training_goes_on(misbehaving, once, tmp_path):
    config = PPOConfig(
        env=misbehaving,
        env_kwargs={"fault": "raises", "once": once, "at": 20},
        workers="process",
        steps=512,
        num_envs=2,
        segment=32,
        hidden_size=8,
        run_dir=tmp_path / "run",
        tensorboard=False,
    )
    run, trainer = training.start(config)
    training.run_to_end(run, trainer)
    assert run.records()[-1]["worker_restarts"] == 1
    assert run.records()[-1]["steps"] >= 512
    assert not multiprocessing.active_children()


def test_the_command_ends_with_the_worker_s_traceback_and_one_line(misbehaving, tmp_path, capsys):
    words = ["--workers", "process", "--worker-restarts", "0", "--env", misbehaving, "--env-kwargs", "fault=raises"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *words, "--num-envs", "2", "--no-tensorboard", "--run-dir", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert 'raise KeyError("the simulator is gone")' in said
    assert said.splitlines()[-1].startswith("mru-rl: error: step() mru_rl-faults/Misbehaving-v0 raised KeyError in row")


@pytest.mark.parametrize("seconds", [3e6, float("inf")])
def test_a_worker_may_take_any_time(misbehaving, seconds):
    with make(misbehaving, 1, workers="process", worker_seconds=seconds) as env:
        env.reset()
        assert env.step(ACTION[:1]).obs[0].tolist() == [1, 1]


@pytest.mark.parametrize("limit", [{"worker_seconds": 0}, {"worker_restarts": -1}, {"worker_seconds": float("nan")}])
def test_limits_that_are_none_are_refused(misbehaving, limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))} must be"):
        make(misbehaving, 1, **limit)


# no orphans

PARENT = """
import signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test begun in the background of a shell ignores it
sys.path.insert(0, {folder!r})
import conftest  # registers the env
from mru_rl.envs import make

if __name__ == "__main__":
    env = make(conftest.MISBEHAVING, 2, workers="process", fault={fault!r}, child=True, worker_seconds=100.0)
    env.reset()
    print("ready", flush=True)
    input()
    while True:
        env.step(torch.zeros(2, dtype=torch.int64))
        if {fault!r} == "none":
            {end}
"""


@pytest.mark.parametrize(
    ("fault", "end", "how"),
    [
        ("hangs_without_yielding", "pass", signal.SIGKILL),
        pytest.param("hangs", "pass", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("hangs", "pass", signal.SIGINT, marks=pytest.mark.slow),
        ("none", "raise ValueError('on purpose')", None),
        pytest.param("none", "sys.exit(0)", None, marks=pytest.mark.slow),
    ],
)
def test_no_process_is_left_however_the_run_ends(tmp_path, fault, end, how):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(Path(__file__).parent), fault=fault, end=end))
    parent = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout.readline() == "ready\n"
    below = descendants(parent.pid)
    assert len(below) >= 6, "fork server, resource tracker, two workers, a child of each"
    parent.stdin.write("go on\n")
    parent.stdin.flush()
    if how is not None:
        time.sleep(0.5)  # both workers hang in a step by now
        parent.send_signal(how)
    parent.wait(60)
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(alive, below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, below))
