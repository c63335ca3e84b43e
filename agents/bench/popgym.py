"""A pass over POPGym: PPO with each core on each id over seeds, every return beside the random floor.

    mru-rl bench popgym [--preset smoke|small|full] [--cores SPEC ...] [--ids ID ...] [--seeds N] [--out DIR]

Evaluated on 128 new episodes with sampled actions, as in training: the most likely action of a half-trained policy walks
in circles. An id passes for a core where the mean return over its seeds ends above the random floor by more than the
margin: a twentieth of the way from the floor to the reference of `mru_rl.envs.scores`, and more than the widest 95%
interval of its evaluations. What does not pass is listed as not. smoke: the Easy ids, 150,000 steps each, one seed; small:
1,000,000 steps; full: every id, 5,000,000 steps, three seeds.
score is 0 at the floor and 1 at the reference. MMER is the best mean return of 100 episodes while training, for
comparison with POPGym's tables. Finished jobs are kept: the same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mru_rl.agents.bench.grid import Benchmark, Store, Variant, final_jobs, header, report_errors, run_shown
from mru_rl.agents.bench.jobs import Point
from mru_rl.agents.bench.options import Parser
from mru_rl.agents.console.errors import require
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import alone_in, write_json
from mru_rl.agents.report.data import unique
from mru_rl.blocks.spec import parse_spec
from mru_rl.envs import list_ids
from mru_rl.envs.scores import mmer, scores

IDS = [env_id for env_id in list_ids() if env_id.startswith("popgym-")]
EASY = [env_id for env_id in IDS if env_id.endswith("Easy-v0")]
PRESETS: dict[str, tuple[Sequence[str], int, int]] = {
    "smoke": (EASY, 150_000, 1), "small": (EASY, 1_000_000, 1), "full": (IDS, 5_000_000, 3),
}  # fmt: skip
"""ids, steps and seeds"""
MARGIN = 0.05  # of the way from the random floor to the reference


def main(words: list[str], name: str = "popgym") -> None:
    """Entry point of `mru-rl bench popgym`."""
    parser = Parser(name, __doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="smoke", help="ids and budget (default smoke)")
    parser.add_argument("--cores", nargs="+", default=["bmru+mingru"], metavar="SPEC", help="default: bmru+mingru")
    parser.add_argument("--ids", nargs="+", choices=IDS, metavar="ID", help="default: those of the preset")
    parser.add_argument("--seeds", type=int, help="seeds, 0 and up; default: from the preset")
    parser.add_workers()
    args = parser.parse_args(words)
    for option in ("seeds", "workers"):
        value = getattr(args, option)
        require(value is None or value >= 1, f"--{option} must be at least 1, got {value}")
    for core in args.cores:
        parse_spec(core)
    folder = args.out or Path("runs") / f"bench-popgym-{args.preset}"
    folder.mkdir(parents=True, exist_ok=True)
    benchmark = popgym(args.preset, args.ids, unique(args.cores), args.seeds)
    jobs = final_jobs(benchmark, dict.fromkeys(benchmark.cores, "default"))
    with alone_in(folder):
        write_json(folder / "benchmark.json", header(benchmark, " ".join(["mru-rl bench popgym", *words])))
        store = Store(folder)
        errors = run_shown(store, jobs, args.workers, args.engine)
        table = markdown(store.of(jobs), benchmark)
        write_atomically(folder / "table.md", f"{table}\n".encode())
    print(table)
    report_errors(errors)


def popgym(
    preset: str, ids: Sequence[str] | None = None, cores: Sequence[str] = ("bmru+mingru",), seeds: int | None = None
) -> Benchmark:
    """The grid of a preset: an id is a variant, its number its place on the axis."""
    default_ids, steps, default_seeds = PRESETS[preset]
    variants = tuple(
        Variant(IDS.index(env_id), env_id, {}, steps, (Point(IDS.index(env_id), {}, 128, sample=True),))
        for env_id in ids or default_ids
    )
    return Benchmark(
        "popgym", "POPGym", "Which POPGym tasks can be learned from at all?", "score",
        {"name": "id", "label": "POPGym task", "log": False, "trained": None}, 0.0, variants, tuple(cores),
        seeds=seeds or default_seeds, trials=1, search_seeds=1, preset=preset,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """Where one core ended on one id."""

    returns: list[float]
    floor: float
    reference: float
    margin: float
    mmer: float

    @property
    def mean(self) -> float:
        return sum(self.returns) / len(self.returns)

    @property
    def score(self) -> float:
        return (self.mean - self.floor) / (self.reference - self.floor)

    @property
    def passed(self) -> bool:
        return self.mean > self.floor + self.margin


def cell_of(results: Sequence[dict[str, Any]]) -> Cell:
    """Sum up the results of one core on one id, one a seed."""
    known = scores()[results[0]["env"]]
    floor, reference = known.random.mean, known.players[known.reference].mean
    evaluations = [result["evaluations"][0] for result in results]
    widest = max((e["return_ci95"][1] - e["return_ci95"][0]) / 2 for e in evaluations)
    best = [mmer(v for v in result["curve"]["return_mean"] if v is not None) for result in results]
    return Cell(
        [e["return_mean"] for e in evaluations], floor, reference,
        max(MARGIN * (reference - floor), widest), sum(best) / len(best),
    )  # fmt: skip


def markdown(results: Sequence[dict[str, Any]], benchmark: Benchmark) -> str:
    """The table of results, what did not pass said below it."""
    steps = benchmark.variants[0].steps
    rows = [
        f"PPO, {steps:,} steps an id, {benchmark.seeds} seed(s)",
        "",
        "| id | core | final return, seeds | random floor | reference | score | MMER | above the floor by the margin |",
        "|---|---|---|---|---|---|---|---|",
    ]
    failed = []
    for variant in benchmark.variants:
        for core in benchmark.cores:
            mine = [r for r in results if (r["env"], r["core"]) == (variant.env, core)]
            if not mine:
                continue
            cell = cell_of(mine)
            verdict = "yes" if cell.passed else "not"
            returns = ", ".join(f"{value:.3f}" for value in cell.returns)
            rows.append(
                f"| {variant.env} | {core} | {returns} | {cell.floor:.3f} | {cell.reference:.2f} "
                f"| {cell.score:.2f} | {cell.mmer:.3f} | {verdict} |"
            )
            if not cell.passed:
                failed.append(f"{variant.env} ({core})")
    rows += ["", f"Not above the floor by the margin: {', '.join(failed) or 'none'}."]
    return "\n".join(rows)
