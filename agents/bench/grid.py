"""A benchmark as a grid of jobs over cores and seeds: searched, run side by side, stopped and continued at will.

The folder of a benchmark holds benchmark.json (what was asked), results.jsonl (a line per finished job, with its
provenance), running/ (runs not finished yet, taken up where a kill left them), and at the end a table, a plot, report.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mru_rl.agents.bench.jobs import RUNNING, Job, Point, run_job, running_dir
from mru_rl.agents.bench.options import GridOptions
from mru_rl.agents.bench.ray_tasks import do_all_on_ray, work_anywhere
from mru_rl.agents.bench.workers import do_all
from mru_rl.agents.console.errors import require
from mru_rl.agents.console.progress import duration
from mru_rl.agents.curriculum import at_level
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import exclusive_lock, provenance, write_json
from mru_rl.agents.report.data import Axis, FinishedJob, Header, to_json
from mru_rl.agents.report.tables import write_tables
from mru_rl.blocks.budget import count_parameters, state_size_for_parameters
from mru_rl.blocks.core import make_core
from mru_rl.envs import AgentInput, BatchedEnv, make

SEARCH_SEED = 1000
"""Seeds from here on choose settings; reported seeds count from 0."""
REFERENCE_CORE = "bmru"
"""Whose parameters all cores get with --equal parameters."""
Work = Callable[..., FinishedJob]
ENGINES: dict[str, tuple[Callable[..., Iterator[Any]], Callable[[Work], Work]]] = {
    "processes": (do_all, lambda work: work),
    "ray": (do_all_on_ray, lambda work: partial(work_anywhere, work=work)),
}
"""What does jobs side by side, and what it makes of the work: processes here, or Ray tasks here and on other machines."""


@dataclass(frozen=True)
class Variant:
    """One env to train on: its place on the axis, its options, its budget, and where the agent is evaluated."""

    x: float
    env: str
    env_kwargs: dict[str, Any]
    steps: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Grid:
    """A question, and the grid that answers it."""

    name: str
    title: str
    question: str
    measure: Literal["success_rate", "score", "return_mean"]
    """what is compared of an evaluation"""
    axis: Axis
    chance: float | None
    variants: tuple[Variant, ...]
    cores: tuple[str, ...]
    seeds: int
    trials: int
    search_seeds: int
    preset: str
    hidden_size: int = 64
    state_size: int = 64
    equal: str = "state"
    settings: Mapping[str, Any] | None = None
    """fields of the algorithm's config for every job, before those of a trial"""
    algorithm: str = "ppo"


def trials_for(horizon: int) -> list[tuple[str, dict[str, Any]]]:
    """The settings every core is searched over, the same for all, for an env of that horizon; the first is the default.

    long: the start for long memories in place of the published one; a memory recurrent unit then starts from thresholds
    spread without a batch instead of from a warm-up.
    """
    entropy = 10 * min(0.01, 1 / horizon)
    long = {"initialisation": "long", "warm_up": False}
    return [
        ("default", {}),
        ("long", long),
        ("slow", {"learning_rate": 3e-4}),
        ("long-slow-entropy", {**long, "learning_rate": 3e-4, "entropy": entropy}),
        ("fast", {"learning_rate": 3e-3}),
    ]


def run_benchmark(benchmark: Grid, folder: Path, workers: int, command: str, engine: str = "processes") -> list[str]:
    """Run what is missing of a benchmark, then write its tables; returns the errors of jobs that failed.

    Raises ValueError where the folder holds another benchmark or another process is at work in it.
    """
    with opened(folder, header(benchmark, command)) as store:
        errors = run_shown(store, search_jobs(benchmark), workers, engine)
        chosen = choose(benchmark, store.results)
        write_json(folder / "benchmark.json", to_json(header(benchmark, command, chosen)))
        errors += run_shown(store, final_jobs(benchmark, chosen), workers, engine)
        for path in write_tables(folder):
            print(path)
    return errors


def run_table(
    jobs: Sequence[Job],
    folder: Path,
    options: GridOptions,
    table: Callable[[list[dict[str, Any]]], str],
    *,
    described: Header | None = None,
    work: Work = run_job,
    draw: Callable[[list[dict[str, Any]], Path], None] | None = None,
) -> None:
    """Do what is missing of some jobs, then write their table.md and print it; leave with status 1 where some failed.

    table: the text of the table from the results. described: what benchmark.json says; it is not written where not given.
    work: what is done with a job. draw: draws the results, where there are any, into a file of the folder.
    """
    with opened(folder, described, work) as store:
        errors = run_shown(store, jobs, options.workers, options.engine)
        results = store.of(jobs)
        text = table(results)
        write_atomically(folder / "table.md", f"{text}\n".encode())
        if draw is not None and results:
            draw(results, folder)
    print(text)
    report_errors(errors)


@contextlib.contextmanager
def opened(folder: Path, described: Header | None = None, work: Work = run_job) -> Iterator[Store]:
    """The store of a folder, for this process alone; the folder is made where it is not there.

    described: what benchmark.json is to say. Raises ValueError where the folder holds another benchmark or another process
    is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder):
        if described is not None:
            _check_name(described.benchmark, folder)
            write_json(folder / "benchmark.json", to_json(described))
        yield Store(folder, work)


def search_jobs(benchmark: Grid) -> list[Job]:
    """Every trial of every core on the first variant, on seeds that are not reported."""
    if benchmark.trials < 2:
        return []
    variant = benchmark.variants[0]
    return [
        _job(benchmark, "search", core, variant, name, settings, SEARCH_SEED + seed, variant.points[:1])
        for core in benchmark.cores
        for name, settings in _trials(benchmark)
        for seed in range(benchmark.search_seeds)
    ]


def final_jobs(benchmark: Grid, chosen: Mapping[str, str]) -> list[Job]:
    """Every core with its chosen setting on every variant and reported seed."""
    settings = dict(_trials(benchmark))
    return [
        _job(benchmark, "final", core, variant, chosen[core], settings[chosen[core]], seed, variant.points)
        for variant in benchmark.variants
        for seed in range(benchmark.seeds)
        for core in benchmark.cores
    ]


def choose(benchmark: Grid, results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The setting of each core: the best measure where it was trained, then the higher learning curve, then the order."""
    names = [name for name, _ in _trials(benchmark)]
    keys = {job.key for job in search_jobs(benchmark)}
    chosen = {}
    for core in benchmark.cores:
        values = {}
        for name in names:
            mine = [r for r in results if r["key"] in keys and r["core"] == core and r["setting_name"] == name]
            if mine:
                measure = sum(r["evaluations"][0][benchmark.measure] for r in mine) / len(mine)
                values[name] = (round(measure, 2), sum(map(_height, mine)) / len(mine))
        chosen[core] = max(values, key=values.__getitem__) if values else names[0]
    return chosen


def _height(result: Mapping[str, Any]) -> float:
    """Mean of the learning curve: how early it rose."""
    returns = [value for value in result["curve"].get("return_mean", []) if value is not None]
    return sum(returns) / max(len(returns), 1)


def _trials(benchmark: Grid) -> list[tuple[str, dict[str, Any]]]:
    variant = benchmark.variants[0]
    with _env(benchmark, variant) as env:
        return trials_for(env.horizon or 1000)[: benchmark.trials]


def _job(
    benchmark: Grid,
    phase: Literal["search", "final"],
    core: str,
    variant: Variant,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    points: tuple[Point, ...],
) -> Job:
    size = {"hidden_size": benchmark.hidden_size, "state_size": _state_size(benchmark, core, variant)}
    return Job(
        phase,
        core,
        variant.env,
        variant.env_kwargs,
        variant.x,
        seed,
        variant.steps,
        name,
        {**size, **(benchmark.settings or {}), **settings},
        points,
        core,
        benchmark.algorithm,
    )


def _state_size(benchmark: Grid, core: str, variant: Variant) -> int:
    """Equal for all cores, or such that all have the parameters of REFERENCE_CORE."""
    if benchmark.equal == "state":
        return benchmark.state_size
    with _env(benchmark, variant) as env:
        inputs = AgentInput(env, flatten=True, previous_action=not env.open_loop, start_flag=True).obs_size
    width = benchmark.hidden_size
    wanted = count_parameters(make_core(REFERENCE_CORE, inputs, width, state_size=benchmark.state_size))
    try:
        return state_size_for_parameters(core, inputs, width, wanted)
    except ValueError:  # no state to size, as in an mlp
        return benchmark.state_size


def _env(benchmark: Grid, variant: Variant) -> BatchedEnv:
    """One row of an env, as the jobs make it."""
    wrappers = (benchmark.settings or {}).get("wrappers", ())
    return make(variant.env, 1, wrappers=wrappers, options=at_level(variant.env_kwargs))


class Store:
    """The finished jobs of a folder: results.jsonl, read at the start, a line added as soon as a job is done.

    work: what is done with a job; called with the job and folder=..., in a process of its own.
    """

    def __init__(self, folder: Path, work: Work = run_job) -> None:
        self.folder, self.file, self.work = folder, folder / "results.jsonl", work
        self.results = read_results(self.file)

    def of(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """The results of those of the jobs that are finished."""
        keys = {job.key for job in jobs}
        return [result for result in self.results if result["key"] in keys]

    def run(
        self,
        jobs: Sequence[Job],
        workers: int,
        tick: Callable[[list[Job]], None],
        say: Callable[[str], None],
        engine: str = "processes",
    ) -> list[str]:
        """Do the jobs that are not finished yet; returns what went wrong with those that failed.

        tick: called about once a second with the jobs being done; say: called with a line per finished job.
        """
        finished = {result["key"] for result in self.results}
        missing = [job for job in jobs if job.key not in finished]
        kept, errors, started = len(jobs) - len(missing), [], time.monotonic()
        do, around = ENGINES[engine]
        work = partial(around(self.work), folder=self.folder.resolve())
        (self.folder / RUNNING).mkdir(exist_ok=True)
        for done, (job, result, error) in enumerate(do(missing, work, workers, tick), start=1):
            head = f"[{kept + done} of {len(jobs)}] {job.label}: "
            if error is not None:
                errors.append(f"{job.label}: {error}")
                say(head + f"failed, {error.strip().splitlines()[-1]}")
                continue
            made = provenance("cpu") | {"seed": job.seed} | result.provenance
            self._keep(dataclasses.replace(result, provenance=made))
            shutil.rmtree(running_dir(self.folder, job), ignore_errors=True)
            left = (time.monotonic() - started) / done * (len(missing) - done)
            point = result.evaluations[0]
            value = point.return_mean if point.success_rate is None else point.success_rate
            what = "return" if point.success_rate is None else "success"
            say(head + f"{what} {value:.3f} at x={point.x:g}, {result.seconds:.0f} s, {duration(left)} left")
        with contextlib.suppress(OSError):  # runs of jobs that failed are kept
            (self.folder / RUNNING).rmdir()
        return errors

    def _keep(self, finished: FinishedJob) -> None:
        result = to_json(finished)
        with self.file.open("a") as file:
            file.write(json.dumps(result) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results.append(result)


def run_shown(store: Store, jobs: Sequence[Job], workers: int, engine: str = "processes") -> list[str]:
    """Store.run with a live table of the rows in a terminal and a line per finished job on stderr everywhere.

    Raises KeyboardInterrupt, saying how to go on, where a signal asked for the end; the workers are ended first.
    """
    console = Console(stderr=True)
    with Live(console=console, transient=True, refresh_per_second=2) as live:

        def tick(running: list[Job]) -> None:
            if console.is_terminal:
                live.update(_table(store, jobs, running))

        try:
            return store.run(
                jobs, workers, tick, lambda line: console.print(line, highlight=False, soft_wrap=True), engine
            )
        except KeyboardInterrupt:
            kept = f"stopped with {len(store.results)} finished runs in {store.folder}; the same command goes on"
            raise KeyboardInterrupt(kept) from None


def _table(store: Store, jobs: Sequence[Job], running: Sequence[Job]) -> Table:
    """Finished returns of every row, and how far the running jobs are."""
    results = store.of(jobs)
    table = Table("", "finished", "return, last ones", "running", box=None)
    for row in dict.fromkeys(job.row for job in jobs):
        values = [f"{r['evaluations'][0]['return_mean']:.2f}" for r in results if r["row"] == row]
        now = [_progress(store.folder, job) for job in running if job.row == row]
        total = sum(job.row == row for job in jobs)
        table.add_row(row, f"{len(values)} of {total}", " ".join(values[-8:]), ", ".join(now))
    return table


def _progress(folder: Path, job: Job) -> str:
    """Share of a running job and its last return, read from its metrics."""
    file = running_dir(folder, job) / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    if not lines:
        return f"seed {job.seed} starting"
    last = json.loads(lines[-1])
    shown = f" {last['return_mean']:.2f}" if "return_mean" in last else ""
    return f"seed {job.seed} {100 * last['steps'] / job.steps:.0f}%{shown}"


def read_results(file: Path) -> list[dict[str, Any]]:
    """The finished jobs in a results.jsonl; a last line that a kill cut short is removed from the file."""
    if not file.is_file():
        return []
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with file.open("r+") as opened:
            opened.truncate(len(whole.encode()))
    return [json.loads(line) for line in whole.splitlines()]


def _check_name(name: str, folder: Path) -> None:
    """A folder keeps one benchmark, whose cores and seeds may grow."""
    path = folder / "benchmark.json"
    there = json.loads(path.read_text())["benchmark"] if path.is_file() else name
    require(there == name, f"{folder} holds the benchmark {there!r}, not {name!r}; give another {{out}}")


def header(benchmark: Grid, command: str, chosen: Mapping[str, str] | None = None) -> Header:
    """What benchmark.json says of a benchmark. chosen: the setting of each core, once the search is done."""
    return Header(
        benchmark=benchmark.name,
        title=benchmark.title,
        question=benchmark.question,
        command=command,
        preset=benchmark.preset,
        algorithm=benchmark.algorithm,
        cores=list(benchmark.cores),
        seeds=list(range(benchmark.seeds)),
        equal=benchmark.equal,
        measure=benchmark.measure,
        axis=benchmark.axis,
        chance=benchmark.chance,
        search={"trials": benchmark.trials, "seeds": [SEARCH_SEED + i for i in range(benchmark.search_seeds)]},
        chosen=dict(chosen or {}),
    )


def report_errors(errors: Sequence[str]) -> None:
    """Say on stderr which jobs failed and leave with status 1."""
    if errors:
        print(
            f"mru-rl: {len(errors)} job(s) failed; the same command tries them again\n" + "\n".join(errors),
            file=sys.stderr,
        )
        raise SystemExit(1)
