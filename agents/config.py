"""What a run is made from. Light on imports: the command line reads this file before torch is there."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mru_rl.agents.console.errors import flag, require

if TYPE_CHECKING:
    from typing_extensions import Self  # Python 3.10 has none of its own

Chosen = tuple[Any, str]
"""A value and the reason for it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every algorithm's run has: task, memory, length, place."""

    env: str = "popgym-RepeatFirstEasy-v0"
    """env id; `mru-rl envs` lists ours, any other gymnasium id works too"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env as name=value pairs: --env-kwargs length=100 noise=0.1. A range, length=10..1000, is a
    curriculum: from 10 on, twice as long each time 90% of 100 episodes succeed"""
    backend: Literal["auto", "batched", "upstream"] = "auto"
    """auto takes our batched port of an env where there is one; upstream takes the original package"""
    workers: Literal["sync", "process"] = "sync"
    """gymnasium envs only: all in this process, or one process each (for slow envs)"""
    worker_seconds: float = 60.0
    """an env process that does not answer a step or a reset within this time is replaced"""
    worker_restarts: int = 10
    """env processes that may be replaced, having died, hung or raised; after one more the run stops"""
    on_nonfinite: Literal["stop", "drop"] = "stop"
    """NaN or infinity in observations, rewards, memory or gradients: stop the run, its last checkpoint being from before,
    or leave the row of the rollout or the gradient step out and count it"""
    core: str = "bmru+mingru"
    """memory: cell names, + side by side in one layer, a comma stacks layers; `mru-rl cores` lists them"""
    steps: int = 600_000
    """env steps to train for, over all envs; whole segments, so the last one may pass it"""
    num_envs: int = 64
    """envs stepped side by side"""
    seed: int = 0
    """decides everything random: parameters, envs, actions, minibatches"""
    run_dir: Path | None = None
    """where the run is kept; runs/ALGORITHM-ENV-CORE/seed_SEED where not given"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    threads: int = 1
    """CPU threads of torch; part of what makes a run repeatable to the bit. On busy cores more than one
    can be many times slower than one"""
    hidden_size: int = 64
    """width of the network"""
    state_size: int | None = None
    """real numbers of memory state per layer, shared by cells side by side; hidden_size where not given"""
    num_layers: int = 1
    """how often the core spec is repeated"""
    read_before_write: bool = True
    """read the state before each step as well as the one after it; --no-read-before-write to compare"""
    surrogate_slope: float = 4.0
    """memory recurrent units: steepness of the surrogate derivative of the write gate"""
    warm_up: bool = True
    """memory recurrent units: spread the write rates over [1/2, 1/horizon] on a first batch of observations"""
    initialisation: Literal["published", "long"] = "published"
    """long starts the cells so that memories last up to the env's horizon (chrono biases, slower decays), where their
    papers' own start was made for shorter delays"""
    carry_share: float = 0.5
    """carry-bmru only: share of the run over which what a write keeps of the old value falls to nothing, from a half or from
    what the core spec says (carry-bmru:64:carry=0.3)"""
    previous_action: bool | None = None
    """give the agent its previous action as an input; where not given, only if observations depend on actions: otherwise
    its own actions would be a memory outside it"""
    previous_reward: bool = False
    """give the agent its previous reward as an input; where every answer is paid at once it tells which one was right"""
    start_flag: bool = True
    """tell the agent on which step an episode starts"""
    checkpoint_seconds: float = 30.0
    """a checkpoint is written this often, and at the end"""
    tensorboard: bool = True
    """write TensorBoard events beside metrics.jsonl"""

    def __post_init__(self) -> None:
        check_kinds(self)
        require(self.seed >= 0, f"--seed must not be negative, got {self.seed}")
        for name in ("steps", "num_envs", "threads", "hidden_size", "num_layers"):
            require(getattr(self, name) >= 1, f"{flag(name)} must be at least 1, got {getattr(self, name)}")
        require(self.threads <= 1024, f"--threads must be at most 1024, got {self.threads}")
        require(
            self.state_size is None or self.state_size >= 1, f"--state-size must be at least 1, got {self.state_size}"
        )
        require(self.worker_seconds > 0, f"--worker-seconds must be positive, got {self.worker_seconds}")
        require(self.worker_restarts >= 0, f"--worker-restarts must not be negative, got {self.worker_restarts}")
        require(0 <= self.carry_share <= 1, f"--carry-share must lie in [0, 1], got {self.carry_share}")
        require(self.surrogate_slope > 0, f"--surrogate-slope must be positive, got {self.surrogate_slope}")
        require(
            self.checkpoint_seconds >= 0, f"--checkpoint-seconds must not be negative, got {self.checkpoint_seconds}"
        )

    def follow_task(
        self, *, horizon: int | None, credit_horizon: int | None, open_loop: bool
    ) -> tuple[Self, dict[str, str]]:
        """The config with every value that was not given chosen from the task, and the reason for each.

        horizon: most steps of an episode; credit_horizon: most steps from an action to a reward it decides; None
        where the env does not know. open_loop: observations do not depend on actions.
        """
        values = self._for_task(horizon=horizon, credit_horizon=credit_horizon, open_loop=open_loop)
        if self.previous_action is None:
            values["previous_action"] = not open_loop, f"observations {'do not ' if open_loop else ''}depend on actions"
        chosen = {name: value for name, (value, _) in values.items()}
        return dataclasses.replace(self, **chosen), {name: reason for name, (_, reason) in values.items()}

    def _for_task(self, *, horizon: int | None, credit_horizon: int | None, open_loop: bool) -> dict[str, Chosen]:
        """What an algorithm chooses, value and reason by field."""
        raise NotImplementedError(f"{type(self).__name__} names no algorithm; use a config of algorithms.ALGORITHMS")


def discount_for(credit_horizon: int | None) -> tuple[float, str]:
    """A discount that sees a reward from the action it depends on, and why."""
    if credit_horizon is None:
        return 0.99, "the env does not say how late rewards come"
    return 1 - 1 / (credit_horizon + 2), f"a reward comes {credit_horizon} steps after its action at the latest"


def to_json(config: TrainConfig) -> dict[str, Any]:
    """A config as JSON can hold it."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}


def check_kinds(config: TrainConfig) -> None:
    """Raises ValueError for a field whose value is not of the kind its annotation names.

    A whole number is a float too; a float is finite, unless it is a time, in seconds.
    """
    hints = typing.get_type_hints(type(config))
    for name, hint in hints.items():
        value = getattr(config, name)
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        require(
            any(_is(value, kind, endless=name.endswith("_seconds")) for kind in kinds),
            f"{flag(name)} must be {' or '.join(map(_said, kinds))}, got {value!r}",
        )


def _is(value: Any, kind: Any, *, endless: bool) -> bool:
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and (endless or math.isfinite(value))
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return isinstance(value, kind)


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    names = {
        int: "a whole number below 2^62",
        float: "a finite number",
        bool: "true or false",
        str: "a word",
        type(None): "left out",
    }
    return names.get(kind, "options by name" if typing.get_origin(kind) is dict else "a path")
