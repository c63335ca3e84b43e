"""The committed results: the commands that made them find every job finished, and a report can be made of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from mru_rl.agents.bench import ablation, grid, memory, popgym, staleness
from mru_rl.agents.bench.command import main
from mru_rl.agents.bench.jobs import Job
from mru_rl.agents.report.data import read_benchmark, read_jobs

ROOT = Path(__file__).resolve().parents[3] / "runs" / "benchmarks"
FOLDERS = sorted(file.parent for file in ROOT.glob("*/results.jsonl") if '"key"' in file.read_text().split("\n")[0])


def command_of(folder: Path) -> str:
    """The command that made a folder: benchmark.json's, or the one its table names."""
    if (folder / "benchmark.json").is_file():
        return json.loads((folder / "benchmark.json").read_text())["command"]
    (command,) = re.findall(r"`(mru-rl bench [^`]+)`", (folder / "table.md").read_text())
    return command


def jobs_of(folder: Path, monkeypatch) -> Sequence[Job]:
    """The jobs that the command of a folder would do, were none of them finished."""
    asked: list[Job] = []

    def take_jobs(jobs, *rest, **options) -> None:
        asked.extend(jobs)

    def take_grid(benchmark, *rest) -> list[str]:
        results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        asked.extend(grid.search_jobs(benchmark))
        asked.extend(grid.final_jobs(benchmark, grid.choose(benchmark, results)))
        return []

    monkeypatch.setattr(memory, "run_benchmark", take_grid)
    for module in (ablation, popgym, staleness):
        monkeypatch.setattr(module, "run_table", take_jobs)
    _, _, *words = shlex.split(command_of(folder))
    main(words)
    return asked


def test_there_are_committed_results_of_every_kind_of_grid():
    assert {"retention", "settings", "staleness", "popgym", "r2d2_tmaze"} <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_command_of_committed_results_finds_all_its_jobs_finished(folder, monkeypatch):
    asked = jobs_of(folder, monkeypatch)
    finished = {job.key for job in read_jobs(folder)}
    assert asked
    assert [job.label for job in asked if job.key not in finished] == []


@pytest.mark.parametrize(
    "folder", [folder for folder in FOLDERS if (folder / "benchmark.json").is_file()], ids=lambda folder: folder.name
)
def test_committed_results_are_what_a_report_reads(folder):
    benchmark = read_benchmark(folder)
    assert {job.seed for job in benchmark.finals} == set(benchmark.seeds)
    assert {job.core for job in benchmark.finals} == set(benchmark.cores)
