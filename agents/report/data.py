"""A benchmark directory as objects: benchmark.json says what was asked, results.jsonl holds one line per finished job."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

MEASURES = {"success_rate": "success rate", "score": "score", "return_mean": "return"}
T = TypeVar("T")


@dataclass(frozen=True)
class Axis:
    """What evaluations vary: an env option, and the value agents were trained on where there is one. An axis named id
    numbers tasks, which have no order: a benchmark is read as having none."""

    name: str
    label: str
    log: bool = False
    trained: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Whole episodes of one trained agent at one place x of the axis; return_ci95: low and high end of the mean's interval."""

    env_kwargs: dict[str, Any]
    return_mean: float
    episodes: int
    x: float | None = None
    return_ci95: list[float] | None = None
    success_rate: float | None = None
    score: float | None = None
    length_mean: float | None = None


@dataclass(frozen=True)
class FinishedJob:
    """A line of results.jsonl, one training run with its evaluations: a trial of the search for settings, or a final run."""

    key: str
    phase: Literal["search", "final"]
    core: str
    env: str
    seed: int
    steps: int
    setting_name: str
    parameters: int
    state_size: int
    row: str = ""
    """the line of the tables it belongs to; the core where not given"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    x: float | None = None
    """where on the axis it was trained"""
    settings: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, list[float | None]] = field(default_factory=dict)
    """learning curves by name, lists as long as curve["steps"]"""
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float | None = None
    steps_per_second: float | None = None
    inspect: str | None = None
    """path of the picture of an episode, relative to the benchmark directory"""
    provenance: dict[str, Any] = field(default_factory=dict)
    bytes_per_sequence: dict[str, int] | None = None
    """of a replayed sequence, by how its start state is kept, where that was measured"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", self.row or self.core)

    @property
    def task(self) -> str:
        """The env with its options, as a label."""
        return " ".join([self.env, *(f"{name}={value}" for name, value in self.env_kwargs.items())])


@dataclass(frozen=True)
class Header:
    """benchmark.json: what was asked."""

    benchmark: str
    title: str
    question: str
    command: str
    cores: list[str]
    seeds: list[int]
    measure: Literal["success_rate", "score", "return_mean"]
    preset: str = ""
    equal: str | None = None
    axis: Axis | None = None
    chance: float | None = None
    algorithm: str = "ppo"
    search: dict[str, Any] = field(default_factory=dict)
    """how many trials of settings, on which seeds"""
    chosen: dict[str, str] = field(default_factory=dict)
    """the setting of each core, once the search is done"""


@dataclass(frozen=True)
class Benchmark(Header):
    """A benchmark directory: what was asked, and the jobs finished so far."""

    path: Path = Path()
    jobs: list[FinishedJob] = field(default_factory=list)

    @property
    def finals(self) -> list[FinishedJob]:
        """The reported runs; of several for one row, task and seed, as after a change of budget, the latest."""
        return list({(job.row, job.task, job.seed): job for job in self.jobs if job.phase == "final"}.values())

    @property
    def trials(self) -> list[FinishedJob]:
        """The jobs of the search for settings."""
        return [job for job in self.jobs if job.phase == "search"]

    def value(self, evaluation: Evaluation) -> float:
        """What this benchmark measures, of one evaluation."""
        value: float = getattr(evaluation, self.measure)
        return value


def is_benchmark(path: Path) -> bool:
    return (path / "benchmark.json").is_file()


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark directory. Raises ValueError naming file, line and field where something is wrong."""
    source = path / "benchmark.json"
    if not source.is_file():
        raise ValueError(f"{path} is no benchmark directory: it has no benchmark.json; `mru-rl bench` makes one")
    try:
        values = json.loads(source.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from None
    header = build(Header, values, str(source))
    asked = {spec.name: getattr(header, spec.name) for spec in dataclasses.fields(header)}
    benchmark = Benchmark(**asked, path=path, jobs=read_jobs(path))
    if benchmark.axis is not None and benchmark.axis.name == "id":
        benchmark = dataclasses.replace(benchmark, axis=None)
    for job in benchmark.jobs:
        for evaluation in job.evaluations:
            _check_measured(benchmark, job, evaluation)
    return benchmark


def read_jobs(path: Path) -> list[FinishedJob]:
    """The finished jobs in results.jsonl, in order; of two with the same key the later one counts.

    A last line that a kill cut short is left out. Raises ValueError naming the line where another one is malformed.
    """
    source = path / "results.jsonl"
    lines = source.read_text(errors="replace").split("\n") if source.is_file() else []
    jobs: dict[str, FinishedJob] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # no newline after it: the writer was killed here
            raise ValueError(f"{where} is not valid JSON: {error}; mend or delete the line") from None
        job = build(FinishedJob, values, where)
        for name, column in job.curve.items():
            if len(column) != len(job.curve.get("steps", ())):
                raise ValueError(f"{where}: curve {name!r} must have as many values as 'steps', got {len(column)}")
        jobs[job.key] = job
    return list(jobs.values())


def _check_measured(benchmark: Benchmark, job: FinishedJob, evaluation: Evaluation) -> None:
    value = getattr(evaluation, benchmark.measure)
    if value is None or not math.isfinite(value):
        raise ValueError(
            f"{benchmark.path} measures {benchmark.measure}, which every evaluation must have as a finite number; "
            f"job {job.key!r} has {value} at x = {evaluation.x}"
        )
    if benchmark.axis is not None and evaluation.x is None:
        raise ValueError(
            f"{benchmark.path} has an axis, so every evaluation needs its x; job {job.key!r} has one without"
        )


def to_json(record: Header | FinishedJob) -> dict[str, Any]:
    """What benchmark.json or a line of results.jsonl holds; `build` is the inverse."""
    return dataclasses.asdict(record)


def build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from JSON values; names it does not know are ignored. Raises ValueError for one missing or of a wrong type."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold an object, got {_short(values)}")
    hints, given = get_type_hints(cls), {}
    for spec in dataclasses.fields(cls):  # type: ignore[arg-type]
        if spec.name in values:
            given[spec.name] = _read(values[spec.name], hints[spec.name], f"{where}: {spec.name!r}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ValueError(f"{where} lacks {spec.name!r}")
    return cls(**given)


def _read(value: Any, hint: Any, where: str) -> Any:
    """The value as its type hint wants it: dataclasses are built, whole numbers pass as floats."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and not (type(value) is bool and hint is int)
    ):
        return value
    if hint is float and type(value) is int:
        return value
    if origin is Literal and value in args:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _read(value, next(arg for arg in args if arg is not type(None)), where)
    if origin is list and isinstance(value, list):
        return [_read(item, args[0], where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {name: _read(item, args[1], where) for name, item in value.items()}
    if hasattr(hint, "__dataclass_fields__"):
        return build(hint, value, where)
    wanted = " or ".join(map(repr, args)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ValueError(f"{where} must be {wanted}, got {_short(value)}")


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unique(items: Iterable[T]) -> list[T]:
    """Without repetitions, in order of first appearance."""
    return list(dict.fromkeys(items))
