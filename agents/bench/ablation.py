"""One setting of training changed at a time, on two tasks with long delays: which of them matter.

Tasks: a T-maze of 500 steps (1,000,000 env steps; success) and RepeatFirstHard, 831 steps (1,500,000; return). Every arm is
the default with one change. The table shows, per seed, where training ended and after how many env steps (thousands) it
first passed 0.95 in success or 0.9 in return. Finished jobs are kept: the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mru_rl.agents.bench.grid import run_table
from mru_rl.agents.bench.jobs import Job, Point
from mru_rl.agents.bench.options import GridOptions, command_line, read_options, require_positive
from mru_rl.agents.console.errors import nearest, require
from mru_rl.agents.report.tables import markdown_row

ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "no warm-up": {"warm_up": False},
    "long start, no warm-up": {"warm_up": False, "initialisation": "long"},
    "surrogate slope 1": {"surrogate_slope": 1.0},
    "surrogate slope 10": {"surrogate_slope": 10.0},
    "entropy bonus 0.01": {"entropy": 0.01},
    "no entropy bonus": {"entropy": 0.0},
    "discount 0": {"discount": 0.0},
    "discount 0.99": {"discount": 0.99},
    "no value loss in the trunk": {"value_coef": 0.0},
    "8 minibatches": {"minibatches": 8},
    "64 minibatches": {"minibatches": 64},
    "learning rate 3e-4": {"learning_rate": 3e-4},
    "learning rate 3e-3": {"learning_rate": 3e-3},
    "constant learning rate": {"schedule": "constant"},
    "16 envs": {"num_envs": 16},
    "segments of 128": {"segment": 128},
    "no read before write": {"read_before_write": False},
}
"""Name -> what it changes of PPOConfig. A carry-BMRU, annealed, is added as an arm of its own: it changes the core."""
CARRY = "carry-bmru, annealed"


class Task(NamedTuple):
    """measure: success_rate or return_mean, of evaluations and learning curves alike; learned: from where on it counts."""

    env: str
    env_kwargs: dict[str, Any]
    steps: int
    measure: str
    learned: float


TASKS = {
    "T-maze 500": Task("mru_rl/TMaze-v0", {"length": 500}, 1_000_000, "success_rate", 0.95),
    "RepeatFirstHard": Task("popgym-RepeatFirstHard-v0", {}, 1_500_000, "return_mean", 0.9),
}


@dataclass(frozen=True, kw_only=True)
class Options(GridOptions):
    """Options of `mru-rl bench settings`."""

    core: str = "bmru"
    """core spec"""
    arms: tuple[str, ...] = (*ARMS, CARRY)
    """settings to try, by name"""
    seeds: int = 3
    """seeds, 0 and up"""
    out: Path | None = None
    """directory for results.jsonl, which keeps finished jobs, and table.md; runs/bench-settings where not given"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "seeds")
        known = (*ARMS, CARRY)
        for arm in self.arms:
            require(
                arm in known, f"{{arms}} are names of settings, {', '.join(known)}; {nearest(arm, known)}got {arm!r}"
            )


def main(words: list[str], name: str = "settings") -> None:
    """Entry point of `mru-rl bench settings`."""
    options = read_options(Options, words, name, __doc__)
    run_table(
        jobs_of(options.core, options.arms, options.seeds),
        options.out or Path("runs") / "bench-settings",
        options,
        lambda results: markdown(results, command_line(name, words)),
    )


def jobs_of(core: str, arms: Sequence[str], seeds: int) -> list[Job]:
    """Every arm on every task and seed, evaluated as trained."""
    return [
        Job(
            "final",
            "carry-bmru" if arm == CARRY else core,
            task.env,
            task.env_kwargs,
            place,
            seed,
            task.steps,
            arm,
            ARMS.get(arm, {}),
            (Point(place, {}, 128),),
            arm,
        )
        for place, task in enumerate(TASKS.values())
        for seed in range(seeds)
        for arm in arms
    ]


def markdown(results: Sequence[dict[str, Any]], command: str) -> str:
    """A row per arm; per task where each seed ended and when it first had learned."""
    head = ["setting", *(f"{task}: {column}" for task in TASKS for column in ("end", "learned after (thousand steps)"))]
    rows = [f"`{command}`", "", markdown_row(head), markdown_row(["---"] * len(head))]
    for arm in dict.fromkeys(result["row"] for result in results):
        cells = [arm]
        for place, task in enumerate(TASKS.values()):
            mine = sorted((r for r in results if (r["row"], r["x"]) == (arm, place)), key=lambda r: r["seed"])
            cells.append(", ".join(f"{result['evaluations'][0][task.measure]:.2f}" for result in mine))
            cells.append(", ".join(_thousands(first_above(result["curve"], task)) for result in mine))
        rows.append(markdown_row(cells))
    return "\n".join(rows)


def first_above(curve: Mapping[str, Sequence[float | None]], task: Task) -> int | None:
    """The env steps at which a learning curve first shows what counts as learned; None where it never does."""
    pairs = zip(curve["steps"], curve.get(task.measure, ()), strict=False)
    return next((int(steps or 0) for steps, value in pairs if value is not None and value >= task.learned), None)


def _thousands(steps: int | None) -> str:
    return "never" if steps is None else f"{steps / 1000:,.0f}"
