"""The memory benchmarks: which grids there are, and their commands.

    mru-rl bench NAME [--preset smoke|small|full] [--cores SPEC ...] [--seeds N] [--equal state|parameters] [--out DIR]

retention      trained on a short T-maze, walked up to 10,000 times as far
delay          trained on long T-mazes directly, each length by itself
rewrite        bits set and reset again and again (FlipFlop), held 10 and 100 times as long as in training
capacity       how many bits can be recalled after a delay
contamination  a burst of observations never seen in training, between cue and question
count          events counted modulo 4, over 10 and 100 times as many steps
custom         any env: --env, --env-kwargs, --steps, and --evaluate name=v1,v2,... for the points of evaluation

Every core is trained under the same budget with equal state size (or equal parameters). With search, each core gets the
same trials of learning rate, entropy and initialisation, its best one chosen on seeds that are not reported. Finished
jobs are kept: the same command, after a kill too, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mru_rl.agents.algorithms import ALGORITHMS
from mru_rl.agents.bench.grid import Benchmark, Variant, report_errors, run_benchmark
from mru_rl.agents.bench.jobs import Point
from mru_rl.agents.bench.options import Parser
from mru_rl.agents.cli.args import read_pairs
from mru_rl.agents.console.errors import require
from mru_rl.agents.evaluate import episodes_for
from mru_rl.agents.report.data import unique
from mru_rl.blocks.spec import parse_spec

CORES = ("bmru+mingru", "bmru", "cmru", "acmru", "mingru", "gru", "lstm", "lru", "s5", "mamba", "mlp")
FEW = ("bmru+mingru", "bmru", "mingru", "gru")
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"cores": FEW, "seeds": 2, "trials": 1, "search_seeds": 1},
    "small": {"cores": CORES, "seeds": 3, "trials": 1, "search_seeds": 1},
    "full": {"cores": CORES, "seeds": 5, "trials": 5, "search_seeds": 1},
}
"""smoke: minutes, default settings, a short task; small: default settings; full: settings searched per core."""


def _lengths(*values: int) -> tuple[Point, ...]:
    return tuple(Point(v, {"length": v}, episodes_for(v)) for v in values)


def retention(preset: str) -> Benchmark:
    """Trained short, walked long."""
    length, steps = (50, 150_000) if preset == "smoke" else (100, 600_000)
    factors = (1, 10, 100, 1000) if preset == "smoke" else (1, 10, 100, 1000, 10_000)
    points = _lengths(*(length * factor for factor in factors))
    return _benchmark(
        preset, "retention", "Retention: a cue held far beyond the trained delay",
        f"An agent trained on a T-maze of {length} steps: does it still turn right after up to {length * factors[-1]:,}?",
        "success_rate", "length", "corridor length (steps)", 0.5,
        (Variant(length, "mru_rl/TMaze-v0", {"length": length}, steps, points),), trained=length,
    )  # fmt: skip


def delay(preset: str, lengths: Sequence[int] | None = None) -> Benchmark:
    """Trained on long delays directly; 1,000 env steps of training for every step of the corridor, and a million more."""
    usual: dict[str, Sequence[int]] = {"smoke": (100,), "small": (500,), "full": (500, 1000, 3000)}
    chosen = lengths or usual[preset]
    variants = tuple(
        Variant(n, "mru_rl/TMaze-v0", {"length": n}, 1000 * (n + 1000 if preset != "smoke" else 200), _lengths(n))
        for n in chosen
    )
    made = _benchmark(
        preset, "delay", "Delay: learning across long corridors",
        "Trained on a T-maze of this length from the start: does the agent learn to turn right?",
        "success_rate", "length", "corridor length, in training and evaluation (steps)", 0.5, variants,
    )  # fmt: skip
    return dataclasses.replace(made, trials=1)


def rewrite(preset: str) -> Benchmark:
    """Bits set and reset."""
    hold, steps = (20, 300_000) if preset == "smoke" else (200, 6_000_000)
    train = {"bits": 3, "hold": hold, "length": 5 * hold}
    points = tuple(Point(h, {"bits": 3, "hold": h, "length": 5 * h}, 64) for h in (hold, 10 * hold, 100 * hold))
    made = _benchmark(
        preset, "rewrite", "Rewriting: bits that are set and reset again and again",
        f"Three bits, each written anew every {hold} steps on average: are all reported right, also when writes are rarer?",
        "score", "hold", "mean steps between two writes of a bit", 0.0,
        (Variant(hold, "mru_rl/FlipFlop-v0", train, steps, points),), trained=hold,
    )  # fmt: skip
    return dataclasses.replace(
        made, settings={"minibatches": 8}
    )  # three answers share a reward: small batches are noise


def capacity(preset: str) -> Benchmark:
    """Bits recalled after a delay, trained for each number of bits."""
    sizes, steps = ((2, 4), 300_000) if preset == "smoke" else ((4, 2, 8, 16), 3_000_000)
    variants = tuple(
        Variant(
            b, "mru_rl/DelayedRecall-v0", {"bits": b, "delay": 50}, steps, (Point(b, {"bits": b, "delay": 50}, 256),)
        )
        for b in sizes
    )
    return _benchmark(
        preset, "capacity", "Capacity: bits recalled in order after a delay",
        "So many bits shown one symbol at a time, then 50 steps of noise: how many are recalled?",
        "score", "bits", "bits to recall", 0.0, variants,
    )  # fmt: skip


def contamination(preset: str) -> Benchmark:
    """Out-of-distribution bursts at evaluation."""
    length, steps = (50, 200_000) if preset == "smoke" else (100, 1_000_000)
    points = tuple(Point(b, {"length": 200, "burst": b}, 256) for b in (0, 1, 10, 100))
    return _benchmark(
        preset, "contamination", "Contamination: inputs never seen in training",
        "A burst of noise ten times as large as any input, between cue and question: is the cue still known?",
        "score", "burst", "steps of the burst", 0.0,
        (Variant(0, "mru_rl/Contamination-v0", {"length": length}, steps, points),), trained=0,
    )  # fmt: skip


def count(preset: str) -> Benchmark:
    """Counting modulo 4."""
    length, steps = (50, 300_000) if preset == "smoke" else (100, 3_000_000)
    points = tuple(Point(n, {"length": n}, 64) for n in (length, 10 * length, 100 * length))
    return _benchmark(
        preset, "count", "Counting: events modulo 4",
        "How many events so far, modulo 4, at every step: is the count kept, also over more events than in training?",
        "score", "length", "episode length (steps)", 0.0,
        (Variant(length, "mru_rl/EventCount-v0", {"length": length}, steps, points),), trained=length,
    )  # fmt: skip


def _benchmark(
    preset: str, name: str, title: str, question: str, measure: str, axis: str, label: str, chance: float | None,
    variants: tuple[Variant, ...], trained: float | None = None,
) -> Benchmark:  # fmt: skip
    xs = [point.x for variant in variants for point in variant.points]
    log = min(xs) > 0 and max(xs) >= 10 * min(xs)
    shown = {"name": axis, "label": label, "log": log, "trained": trained}
    return Benchmark(name, title, question, measure, shown, chance, variants, preset=preset, **PRESETS[preset])


BENCHMARKS = {
    "retention": retention, "delay": delay, "rewrite": rewrite, "capacity": capacity, "contamination": contamination,
    "count": count,
}  # fmt: skip


def custom(args: argparse.Namespace) -> Benchmark:
    """Any env, evaluated as trained or at several values of one option."""
    kwargs = read_pairs(args.env_kwargs)
    name, sign, values = (args.evaluate or "").partition("=")
    if args.evaluate and not (sign and values):
        raise ValueError(f"--evaluate is written name=v1,v2,... as in length=100,1000, got {args.evaluate!r}")
    xs = [read_pairs([f"{name}={value}"])[name] for value in values.split(",")] if values else []
    points = tuple(Point(x, {name: x}, args.episodes) for x in xs) or (Point(0, {}, args.episodes),)
    variant = Variant(kwargs.get(name, points[0].x), args.env, kwargs, args.steps, points)
    made = _benchmark(
        args.preset, "custom", f"{args.env} {' '.join(args.env_kwargs)}".strip(),
        f"{args.steps:,} steps of training on {args.env}: what do the agents reach?",
        args.measure, name or "id", name or "task", None, (variant,), trained=kwargs.get(name),
    )  # fmt: skip
    return dataclasses.replace(made, name=f"custom {args.env}")


def main(words: list[str], name: str) -> None:
    """Entry point of `mru-rl bench retention` and its siblings."""
    parser = _parser(name)
    args = parser.parse_args(words)
    if name == "custom":
        benchmark = custom(args)
    elif name == "delay":
        benchmark = delay(args.preset, args.lengths)
    else:
        benchmark = BENCHMARKS[name](args.preset)
    require(args.seeds is None or args.seeds >= 1, f"--seeds must be at least 1, got {args.seeds}")
    require(args.workers >= 1, f"--workers must be at least 1, got {args.workers}")
    settings = _settings(args.settings, args.algorithm)
    if args.algorithm == "ppo":
        settings = {**(benchmark.settings or {}), **settings}  # what a benchmark sets suits PPO
    changes: dict[str, Any] = {"equal": args.equal, "settings": settings, "algorithm": args.algorithm}
    changes |= {k: v for k in ("seeds", "trials") if (v := getattr(args, k)) is not None}
    if args.cores:
        for core in args.cores:
            parse_spec(core)
        changes["cores"] = tuple(unique(args.cores))
    benchmark = dataclasses.replace(benchmark, **changes)
    require(
        args.algorithm == "ppo" or benchmark.trials == 1,
        f"the search is over settings of ppo, such as its entropy bonus, got --algorithm {args.algorithm} with "
        f"{benchmark.trials} trials; add --trials 1 and give settings with --settings",
    )
    folder = args.out or Path("runs") / f"bench-{name}-{args.preset}"
    command = " ".join(["mru-rl bench", name, *words])
    errors = run_benchmark(benchmark, folder, args.workers, command, args.engine)
    report_errors(errors)


def _settings(words: list[str], algorithm: str) -> dict[str, Any]:
    """Fields of the algorithm's config typed as name=value. Raises ValueError for a name that is none."""
    settings = read_pairs(words)
    known = [field.name for field in dataclasses.fields(ALGORITHMS[algorithm][0])]
    for name in settings:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        require(
            name in known, f"the training config has no setting {name!r}; {hint}see mru-rl train {algorithm} --help"
        )
    require(
        settings.get("collector") != "ray",
        "a job of a grid has one thread and collects by itself; leave collector=ray out, and spread the jobs with --engine ray",
    )
    return settings


def _parser(name: str) -> Parser:
    parser = Parser(name, __doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="smoke", help="size of the grid (default smoke)")
    parser.add_argument("--cores", nargs="+", metavar="SPEC", help="default: from the preset")
    parser.add_argument("--seeds", type=int, help="reported seeds, 0 and up; default: from the preset")
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), default="ppo", help="what learns (default ppo)")
    parser.add_argument("--trials", type=int, choices=(1, 2, 3, 4, 5), help="settings searched per core; 1: no search")
    parser.add_argument("--equal", choices=("state", "parameters"), default="state", help="what all cores have alike")
    parser.add_workers()
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="NAME=VALUE", help="fields of the training config for every job"
    )
    if name == "delay":
        parser.add_argument("--lengths", nargs="+", type=int, help="corridors to train on; default: from the preset")
    if name == "custom":
        parser.add_argument("--env", required=True, help="env id")
        parser.add_argument("--env-kwargs", nargs="+", default=[], metavar="NAME=VALUE", help="options of the env")
        parser.add_argument("--steps", type=int, default=1_000_000, help="env steps of training (default 1,000,000)")
        parser.add_argument("--evaluate", metavar="NAME=V1,V2", help="values of one option to evaluate at")
        parser.add_argument("--episodes", type=int, default=128, help="episodes per evaluation (default 128)")
        parser.add_argument(
            "--measure", choices=("return_mean", "success_rate", "score"), default="return_mean",
            help="what is compared (default return_mean)",
        )  # fmt: skip
    return parser
