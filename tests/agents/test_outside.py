"""Parts of somebody else's, in a package of their own: a cell, an env, an algorithm, a logger. tests/outside holds it.

Everything runs in processes of its own, as a user's would: beside the package on PYTHONPATH, and (slow) installed into a
fresh virtual environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

OUTSIDE = Path(__file__).resolve().parent.parent / "outside"
RUN = [
    "--import",
    "outside_parts",
    "--env",
    "outside/Echo-v0",
    "--env-kwargs",
    "length=6",
    "--core",
    "leaky+bmru",
    "--steps",
    "2304",
    "--num-envs",
    "8",
    "--hidden-size",
    "8",
    "--checkpoint-seconds",
    "0",
    "--no-tensorboard",
    "--logger",
    "returns-txt",
]


@pytest.fixture(
    scope="module", params=["on PYTHONPATH", pytest.param("in a fresh environment", marks=pytest.mark.slow)]
)
def python(request, tmp_path_factory) -> tuple[str, dict[str, str]]:
    """An interpreter that finds the package, and its environment variables."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if request.param == "on PYTHONPATH":
        paths = [str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
        return sys.executable, environment | {"PYTHONPATH": os.pathsep.join(paths)}
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    own = home / "bin" / "python"
    purelib = subprocess.run(
        [str(own), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # torch and the rest are those of this environment: another gigabyte would prove nothing more
    Path(purelib, "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    install = [str(own), "-m", "pip", "install", "-q", "--no-deps", str(OUTSIDE)]
    subprocess.run(install, check=True)
    return str(own), environment


@pytest.fixture
def mru(python, tmp_path):
    """Run `mru-rl WORDS` in an empty directory; its stdout."""
    executable, environment = python

    def run(*words: str, check: bool = True) -> str:
        command = [executable, "-m", "mru_rl.agents.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done.stdout if check else done.stderr

    return run


@pytest.mark.parametrize(
    "algorithm", ["pqn", pytest.param("ppo", marks=pytest.mark.slow), pytest.param("r2d2", marks=pytest.mark.slow)]
)
def test_outside_parts_train_and_are_found_again_by_every_command(mru, tmp_path, algorithm):
    segment = [] if algorithm == "r2d2" else ["--segment", "24"]
    said = mru("train", algorithm, *RUN, *segment, "--run-dir", "run")
    assert "leaky+bmru on outside/Echo-v0" in said
    assert json.loads((tmp_path / "run" / "config.json").read_text())["imports"] == ["outside_parts"]
    assert (tmp_path / "run" / "returns.txt").read_text().splitlines()[-1].startswith("2304 ")
    found = json.loads(mru("eval", "run", "--json", "--episodes", "16", "--env-kwargs", "length=9"))
    assert found["algorithm"] == algorithm
    assert found["length_mean"] == 9
    assert "leaky" in mru("inspect", "run")
    mru("export", "run")
    assert json.loads((tmp_path / "run" / "agent.json").read_text())["made_from"]["core"] == "leaky+bmru"
    mru("report", "run")
    assert "outside/Echo-v0" in (tmp_path / "run" / "report.html").read_text()
    assert "outside/Echo-v0" in mru("envs", "--import", "outside_parts")
    assert "leaky" in mru("cores", "--import", "outside_parts")


def test_a_run_of_outside_parts_that_is_killed_ends_as_if_it_had_not_been(mru, python, tmp_path):
    executable, environment = python
    mru("train", "pqn", *RUN, "--run-dir", "whole")
    command = [executable, "-m", "mru_rl.agents.cli", "train", "pqn", *RUN, "--run-dir", "killed"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("step_*.pt"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    mru("resume", "killed")
    hashes = [
        json.loads(mru("eval", name, "--json", "--episodes", "8"))["params_sha256"] for name in ("whole", "killed")
    ]
    assert hashes[0] == hashes[1]


def test_a_benchmark_runs_outside_parts_in_two_workers(mru, tmp_path):
    words = (
        "bench custom --import outside_parts --env outside/Echo-v0 --env-kwargs length=6 --cores leaky bmru --seeds 1"
    )
    mru(*words.split(), "--algorithm", "pqn", "--steps", "1200", "--trials", "1", "--workers", "2", "--out", "grid",
        "--settings", "num_envs=8", "hidden_size=8")  # fmt: skip
    results = [json.loads(line) for line in (tmp_path / "grid" / "results.jsonl").read_text().splitlines()]
    assert sorted(result["core"] for result in results) == ["bmru", "leaky"]
    mru("report", "grid")


def test_a_module_that_is_not_there_or_does_not_import_is_one_line(mru, tmp_path):
    (tmp_path / "broken_parts.py").write_text("raise RuntimeError('no licence')\n")
    for module, message in {
        "absent_parts": "the module 'absent_parts' cannot be imported (there is no such module)",
        "broken_parts": "the module 'broken_parts' cannot be imported (RuntimeError: no licence)",
    }.items():
        for words in (["train", "ppo"], ["eval", "run"]):
            said = mru(*words, "--import", module, check=False)
            assert message in said
            assert len(said.strip().splitlines()) == 1
    (tmp_path / "my_parts.py").write_text("import outside_parts\n")
    assert "leaky" in mru("cores", "--import=my_parts"), "the working directory is searched"


@pytest.mark.slow
def test_the_algorithm_of_ones_own_learns(python, tmp_path, mru):
    mru("train", "pqn", "--import", "outside_parts", "--env", "outside/Echo-v0", "--steps", "60000", "--core", "bmru",
        "--num-envs", "32", "--hidden-size", "32", "--no-tensorboard", "--run-dir", "run")  # fmt: skip
    found = json.loads(mru("eval", "run", "--json"))
    assert found["success_rate"] > 0.9, "without a memory it is 0.5"
