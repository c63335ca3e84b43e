"""What trains a memory agent, whatever the algorithm: env, policy, acting loop, curriculum, and what a checkpoint holds."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import torch

from mru_rl.agents.acting.collector import Collector
from mru_rl.agents.acting.episodes import info_means
from mru_rl.agents.acting.guards import Guard, require_finite_parameters
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.build import make_env, pick_device, seeded, with_rows_of_env
from mru_rl.agents.config import Task, TrainConfig, env_name
from mru_rl.agents.console.errors import require
from mru_rl.agents.console.streams import tell_error
from mru_rl.agents.curriculum import MASTERED, split_curriculum
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import Policy
from mru_rl.agents.schedule import Schedule
from mru_rl.envs import AgentInput
from mru_rl.envs.actions import action_leaves
from mru_rl.envs.input_rules import InputRules

_TRACED_ROWS = 4


class Trainer(ABC):
    """Env, policy, acting loop and learner of a run, and all that a checkpoint holds of them.

    An algorithm of one's own derives from it and gives, in `__init__` after super().__init__(config), `collector` and
    `optimizer`, and the methods below that are abstract; `register_algorithm` makes it known. At hand are `env`, `head` and
    `policy`, what `make_agent` returned; `config`, with every value chosen; `guard`, `schedule`, `steps` and `progress`.
    `state_dict` and `load_state_dict` are extended with what it keeps besides.

    Sets torch's number of threads to the config's.

    >>> from mru_rl.agents import PPOConfig
    >>> from mru_rl.agents.ppo.trainer import PPOTrainer
    >>> trainer = PPOTrainer(PPOConfig(env="CartPole-v1", num_envs=2, segment=8))
    >>> metrics, rollout = trainer.update()
    >>> trainer.steps, rollout.data.batch_size
    (16, torch.Size([2, 8]))
    """

    collector: Collector
    optimizer: torch.optim.Optimizer

    def __init__(self, config: TrainConfig) -> None:
        torch.set_num_threads(config.threads)
        config = with_rows_of_env(config)
        self.device = pick_device(config.device)
        self.curriculum = split_curriculum(config.env_kwargs)
        self.level = self.curriculum.first if self.curriculum else None
        self.env = self._make_env(config)
        hardest = make_env(config, 1, config.seed) if self.curriculum else self.env
        self.horizon = hardest.horizon
        self._hardest = hardest.rules.parts
        """What the inputs of the last level are: bounds may grow."""
        _require_alike(config, self.env, hardest)
        self.config, self.reasons = config.resolve(
            Task(
                hardest.horizon,
                hardest.credit_horizon,
                hardest.open_loop,
                hardest.sources,
                continuous=any(isinstance(leaf, gymnasium.spaces.Box) for leaf in action_leaves(hardest.action_space)),
            )
        )
        self._told_of_no_success = False
        require(
            self.curriculum is None or self.env.success_return is not None or "success" in self.env.metrics,
            f"a curriculum needs an env that names a success, {env_name(config.env)} does not; give its options as numbers",
        )
        with seeded(config.seed):
            self.head, self.policy = self.make_agent(self.config, self.env.rules)
            if config.initialisation == "long":
                self.policy.core.init_for_horizon(self.horizon or 1000)
        self.policy.core.set_progress(0.0)
        self.guard = Guard(self.config.on_nonfinite)
        self.schedule = Schedule(
            getattr(self.config, "schedule", "constant"), getattr(self.config, "learning_rate", 0.0), self.config.steps
        )
        self.steps = self.updates = 0
        self.seconds = 0.0
        self.restarts_before = 0  # worker processes replaced by envs before this one
        self.warmed_up = not (config.warm_up and self.policy.core.has_gates)
        self.looked = self.policy.encoder is None
        """Whether observations were looked at, to normalize those that are not of usual size."""
        self.news: list[str] = []
        """What is to be told after this update, a line each."""

    @staticmethod
    @abstractmethod
    def make_agent(config: Any, inputs: InputRules) -> tuple[ActionHead, Policy]:
        """The action head and the network of a config, on the run's device.

        inputs: what the agent sees, its width `inputs.size`, and `inputs.action_space`. Raises ValueError for an action
        space the algorithm does not have.
        """

    def notes(self) -> list[str]:
        """What to know before the run starts, a line each."""
        return []

    @property
    @abstractmethod
    def segment(self) -> int:
        """Steps per env between two updates."""

    @abstractmethod
    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout; the metrics of it, by name. `self.learning_rate` is what the schedule says now."""

    @property
    def learning_rate(self) -> float:
        """What the schedule says after the steps so far."""
        return self.schedule.at(self.steps)

    def _warm_up(self, rollout: Rollout) -> None:
        """Spread the write rates on a first rollout, which is not learned from: other thresholds collected it."""
        rollout = rollout.kept()
        if len(rollout.start_state):
            with torch.no_grad():  # a few rows at a time: those of pictures are large
                rows = rollout.data["observation"].split(_TRACED_ROWS)
                x = torch.cat([self.policy.encode(some) for some in rows])
            self.policy.core.warm_up(x, rollout.data["is_init"], self.horizon or self.segment)
            self.warmed_up = True

    def _look(self, rollout: Rollout) -> bool:
        """Look at a first rollout's observations and normalize what is not of usual size. Returns whether anything is now:
        the rollout was not collected so."""
        encoder, rollout = self.policy.encoder, rollout.kept()
        if self.looked or encoder is None or not len(rollout.start_state):
            return False
        self.looked = True
        x, asked = rollout.data["observation"], self.config.normalize_obs
        unusual = encoder.unusual(x, self._hardest)
        columns = {None: unusual, True: encoder.all_numbers(), False: torch.zeros_like(unusual)}[asked]
        seen = encoder.numbers(x).flatten(0, -2)
        if unusual.any() and asked is not True:
            size = seen[:, unusual].abs().amax().item()
            found = (
                f"{int(unusual.sum())} number(s) of observations are unbounded or not of usual size, up to {size:.3g}"
            )
            self.news.append(
                f"{found}: normalized (--no-normalize-obs leaves them)"
                if asked is None
                else f"{found}, and not normalized: a network learns slowly from such; leave --no-normalize-obs out"
            )
        if columns.any():
            encoder.norm.switch_on(columns)
            self._observe(rollout)
        return bool(columns.any())

    def _observe(self, rollout: Rollout) -> None:
        """Count a rollout's observations in; the next one is collected with what they change."""
        encoder, rollout = self.policy.encoder, rollout.kept()
        if encoder is not None and encoder.norm.active and len(rollout.start_state):
            encoder.norm.observe(encoder.numbers(rollout.data["observation"]))

    def _make_env(self, config: TrainConfig) -> AgentInput:
        """The env of this level; each level draws its own episodes."""
        if self.curriculum is None or self.level is None:
            return make_env(config, config.num_envs, config.seed)
        return make_env(config, config.num_envs, config.seed + self.level, {self.curriculum.name: self.level})

    def _set_level(self, level: int) -> None:
        self.level = level
        self.restarts_before += self.env.worker_restarts
        self.env.close()
        self.env = self._make_env(self.config)
        self.collector.change_env(self.env)

    def _advance_curriculum(self) -> None:
        """Go to the next level where this one is mastered."""
        recent = self.collector.recent
        if self.curriculum is None or self.level is None or self.level == self.curriculum.last:
            return
        if len(recent) != recent.maxlen:
            return
        success = self.collector.log.success_rate
        if success is not None and success >= MASTERED:
            self._set_level(self.curriculum.after(self.level))
        elif success is None and not self._told_of_no_success:
            self._told_of_no_success = True
            tell_error(
                f"mru-rl: the curriculum over {self.curriculum.name} waits for successes, and none of the last {len(recent)} "
                f"episodes of {self.env.id} said whether it was one; have it say success_return, or is_success in info"
            )

    def update(self) -> tuple[dict[str, float], Rollout]:
        """One rollout and what is learned from it.

        Raises NonFiniteError naming env, row, step and quantity, or the parameter, that was NaN or infinite, EnvError for
        an env that fails; then the trainer is not to be saved, or used again.
        """
        started = time.monotonic()
        rollout = self.collector.collect(self.segment)
        metrics: dict[str, float] = {}
        changed = self._look(rollout)
        if not self.warmed_up:
            self._warm_up(rollout)
        elif changed:
            self._pass_over(rollout)
        else:
            metrics = self.learn(rollout)
        if not changed:
            self._observe(rollout)
        require_finite_parameters(self.policy)
        self.steps += rollout.data.shape[1] * self.config.num_envs
        self.updates += 1
        self.policy.core.set_progress(self.progress)
        self._advance_curriculum()
        self.seconds += time.monotonic() - started
        return metrics, rollout

    def _pass_over(self, rollout: Rollout) -> None:  # noqa: B027 (nothing to do unless something is carried over)
        """A rollout that is not learned from."""

    @property
    def progress(self) -> float:
        """Fraction of the run done, in [0, 1]."""
        return min(self.steps / self.config.steps, 1.0)

    def record(self, metrics: dict[str, float], rollout: Rollout, steps_per_second: float) -> dict[str, float]:
        """A line of metrics.jsonl; names as in metrics.GLOSSARY."""
        record: dict[str, float] = {
            "steps": self.steps,
            "updates": self.updates,
            "episodes": self.collector.episodes,
            "seconds": round(self.seconds, 3),
            "steps_per_second": round(steps_per_second, 1),
        }
        if self.collector.recent:
            returns, lengths, _ = zip(*self.collector.recent, strict=True)
            record["recent_episodes"] = len(returns)
            record["return_mean"] = sum(returns) / len(returns)
            record["length_mean"] = sum(lengths) / len(lengths)
            if (success := self.collector.log.success_rate) is not None:
                record["success_rate"] = success
            record |= {f"info_{name}": value for name, value in info_means(self.collector.log.said).items()}
        if self.level is not None:
            record["level"] = self.level
        return record | metrics | self._faults() | self._write_rates(rollout)

    def _faults(self) -> dict[str, float]:
        found: dict[str, float] = {"state_max": self.guard.state_max}
        if self.config.on_nonfinite == "drop":
            found |= self.guard.state_dict()
        if self.config.workers == "process":
            found["worker_restarts"] = self.restarts_before + self.env.worker_restarts
        return found

    def _write_rates(self, rollout: Rollout) -> dict[str, float]:
        if not self.policy.core.has_gates:
            return {}
        rows = rollout.data[:_TRACED_ROWS]
        x = self.policy.encode(rows["observation"])
        trace = self.policy.core.trace(x, rollout.start_state[:_TRACED_ROWS], rows["is_init"])
        writes = [v for k, v in trace.items(include_nested=True, leaves_only=True) if k[-1] == "writes"]
        per_unit = torch.cat([w.float().mean(dim=(0, 1)) for w in writes])
        return {"write_rate": per_unit.mean().item(), "silent_units": (per_unit == 0).float().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """Everything the run needs to go on."""
        return {
            "made_by": made_by(self.config),
            "steps": self.steps,
            "updates": self.updates,
            "seconds": self.seconds,
            "warmed_up": self.warmed_up,
            "looked": self.looked,
            "level": self.level,
            "schedule": self.schedule.state_dict(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "collector": self.collector.state_dict(),
            "faults": self.guard.state_dict() | {"worker_restarts": self.restarts_before + self.env.worker_restarts},
        }

    def load_state_dict(self, saved: dict[str, Any]) -> list[str]:
        """Go on from a checkpoint. Returns what could not be restored, in words; empty where the run goes on to the bit.

        Raises ValueError naming both sides where another algorithm, env or core made it.
        """
        check_made_by(saved, self.config)
        self.steps, self.updates, self.seconds = saved["steps"], saved["updates"], saved["seconds"]
        self.warmed_up, self.looked = saved["warmed_up"], saved["looked"]
        if saved["level"] != self.level:
            self._set_level(saved["level"])
        load_policy(self.policy, saved["policy"])
        self.schedule = self.schedule.taken_up(saved["schedule"], self.steps)
        self.guard.load_state_dict(saved["faults"])
        self.restarts_before = saved["faults"]["worker_restarts"]
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.collector.load_state_dict(saved["collector"]):
            return []
        return [f"{self.collector.name} cannot save its state: all envs start fresh episodes"]

    def start_from(self, weights: dict[str, torch.Tensor], part: str) -> None:
        """Begin with weights of another agent: all of them, or those of its core alone ("core").

        The write rates are those of that agent, so that no first rollout is spent on setting them. Raises ValueError
        naming the parameters that do not fit.
        """
        own = self.policy.state_dict()
        wanted = {name: there for name, there in weights.items() if part == "all" or name.startswith("core.")}
        names = [name for name in own if part == "all" or name.startswith("core.")]
        misfits = [
            f"{name} ({_shape(wanted, name)} there, {_shape(own, name)} here)"
            for name in dict.fromkeys([*names, *wanted])
            if _shape(wanted, name) != _shape(own, name)
        ]
        hint = "" if part == "core" else ", or take the memory alone with {init_part} core"
        require(
            not misfits,
            f"the weights of {{init_from}} do not fit this agent: {', '.join(misfits[:4])}"
            f"{f' and {len(misfits) - 4} more' if len(misfits) > 4 else ''}; train with the same core, sizes and spaces{hint}",
        )
        self.policy.load_state_dict(own | wanted)
        self.warmed_up = True
        self.looked = self.looked or part == "all"


def made_by(config: TrainConfig) -> dict[str, str]:
    """What must be the same where a checkpoint is written and where it is read."""
    return {"algorithm": config.algorithm, "env": env_name(config.env), "core": config.core}


def check_made_by(saved: dict[str, Any], config: TrainConfig) -> None:
    """Raises ValueError naming both sides where a checkpoint is of another algorithm, env or core than the config.

    An env given as an object may go by another name the next time, and is not compared.
    """
    for name, here in made_by(config).items():
        there = saved["made_by"][name]
        require(
            there == here or (name == "env" and not isinstance(config.env, str)),
            f"the checkpoint was made with {name} {there!r}, config.json names {name} {here!r}; put back the config.json it "
            "was saved with",
        )


def load_policy(policy: torch.nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """Load parameters. Raises ValueError naming the first one whose shape is another in the network and the checkpoint."""
    own = policy.state_dict()
    for name in [*own, *(extra for extra in saved if extra not in own)]:
        here, there = _shape(own, name), _shape(saved, name)
        require(
            here == there,
            f"parameter {name} is {there} in the checkpoint and {here} in the network: another core or width trained it; "
            "load it with the config.json it was saved with",
        )
    policy.load_state_dict(saved)


def _shape(tensors: dict[str, torch.Tensor], name: str) -> list[int] | str:
    return list(tensors[name].shape) if name in tensors else "absent"


def _require_alike(config: TrainConfig, first: AgentInput, last: AgentInput) -> None:
    """Raises ValueError where the levels of a curriculum do not look alike to one network."""
    spaces = [(env.obs_size, env.action_space) for env in (first, last)]
    require(
        spaces[0] == spaces[1],
        f"the levels of a curriculum must look alike to one network, {env_name(config.env)} has {spaces[0][0]} numbers in an "
        f"observation and {spaces[0][1]} at the first, {spaces[1][0]} and {spaces[1][1]} at the last; take another option, "
        "such as length",
    )
