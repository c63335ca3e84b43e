"""What an R2D2 run is made from. Light on imports, as config.py is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mru_rl.agents.config import Chosen, Task, TrainConfig, discount_for, values_of
from mru_rl.agents.console.errors import require

BATCH_STEPS = 4096
"""Steps of a batch above which it has fewer than 32 sequences: the number of gradient steps counts as well."""
WHOLE_EPISODES = 1024
"""Episodes of up to so many steps are learned from whole, unless the config says otherwise."""


@dataclass(frozen=True, kw_only=True)
class R2D2Config(TrainConfig):
    """Train a memory agent with R2D2 (Kapturowski et al. 2019): Q-learning from replayed sequences and stored states.

    A sequence is `burn-in` steps that only bring the memory up to date, then `sequence` steps that are learned from: the
    80 of the paper do not include its 40 of burn-in here. Each part is one parallel scan. Sequences never cross episodes.
    The paper feeds the previous action and reward as well: --previous-action --previous-reward.

    >>> from mru_rl.agents import R2D2Config
    >>> R2D2Config(env="popgym-RepeatFirstEasy-v0", sequence=40, burn_in=20).warm_up
    False
    """

    group: ClassVar[str] = "learning"
    algorithm: ClassVar[str] = "r2d2"

    sequence: int | None = None
    """steps of a sequence that are learned from, burn-in not included; a whole episode where the env's is at most
    1,024 steps, else 80. Gradients reach no further back"""
    burn_in: int | None = None
    """steps before them that are run without gradient, each network with its own weights, from the stored state; 0 where
    sequences are whole episodes, else 40"""
    overlap: int | None = None
    """steps that a sequence shares with the one before it; half of --sequence, 0 where sequences are whole episodes"""
    stored_state: Literal["floats", "signs"] = "floats"
    """how states are kept in replay: as they were, or units of a BMRU as signs, two bits each, that take the level the
    unit has when they are read"""
    discount: float | None = None
    """discount per step; from how late a reward depends on an action where not given"""
    n_step: int | None = None
    """rewards summed before the target network's value takes over; 5 where not given, fewer where an action is paid sooner"""
    reward_scale: float | None = None
    """rewards are multiplied by this for learning; where not given, by what brings those of the first replayed sequences
    that are not 0 to size 1 (root mean square): a value must stand out from what a fresh network says"""
    value_rescaling: bool = True
    """learn sign(q) (sqrt(|q| + 1) - 1) + 0.001 q instead of the action value q"""
    epsilon: float | None = None
    """share of random actions of the boldest env; 0.4 where not given, and where actions change what is seen at most 4
    in an episode: in a corridor every random step is one that goes wrong"""
    epsilon_least: float = 0.001
    """share of random actions of the most careful env; those between are spaced evenly in the logarithm"""
    learning_rate: float = 1e-3
    """Adam's step size"""
    batch: int | None = None
    """sequences in a gradient step; 32 where not given, fewer where those are more than 4,096 steps, at least 4"""
    samples_per_insert: float = 4.0
    """how often a sequence is replayed on average: the number of gradient steps follows from it"""
    target_period: int = 100
    """gradient steps between two copies to the target network"""
    priority_exponent: float = 0.9
    """0 replays all sequences alike, 1 in proportion to their priority, 0.9 max + 0.1 mean of |TD error|"""
    importance_exponent: float = 0.6
    """how far the loss of sequences that are replayed more often is weighted down"""
    replay_sequences: int = 10_000
    """sequences kept; the oldest go first"""
    learning_starts: int | None = None
    """sequences in replay before the first gradient step; 200 where not given, fewer where that is over a tenth of --steps"""
    replay_storage: Literal["memory", "disk"] = "memory"
    """disk keeps replay in memory-mapped files in the run directory"""
    save_replay: bool = True
    """replay goes into checkpoints, so that a resumed run equals an unbroken one; otherwise it is filled anew"""
    max_grad_norm: float = 10.0
    """gradients are scaled down to this norm"""
    segment: int = 16
    """env steps per env between two rounds of gradient steps"""
    warm_up: bool = False
    """memory recurrent units: spread the write rates over [1/2, 1/horizon] on a first rollout of whole episodes; on two
    tasks and six seeds Q-learning learned earlier without it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sequence", "n_step", "batch", "target_period", "replay_sequences", "learning_starts", "segment"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{{{name}}} must be at least 1, got {value}")
        for name in ("burn_in", "overlap", "priority_exponent", "importance_exponent"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"{{{name}}} must not be negative, got {value}")
        for name in ("learning_rate", "samples_per_insert", "max_grad_norm"):
            require(getattr(self, name) > 0, f"{{{name}}} must be positive, got {getattr(self, name)}")
        require(
            self.reward_scale is None or self.reward_scale > 0,
            f"{{reward_scale}} must be positive, got {self.reward_scale}",
        )
        for name in ("discount", "epsilon", "epsilon_least"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"{{{name}}} must lie in [0, 1], got {value}")
        require(
            self.overlap is None or self.sequence is None or self.overlap < self.sequence,
            f"{{overlap}} must be less than {{sequence}}, got {self.overlap} of {self.sequence} steps",
        )
        require(
            self.learning_starts is None or self.learning_starts <= self.replay_sequences,
            f"{{learning_starts}} must not exceed {{replay_sequences}}, got {self.learning_starts} and {self.replay_sequences}",
        )

    def choose(self, task: Task) -> dict[str, Chosen]:
        horizon, credit_horizon, open_loop = task.horizon, task.credit_horizon, task.open_loop
        chosen: dict[str, Chosen] = {}
        whole = horizon is not None and horizon <= WHOLE_EPISODES
        sequence = self.sequence
        if sequence is None:
            sequence = horizon if horizon is not None and whole else 80
            why = "a whole episode" if whole else "episodes are long or of unknown length"
            chosen["sequence"] = sequence, why + task.source("horizon")
        covered = horizon is not None and sequence >= horizon
        if self.burn_in is None:
            chosen["burn_in"] = (
                (0, "sequences are whole episodes") if covered else (40, "sequences start in mid-episode")
            )
        if self.overlap is None:
            chosen["overlap"] = (
                (0, "sequences are whole episodes") if covered else (sequence // 2, "half of --sequence")
            )
        steps = sequence + (self.burn_in if self.burn_in is not None else chosen["burn_in"][0])
        batch = self.batch
        if batch is None:
            batch = max(4, min(32, BATCH_STEPS // steps))
            chosen["batch"] = batch, f"sequences of {steps} steps, about {BATCH_STEPS:,} in a batch, 4 to 32 of them"
        if self.learning_starts is None:
            tenth = self.steps // (10 * sequence)
            chosen["learning_starts"] = (
                min(max(min(200, tenth), batch), self.replay_sequences),
                "200 sequences, at most a tenth of --steps, at least a batch",
            )
        if self.discount is None:
            chosen["discount"] = discount_for(task)
        if self.n_step is None:
            if credit_horizon is None:
                chosen["n_step"] = 5, "the env does not say how late rewards come"
            else:
                why = f"no further than an action is paid, at most 5{task.source('credit_horizon')}"
                chosen["n_step"] = min(5, credit_horizon + 1), why
        if self.epsilon is None:
            if open_loop or horizon is None:
                chosen["epsilon"] = 0.4, "observations do not depend on actions" if open_loop else "no horizon is known"
            else:
                chosen["epsilon"] = min(0.4, 4 / horizon), f"4 random actions in {horizon} steps, at most 0.4"
        return chosen

    def _filled(self, chosen: dict[str, Any]) -> R2D2Config:
        if type(self) is not R2D2Config:  # an algorithm derived from this one keeps its own type
            return super()._filled(chosen)
        return ResolvedR2D2Config(**values_of(self) | chosen)


@dataclass(frozen=True, kw_only=True)
class ResolvedR2D2Config(R2D2Config):
    """An R2D2Config in which every value is chosen but the reward scale, which waits for rewards."""

    previous_action: bool
    sequence: int
    burn_in: int
    overlap: int
    discount: float
    n_step: int
    epsilon: float
    batch: int
    learning_starts: int
