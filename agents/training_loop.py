"""The loop of a training run: update, record, evaluate, ask the callbacks, write checkpoints, until the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from mru_rl.agents.acting.guards import BadNumberError
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.agent import save_agent, spaces_of
from mru_rl.agents.build import for_evaluation, make_env, rows_of
from mru_rl.agents.callbacks import CallbackError, as_callbacks
from mru_rl.agents.config import EVALUATION_SEED, TrainConfig, env_name, to_json
from mru_rl.agents.console import signals
from mru_rl.agents.console.errors import OptionError, flag
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.console.streams import tell
from mru_rl.agents.evaluate import Evaluation, evaluate_agent
from mru_rl.agents.records.checkpoint import (
    checkpoint_path,
    keep_newest,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from mru_rl.agents.records.loggers import JsonLines, Logger, make_logger
from mru_rl.agents.records.plots import learning_curve
from mru_rl.agents.records.run import RunDirectory, exclusive_lock
from mru_rl.agents.run import Run
from mru_rl.agents.trainer import Trainer
from mru_rl.envs import AgentInput
from mru_rl.envs.base import NonFiniteError

WAIT = "wait for its end, or train with another {run_dir}"
"""What to do where another process trains a run."""
_LOG_SECONDS = 1.0  # a record at most this often, so that a fast run's metrics file stays small
_EVALUATED_ROWS = 64
_LONG_SAVE_SECONDS = 1.0  # to write a checkpoint that takes longer than this
_SAVE_SHARE = 0.05  # is at most this part of a run


class Training:
    """A run in progress: what callbacks are given, and what drives it.

    run: its directory; trainer: env, policy, learner; metrics: what the last update gave, by name; record: the last line of
    metrics.jsonl; evaluation: the last one of `eval_every` that counts, None before it.

    >>> import tempfile
    >>> from mru_rl.agents import PPOConfig, train
    >>> def look(training):
    ...     print(training.steps, training.config.core, sorted(training.metrics)[:1])
    >>> folder = tempfile.mkdtemp()
    >>> config = PPOConfig(core="gru", steps=32, num_envs=2, segment=16, run_dir=f"{folder}/run")
    >>> run = train(config, callbacks=[look], progress=False)
    32 gru ['clip_share']
    """

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        *,
        callbacks: Sequence[Any] = (),
        loggers: Sequence[Logger] = (),
        eval_env: Any = None,
        progress: bool = True,
    ) -> None:
        self.run, self.trainer = run, trainer
        self.metrics: dict[str, float] = {}
        self.record: dict[str, float] = {}
        self.evaluation: Evaluation | None = None
        self._callbacks = as_callbacks(callbacks)
        self._loggers = list(loggers)
        for one in self._loggers:
            if not isinstance(one, Logger):
                raise TypeError(f"a logger has log(record) and close(), got {one!r}; see mru_rl.agents.Logger")
        self._eval_env_given, self._progress = eval_env, progress
        self._evaluation_env: AgentInput | None = None
        self._best = -float("inf")
        self._stop = ""

    @property
    def config(self) -> TrainConfig:
        """The config, every value chosen."""
        return self.trainer.config

    @property
    def steps(self) -> int:
        """Env steps so far, over all envs."""
        return self.trainer.steps

    @property
    def policy(self) -> Any:
        """The network that is trained, a Policy."""
        return self.trainer.policy

    def stop(self, reason: str = "a callback asked for it") -> None:
        """End the run after this update, with a checkpoint."""
        self._stop = self._stop or reason

    def say(self, head: str, *lines: str) -> None:
        """Print a line, and others below it, unless progress is off."""
        if self._progress:
            tell("\n".join([head, *(f"  {line}" for line in lines)]))

    def announce(self) -> None:
        """Say what is trained and where, and what was chosen for it and why."""
        config, trainer = self.config, self.trainer
        count = sum(p.numel() for p in trainer.policy.parameters())
        chosen = []
        for name, reason in trainer.reasons.items():
            value = getattr(config, name)
            chosen.append(f"{flag(name)} {f'{value:.4g}' if isinstance(value, float) else value}: {reason}")
        self.say(
            f"training {config.core} on {env_name(config.env)} for {config.steps:,} steps into {self.run.path}",
            f"{count:,} parameters, {config.num_envs} envs, seed {config.seed}, {trainer.device}, {config.threads} threads",
            *([] if trainer.policy.encoder is None else trainer.policy.encoder.describe()),
            *trainer.notes(),
            *chosen,
        )

    def go(self) -> None:
        """Train to the end; a signal ends it after the update in progress, and is raised again as KeyboardInterrupt.

        Raises OSError saying how to go on where a file cannot be written.
        """
        go_on = f"`mru-rl resume {self.run.path}` goes on"
        try:
            with signals.waiting() as request:
                self.to_end(lambda: bool(request))
        except OSError as error:
            raise OSError(
                f"{error}; every checkpoint there was is intact: make room or mend the directory, then {go_on}"
            ) from error
        done = f"stopped after {self.steps:,} of {self.config.steps:,} steps"
        if request.signum is not None:
            raise signals.Interrupted(request.signum, f"{done}, with a checkpoint; {go_on}")
        if self._stop:
            self.say(f"{done}: {self._stop}")
        self._summary()

    def _summary(self) -> None:
        records = self.run.records()
        last = records[-1] if records else {}
        seconds = f"{last['seconds']:.0f} s" if "seconds" in last else "no time"
        lines = []
        if "return_mean" in last:
            success = f", success {last['success_rate']:.2f}" if "success_rate" in last else ""
            lines.append(
                f"return {last['return_mean']:.3f}{success} over the last {last['recent_episodes']:.0f} episodes, exploring"
            )
        if self.run.best.is_file():
            lines.append(f"best agent by evaluation: {self.run.best}")
        lines += [f"learning curve: {self.run.path / 'learning_curve.png'}", f"next: mru-rl eval {self.run.path}"]
        self.say(f"done: {self.steps:,} steps in {seconds}", *lines)

    def to_end(self, asked_to_end: Callable[[], bool] = lambda: False) -> None:
        """Train until the config's steps are reached, recording metrics and writing checkpoints; then draw the curve.

        asked_to_end: asked after every update; True ends the run there, with its record and a checkpoint and no curve. The
        env and its processes are closed however this ends. Raises ValueError where another process trains the run.
        """
        config, trainer, run = self.config, self.trainer, self.run
        with contextlib.ExitStack() as stack:
            stack.enter_context(exclusive_lock(run.path, WAIT))
            stack.callback(lambda: trainer.env.close())  # a curriculum changes the env
            stack.callback(trainer.collector.close)
            stack.callback(self._close_evaluation)
            loggers = [JsonLines(run.metrics_file), *self._open_loggers(), *self._loggers]
            for logger in loggers:
                stack.callback(logger.close)
            label = f"{env_name(config.env)} {config.core}"
            shown = stack.enter_context(Progress(label, config.steps)) if self._progress else None
            self._best = _best_so_far(run)
            saved_at = recorded_at = time.monotonic()
            between_saves = config.checkpoint_seconds
            recorded_steps = trainer.steps
            failure: Exception | None = None
            if trainer.steps == 0:
                failure = self._save()
            ending = asked_to_end() or failure is not None
            while trainer.steps < config.steps and not ending:
                before = trainer.steps
                self.metrics, rollout = self._update()
                self._tell_news()
                now = time.monotonic()
                failure = self._after_update(before)
                ending = asked_to_end() or bool(self._stop) or failure is not None
                finished = ending or trainer.steps >= config.steps
                if now - recorded_at >= _LOG_SECONDS or finished or "eval_return_greedy" in self.metrics:
                    rate = (trainer.steps - recorded_steps) / max(now - recorded_at, 1e-9)
                    self.record = trainer.record(self.metrics, rollout, rate)
                    recorded_at, recorded_steps = now, trainer.steps
                    for logger in loggers:
                        logger.log(self.record)
                    if shown is not None:
                        shown.show(trainer.steps, _details(self.record))
                if now - saved_at >= between_saves or finished:
                    began = time.monotonic()
                    failure = self._save() or failure
                    ending = ending or bool(self._stop) or failure is not None
                    saved_at = time.monotonic()
                    between_saves = seconds_between_saves(config.checkpoint_seconds, saved_at - began)
                del rollout  # not beside the next one
        if failure is not None:
            raise failure
        if trainer.steps >= config.steps or self._stop:
            title = f"{env_name(config.env)}, {config.core}, seed {config.seed}"
            learning_curve(run.records(), run.path / "learning_curve.png", title)

    def _tell_news(self) -> None:
        news, self.trainer.news = self.trainer.news, []
        if news:
            self.say(f"after {self.steps:,} steps", *news)

    def _update(self) -> tuple[dict[str, float], Rollout]:
        """An update; one that meets a bad number ends the run, whose newest checkpoint is from before it."""
        try:
            return self.trainer.update()
        except NonFiniteError as error:
            newest = list_checkpoints(self.run.checkpoints)[0].name
            said = error.message if isinstance(error, OptionError) else str(error)
            raise BadNumberError(
                f"{said}. After {self.steps:,} steps; the newest checkpoint, {newest}, is from before"
            ) from error

    def _after_update(self, before: int) -> Exception | None:
        """Evaluate where it is due, ask the callbacks, and see whether the run has reached what it is to reach."""
        every = self.config.eval_every
        failure = None
        if every is not None and (before // every != self.steps // every or self.steps >= self.config.steps):
            self._evaluate()
            failure = self._call("on_evaluation", self.evaluation)
        failure = failure or self._call("on_update")
        self._stop_where_reached()
        return failure

    def _stop_where_reached(self) -> None:
        config = self.config
        if self.evaluation is not None:
            success, value = self.evaluation.success_rate, self.evaluation.return_mean
        elif config.eval_every is None and len(recent := self.trainer.collector.recent) == recent.maxlen:
            success = self.trainer.collector.log.success_rate
            value = sum(value for value, _, _ in recent) / len(recent)
        else:
            return
        if config.stop_at_success is not None and success is not None and success >= config.stop_at_success:
            self.stop(f"success {success:.3f} has reached --stop-at-success {config.stop_at_success:g}")
        if config.stop_at_return is not None and value >= config.stop_at_return:
            self.stop(f"return {value:.3f} has reached --stop-at-return {config.stop_at_return:g}")

    def _evaluate(self) -> None:
        """Run the evaluation's episodes, greedily and sampled, on envs of its own; keep the agent if it is the best."""
        env = self._evaluation_env = self._evaluation_env or self._make_evaluation_env()
        ways = {"greedy": False} | ({"sampled": True} if self.policy.stochastic else {})
        for way, sample in ways.items():
            env.reseed(EVALUATION_SEED)
            self.evaluation = evaluate_agent(
                self.policy,
                self.trainer.head,
                env,
                self.config.eval_episodes,
                sample=sample,
                seed=EVALUATION_SEED,
                progress=False,
                config=self.config,
                steps=self.steps,
                max_steps=self.config.eval_max_steps,
            )
            self.metrics[f"eval_return_{way}"] = self.evaluation.return_mean
            if self.evaluation.success_rate is not None:
                self.metrics[f"eval_success_{way}"] = self.evaluation.success_rate
        assert self.evaluation is not None
        if self.evaluation.return_mean > self._best:
            self._best = self.evaluation.return_mean
            spaces = spaces_of(self.trainer.env)
            save_agent(self.run.best, self.config, self.policy, spaces, self.steps, return_mean=self._best)

    def _make_evaluation_env(self) -> AgentInput:
        config = for_evaluation(self.config, self._eval_env_given)
        rows = rows_of(config.env) or min(_EVALUATED_ROWS, config.eval_episodes)
        return make_env(config, rows, EVALUATION_SEED)

    def _close_evaluation(self) -> None:
        if self._evaluation_env is not None:
            self._evaluation_env.close()

    def _save(self) -> Exception | None:
        path = checkpoint_path(self.run.checkpoints, self.steps)
        save_checkpoint(path, self.trainer.state_dict())
        keep_newest(self.run.checkpoints, 3, last=path)
        return self._call("on_checkpoint", path)

    def _call(self, event: str, *arguments: Any) -> Exception | None:
        """Call the callbacks of an event; the error of one that raised, None where none did."""
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is None:
                continue
            try:
                if method(self, *arguments) is True:
                    self.stop(f"{_name_of(callback)} asked for it")
            except Exception as error:  # whatever it is, the run is not lost by it
                told = CallbackError(
                    f"the callback {_name_of(callback)} raised {type(error).__name__} in {event}: {error}; the run was stopped "
                    f"after {self.steps:,} of {self.config.steps:,} steps with a checkpoint: mend the callback, then "
                    f"`mru-rl resume {self.run.path}` or resume(...) goes on"
                )
                told.__cause__ = error
                return told
        return None

    def _open_loggers(self) -> list[Logger]:
        config, path = to_json(self.config), self.run.path
        named = dict.fromkeys([*(["tensorboard"] if self.config.tensorboard else []), *self.config.logger])
        return [make_logger(name, path, config, self.steps) for name in named]


def seconds_between_saves(least: float, took: float) -> float:
    """Seconds from one checkpoint to the next, where writing the last one took so many: saving must not be what a run does."""
    return max(least, took / _SAVE_SHARE) if took > _LONG_SAVE_SECONDS else least


def _best_so_far(run: RunDirectory) -> float:
    return load_checkpoint(run.best)["return_mean"] if run.best.is_file() else -float("inf")


def _name_of(callback: Any) -> str:
    return getattr(callback, "__name__", type(callback).__name__)


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
