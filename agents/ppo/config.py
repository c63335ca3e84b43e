"""What a PPO run is made from. Light on imports, as agents/config.py is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mru_rl.agents.config import Chosen, Task, TrainConfig, discount_for, values_of
from mru_rl.agents.console.errors import require

SHORT = 128
"""Steps of a segment that is not made of whole episodes."""
ROLLOUTS = 30
"""Whole episodes, where it is not known that they are needed, leave a run at least so many rollouts."""
ROLLOUT_STEPS = 2**15
"""And rollouts of at most so many steps, four times those of the default 64 envs and short segments."""


@dataclass(frozen=True, kw_only=True)
class CollectorOptions:
    """What steps policy and envs."""

    group: ClassVar[str] = "run"

    collector: Literal["own", "torchrl", "ray"] = "own"
    """what steps policy and envs: our own loop; torchrl's Collector, with the same result; or several of those side by
    side on Ray, on the cluster that RAY_ADDRESS names, or on this machine without it (needs the extra `ray`)"""
    num_collectors: int = 1
    """collectors on Ray: each takes a CPU and its share of the envs"""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(CollectorOptions, TrainConfig):
    """Train a memory agent with PPO (Schulman et al. 2017, arXiv:1707.06347) over whole rollout segments.

    A parallel scan runs over each segment when learning, one step at a time when acting. Values not given are
    chosen from the task and shown when the run starts.

    >>> from mru_rl.agents import PPOConfig
    >>> PPOConfig(env="mru_rl/TMaze-v0", env_kwargs={"length": 100}, core="bmru", steps=1_000_000).num_envs
    64
    >>> PPOConfig(num_envs=0)
    Traceback (most recent call last):
    mru_rl.agents.console.errors.OptionError: num_envs must be at least 1, got 0
    """

    group: ClassVar[str] = "learning"
    algorithm: ClassVar[str] = "ppo"

    segment: int | None = None
    """env steps per env between two updates; from the env's horizon where not given: it should reach from a cue to its use.
    Where the env does not say how late rewards come, whole episodes as long as its time limit if a rollout then has at
    most 32,768 steps and there are 30 of them, else 128"""
    discount: float | None = None
    """discount per step; from how late a reward depends on an action where not given, not from how long memory must hold"""
    gae_lambda: float = 0.95
    """how far advantages look ahead beyond one step"""
    learning_rate: float = 1e-3
    """Adam's step size at the start"""
    schedule: Literal["linear", "constant"] = "linear"
    """learning rate over the run: linear falls to zero at --steps"""
    epochs: int = 4
    """passes over each rollout"""
    minibatches: int | None = None
    """gradient steps per pass; must divide --num-envs, since a minibatch is made of whole rows. From the rollout's size
    where not given: about 1,024 steps each, 400 where a time limit gives the segment, at least 8 of them, two rows in each"""
    clip: float = 0.2
    """how far an action's probability ratio may move before its gradient is cut"""
    entropy: float | None = None
    """entropy bonus; from the env's horizon where not given: over a long corridor a large one outweighs the one reward"""
    squash: bool = False
    """Box actions with bounds: bend a normal into them with tanh, instead of clipping it there; for policies that should not
    pile up at the bounds"""
    gaussian_std: Literal["state", "learned"] = "state"
    """Box actions: how far they spread is read from the memory at every step (state), or is one learned number for each part
    of an action"""
    value_coef: float = 0.5
    """weight of the value loss"""
    normalize_reward: bool | None = None
    """learn values in units of the size of returns, as seen so far; where not given, if the first returns are not of usual
    size, between 0.05 and 2"""
    max_grad_norm: float = 0.5
    """gradients are scaled down to this norm"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches", "num_collectors", "segment"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{{{name}}} must be at least 1, got {value}")
        require(
            self.num_collectors == 1 or self.collector == "ray",
            f"only {{collector}} ray has several collectors, got {{num_collectors}} {self.num_collectors} and {{collector}} "
            f"{self.collector}; leave one of the two out",
        )
        require(
            self.num_envs % self.num_collectors == 0,
            f"{{num_envs}} must be a multiple of {{num_collectors}}, since collectors share the envs evenly; got "
            f"{self.num_envs} envs and {self.num_collectors} collectors: try {{num_collectors}} "
            f"{math.gcd(self.num_envs, self.num_collectors)}",
        )
        require(
            self.on_nonfinite == "stop" or self.collector == "own",
            f"only {{collector}} own can drop rows, got {{on_nonfinite}} drop and {{collector}} {self.collector}; leave one "
            "out",
        )
        require(
            self.collector != "ray" or isinstance(self.env, str),
            "{collector} ray makes its envs on other machines, from an id, got an env given as an object; register it in "
            "a module and name that with {imports}",
        )
        require(
            self.minibatches is None or self.num_envs % self.minibatches == 0,
            f"{{num_envs}} must be a multiple of {{minibatches}}, since a minibatch is made of whole rows; got "
            f"{self.num_envs} envs and {self.minibatches} minibatches: try {{minibatches}} "
            f"{math.gcd(self.num_envs, self.minibatches or 1)}",
        )
        for name in ("discount", "gae_lambda"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"{{{name}}} must lie in [0, 1], got {value}")
        for name in ("learning_rate", "clip", "max_grad_norm"):
            require(getattr(self, name) > 0, f"{{{name}}} must be positive, got {getattr(self, name)}")
        for name in ("entropy", "value_coef"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{{{name}}} must not be negative, got {value}")

    def choose(self, task: Task) -> dict[str, Chosen]:
        chosen: dict[str, Chosen] = {}
        segment, horizon, steps_each = self.segment, task.horizon, 1024
        if segment is None:
            if horizon is None:
                segment, why = SHORT, "the env does not say how far a cue lies from its use"
            elif task.credit_horizon is None:
                segment, why = self._segment_for(horizon, task.source("horizon"))
                steps_each = 1024 if segment == SHORT else 400  # fewer rollouts: more is learned from each
            else:
                episodes = max(1, -(-100 // horizon))
                segment = min(episodes * horizon, 16_384)
                why = f"{episodes} episode(s) of {horizon} steps, at most 16,384{task.source('horizon')}"
            chosen["segment"] = segment, why
        if self.minibatches is None:
            wanted = max(min(max(self.num_envs * segment // steps_each, 8), self.num_envs // 2), 1)
            minibatches = next(n for n in range(wanted, 0, -1) if self.num_envs % n == 0)
            chosen["minibatches"] = minibatches, f"{self.num_envs // minibatches} rows of {segment} steps each"
        if self.discount is None:
            chosen["discount"] = discount_for(task)
        if self.entropy is None:
            if task.credit_horizon is None:
                chosen["entropy"] = 0.01, "the env does not say how late rewards come"
            else:
                chosen["entropy"] = min(0.01, 1 / (horizon or 1)), "1 / horizon, at most 0.01"
        return chosen

    def _segment_for(self, horizon: int, source: str) -> tuple[int, str]:
        """Whole episodes where the run can afford them, for an env that names its time limit alone.

        Gradients then reach from any cue to its use; but every update waits for a rollout, and a control task, where less
        would do, learns by their number.
        """
        episodes = -(-SHORT // horizon)
        segment = episodes * horizon
        rollout = segment * self.num_envs
        if rollout <= ROLLOUT_STEPS and rollout * ROLLOUTS <= self.steps:
            return segment, f"{'one episode' if episodes == 1 else f'{episodes} episodes'} of {horizon} steps{source}"
        if horizon <= SHORT:
            return SHORT, f"more than an episode, of {horizon} steps{source}"
        return SHORT, (
            f"whole episodes of {horizon:,} steps{source}, would make {self.steps / rollout:.3g} rollouts of {rollout:,} steps, "
            f"not {ROLLOUTS} of at most {ROLLOUT_STEPS:,}; where a cue lies further than {SHORT} steps from its use, give "
            f"--segment {horizon} or fewer --num-envs"
        )

    def _filled(self, chosen: dict[str, Any]) -> PPOConfig:
        if type(self) is not PPOConfig:  # an algorithm derived from this one keeps its own type
            return super()._filled(chosen)
        return ResolvedPPOConfig(**values_of(self) | chosen)


@dataclass(frozen=True, kw_only=True)
class ResolvedPPOConfig(PPOConfig):
    """A PPOConfig in which every value is chosen."""

    previous_action: bool
    segment: int
    discount: float
    minibatches: int
    entropy: float
