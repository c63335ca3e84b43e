"""One job of a benchmark grid: train one agent, evaluate it, and say all of it in one line of JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mru_rl.agents import training
from mru_rl.agents.algorithms import config_class
from mru_rl.agents.config import EVALUATION_SEED, TrainConfig
from mru_rl.agents.console.imports import import_modules, imported
from mru_rl.agents.evaluate import Episodes, evaluate_run
from mru_rl.agents.inspection.inspect_run import inspect_run
from mru_rl.agents.records.run import machine
from mru_rl.agents.report.data import Evaluation, FinishedJob
from mru_rl.agents.run import Run
from mru_rl.agents.trainer import Trainer
from mru_rl.blocks.budget import count_parameters

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

    phase: Literal["search", "final"]
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
    imports: tuple[str, ...] = field(default_factory=imported)
    """modules to import first, those that this process was asked to import where not given"""

    @property
    def key(self) -> str:
        content = dataclasses.asdict(self)
        if not self.imports:
            del content["imports"]  # whatever the job needs comes with mru_rl
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        return f"{self.row} {self.phase} {self.setting_name} x={self.x:g} seed {self.seed}"

    def config(self, run_dir: Path) -> TrainConfig:
        """What the run is trained with; the modules the job names are imported."""
        import_modules(self.imports)
        return config_class(self.algorithm)(
            env=self.env,
            env_kwargs=self.env_kwargs,
            core=self.core,
            seed=self.seed,
            steps=self.steps,
            run_dir=run_dir,
            device="cpu",
            tensorboard=False,
            imports=self.imports,
            **self.settings,
        )


def running_dir(folder: Path, job: Job) -> Path:
    """Where the run of a job lives until the job is finished."""
    return folder / RUNNING / job.key


def run_job(job: Job, folder: Path) -> FinishedJob:
    """Do a job, or go on with one that was killed; of the provenance only the machine is told."""
    path = running_dir(folder, job)
    if (path / "config.json").is_file():
        run = Run.open(path)
        trainer, _ = training.take_up(run, run.config)
    else:
        shutil.rmtree(path, ignore_errors=True)  # killed before its config was written
        run, trainer = training.start(job.config(path))
    training.run_to_end(run, trainer)
    curve = _curve(run.records())
    evaluations = [_evaluate(run, point) for point in job.points]
    picture = _picture(run, job, folder) if trainer.policy.core.has_gates else None
    return finished(job, trainer, curve, evaluations, inspect=picture)


def finished(
    job: Job, trainer: Trainer, curve: dict[str, list[float | None]], evaluations: list[Evaluation], **more: Any
) -> FinishedJob:
    """What is told of a job whose trainer has come to its end. more: further fields of FinishedJob."""
    return FinishedJob(
        key=job.key,
        phase=job.phase,
        row=job.row,
        core=job.core,
        env=job.env,
        env_kwargs=job.env_kwargs,
        x=job.x,
        seed=job.seed,
        steps=trainer.steps,
        setting_name=job.setting_name,
        settings=job.settings,
        parameters=count_parameters(trainer.policy.core),
        state_size=trainer.policy.core.state_size,
        curve=curve,
        seconds=trainer.seconds,
        steps_per_second=trainer.steps / max(trainer.seconds, 1e-9),
        evaluations=evaluations,
        provenance={"machine": machine("cpu")},
        **more,
    )


def _evaluate(run: Run, point: Point) -> Evaluation:
    found = evaluate_run(
        run,
        episodes=point.episodes,
        env_kwargs=point.env_kwargs,
        seed=EVALUATION_SEED,
        sample=point.sample,
        progress=False,
    )
    return told(found, point, found.score)


def told(found: Episodes, point: Point, score: float | None = None) -> Evaluation:
    """What is told of the episodes at a point."""
    return Evaluation(
        env_kwargs=point.env_kwargs,
        return_mean=found.return_mean,
        episodes=found.episodes,
        x=point.x,
        return_ci95=list(found.return_ci95),
        success_rate=found.success_rate,
        score=score,
        length_mean=found.length_mean,
    )


def _picture(run: Run, job: Job, folder: Path) -> str | None:
    """A picture of one episode's memory for the first reported seed; its path in the folder.

    None where evaluations draw their actions: a picture shows the most likely ones.
    """
    if job.phase != "final" or job.seed != 0 or job.points[0].sample:
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
