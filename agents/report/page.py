"""`mru-rl report`: one HTML page that needs nothing beside itself, from a benchmark, several of them, or a training run."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from mru_rl.agents.console.errors import require
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.metrics import GLOSSARY
from mru_rl.agents.report.data import MEASURES, Benchmark, FinishedJob, is_benchmark, read_benchmark, unique
from mru_rl.agents.report.figures import curve_picture, data_uri, main_picture, overview_picture
from mru_rl.agents.report.palette import looks
from mru_rl.agents.report.summary import (
    Place,
    chosen_settings,
    estimates,
    headline,
    is_chosen,
    leaders,
    number,
    places,
    results,
)
from mru_rl.agents.run import Run

DEEP = 3
"""How far below the directory of a report runs and benchmarks are looked for: runs/ALGORITHM-ENV-CORE/seed_SEED is two."""


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Make the page of a directory; DIR/report.html where no other file is named. Returns its path.

    Raises ValueError where the directory holds neither a benchmark nor a run, and where their files are malformed.
    """
    path = out or directory / "report.html"
    if path.is_dir():
        raise ValueError(f"--out is the HTML file to write, got the directory {path}; add a file name")
    require(path.suffix in (".html", ".htm"), f"--out is the HTML file to write, a name that ends in .html, got {path}")
    html = render(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html.encode())
    return path


def render(directory: Path) -> str:
    """The page as text."""
    require(directory.is_dir(), f"there is no directory {directory}; give a benchmark's or a run's")
    sources = sorted(_sources(directory))
    require(
        bool(sources),
        f"{directory} holds no benchmark and no run: no directory in it, {DEEP} deep at most, has a benchmark.json (made by "
        "`mru-rl bench`) or a config.json (made by `mru-rl train`)",
    )
    found = [read_benchmark(p) if is_benchmark(p) else Run.open(p) for p in sources]
    cores = [
        core
        for source in found
        for core in (source.cores if isinstance(source, Benchmark) else [source.config_values()["core"]])
    ]
    palette = looks(cores + [job.row for source in found if isinstance(source, Benchmark) for job in source.jobs])
    sections = [
        benchmark_section(source, palette) if isinstance(source, Benchmark) else run_section(source, palette)
        for source in found
    ]
    for section, path in zip(sections, sources, strict=True):
        section["id"] = "-".join(path.relative_to(directory).parts) or path.resolve().name
    runs = [(section, source) for section, source in zip(sections, found, strict=True) if isinstance(source, Run)]
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("mru_rl.agents.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = (
        sections[0]["title"]
        if len(sections) == 1
        else f"{len(sections)} {'runs' if len(runs) == len(sections) else 'reports'}"
    )
    overview = (
        overview_section([run for _, run in runs], [section["id"] for section, _ in runs], palette)
        if len(runs) > 1
        else None
    )
    return templates.get_template("page.html").render(title=title, sections=sections, overview=overview)


def overview_section(runs: list[Run], anchors: list[str], palette: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of several runs before each of them: a table, by env and core, and one plot.

    anchors: the ids of the runs' own sections.
    """
    rows, algorithms, recent = [], {}, []
    by_task: dict[str, list[FinishedJob]] = defaultdict(list)
    for run, anchor in zip(runs, anchors, strict=True):
        config, records = run.config_values(), run.records()
        last = records[-1] if records else {}
        job = dataclasses.replace(_as_job(run, config, records), key=anchor)
        by_task[job.task].append(job)
        algorithms[anchor] = config["algorithm"]
        if "recent_episodes" in last:
            recent.append(int(last["recent_episodes"]))
        rows.append(
            {
                "anchor": anchor,
                "task": job.task,
                "core": job.core,
                "look": palette[job.core],
                "algorithm": config["algorithm"],
                "seed": job.seed,
                "steps": f"{last.get('steps', 0):,.0f}",
                "success": f"{last['success_rate']:.2f}" if "success_rate" in last else "-",
                "return": f"{last['return_mean']:.3f}" if "return_mean" in last else "-",
                "speed": f"{last['steps'] / last['seconds']:,.0f}" if last.get("seconds") else "-",
            }
        )
    rows.sort(key=lambda row: (row["task"], row["core"], row["algorithm"], row["seed"]))
    tasks = {task: by_task[task] for task in sorted(by_task)}
    return {
        "rows": rows,
        "recent_episodes": _range(recent) if recent else None,
        "picture": _picture(overview_picture(tasks, algorithms, palette)),
    }


def benchmark_section(benchmark: Benchmark, palette: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a benchmark."""
    table = estimates(benchmark)
    return {
        "kind": "benchmark",
        "benchmark": benchmark,
        "title": benchmark.title,
        "headline": headline(benchmark, table),
        "measure": MEASURES[benchmark.measure],
        "places": places(benchmark),
        "rows": _rows(benchmark, table, palette),
        "picture": _picture(main_picture(benchmark, table, palette)) if table else None,
        "curves": _curves(benchmark, palette),
        "trials": [
            {
                "job": job,
                "settings": _settings(job),
                "results": _evaluations(benchmark, job),
                "chosen": is_chosen(benchmark, job),
                "look": palette[job.row],
            }
            for job in benchmark.trials
        ],
        "episodes": [
            {"caption": f"{job.row}, seed {job.seed}, {job.task}", "source": _inlined(benchmark.path, job.inspect)}
            for job in benchmark.finals
            if job.inspect
        ],
        "origins": _origins(benchmark.jobs),
    }


def run_section(run: Run, palette: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a training run."""
    config, records = run.config_values(), run.records()
    last = records[-1] if records else {}
    job = _as_job(run, config, records)
    told = [
        f"{name.replace('_mean', '').replace('_rate', '')} {last[name]:.3f}"
        for name in ("return_mean", "success_rate")
        if name in last
    ]
    steps = f"After {last['steps']:,.0f} steps" if last else "No step has been recorded yet"
    if last and last["steps"] < config["steps"]:
        steps += f" of {config['steps']:,}"
    learned = f": {', '.join(told)} over the last {last['recent_episodes']:,.0f} episodes, exploring" if told else ""
    return {
        "kind": "run",
        "title": f"{config['core']} on {job.task}, seed {config['seed']}",
        "headline": f"{steps}{learned}.",
        "curves": [
            _picture(curve_picture(job.task, {job.row: [job]}, name, palette))
            for name in ("return_mean", "success_rate", "write_rate")
            if any(v is not None for v in job.curve[name])
        ],
        "metrics": [(name, _figures(value), GLOSSARY.get(name, "")) for name, value in last.items()],
        "config": [(name, json.dumps(value)) for name, value in config.items()],
        "episodes": [
            {"caption": p.stem.replace("_", " "), "source": _inlined(run.path, p.name)}
            for p in sorted(run.path.glob("inspect_*.png"))
        ],
        "origins": _origins([job]),
    }


def _rows(benchmark: Benchmark, table: dict[str, dict[Place, Any]], palette: dict[str, Any]) -> list[dict[str, Any]]:
    best = {place: leaders(table, place) for place in places(benchmark)}
    rows = []
    for core, known in table.items():
        finals = [job for job in benchmark.finals if job.row == core]
        cells = []
        for place in places(benchmark):
            runs = results(benchmark, core, place)
            several = len({run.task for run in runs}) > 1
            told = [f"{run.task + ', ' if several else ''}seed {run.seed}: {run.value:.3f}" for run in runs]
            cells.append({"estimate": known.get(place), "best": core in best[place], "runs": told})
        rows.append(
            {
                "core": core,
                "look": palette[core],
                "cells": cells,
                "setting": ", ".join(chosen_settings(benchmark, core)),
                "settings": "; ".join(unique(_settings(job) for job in finals)),
                "parameters": _range([job.parameters for job in finals]),
                "state_size": _range([job.state_size for job in finals]),
                "seeds": len({job.seed for job in finals}),
                "steps": _range([job.steps for job in finals]),
            }
        )
    return rows


def _curves(benchmark: Benchmark, palette: dict[str, Any]) -> list[dict[str, Any]]:
    """Per task, the learning curves and the write rates of its final runs."""
    by_task: dict[str, list[FinishedJob]] = defaultdict(list)
    for job in benchmark.finals:
        by_task[job.task].append(job)
    sections = []
    for task, jobs in by_task.items():
        learned = next(
            (name for name in (benchmark.measure, "return_mean") if any(name in job.curve for job in jobs)), None
        )
        pictures = []
        for name in filter(None, (learned, "write_rate")):
            by_core: dict[str, list[FinishedJob]] = defaultdict(list)
            for job in jobs:
                if name in job.curve:
                    by_core[job.row].append(job)
            if by_core:
                pictures.append(_picture(curve_picture(task, by_core, name, palette)))
        if pictures:
            sections.append({"task": task, "pictures": pictures})
    return sections


def _as_job(run: Run, config: dict[str, Any], records: list[dict[str, float]]) -> FinishedJob:
    """A training run in the form of a benchmark's final job."""
    names = ("return_mean", "success_rate", "write_rate")
    return FinishedJob(
        key=run.path.name,
        phase="final",
        core=config["core"],
        env=config["env"],
        env_kwargs=config["env_kwargs"],
        seed=config["seed"],
        steps=config["steps"],
        setting_name="",
        parameters=0,
        state_size=0,
        curve={"steps": [r["steps"] for r in records], **{name: [r.get(name) for r in records] for name in names}},
        provenance=run.provenance,
    )


def _origins(jobs: list[FinishedJob]) -> list[dict[str, Any]]:
    """What made the jobs, each combination of command, commit, versions and machine once, with the number of its jobs."""
    counted: dict[str, int] = defaultdict(int)
    for job in jobs:
        made = {name: job.provenance.get(name) for name in ("command", "commit", "versions", "machine")}
        counted[json.dumps(made, sort_keys=True)] += 1
    return [{"jobs": count, "made": json.loads(made)} for made, count in counted.items()]


def _picture(picture: Any) -> dict[str, str]:
    return {"alt": picture.alt, **picture.sources()}


def _settings(job: FinishedJob) -> str:
    return ", ".join(f"{name} {value}" for name, value in job.settings.items())


def _evaluations(benchmark: Benchmark, job: FinishedJob) -> str:
    return ", ".join(
        f"{benchmark.value(e):.3f}" + ("" if e.x is None else f" at {number(e.x)}") for e in job.evaluations
    )


def _figures(value: float) -> str:
    """Four figures, or whole numbers from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _inlined(directory: Path, name: str) -> str | None:
    """A picture of a directory as a data URI; None where it is not there. Raises ValueError where it lies elsewhere."""
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(
            f"{directory} names the picture {name!r}, which lies outside of it; a report takes in its own pictures only"
        )
    return data_uri(path.read_bytes(), "image/png") if path.is_file() else None


def _kind(path: Path) -> bool:
    return is_benchmark(path) or (path / "config.json").is_file()


def _sources(directory: Path, deep: int = DEEP) -> Iterator[Path]:
    """The benchmarks and runs in a directory: itself, or those at most so many folders deep."""
    if _kind(directory):
        yield directory
    elif deep:
        for child in directory.iterdir():
            if child.is_dir() and not child.is_symlink():
                yield from _sources(child, deep - 1)
