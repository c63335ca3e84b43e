"""One job of a benchmark grid: train one agent, evaluate it, and say all of it in one line of JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mru_rl.agents import training
from mru_rl.agents.algorithms import ALGORITHMS
from mru_rl.agents.config import TrainConfig
from mru_rl.agents.evaluate import evaluate_run, load_config
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.records.run import Run, machine
from mru_rl.blocks.budget import count_parameters
from mru_rl.blocks.spec import parse_spec
from mru_rl.cells.mru.base import MRU
from mru_rl.cells.registry import get_cell

EVALUATION_SEED = 1_000_003
CURVE_POINTS = 100
RUNNING = "running"


@dataclass(frozen=True)
class Point:
    """One evaluation after training: where it stands on the benchmark's axis, what it changes of the env, how long."""

    x: float
    env_kwargs: dict[str, Any]
    episodes: int
    sample: bool = False
    """draw actions from the policy instead of taking the most likely ones"""


@dataclass(frozen=True)
class Job:
    """One training run and its evaluations. `key` names it by its content: a changed job is another job."""

    phase: str
    core: str
    env: str
    env_kwargs: dict[str, Any]
    x: float
    """where on the axis it is trained"""
    seed: int
    steps: int
    setting_name: str
    settings: dict[str, Any]
    """fields of the algorithm's config that differ from its defaults"""
    points: tuple[Point, ...]
    row: str
    """the line of the tables it belongs to: mostly the core"""
    algorithm: str = "ppo"

    @property
    def key(self) -> str:
        content = dataclasses.asdict(self)
        if self.algorithm == "ppo":
            del content["algorithm"]  # results from before there were others keep their names
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        return f"{self.row} {self.phase} {self.setting_name} x={self.x:g} seed {self.seed}"

    def config(self, run_dir: Path) -> TrainConfig:
        """What the run is trained with."""
        return ALGORITHMS[self.algorithm][0](
            env=self.env, env_kwargs=self.env_kwargs, core=self.core, seed=self.seed, steps=self.steps,
            run_dir=run_dir, device="cpu", tensorboard=False, **self.settings,
        )  # fmt: skip


def running_dir(folder: Path, job: Job) -> Path:
    """Where the run of a job lives until the job is finished."""
    return folder / RUNNING / job.key


def run_job(job: Job, folder: Path) -> dict[str, Any]:
    """Do a job, or go on with one that was killed; returns its line of results.jsonl, of the provenance only the machine."""
    path = running_dir(folder, job)
    if (path / "config.json").is_file():
        run = Run.open(path)
        trainer, _ = training.resume(run, load_config(run))
    else:
        shutil.rmtree(path, ignore_errors=True)  # killed before its config was written
        run, trainer = training.start(job.config(path))
    training.run_to_end(run, trainer)
    records = run.metrics()
    picture = _picture(run, job, folder)
    return {
        "key": job.key, "phase": job.phase, "row": job.row, "core": job.core, "env": job.env, "env_kwargs": job.env_kwargs, "x": job.x,
        "seed": job.seed, "steps": trainer.steps, "setting_name": job.setting_name, "settings": job.settings,
        "parameters": count_parameters(trainer.policy.core), "state_size": trainer.policy.core.state_size,
        "curve": _curve(records), "seconds": trainer.seconds,
        "steps_per_second": trainer.steps / max(trainer.seconds, 1e-9),
        "evaluations": [_evaluate(run, point) for point in job.points], "machine": machine("cpu"),
        **({} if picture is None else {"inspect": picture}),
    }  # fmt: skip


def _evaluate(run: Run, point: Point) -> dict[str, Any]:
    found = evaluate_run(
        run, episodes=point.episodes, env_kwargs=point.env_kwargs, seed=EVALUATION_SEED, sample=point.sample
    )
    kept = ("return_mean", "return_ci95", "success_rate", "score", "episodes", "length_mean")
    return {"x": point.x, "env_kwargs": point.env_kwargs} | {name: found[name] for name in kept}


def _picture(run: Run, job: Job, folder: Path) -> str | None:
    """A picture of one episode's memory for the first reported seed of cores that write; its path in the folder.

    None where evaluations draw their actions: a picture shows the most likely ones.
    """
    cells = {get_cell(name) for layer in parse_spec(job.core) for name in layer}
    writes = any(issubclass(cell, MRU) for cell in cells)
    if job.phase != "final" or job.seed != 0 or job.points[0].sample or not writes:
        return None
    name = "inspect/" + re.sub(r"[^\w.+-]", "_", f"{job.row}-{job.x:g}.png")
    inspect_run(run, seed=EVALUATION_SEED, out=folder / name)
    return name


def _curve(records: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """The columns of the learning curve, thinned to at most CURVE_POINTS rows, the last one always among them."""
    stride = max(1, -(-len(records) // CURVE_POINTS))
    rows = records[::-1][::stride][::-1]
    names = [n for n in ("steps", "return_mean", "success_rate", "write_rate", "level") if any(n in r for r in rows)]
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _short(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else value
