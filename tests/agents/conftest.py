from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from mru_rl.agents import training
from mru_rl.agents.acting.ray_session import import_ray
from mru_rl.agents.bench import grid
from mru_rl.agents.bench.jobs import Point
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.report.data import Axis
from mru_rl.agents.run import Run
from mru_rl.agents.trainer import Trainer


@pytest.fixture
def small(tmp_path: Path):
    """Build the config of a run of a second or two; keyword arguments change it."""

    def build(name: str = "run", **changes) -> PPOConfig:
        settings = {
            "env": "popgym-RepeatFirstEasy-v0", "core": "bmru", "steps": 4096, "num_envs": 8, "minibatches": 2, "epochs": 2,
            "hidden_size": 16, "segment": 64, "checkpoint_seconds": 0.0, "tensorboard": False, "run_dir": tmp_path / name,
        }  # fmt: skip
        return PPOConfig(**settings | changes)

    return build


@pytest.fixture
def trained(small):
    """A finished small run and its trainer."""

    def run(**changes) -> tuple[Run, Trainer]:
        run, trainer = training.start(small(**changes))
        training.run_to_end(run, trainer)
        return run, trainer

    return run


@pytest.fixture
def tiny() -> grid.Grid:
    """A grid of jobs of about a second each."""
    points = (Point(5, {"length": 5}, 32), Point(50, {"length": 50}, 32))
    variant = grid.Variant(5, "mru_rl/TMaze-v0", {"length": 5}, 3000, points)
    return grid.Grid(
        "tiny", "Tiny", "Does it run?", "success_rate", Axis("length", "length", log=True, trained=5),
        0.5, (variant,), cores=("bmru", "gru"), seeds=2, trials=2, search_seeds=1, preset="smoke", hidden_size=16,
        state_size=16, settings={"num_envs": 8, "minibatches": 2},
    )  # fmt: skip


@pytest.fixture
def benchmark_dir(tmp_path: Path):
    """Write a small benchmark directory: two cores and three seeds on corridors of 10, 100 and 1,000 steps.

    Keyword arguments change benchmark.json; `jobs` replaces the lines of results.jsonl.
    """

    def build(name: str = "retention", jobs: list[dict] | None = None, **changes) -> Path:
        path = tmp_path / name
        path.mkdir()
        described = {
            "benchmark": "retention", "title": "Retention", "question": "How long is one bit kept?", "preset": "tiny",
            "command": "mru-rl bench retention --preset tiny", "cores": ["bmru", "gru"], "seeds": [0, 1, 2],
            "equal": "state", "measure": "success_rate", "chance": 0.5,
            "axis": {"name": "length", "label": "corridor length (steps)", "log": True, "trained": 10},
        }  # fmt: skip
        (path / "benchmark.json").write_text(json.dumps(described | changes))
        lines = default_jobs() if jobs is None else jobs
        (path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return build


@pytest.fixture
def bench_job():
    """Make a line of results.jsonl: bench_job(core, seed, {corridor length: success rate}, **changes)."""
    return job


@pytest.fixture(scope="session")
def ray_here():
    """Ray with room for four processes on this machine, for the tests of one pytest process; its files go when it ends."""
    ray = import_ray()
    files = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path: Ray's sockets lie in it
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=files,
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(files, ignore_errors=True)


def default_jobs() -> list[dict]:
    rates = {"bmru": {10: (1.0, 1.0, 0.9), 100: (1.0, 0.9, 0.8)}, "gru": {10: (1.0, 0.6, 0.5), 100: (0.55, 0.5, 0.45)}}
    jobs = [
        job(core, seed, {10: by_x[10][seed], 100: by_x[100][seed], 1000: 0.25 + by_x[100][seed] / 2})
        for core, by_x in rates.items()
        for seed in range(3)
    ]
    tries = [
        job(core, 0, {10: rate}, phase="search", setting_name=name, settings={"learning_rate": float(name[3:])})
        for core in rates
        for name, rate in (("lr 0.001", 0.95), ("lr 0.0003", 0.6))
    ]
    return tries + jobs


def job(core: str, seed: int, rates: dict[int, float], **changes) -> dict:
    """A line of results.jsonl with a success rate per corridor length."""
    steps = [1000, 2000, 3000, 4000]
    curve = {"steps": steps, "return_mean": [None, -0.5, 0.2, 0.8], "success_rate": [None, 0.25, 0.6, 0.9]}
    if core == "bmru":
        curve["write_rate"] = [0.5, 0.3, 0.2, 0.1]
    line = {
        "phase": "final", "core": core, "env": "mru_rl/TMaze-v0", "env_kwargs": {"length": 10},
        "seed": seed, "steps": 4000, "settings": {"learning_rate": 0.001}, "setting_name": "lr 0.001",
        "parameters": 1234, "state_size": 32, "curve": curve, "seconds": 4.0, "steps_per_second": 1000.0,
        "evaluations": [
            {"env_kwargs": {"length": x}, "x": x, "return_mean": 2 * rate - 1, "return_ci95": [2 * rate - 1.1, 2 * rate - 0.9],
             "success_rate": rate, "score": None, "episodes": 128}
            for x, rate in rates.items()
        ],
        "provenance": {
            "command": "mru-rl bench retention --preset tiny", "commit": "c0ffee", "seed": seed,
            "versions": {"mru_rl": "0.1.0", "torch": "2.13.0"}, "machine": {"cpu": "a processor", "cores": 2},
        },
    } | changes  # fmt: skip
    return {"key": f"{line['phase']}-{core}-{line['env']}-{line['setting_name']}-{seed}"} | line
