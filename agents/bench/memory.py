"""The memory benchmarks: which grids there are, and their commands.

Every core is trained under the same budget with equal state size (or equal parameters). With search, each core gets the
same trials of learning rate, entropy and initialisation, its best one chosen on seeds that are not reported. Finished
jobs are kept: the same command, after a kill too, goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mru_rl.agents.algorithms import config_class
from mru_rl.agents.bench import command
from mru_rl.agents.bench.grid import Grid, Variant, report_errors, run_benchmark
from mru_rl.agents.bench.jobs import Point
from mru_rl.agents.bench.options import GridOptions, command_line, read_options, require_positive
from mru_rl.agents.console.errors import nearest, require
from mru_rl.agents.console.pairs import read_pairs
from mru_rl.agents.evaluate import episodes_for
from mru_rl.agents.report.data import Axis, unique
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


def retention(preset: str) -> Grid:
    """Trained short, walked long."""
    length, steps = (50, 150_000) if preset == "smoke" else (100, 600_000)
    factors = (1, 10, 100, 1000) if preset == "smoke" else (1, 10, 100, 1000, 10_000)
    points = _lengths(*(length * factor for factor in factors))
    return _benchmark(
        preset,
        "retention",
        "Retention: a cue held far beyond the trained delay",
        f"An agent trained on a T-maze of {length} steps: does it still turn right after up to {length * factors[-1]:,}?",
        "success_rate",
        "length",
        "corridor length (steps)",
        0.5,
        (Variant(length, "mru_rl/TMaze-v0", {"length": length}, steps, points),),
        trained=length,
    )


def delay(preset: str, lengths: Sequence[int] | None = None) -> Grid:
    """Trained on long delays directly; 1,000 env steps of training for every step of the corridor, and a million more."""
    usual: dict[str, Sequence[int]] = {"smoke": (100,), "small": (500,), "full": (500, 1000, 3000)}
    chosen = lengths or usual[preset]
    variants = tuple(
        Variant(n, "mru_rl/TMaze-v0", {"length": n}, 1000 * (n + 1000 if preset != "smoke" else 200), _lengths(n))
        for n in chosen
    )
    made = _benchmark(
        preset,
        "delay",
        "Delay: learning across long corridors",
        "Trained on a T-maze of this length from the start: does the agent learn to turn right?",
        "success_rate",
        "length",
        "corridor length, in training and evaluation (steps)",
        0.5,
        variants,
    )
    return dataclasses.replace(made, trials=1)


def rewrite(preset: str) -> Grid:
    """Bits set and reset."""
    hold, steps = (20, 300_000) if preset == "smoke" else (200, 6_000_000)
    train = {"bits": 3, "hold": hold, "length": 5 * hold}
    points = tuple(Point(h, {"bits": 3, "hold": h, "length": 5 * h}, 64) for h in (hold, 10 * hold, 100 * hold))
    made = _benchmark(
        preset,
        "rewrite",
        "Rewriting: bits that are set and reset again and again",
        f"Three bits, each written anew every {hold} steps on average: are all reported right, also when writes are rarer?",
        "score",
        "hold",
        "mean steps between two writes of a bit",
        0.0,
        (Variant(hold, "mru_rl/FlipFlop-v0", train, steps, points),),
        trained=hold,
    )
    return dataclasses.replace(
        made, settings={"minibatches": 8}
    )  # three answers share a reward: small batches are noise


def capacity(preset: str) -> Grid:
    """Bits recalled after a delay, trained for each number of bits."""
    sizes, steps = ((2, 4), 300_000) if preset == "smoke" else ((4, 2, 8, 16), 3_000_000)
    variants = tuple(
        Variant(
            b, "mru_rl/DelayedRecall-v0", {"bits": b, "delay": 50}, steps, (Point(b, {"bits": b, "delay": 50}, 256),)
        )
        for b in sizes
    )
    return _benchmark(
        preset,
        "capacity",
        "Capacity: bits recalled in order after a delay",
        "So many bits shown one symbol at a time, then 50 steps of noise: how many are recalled?",
        "score",
        "bits",
        "bits to recall",
        0.0,
        variants,
    )


def contamination(preset: str) -> Grid:
    """Out-of-distribution bursts at evaluation."""
    length, steps = (50, 200_000) if preset == "smoke" else (100, 1_000_000)
    points = tuple(Point(b, {"length": 200, "burst": b}, 256) for b in (0, 1, 10, 100))
    return _benchmark(
        preset,
        "contamination",
        "Contamination: inputs never seen in training",
        "A burst of noise ten times as large as any input, between cue and question: is the cue still known?",
        "score",
        "burst",
        "steps of the burst",
        0.0,
        (Variant(0, "mru_rl/Contamination-v0", {"length": length}, steps, points),),
        trained=0,
    )


def count(preset: str) -> Grid:
    """Counting modulo 4."""
    length, steps = (50, 300_000) if preset == "smoke" else (100, 3_000_000)
    points = tuple(Point(n, {"length": n}, 64) for n in (length, 10 * length, 100 * length))
    return _benchmark(
        preset,
        "count",
        "Counting: events modulo 4",
        "How many events so far, modulo 4, at every step: is the count kept, also over more events than in training?",
        "score",
        "length",
        "episode length (steps)",
        0.0,
        (Variant(length, "mru_rl/EventCount-v0", {"length": length}, steps, points),),
        trained=length,
    )


def _benchmark(
    preset: str,
    name: str,
    title: str,
    question: str,
    measure: Literal["success_rate", "score", "return_mean"],
    axis: str,
    label: str,
    chance: float | None,
    variants: tuple[Variant, ...],
    trained: float | None = None,
) -> Grid:
    xs = [point.x for variant in variants for point in variant.points]
    log = min(xs) > 0 and max(xs) >= 10 * min(xs)
    shown = Axis(axis, label, log, trained)
    return Grid(name, title, question, measure, shown, chance, variants, preset=preset, **PRESETS[preset])


BENCHMARKS = {
    "retention": retention,
    "delay": delay,
    "rewrite": rewrite,
    "capacity": capacity,
    "contamination": contamination,
    "count": count,
}


@dataclass(frozen=True, kw_only=True)
class Options(GridOptions):
    """Options of every memory benchmark."""

    preset: Literal["smoke", "small", "full"] = "smoke"
    """size of the grid: minutes with default settings; a longer task, all cores; settings searched per core"""
    cores: tuple[str, ...] = ()
    """core specs; those of the preset where not given"""
    seeds: int | None = None
    """reported seeds, 0 and up; as many as the preset says where not given"""
    algorithm: str = "ppo"
    """what learns, as in `mru-rl train ALGORITHM`"""
    trials: int | None = None
    """settings searched per core, 1 to 5; 1 searches none; as many as the preset says where not given"""
    equal: Literal["state", "parameters"] = "state"
    """what all cores have alike"""
    settings: dict[str, Any] = field(default_factory=dict)
    """fields of the training config for every job, as name=value"""
    out: Path | None = None
    """directory for results.jsonl, which keeps finished jobs, table, plot and report; runs/bench-NAME-PRESET where not given"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "seeds")
        require(
            self.trials is None or 1 <= self.trials <= 5, f"{{trials}} must be a number from 1 to 5, got {self.trials}"
        )
        for core in self.cores:
            parse_spec(core)
        self._check_settings()

    def _check_settings(self) -> None:
        """Raises OptionError for a setting that the algorithm's config does not have."""
        known = [spec.name for spec in dataclasses.fields(config_class(self.algorithm))]
        for name in self.settings:
            require(
                name in known,
                f"the training config has no setting {name!r}; {nearest(name, known)}see mru-rl train {self.algorithm} --help",
            )
        require(
            self.settings.get("collector") != "ray",
            "a job of a grid has one thread and collects by itself; leave collector=ray out, and spread the jobs with "
            "--engine ray",
        )


@dataclass(frozen=True, kw_only=True)
class DelayOptions(Options):
    """Options of `mru-rl bench delay`."""

    lengths: tuple[int, ...] = ()
    """corridors to train on; those of the preset where not given"""


@dataclass(frozen=True, kw_only=True)
class CustomOptions(Options):
    """Options of `mru-rl bench custom`."""

    env: str
    """env id"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env, as name=value"""
    wrappers: tuple[str, ...] = ()
    """wrappers around each single env, as in `mru-rl train`"""
    steps: int = 1_000_000
    """env steps of training"""
    evaluate: str | None = None
    """values of one env option to evaluate at, as NAME=V1,V2; as it is trained where not given"""
    episodes: int = 128
    """episodes per evaluation"""
    measure: Literal["return_mean", "success_rate", "score"] = "return_mean"
    """what is compared"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "steps", "episodes")
        _, sign, values = (self.evaluate or "=v").partition("=")
        require(
            bool(sign and values),
            f"{{evaluate}} is written name=v1,v2,... as in length=100,1000, got {self.evaluate!r}",
        )


def custom(options: CustomOptions) -> Grid:
    """Any env, evaluated as trained or at several values of one option."""
    name, _, values = (options.evaluate or "").partition("=")
    xs = [read_pairs([f"{name}={value}"])[name] for value in values.split(",")] if values else []
    points = tuple(Point(x, {name: x}, options.episodes) for x in xs) or (Point(0, {}, options.episodes),)
    trained = options.env_kwargs.get(name)
    variant = Variant(
        points[0].x if trained is None else trained, options.env, options.env_kwargs, options.steps, points
    )
    made = _benchmark(
        options.preset,
        "custom",
        " ".join([options.env, *(f"{option}={value}" for option, value in options.env_kwargs.items())]),
        f"{options.steps:,} steps of training on {options.env}: what do the agents reach?",
        options.measure,
        name or "id",
        name or "task",
        None,
        (variant,),
        trained=trained,
    )
    return dataclasses.replace(made, name=f"custom {options.env}")


def main(words: list[str], name: str) -> None:
    """Entry point of `mru-rl bench retention` and its siblings."""
    schema = {"custom": CustomOptions, "delay": DelayOptions}.get(name, Options)
    options: Options = read_options(schema, words, name, _about(name))
    if isinstance(options, CustomOptions):
        benchmark = custom(options)
    elif isinstance(options, DelayOptions):
        benchmark = delay(options.preset, options.lengths)
    else:
        benchmark = BENCHMARKS[name](options.preset)
    settings = options.settings
    if isinstance(options, CustomOptions) and options.wrappers:
        settings = {**settings, "wrappers": list(options.wrappers)}
    if options.algorithm == "ppo":
        settings = {**(benchmark.settings or {}), **settings}  # what a benchmark sets suits PPO
    changes: dict[str, Any] = {"equal": options.equal, "settings": settings, "algorithm": options.algorithm}
    changes |= {k: v for k in ("seeds", "trials") if (v := getattr(options, k)) is not None}
    if options.cores:
        changes["cores"] = tuple(unique(options.cores))
    benchmark = dataclasses.replace(benchmark, **changes)
    require(
        options.algorithm == "ppo" or benchmark.trials == 1,
        f"the search is over settings of ppo, such as its entropy bonus, got --algorithm {options.algorithm} with "
        f"{benchmark.trials} trials; add --trials 1 and give settings with --settings",
    )
    folder = options.out or Path("runs") / f"bench-{name}-{options.preset}"
    report_errors(run_benchmark(benchmark, folder, options.workers, command_line(name, words), options.engine))


def _about(name: str) -> str:
    """What --help says of a benchmark."""
    summary, common = command.BENCHMARKS[name][1], (__doc__ or "").partition("\n\n")[2]
    return f"{summary[:1].upper()}{summary[1:]}.\n\n{common}"
