"""Begin a training run, or take it up from its last checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mru_rl.agents.agent import spaces_of
from mru_rl.agents.algorithms import config_class, config_from_json, make_trainer
from mru_rl.agents.build import torch_settings
from mru_rl.agents.config import TrainConfig, env_name, field_types, to_json
from mru_rl.agents.console.errors import OptionError, nearest, require
from mru_rl.agents.console.imports import import_modules, imported
from mru_rl.agents.records.checkpoint import delete_leftovers, list_checkpoints, load_checkpoint
from mru_rl.agents.records.loggers import Logger, check_logger
from mru_rl.agents.records.run import RunDirectory, exclusive_lock
from mru_rl.agents.run import Run, as_run
from mru_rl.agents.trainer import Trainer
from mru_rl.agents.training_loop import WAIT, Training


def train(
    config: TrainConfig | Any = None,
    *,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Logger] = (),
    eval_env: Any = None,
    progress: bool = True,
    **changes: Any,
) -> Run:
    """Train an agent and return its run.

    config: PPOConfig, R2D2Config or that of a registered algorithm. Instead of one, an env alone trains PPO in it with the
    defaults: an id, a factory of gymnasium envs (`lambda: MyEnv()`), a batched env of ours, a gymnasium VectorEnv. The
    config's `env` takes the same four.
    callbacks: objects with `on_update`, `on_evaluation`, `on_checkpoint`, or functions for the first; see Callback.
    loggers: objects with `log(record)` and `close()` beside those the config names; see Logger.
    eval_env: the env of `eval_every` where the training env is an object that cannot be made again.
    progress: print what was chosen and why, and how far the run is, on stdout and stderr.
    changes: fields of the config to set, `train("CartPole-v1", steps=100_000)`.

    Without a run_dir it makes a new directory, runs/ALGORITHM-ENV-CORE/seed_SEED, and numbers it where that exists. torch's
    number of threads, random state and default dtype are as before when it returns. Ctrl-C ends it after the update in
    progress, with a checkpoint, and raises KeyboardInterrupt; `resume` goes on.
    Raises ValueError where the config or its env cannot be had, NonFiniteError and EnvError for what an env returns or
    raises, CallbackError for a callback that raises.

    >>> import tempfile
    >>> from mru_rl.agents import PPOConfig, train
    >>> folder = tempfile.mkdtemp()
    >>> run = train(PPOConfig(env="CartPole-v1", steps=256, num_envs=2, run_dir=f"{folder}/run"), progress=False)
    >>> run.metrics()["steps"][-1]
    256
    """
    config = _as_config(config, changes)
    if config.run_dir is None:
        config = dataclasses.replace(config, run_dir=_free_run_dir(config))
    with torch_settings(config.threads):
        run, trainer = start(config)
        training = Training(run, trainer, callbacks=callbacks, loggers=loggers, eval_env=eval_env, progress=progress)
        training.announce()
        training.go()
    return run


def resume(
    run: Run | str | Path,
    *,
    steps: int | None = None,
    learning_rate: float | None = None,
    env: Any = None,
    device: str | None = None,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Logger] = (),
    eval_env: Any = None,
    progress: bool = True,
) -> Run:
    """Go on with a run that was stopped or killed, from its newest intact checkpoint; to the same parameters as if it had
    never stopped, where its env can save its state.

    steps: train on until so many env steps in all, also after a run that has ended. learning_rate: another start of the
    schedule. The learning rate goes over from where it was to the new schedule without a jump, within 5% of the steps
    left. env: the training env, where it was given as an object. device: go on on another one. The rest as in `train`.

    Raises ValueError where the directory holds no run, its checkpoints are gone, or another process trains it.

    >>> import tempfile
    >>> from mru_rl.agents import PPOConfig, resume, train
    >>> folder = tempfile.mkdtemp()
    >>> run = train(PPOConfig(env="CartPole-v1", steps=256, num_envs=2, run_dir=f"{folder}/run"), progress=False)
    >>> resume(run, steps=512, progress=False).metrics()["steps"][-1]
    512
    """
    run = as_run(run)
    config = changed(run, steps=steps, learning_rate=learning_rate, device=device)
    if env is not None:
        config = dataclasses.replace(config, env=env)
    with torch_settings(config.threads):
        trainer, lost = take_up(run, config)
        training = Training(run, trainer, callbacks=callbacks, loggers=loggers, eval_env=eval_env, progress=progress)
        training.say(f"resuming {run.path} at {trainer.steps:,} of {trainer.config.steps:,} steps", *lost)
        training.go()
    return run


def default_run_dir(config: TrainConfig) -> Path:
    """runs/ALGORITHM-ENV-CORE/seed_SEED."""
    env = env_name(config.env).replace("/", "_").replace(":", "_")
    name = "-".join([config.algorithm, env, config.core.replace(",", "_")])
    return Path("runs") / name / f"seed_{config.seed}"


def start(config: TrainConfig) -> tuple[Run, Trainer]:
    """Make a new run; nothing is written before env and network stand."""
    import_modules(config.imports)
    config = dataclasses.replace(config, imports=tuple(dict.fromkeys([*config.imports, *imported()])))
    path = config.run_dir or default_run_dir(config)
    Run.check_free(path)
    for name in config.logger:
        check_logger(name)
    trainer = make_trainer(dataclasses.replace(config, run_dir=path))
    _start_from(trainer)
    values = to_json(trainer.config)
    if values.get("env_given"):
        values["env"] = trainer.env.id
    run = Run.create(path, values, spaces_of(trainer.env), trainer.device)
    return run, trainer


def changed(
    run: RunDirectory, *, steps: int | None = None, learning_rate: float | None = None, device: str | None = None
) -> TrainConfig:
    """The config of a run with what `resume` changes of it, written to its config.json."""
    values = run.config_values()
    given = {"steps": steps, "learning_rate": learning_rate, "device": device}
    changes = {name: value for name, value in given.items() if value is not None and value != values.get(name)}
    kind = type(config_from_json(values))
    for name in changes:
        require(name in field_types(kind), f"{{{name}}} is not an option of {kind.algorithm}; leave it out")
    config = config_from_json(values | changes)
    if changes:
        with exclusive_lock(run.path, WAIT):
            if steps is not None and run.records():
                done = int(run.records()[-1]["steps"])
                require(
                    steps > done, f"{{steps}} counts all env steps of the run, which has done {done:,}; got {steps:,}"
                )
            run.change_config(changes)
    return config


def take_up(run: Run, config: TrainConfig) -> tuple[Trainer, list[str]]:
    """Take up a run from its newest intact checkpoint. Returns the trainer and, in words, what could not be restored.

    A run killed before its first checkpoint starts again, with the same result. Raises ValueError where checkpoints are
    gone, and where another process trains the run.
    """
    with exclusive_lock(run.path, WAIT):
        has_checkpoint = bool(list_checkpoints(run.checkpoints))
        if not has_checkpoint and run.records():
            raise OptionError(
                f"{run.checkpoints} holds no checkpoint, and metrics.jsonl has records of a run that had one: put its "
                "checkpoints back, or train again in another {run_dir}"
            )
        saved = run.checkpoint() if has_checkpoint else None  # before anything is built: damage is said at once
        run.checkpoints.mkdir(exist_ok=True)
        delete_leftovers(run.path)
        trainer = make_trainer(dataclasses.replace(config, run_dir=run.path))  # where it is, not where it was made
        lost: list[str] = []
        if saved is None:
            _start_from(trainer)
        else:
            lost = trainer.load_state_dict(saved)
        run.drop_records_after(-1 if saved is None else trainer.steps)
    return trainer, lost


def run_to_end(run: Run, trainer: Trainer, asked_to_end: Callable[[], bool] = lambda: False) -> None:
    """Train until the end, as `Training.to_end`."""
    Training(run, trainer).to_end(asked_to_end)


def _as_config(config: Any, changes: dict[str, Any]) -> TrainConfig:
    if not isinstance(config, TrainConfig):
        env = changes.pop("env", config)
        config = config_class("ppo")(**{} if env is None else {"env": env})
    known = field_types(type(config))
    for name in changes:
        require(
            name in known,
            f"{type(config).__name__} has no field {name!r}; {nearest(name, known)}see help({type(config).__name__})",
        )
    return dataclasses.replace(config, **changes)


def _free_run_dir(config: TrainConfig) -> Path:
    """The default directory of a run; with a number behind it where there is one already."""
    first = default_run_dir(config)
    number = 1
    path = first
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _start_from(trainer: Trainer) -> None:
    """Take over the weights that the config names."""
    path = trainer.config.init_from
    if path is None:
        return
    weights = load_checkpoint(path) if path.is_file() else RunDirectory.open(path).checkpoint()
    trainer.start_from(weights["policy"], trainer.config.init_part)
