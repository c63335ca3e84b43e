"""Where Ray comes from, and what is said where it does not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mru_rl.agents.cli.main import main

GRID = ["bench", "custom", "--env", "mru_rl/TMaze-v0", "--cores", "bmru", "--engine", "ray"]


@pytest.fixture
def fails(capsys):
    """Run a command that must end with exit status 2 and one line on stderr; returns the line."""

    def check(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        err = capsys.readouterr().err
        assert stop.value.code == 2
        assert err.count("\n") == 1
        return err

    return check


@pytest.mark.parametrize("words", [GRID, ["train", "ppo", "--collector", "ray"], ["bench", "collectors"]])
def test_without_ray_it_is_said_how_to_install_it(words, fails, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    assert fails(*words) == (
        "mru-rl: error: Ray is not installed; run `pip install 'mru_rl[ray]'`, or work without it\n"
    )
    assert not list(tmp_path.rglob("config.json")), "a run was begun"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--num-collectors", "2"], "only --collector ray has several collectors, got --num-collectors 2"),
        (
            ["train", "--collector", "torchrl", "--num-collectors", "2"],
            "and --collector torchrl; leave one of the two out",
        ),
        (["train", "--collector", "ray", "--num-collectors", "0"], "--num-collectors must be at least 1, got 0"),
        (["train", "--collector", "ray", "--num-collectors", "6"], "64 envs and 6 collectors: try --num-collectors 2"),
        (["train", "--collector", "cluster"], "invalid choice"),
        (["bench", "collectors", "--collectors", "3"], "64 envs can be shared by evenly, as in 1 2 4, got 3"),
        (["bench", "collectors", "--segments", "0"], "--segments must be at least 1, got 0"),
        ([*GRID, "--settings", "collector=ray"], "leave collector=ray out, and spread the jobs with --engine ray"),
        (["bench", "popgym", "--engine", "clouds"], "invalid choice 'clouds'"),
    ],
)
def test_bad_options_give_one_line(words, message, fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert message in fails(*words)


def test_an_address_where_nothing_answers_is_named():
    script = "from mru_rl.agents.acting.ray_session import ray_session\nwith ray_session(1):\n    pass\n"
    env = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert (
        "RAY_ADDRESS is '127.0.0.1:1', and no Ray cluster can be joined there ([Errno 111] Connection refused)"
        in run.stderr
    )


def test_more_processes_than_the_cluster_has_cpus_are_refused(ray_here, fails, tmp_path):
    said = "mru-rl: error: the Ray cluster has 4 CPUs, {} processes need one each; ask for fewer or add machines\n"
    assert fails(*GRID, "--workers", "5", "--seeds", "5", "--out", str(tmp_path)) == said.format(5)
    words = ["--collector", "ray", "--num-collectors", "8", "--run-dir", str(tmp_path / "run")]
    assert fails("train", *words) == said.format(8)


def test_a_ray_that_is_started_here_refuses_strangers(tmp_path):
    code = (
        "from mru_rl.agents.acting.ray_session import ray_session\n"
        "with ray_session(1) as ray:\n"
        "    one = ray.remote(lambda: 1)\n"
        "    print(ray.get(one.remote()), ray.get_runtime_context().gcs_address, flush=True)\n"
        "    input()\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    started = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        one, address = started.stdout.readline().split()
        assert one == "1"
        stranger = f"import ray; ray.init(address={address!r})"
        home = env | {"HOME": str(tmp_path)}  # a token that Ray left in the home directory is another one
        joined = subprocess.run([sys.executable, "-c", stranger], env=home, capture_output=True, text=True, timeout=120)
        assert joined.returncode == 1
        assert "InvalidAuthToken" in joined.stderr
    finally:
        started.communicate("\n", timeout=120)
