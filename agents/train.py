"""A training run from its first step, or from its last checkpoint, to its end."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

import torch

import mru_rl.envs
from mru_rl.agents.actions import ActionHead, action_head
from mru_rl.agents.checkpoint import checkpoint_path, keep_newest, save_checkpoint
from mru_rl.agents.config import PPOConfig, TrainConfig, require
from mru_rl.agents.curriculum import MASTERED, at_level, split_curriculum
from mru_rl.agents.networks import ActorCritic
from mru_rl.agents.plots import learning_curve
from mru_rl.agents.ppo import PPO
from mru_rl.agents.progress import Progress
from mru_rl.agents.rollout import Collector, Rollout, RolloutSource
from mru_rl.agents.runs import Run
from mru_rl.blocks.core import make_core
from mru_rl.blocks.hybrid import cell_options, parse_spec
from mru_rl.cells.carry_bmru import anneal_carry
from mru_rl.envs import AgentInput

_LOG_SECONDS = 1.0  # a record at most this often, so that a fast run's metrics file stays small
_TRACED_ROWS = 4


def make_env(config: TrainConfig, num_envs: int, seed: int, **options: Any) -> AgentInput:
    """The env of a config, with the agent's inputs (previous action and reward, start flag) switched as it says."""
    kwargs = at_level(config.env_kwargs | options)
    own = {*inspect.signature(mru_rl.envs.make).parameters, "workers"} - {"state"}  # what has an option of the command
    taken = sorted(own & set(kwargs))
    require(not taken, f"{', '.join(taken)} cannot be set through --env-kwargs; see `mru-rl train ppo --help`")
    if config.workers == "process":
        kwargs["workers"] = config.workers
    env = mru_rl.envs.make(
        config.env, num_envs, seed=seed, device=pick_device(config.device), backend=config.backend, **kwargs
    )
    previous_action = not env.open_loop if config.previous_action is None else config.previous_action
    return AgentInput(
        env, flatten=True, previous_action=previous_action,
        previous_reward=config.previous_reward, start_flag=config.start_flag,
    )  # fmt: skip


def make_policy(config: TrainConfig, env: Any) -> ActorCritic:
    """The network of a config for an env's inputs and actions, on the run's device."""
    options: dict[str, Any] = {"read_before_write": config.read_before_write}
    core = make_core(
        config.core, env.obs_size, config.hidden_size,
        state_size=config.state_size, num_layers=config.num_layers, **options | _mru_options(config),
    )  # fmt: skip
    return ActorCritic(core, action_head(env.action_space).num_params).to(pick_device(config.device))


def _mru_options(config: TrainConfig) -> dict[str, Any]:
    """The options only memory recurrent units take, if the core has one."""
    taken = set().union(*(cell_options(name) for layer in parse_spec(config.core) for name in layer))
    return {"slope": config.surrogate_slope} if "slope" in taken else {}


def pick_device(device: str) -> str:
    """auto -> cuda where there is one. Raises ValueError where cuda is asked for and absent."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    require(device != "cuda" or torch.cuda.is_available(), "--device cuda needs a GPU torch can see; use --device cpu")
    return device


def make_collector(config: PPOConfig, env: AgentInput, policy: ActorCritic, head: ActionHead) -> RolloutSource:
    """What acts in the env of a config whose segment is chosen."""
    assert config.segment is not None
    device = pick_device(config.device)
    if config.collector == "ray":
        from mru_rl.agents.ray_rollout import RayCollectors  # torchrl's collectors take seconds to import

        return RayCollectors(
            env, policy, head, device, num_collectors=config.num_collectors, segment=config.segment, seed=config.seed,
            backend=config.backend,
        )  # fmt: skip
    generator = torch.Generator(device=device).manual_seed(config.seed + 1)
    if config.collector == "torchrl":
        from mru_rl.agents.torchrl_rollout import TorchRLCollector

        return TorchRLCollector(env, policy, head, generator, config.segment)
    return Collector(env, policy, head, generator)


class Trainer:
    """Env, policy and learner of a PPO run, and all that a checkpoint holds of them."""

    def __init__(self, config: PPOConfig) -> None:
        torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        self.curriculum = split_curriculum(config.env_kwargs)
        self.level = self.curriculum.first if self.curriculum else None
        self.env = self._make_env(config)
        hardest = make_env(config, 1, config.seed) if self.curriculum else self.env
        self.horizon = hardest.horizon
        self.config, self.reasons = config.follow_task(
            horizon=hardest.horizon, credit_horizon=hardest.credit_horizon, open_loop=hardest.open_loop
        )
        require(
            self.curriculum is None or self.env.success_return is not None,
            f"a curriculum needs an env that names a success, {config.env} does not; give its options as numbers",
        )
        self.head = action_head(self.env.action_space)
        self.policy = make_policy(self.config, self.env)
        if config.initialisation == "long":
            self.policy.core.remember(self.horizon or 1000)
        self.collector = make_collector(self.config, self.env, self.policy, self.head)
        self.learner = PPO(self.policy, self.head, self.config, torch.Generator().manual_seed(config.seed + 2))
        self.steps = self.updates = 0
        self.seconds = 0.0
        self.warmed_up = not self.config.warm_up

    def _make_env(self, config: TrainConfig) -> AgentInput:
        """The env of this level; each level draws its own episodes."""
        if self.curriculum is None:
            return make_env(config, config.num_envs, config.seed)
        assert self.level is not None
        return make_env(config, config.num_envs, config.seed + self.level, **{self.curriculum.name: self.level})

    def _set_level(self, level: int) -> None:
        self.level = level
        self.env.close()
        self.env = self._make_env(self.config)
        self.collector.change_env(self.env)

    def _advance_curriculum(self) -> None:
        """Go to the next level where this one is mastered."""
        recent = self.collector.recent
        if self.curriculum is None or self.level is None or self.level == self.curriculum.last:
            return
        if len(recent) == recent.maxlen and sum(success for _, _, success in recent) >= MASTERED * len(recent):
            self._set_level(self.curriculum.after(self.level))

    def update(self) -> tuple[dict[str, float], Rollout]:
        """One rollout and what is learned from it."""
        assert self.config.segment is not None
        started = time.monotonic()
        anneal_carry(self.policy, self.progress, share=self.config.carry_share)
        rollout = self.collector.collect(self.config.segment)
        if not self.warmed_up:
            horizon = self.horizon or self.config.segment
            self.policy.core.warm_up(rollout.data["observation"], rollout.data["is_init"], horizon)
            self.warmed_up = True  # the batch was collected under other thresholds: it is not learned from
            metrics: dict[str, float] = {}
        else:
            metrics = self.learner.update(rollout, self.progress)
        self.steps += self.config.segment * self.config.num_envs
        self.updates += 1
        self._advance_curriculum()
        elapsed = time.monotonic() - started
        self.seconds += elapsed
        return metrics, rollout

    @property
    def progress(self) -> float:
        """Share of the run done, in [0, 1]."""
        return min(self.steps / self.config.steps, 1.0)

    def record(self, metrics: dict[str, float], rollout: Rollout, steps_per_second: float) -> dict[str, float]:
        """A line of metrics.jsonl; names as in metrics.GLOSSARY."""
        record = {
            "steps": self.steps, "updates": self.updates, "episodes": self.collector.episodes,
            "seconds": round(self.seconds, 3), "steps_per_second": round(steps_per_second, 1),
        }  # fmt: skip
        if self.collector.recent:
            returns, lengths, successes = zip(*self.collector.recent, strict=True)
            record["return_mean"] = sum(returns) / len(returns)
            record["length_mean"] = sum(lengths) / len(lengths)
            if not math.isnan(successes[-1]):
                record["success_rate"] = sum(successes) / len(successes)
        if self.level is not None:
            record["level"] = self.level
        return record | metrics | self._write_rates(rollout)

    def _write_rates(self, rollout: Rollout) -> dict[str, float]:
        rows = rollout.data[:_TRACED_ROWS]
        trace = self.policy.core.trace(rows["observation"], rollout.start_state[:_TRACED_ROWS], rows["is_init"])
        writes = [v for k, v in trace.items(include_nested=True, leaves_only=True) if k[-1] == "writes"]
        if not writes:
            return {}
        per_unit = torch.cat([w.float().mean(dim=(0, 1)) for w in writes])
        return {"write_rate": per_unit.mean().item(), "silent_units": (per_unit == 0).float().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """Everything the run needs to go on."""
        return {
            "steps": self.steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "warmed_up": self.warmed_up,
            "level": self.level,
            "policy": self.policy.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "minibatch_generator": self.learner.generator.get_state(),
            "collector": self.collector.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        """Go on from a checkpoint. Returns whether the envs were restored; if not, they start fresh episodes."""
        self.steps, self.updates, self.seconds = saved["steps"], saved["updates"], saved["seconds"]
        self.warmed_up = saved["warmed_up"]
        if saved["level"] != self.level:
            self._set_level(saved["level"])
        self.policy.load_state_dict(saved["policy"])
        self.learner.optimizer.load_state_dict(saved["optimizer"])
        self.learner.generator.set_state(saved["minibatch_generator"])
        return self.collector.load_state_dict(saved["collector"])


def default_run_dir(config: PPOConfig) -> Path:
    """runs/ppo-ENV-CORE/seed_SEED."""
    name = "-".join(["ppo", config.env.replace("/", "_"), config.core.replace(",", "_")])
    return Path("runs") / name / f"seed_{config.seed}"


def start(config: PPOConfig) -> tuple[Run, Trainer]:
    """Make a new run; nothing is written before env and network stand."""
    path = config.run_dir or default_run_dir(config)
    Run.check_free(path)
    trainer = Trainer(dataclasses.replace(config, run_dir=path))
    run = Run.create(path, "ppo", trainer.config, trainer.device)
    return run, trainer


def resume(run: Run, config: PPOConfig) -> tuple[Trainer, bool]:
    """Take up a run from its newest intact checkpoint. Returns the trainer and whether its envs were restored.

    A run killed before its first checkpoint starts again, with the same result.
    """
    has_checkpoint = any(run.checkpoints.glob("step_*.pt"))
    saved = (
        run.checkpoint() if has_checkpoint else None
    )  # read before anything is built: a damaged file is said at once
    trainer = Trainer(config)
    if saved is None:
        run.drop_metrics_after(-1)
        return trainer, True
    restored = trainer.load_state_dict(saved)
    run.drop_metrics_after(trainer.steps)
    return trainer, restored


def run_to_end(run: Run, trainer: Trainer) -> None:
    """Train until the config's steps are reached, recording metrics and writing checkpoints; then draw the curve."""
    config = trainer.config
    writer = _tensorboard(run, trainer)
    label = f"{config.env} {config.core}"
    with Progress(label, config.steps) as progress, run.metrics_file.open("a") as metrics_file:
        saved_at = recorded_at = time.monotonic()
        recorded_steps = trainer.steps
        if trainer.steps == 0:
            _save(run, trainer)
        while trainer.steps < config.steps:
            metrics, rollout = trainer.update()
            now = time.monotonic()
            finished = trainer.steps >= config.steps
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
    if writer is not None:
        writer.close()
    learning_curve(run.metrics(), run.path / "learning_curve.png", f"{config.env}, {config.core}, seed {config.seed}")
    trainer.collector.close()


def _save(run: Run, trainer: Trainer) -> None:
    save_checkpoint(checkpoint_path(run.checkpoints, trainer.steps), trainer.state_dict())
    keep_newest(run.checkpoints, 3)


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
