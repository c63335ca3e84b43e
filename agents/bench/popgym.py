"""A pass over POPGym: PPO with each core on each id over seeds, every return beside the random floor.

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
from typing import Any, Literal

from mru_rl.agents.bench.grid import Grid, Variant, final_jobs, header, run_table
from mru_rl.agents.bench.jobs import Point
from mru_rl.agents.bench.options import GridOptions, command_line, read_options, require_positive
from mru_rl.agents.console.errors import nearest, require
from mru_rl.agents.report.data import Axis, unique
from mru_rl.agents.report.tables import markdown_row
from mru_rl.blocks.spec import parse_spec
from mru_rl.envs import list_ids
from mru_rl.envs.scores import mmer, scores

IDS = [env_id for env_id in list_ids() if env_id.startswith("popgym-")]
EASY = [env_id for env_id in IDS if env_id.endswith("Easy-v0")]
PRESETS: dict[str, tuple[Sequence[str], int, int]] = {
    "smoke": (EASY, 150_000, 1),
    "small": (EASY, 1_000_000, 1),
    "full": (IDS, 5_000_000, 3),
}
"""ids, steps and seeds"""
MARGIN = 0.05  # of the way from the random floor to the reference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GridOptions):
    """Options of `mru-rl bench popgym`."""

    preset: Literal["smoke", "small", "full"] = "smoke"
    """ids and budget"""
    cores: tuple[str, ...] = ("bmru+mingru",)
    """core specs"""
    ids: tuple[str, ...] = ()
    """ids of tasks; those of the preset where not given"""
    seeds: int | None = None
    """seeds, 0 and up; as many as the preset says where not given"""
    out: Path | None = None
    """directory for results.jsonl, which keeps finished jobs, and table.md; runs/bench-popgym-PRESET where not given"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "seeds")
        for core in self.cores:
            parse_spec(core)
        for env_id in self.ids:
            require(
                env_id in IDS,
                f"{{ids}} are popgym ids with a port, as `mru-rl envs` lists them; {nearest(env_id, IDS)}got {env_id!r}",
            )


def main(words: list[str], name: str = "popgym") -> None:
    """Entry point of `mru-rl bench popgym`."""
    options = read_options(Options, words, name, __doc__)
    benchmark = popgym(options.preset, options.ids, unique(options.cores), options.seeds)
    run_table(
        final_jobs(benchmark, dict.fromkeys(benchmark.cores, "default")),
        options.out or Path("runs") / f"bench-popgym-{options.preset}",
        options,
        lambda results: markdown(results, benchmark),
        described=header(benchmark, command_line(name, words)),
    )


def popgym(
    preset: str, ids: Sequence[str] | None = None, cores: Sequence[str] = ("bmru+mingru",), seeds: int | None = None
) -> Grid:
    """The grid of a preset: an id is a variant, its number its place on the axis."""
    default_ids, steps, default_seeds = PRESETS[preset]
    variants = tuple(
        Variant(IDS.index(env_id), env_id, {}, steps, (Point(IDS.index(env_id), {}, 128, sample=True),))
        for env_id in ids or default_ids
    )
    return Grid(
        "popgym",
        "POPGym",
        "Which POPGym tasks can be learned from at all?",
        "score",
        Axis("id", "POPGym task"),
        0.0,
        variants,
        tuple(cores),
        seeds=seeds or default_seeds,
        trials=1,
        search_seeds=1,
        preset=preset,
    )


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
        [e["return_mean"] for e in evaluations],
        floor,
        reference,
        max(MARGIN * (reference - floor), widest),
        sum(best) / len(best),
    )


def markdown(results: Sequence[dict[str, Any]], benchmark: Grid) -> str:
    """The table of results, what did not pass said below it."""
    steps = benchmark.variants[0].steps
    head = [
        "id",
        "core",
        "final return, seeds",
        "random floor",
        "reference",
        "score",
        "MMER",
        "above the floor by the margin",
    ]
    rows = [
        f"PPO, {steps:,} steps an id, {benchmark.seeds} seed(s)",
        "",
        markdown_row(head),
        markdown_row(["---"] * len(head)),
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
            numbers = [f"{cell.floor:.3f}", f"{cell.reference:.2f}", f"{cell.score:.2f}", f"{cell.mmer:.3f}"]
            rows.append(markdown_row([variant.env, core, returns, *numbers, verdict]))
            if not cell.passed:
                failed.append(f"{variant.env} ({core})")
    rows += ["", f"Not above the floor by the margin: {', '.join(failed) or 'none'}."]
    return "\n".join(rows)
