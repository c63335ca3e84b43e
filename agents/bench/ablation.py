"""One setting of training changed at a time, on two tasks with long delays: which of them matter.

    mru-rl bench settings [--core SPEC] [--arms NAME ...] [--seeds N] [--workers N] [--out DIR]

Tasks: a T-maze of 500 steps (1,000,000 env steps; success) and RepeatFirstHard, 831 steps (1,500,000; return). Every arm is
the default with one change. The table shows, per seed, where training ended and after how many env steps (thousands) it
first passed 0.95 in success or 0.9 in return. Finished jobs are kept: the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mru_rl.agents.bench.grid import Store, report_errors, run_shown
from mru_rl.agents.bench.jobs import Job, Point
from mru_rl.agents.bench.options import Parser
from mru_rl.agents.console.errors import require
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import alone_in

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


def main(words: list[str], name: str = "settings") -> None:
    """Entry point of `mru-rl bench settings`."""
    parser = Parser(name, __doc__)
    parser.add_argument("--core", default="bmru", help="core spec (default bmru)")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, CARRY], default=[*ARMS, CARRY], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, 0 and up (default 3)")
    parser.add_workers()
    args = parser.parse_args(words)
    for option in ("seeds", "workers"):
        require(getattr(args, option) >= 1, f"--{option} must be at least 1, got {getattr(args, option)}")
    folder = args.out or Path("runs") / "bench-settings"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(args.core, args.arms, args.seeds)
    with alone_in(folder):
        store = Store(folder)
        errors = run_shown(store, jobs, args.workers, args.engine)
        table = markdown(store.of(jobs), " ".join(["mru-rl bench settings", *words]))
        write_atomically(folder / "table.md", f"{table}\n".encode())
    print(table)
    report_errors(errors)


def jobs_of(core: str, arms: Sequence[str], seeds: int) -> list[Job]:
    """Every arm on every task and seed, evaluated as trained."""
    return [
        Job(
            "final", "carry-bmru" if arm == CARRY else core, task.env, task.env_kwargs, place, seed, task.steps, arm,
            ARMS.get(arm, {}), (Point(place, {}, 128),), arm,
        )
        for place, task in enumerate(TASKS.values())
        for seed in range(seeds)
        for arm in arms
    ]  # fmt: skip


def markdown(results: Sequence[dict[str, Any]], command: str) -> str:
    """A row per arm; per task where each seed ended and when it first had learned."""
    head = ["setting", *(f"{task}: {column}" for task in TASKS for column in ("end", "learned after (thousand steps)"))]
    rows = [f"`{command}`", "", _line(head), _line(["---"] * len(head))]
    for arm in dict.fromkeys(result["row"] for result in results):
        cells = [arm]
        for place, task in enumerate(TASKS.values()):
            mine = sorted((r for r in results if (r["row"], r["x"]) == (arm, place)), key=lambda r: r["seed"])
            cells.append(", ".join(f"{result['evaluations'][0][task.measure]:.2f}" for result in mine))
            cells.append(", ".join(_thousands(first_above(result["curve"], task)) for result in mine))
        rows.append(_line(cells))
    return "\n".join(rows)


def first_above(curve: Mapping[str, Sequence[float | None]], task: Task) -> int | None:
    """The env steps at which a learning curve first shows what counts as learned; None where it never does."""
    pairs = zip(curve["steps"], curve.get(task.measure, ()), strict=False)
    return next((int(steps or 0) for steps, value in pairs if value is not None and value >= task.learned), None)


def _thousands(steps: int | None) -> str:
    return "never" if steps is None else f"{steps / 1000:,.0f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
