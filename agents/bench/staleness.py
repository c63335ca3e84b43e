"""Stale states in replay: how far values are off because the start state of a sequence was made by older weights.

R2D2 is trained on popgym-RepeatFirstMedium-v0 (415 steps, the card to remember comes first) from sequences of 40 steps that
begin in mid-episode. All along, the values of sequences in replay are computed from three start states: stored (as acting
left it), zero, and signs (as stored, but the units of a BMRU kept as signs that take the level the unit has now); and compared
with those the present network has after the whole episode so far: |q(s') - q(s)| / max |q(s)|, after Kapturowski et al.
2019. The table shows the mean over the second half of training, at the first and the last learned step of a sequence, with
and without a burn-in of 40 steps, and the bytes a sequence takes in replay. Finished jobs are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mru_rl.agents.bench.grid import run_table
from mru_rl.agents.bench.jobs import Job, Point, finished, running_dir, told
from mru_rl.agents.bench.options import GridOptions, command_line, read_options, require_positive
from mru_rl.agents.build import make_env
from mru_rl.agents.config import EVALUATION_SEED
from mru_rl.agents.console.errors import require
from mru_rl.agents.evaluate import evaluate
from mru_rl.agents.r2d2.config import R2D2Config
from mru_rl.agents.r2d2.replay import bytes_per_sequence
from mru_rl.agents.r2d2.stale_state import STARTS, EpisodeProbe, q_difference
from mru_rl.agents.r2d2.trainer import R2D2Trainer
from mru_rl.agents.records.plots import save_atomically
from mru_rl.agents.report.data import FinishedJob, unique
from mru_rl.agents.report.palette import looks
from mru_rl.agents.report.tables import markdown_row

CORES = ("gru", "lstm", "mingru", "lru", "bmru", "bmru+mingru")
ENV = "popgym-RepeatFirstMedium-v0"
SEQUENCE = 40
MEASUREMENTS = 20
PROBED_ROWS, PROBED_EPISODES = 8, 24
"""Episodes of these rows are followed; so many were kept of them, the newest, as old as replay is long."""


@dataclass(frozen=True, kw_only=True)
class Options(GridOptions):
    """Options of `mru-rl bench staleness`."""

    cores: tuple[str, ...] = CORES
    """core specs"""
    seeds: int = 3
    """seeds, 0 and up"""
    steps: int = 300_000
    """env steps of training"""
    burn_in: tuple[int, ...] = (0, 40)
    """steps before the learned ones, each in runs of its own"""
    out: Path | None = None
    """directory for results.jsonl, which keeps finished jobs, table and plot; runs/bench-staleness where not given"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "seeds", "steps")
        require(min(self.burn_in) >= 0, f"{{burn_in}} must not be negative, got {min(self.burn_in)}")


def main(words: list[str], name: str = "staleness") -> None:
    """Entry point of `mru-rl bench staleness`."""
    options = read_options(Options, words, name, __doc__)
    run_table(
        jobs_of(unique(options.cores), unique(options.burn_in), options.seeds, options.steps),
        options.out or Path("runs") / "bench-staleness",
        options,
        lambda results: markdown(results, command_line(name, words)),
        work=run_job,
        draw=draw,
    )


def jobs_of(cores: Sequence[str], burn_ins: Sequence[int], seeds: int, steps: int) -> list[Job]:
    """Every core with every burn-in on every seed."""
    return [
        Job(
            "final",
            core,
            ENV,
            {},
            burn_in,
            seed,
            steps,
            f"burn-in {burn_in}",
            {"sequence": SEQUENCE, "burn_in": burn_in, "overlap": SEQUENCE // 2, "learning_starts": 500},
            (Point(burn_in, {}, 64),),
            f"{core}, burn-in {burn_in}",
            algorithm="r2d2",
        )
        for seed in range(seeds)
        for core in cores
        for burn_in in burn_ins
    ]


def run_job(job: Job, folder: Path) -> FinishedJob:
    """Train, measuring all along; of the provenance only the machine is told."""
    config = job.config(running_dir(folder, job))
    assert isinstance(config, R2D2Config)
    trainer = R2D2Trainer(config)
    probe = EpisodeProbe(PROBED_ROWS, PROBED_EPISODES)
    curve: dict[str, list[float]] = {"steps": [], "return_mean": []}
    curve |= {f"{place}_{start}": [] for place in ("first", "last") for start in STARTS}
    while trainer.steps < config.steps:
        _, rollout = trainer.update()
        probe.follow(rollout.data, trainer.policy)
        due = (len(curve["steps"]) + 1) * config.steps / MEASUREMENTS
        if trainer.steps < due or not probe.episodes or not trainer.learner.gradient_steps:
            continue
        found = q_difference(
            trainer.policy,
            list(probe.episodes),
            burn_in=trainer.cutter.burn_in,
            length=trainer.cutter.length,
            stride=trainer.cutter.stride,
        )
        curve["steps"].append(trainer.steps)
        curve["return_mean"].append(trainer.record({}, rollout, 0.0)["return_mean"])
        for place, by_start in found._asdict().items():
            for start, value in by_start.items():
                curve[f"{place}_{start}"].append(value)
    with make_env(trainer.config, 64, EVALUATION_SEED) as env:
        evaluation = evaluate(trainer.policy, trainer.head, env, 64, show=False)
    like = {kind: trainer.sequence_like(kind) for kind in ("floats", "signs")}
    rounded: dict[str, list[float | None]] = {
        name: [round(value, 5) for value in column] for name, column in curve.items()
    }
    sizes = {kind: bytes_per_sequence(one) for kind, one in like.items()}
    return finished(job, trainer, rounded, [told(evaluation, job.points[0])], bytes_per_sequence=sizes)


def second_half(result: dict[str, Any], name: str) -> float:
    """Mean of a column of the curve over the second half of training."""
    column = result["curve"][name]
    kept = column[len(column) // 2 :]
    return sum(kept) / len(kept) if kept else math.nan


def markdown(results: Sequence[dict[str, Any]], command: str) -> str:
    """A row per core and burn-in, means over seeds."""
    columns = [(place, start) for start in STARTS for place in ("first", "last")]
    head = [
        "core",
        "burn-in",
        *(f"{start}, {place} step" for place, start in columns),
        "return",
        "bytes",
        "as signs",
        "seeds",
    ]
    lines = [head, ["---"] * len(head)]
    for row in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == row]
        returns = sum(result["evaluations"][0]["return_mean"] for result in mine) / len(mine)
        values = [
            sum(second_half(result, f"{place}_{start}") for result in mine) / len(mine) for place, start in columns
        ]
        size = mine[0]["bytes_per_sequence"]
        lines.append(
            [
                f"`{mine[0]['core']}`",
                str(mine[0]["x"]),
                *(f"{value:.3f}" for value in values),
                f"{returns:.2f}",
                f"{size['floats']:,}",
                f"{size['signs']:,}",
                str(len(mine)),
            ]
        )
    table = "\n".join(map(markdown_row, lines))
    commits = ", ".join(dict.fromkeys(str(result["provenance"]["commit"]) for result in results))
    return (
        "Q difference of sequences in replay by start state, mean over the second half of training; 0 is no error.\n\n"
        f"{table}\n\nMade by `{command}`, commit {commits}."
    )


def draw(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """staleness.png: Q difference at the first learned step over training, by start state and burn-in."""
    from matplotlib.figure import Figure

    burn_ins = sorted({result["x"] for result in results})
    cores = list(dict.fromkeys(result["core"] for result in results))
    look = looks(cores)
    figure = Figure(figsize=(3.4 * len(STARTS), 2.9 * len(burn_ins) + 0.4), layout="constrained")
    axes = figure.subplots(len(burn_ins), len(STARTS), sharex=True, sharey=True, squeeze=False)
    for line, burn_in in zip(axes, burn_ins, strict=True):
        for axis, start in zip(line, STARTS, strict=True):
            for core in cores:
                for result in (r for r in results if (r["core"], r["x"]) == (core, burn_in)):
                    axis.plot(
                        [steps / 1000 for steps in result["curve"]["steps"]],
                        result["curve"][f"first_{start}"],
                        color=look[core].color,
                        ls=look[core].dash,
                        lw=1.2,
                        alpha=0.8,
                        label=core if result["seed"] == 0 else None,
                    )
            axis.set_title(f"{start} start, burn-in {burn_in:g}", fontsize=9)
            axis.set_yscale("symlog", linthresh=0.01)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("Q difference")
    for axis in axes[-1]:
        axis.set_xlabel("thousand env steps")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(cores), frameon=False, fontsize=9)
    save_atomically(figure, folder / "staleness.png", dpi=150)
