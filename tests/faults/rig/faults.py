"""Try faults and see whether runs survive them: a few in a minute; with --full 200 kills and more."""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mru_rl
import mru_rl.envs
from mru_rl.agents.console.progress import duration
from mru_rl.agents.records.checkpoint import write_atomically
from mru_rl.agents.records.run import provenance
from rig import files, kills
from rig.commands import Moment
from rig.runs import Task, Tried, unbroken

COMMAND = "python tests/faults/rig"
KILLS_PER_RUN = 4
HEAD = """# Faults that runs survive

Survived: the run, resumed as the error or the README says, ended with the parameters, the records of `metrics.jsonl` (all
but the two wall-clock fields) and the evaluation of a run that nothing happened to, bit for bit. Signals gave exit status 130
or 143 and lost nothing; write errors gave one line on stderr and left every checkpoint as it was; no process was left behind.

- Taken again: env steps that had records and that the resumed run trained once more.
- Bytes lost: half-written files, records after the last checkpoint, and damaged checkpoints, as found on disk after the
  fault; what they said was computed again.

The promise is for one machine, the CPU, one version of every package and one number of threads (`--threads`, 1 if not
given): another number of threads sums in another order, and on a GPU some sums have no fixed order. Gymnasium envs other
than the batched ones cannot save their state: a resumed run starts fresh episodes, and says so.
"""


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of `python tests/faults/rig`. Prints the table; exit status 1 if a fault was not survived."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="200 kills of runs, and every other fault; 10 to 20 minutes"
    )
    parser.add_argument("--kills", type=int, help="how many times runs are killed (default 10, 200 with --full)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and of what is run (default 0)")
    parser.add_argument("--out", type=Path, help="markdown file to write the table to")
    args = parser.parse_args(words)
    count = args.kills if args.kills is not None else 200 if args.full else 10
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    tried: list[Tried] = []
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mru_rl-faults-") as folder:
        for found in every_fault(Path(folder), random.Random(args.seed), count, args.full, skipped):
            tried.append(found)
            verdict = "survived" if found.survived else "NOT SURVIVED"
            print(f"{len(tried):4d}  {verdict}  {found.fault}  {found.what}", file=sys.stderr, flush=True)
    command = f"{COMMAND} {shlex.join(sys.argv[1:] if words is None else words)}".rstrip()
    text = markdown(tried, skipped, command, time.monotonic() - started)
    print(text)
    if args.out:
        write_atomically(args.out, text.encode())
    if not all(one.survived for one in tried):
        raise SystemExit(1)


def every_fault(folder: Path, rng: random.Random, count: int, full: bool, skipped: list[str]) -> Iterator[Tried]:
    """Try kills, then signals, damaged files, full disks and benchmarks; what this machine does not allow goes to `skipped`."""
    yield from killed_runs(folder, rng, count)
    for algorithm in ("ppo", "r2d2") if full else ("ppo",):
        task = Task(algorithm)
        reference = unbroken(task, folder / algorithm / "unbroken")
        for i in range(10 if full else 1):
            for ending in (signal.SIGINT, signal.SIGTERM):
                run_dir = folder / algorithm / f"{ending.name}-{i}"
                found = kills.signal_run(task, run_dir, ending, rng.uniform(0, 0.3), reference)
                yield from [] if found is None else [found]
        for ending in (signal.SIGINT, signal.SIGTERM):
            yield kills.signal_twice(task, folder / algorithm / f"{ending.name}-twice", ending, reference)
        for how in files.DAMAGES:
            yield files.damage(task, folder / algorithm / how.replace(" ", "-"), how, reference)
        yield files.over_the_size_limit(task, folder / algorithm / "limit", reference)
        yield files.directory_read_only(task, folder / algorithm / "read-only", reference)
        try:
            yield files.disk_full(task, folder / f"{algorithm}-disk", reference)
        except PermissionError as error:
            skipped.append(f"{algorithm}: disk full ({error})")
    yield from harmed_grids(folder / "grids", rng, 5 if full else 1)


def killed_runs(folder: Path, rng: random.Random, count: int) -> Iterator[Tried]:
    """Kill runs of every core and batched env in turn, each a few times, until there were `count` kills."""
    cores, envs = mru_rl.list_cells(), mru_rl.envs.list_ids()
    rng.shuffle(cores)
    rng.shuffle(envs)
    discrete = [env for env in envs if mru_rl.envs.describe(env).action.startswith("Discrete")]
    done = number = 0
    while done < count:
        algorithm = ("ppo", "r2d2")[number % 2]
        at = number // 2
        able = envs if algorithm == "ppo" else discrete
        env = able[at % len(able)]
        task = Task(algorithm, cores[at % len(cores)], env, number, rng.choice([0.0, 0.0, 0.1]))
        started = time.monotonic()
        reference = unbroken(task, folder / f"unbroken-{number}")
        seconds = (time.monotonic() - started) / 2  # the other half is the evaluation
        moments = kills.random_moments(rng, seconds, min(KILLS_PER_RUN, count - done))
        for found in kills.kill_run(task, folder / f"killed-{number}", moments, reference):
            done += 1
            yield found if found.survived else found._replace(what=f"{task}, seed {task.seed}: {found.what}")
        for run_dir in folder.glob(f"*-{number}"):
            shutil.rmtree(run_dir)
        number += 1


def harmed_grids(folder: Path, rng: random.Random, rounds: int) -> Iterator[Tried]:
    """Kill benchmarks inside every file they write and at random times, and end them by signals."""
    started = time.monotonic()
    reference = kills.complete_grid(folder / "unbroken")
    seconds = time.monotonic() - started
    for i in range(rounds):
        moments = [
            Moment("time", seconds=rng.uniform(0, seconds)),
            *(Moment(act, file) for act, file in kills.GRID_WRITES),
        ]
        yield from kills.kill_grid(folder / f"killed-{i}", moments, reference)
        for ending in (signal.SIGINT, signal.SIGTERM):
            yield kills.signal_grid(folder / f"{ending.name}-{i}", ending, reference)


def markdown(tried: Sequence[Tried], skipped: Sequence[str], command: str, seconds: float) -> str:
    """Return the table of faults and what made it."""
    lines = [
        "| fault | tried | survived | env steps taken again, mean (most) | bytes lost, mean (most) |",
        "|---|---:|---:|---:|---:|",
    ]
    for fault in sorted({one.fault for one in tried}):
        mine = [one for one in tried if one.fault == fault]
        lines.append(_row(fault, mine))
    lines.append(_row("**all**", tried))
    failures = [f"- {one.fault}: {one.what}" for one in tried if not one.survived]
    made = provenance("cpu")
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("mru_rl", "python", "torch"))
    source = (
        f"Made by `{command}` in {duration(seconds)}, commit {made['commit']}, {made['machine']['cpu']}, {versions}."
    )
    untried = [f"Not tried here: {what}." for what in skipped]
    return "\n".join([HEAD, *lines, "", *failures, *untried, source]) + "\n"


def _row(name: str, tried: Sequence[Tried]) -> str:
    costs = [[one.lost.steps for one in tried], [one.lost.bytes for one in tried]]
    spans = [f"{sum(values) / len(values):,.0f} ({max(values):,})" for values in costs]
    return f"| {name} | {len(tried)} | {sum(one.survived for one in tried)} | {spans[0]} | {spans[1]} |"
