"""A training run from its first step, or from its last checkpoint, to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from mru_rl.agents.acting.loop import Rollout
from mru_rl.agents.algorithms import algorithm_of, make_trainer
from mru_rl.agents.config import TrainConfig
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.records.checkpoint import (
    checkpoint_path,
    delete_leftovers,
    keep_newest,
    list_checkpoints,
    save_checkpoint,
)
from mru_rl.agents.records.plots import learning_curve
from mru_rl.agents.records.run import Run, alone_in
from mru_rl.agents.trainer import Trainer
from mru_rl.envs.base import NonFiniteError

_WAIT = "wait for its end, or train with another --run-dir"
_LOG_SECONDS = 1.0  # a record at most this often, so that a fast run's metrics file stays small


def default_run_dir(config: TrainConfig) -> Path:
    """runs/ALGORITHM-ENV-CORE/seed_SEED."""
    name = "-".join([algorithm_of(config), config.env.replace("/", "_"), config.core.replace(",", "_")])
    return Path("runs") / name / f"seed_{config.seed}"


def start(config: TrainConfig) -> tuple[Run, Trainer]:
    """Make a new run; nothing is written before env and network stand."""
    path = config.run_dir or default_run_dir(config)
    Run.check_free(path)
    trainer = make_trainer(dataclasses.replace(config, run_dir=path))
    run = Run.create(path, algorithm_of(config), trainer.config, trainer.device)
    return run, trainer


def resume(run: Run, config: TrainConfig) -> tuple[Trainer, list[str]]:
    """Take up a run from its newest intact checkpoint. Returns the trainer and, in words, what could not be restored.

    A run killed before its first checkpoint starts again, with the same result. Raises ValueError where checkpoints are
    gone, and where another process trains the run.
    """
    with alone_in(run.path, _WAIT):
        has_checkpoint = any(run.checkpoints.glob("step_*.pt"))
        if not has_checkpoint and run.metrics():
            raise ValueError(
                f"{run.checkpoints} holds no checkpoint, and metrics.jsonl has records of a run that had one: put its checkpoints "
                "back, or train again in another --run-dir"
            )
        saved = run.checkpoint() if has_checkpoint else None  # before anything is built: damage is said at once
        run.checkpoints.mkdir(exist_ok=True)
        delete_leftovers(run.path)
        trainer = make_trainer(dataclasses.replace(config, run_dir=run.path))  # where it is, not where it was made
        lost = [] if saved is None else trainer.load_state_dict(saved)
        run.drop_metrics_after(-1 if saved is None else trainer.steps)
    return trainer, lost


def run_to_end(run: Run, trainer: Trainer, asked_to_end: Callable[[], bool] = lambda: False) -> None:
    """Train until the config's steps are reached, recording metrics and writing checkpoints; then draw the curve.

    asked_to_end: asked after every update; True ends the run there, with its record and a checkpoint and no curve. The
    env and its processes are closed however this ends. Raises ValueError where another process trains the run.
    """
    config = trainer.config
    label = f"{config.env} {config.core}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone_in(run.path, _WAIT))
        stack.callback(lambda: trainer.env.close())  # a curriculum changes the env
        stack.callback(trainer.collector.close)
        writer = _tensorboard(run, trainer)
        if writer is not None:
            stack.callback(writer.close)
        progress = stack.enter_context(Progress(label, config.steps))
        metrics_file = stack.enter_context(run.metrics_file.open("a"))
        saved_at = recorded_at = time.monotonic()
        recorded_steps = trainer.steps
        if trainer.steps == 0:
            _save(run, trainer)
        ending = asked_to_end()
        while trainer.steps < config.steps and not ending:
            metrics, rollout = _update(run, trainer)
            now = time.monotonic()
            ending = asked_to_end()
            finished = ending or trainer.steps >= config.steps
            if now - recorded_at >= _LOG_SECONDS or finished:
                rate = (trainer.steps - recorded_steps) / (now - recorded_at)
                record = trainer.record(metrics, rollout, rate)
                recorded_at, recorded_steps = now, trainer.steps
                _write(record, metrics_file, writer)
                progress.show(trainer.steps, _details(record))
            if now - saved_at >= config.checkpoint_seconds or finished:
                metrics_file.flush()
                _save(run, trainer)
                saved_at = time.monotonic()
    if trainer.steps >= config.steps:
        title = f"{config.env}, {config.core}, seed {config.seed}"
        learning_curve(run.metrics(), run.path / "learning_curve.png", title)


def _update(run: Run, trainer: Trainer) -> tuple[dict[str, float], Rollout]:
    """An update; one that meets a bad number ends the run, whose newest checkpoint is from before it."""
    try:
        return trainer.update()
    except NonFiniteError as error:
        newest = list_checkpoints(run.checkpoints)[0].name
        raise NonFiniteError(
            f"{error}. After {trainer.steps:,} steps; the newest checkpoint, {newest}, is from before"
        ) from error


def _save(run: Run, trainer: Trainer) -> None:
    path = checkpoint_path(run.checkpoints, trainer.steps)
    save_checkpoint(path, trainer.state_dict())
    keep_newest(run.checkpoints, 3, last=path)


def _write(record: dict[str, float], metrics_file: TextIO, writer: Any) -> None:
    metrics_file.write(json.dumps(record) + "\n")
    metrics_file.flush()
    if writer is not None:
        for name, value in record.items():
            if name != "steps":
                writer.add_scalar(name, value, record["steps"])


def _tensorboard(run: Run, trainer: Trainer) -> Any:
    if not trainer.config.tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    return SummaryWriter(str(run.path / "tensorboard"), purge_step=trainer.steps + 1)


def _details(record: dict[str, float]) -> str:
    parts = []
    if "return_mean" in record:
        parts.append(f"return {record['return_mean']:.3f}")
    if "success_rate" in record:
        parts.append(f"success {record['success_rate']:.2f}")
    if "level" in record:
        parts.append(f"level {record['level']:,}")
    if "write_rate" in record:
        parts.append(f"writes {record['write_rate']:.3f}")
    return "  ".join([*parts, f"{record['steps_per_second']:,.0f} steps/s"])
