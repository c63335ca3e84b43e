"""SIGKILL at chosen and random moments, SIGINT, SIGTERM: does the resumed run end like one that was never stopped?"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mru_rl.agents.bench.grid import read_results
from rig.commands import Command, Moment
from rig.runs import (
    UPDATES,
    Failed,
    Lost,
    Task,
    Tried,
    begin,
    complete,
    difference,
    judge,
    lost,
    output_of,
)

WRITES = (("write", "step_"), ("rename", "step_"), ("write", "metrics.jsonl"), ("write", "learning_curve.png"))
"""where a training run is killed, besides at random times"""
STARTS = (("write", "provenance.json"), ("write", "config.json"), ("rename", "config.json"))
GRID_WRITES = (
    ("write", "benchmark.json"),
    ("write", "results.jsonl"),
    ("rename", "table.md"),
    ("write", "curve.png"),
    ("write", "report.html"),
)


def random_moments(rng: random.Random, seconds: float, count: int) -> Iterator[Moment]:
    """Yield moments of a run that takes so many seconds: in turn inside a write and at any time."""
    for i in range(count):
        if i % 2:
            yield Moment("time", seconds=rng.uniform(0, seconds))
        else:
            act, file = rng.choice([*WRITES, *STARTS])
            yield Moment(act, file, rng.randint(2, 6) if file in ("step_", "metrics.jsonl") else 1)


def kill_run(task: Task, run_dir: Path, moments: Iterable[Moment], reference: dict[str, Any]) -> list[Tried]:
    """Start a run, kill it at each of the moments, resume it in between, and at last let it end.

    A moment that does not come before the run's end is left out.
    """
    costs = _kill_at(moments, lambda moment: begin(task, run_dir, moment=moment), lambda: lost(run_dir))
    what = difference(task, run_dir, reference)
    return [judge(_name(task.algorithm, moment), cost, what) for moment, cost in costs]


def _kill_at(
    moments: Iterable[Moment], start: Callable[[Moment], Command], cost: Callable[[], Lost]
) -> list[tuple[Moment, Lost]]:
    """Start a command and kill it at its moment, once for each moment; return those that came, and what each cost."""
    costs = []
    for moment in moments:
        command = start(moment)
        if not command.wait_for_moment():
            complete(command)
        elif command.end_with(signal.SIGKILL) != 0:  # 0: it ended by itself a moment before
            costs.append((moment, cost()))
    return costs


def _name(kind: str, moment: Moment) -> str:
    if moment.act == "time":
        return f"{kind}: SIGKILL at a random time"
    inside = {"write": "half-way through writing", "rename": "before naming"}[moment.act]
    file = {"step_": "a checkpoint", "metrics.jsonl": "a metrics record"}.get(moment.file, moment.file)
    return f"{kind}: SIGKILL {inside} {file}"


def signal_run(task: Task, run_dir: Path, signum: int, wait: float, reference: dict[str, Any]) -> Tried | None:
    """Send a signal `wait` seconds after the first record, and resume the run.

    The run writes no checkpoints by itself but the first and the last. Returns None if it ended before the signal.
    """
    command = begin(task._replace(checkpoint_seconds=60), run_dir)
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size) and command.process.is_alive():
        time.sleep(0.005)
    time.sleep(wait)
    if not command.process.is_alive():
        return None
    status = command.end_with(signum)
    if status == 0:  # it ended by itself a moment before
        return None
    cost = lost(run_dir)
    said = [line for line in command.stderr.splitlines() if line.startswith("mru-rl:")]
    return judge(
        f"{task.algorithm}: {signal.Signals(signum).name}",
        cost,
        "" if status == 128 + signum else f"exit status {status}",
        "" if len(said) == 1 and f"mru-rl resume {run_dir}" in said[0] else f"said {said}",
        "" if cost == (0, 0) else f"lost {cost}",
        difference(task, run_dir, reference),
    )


def signal_twice(task: Task, run_dir: Path, signum: int, reference: dict[str, Any]) -> Tried:
    """Send a signal to a run whose update never ends, and a second one, which must stop it at once."""
    command = begin(task, run_dir, moment=Moment("write", "step_", 3))
    if not command.wait_for_moment():
        raise Failed(f"the run ended before its third checkpoint: {command.stderr[-2000:]}")
    command.send(signum)
    while _catches(command, signum):  # until the first one is noted
        time.sleep(0.005)
    command.send(signum)
    status = command.join(timeout=30)
    cost = lost(run_dir)
    wrong = "" if status == -signum else f"exit status {status}"
    name = f"{task.algorithm}: a second {signal.Signals(signum).name}"
    return judge(name, cost, wrong, difference(task, run_dir, reference))


def _catches(command: Command, signum: int) -> bool:
    """Return True if the process handles a signal itself."""
    status = Path(f"/proc/{command.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


def grid_words(folder: Path) -> list[str]:
    """Return the arguments of `mru-rl` for a benchmark of two cores, a job of about a second each."""
    grid = "bench custom --env mru_rl/TMaze-v0 --env-kwargs length=5 --cores bmru mingru --seeds 1 --trials 1"
    size = f"--steps {8 * 4 * UPDATES} --episodes 32 --workers 1"
    settings = "--settings num_envs=4 minibatches=2 segment=8 epochs=1 checkpoint_seconds=0"
    return [*f"{grid} {size} {settings} --out".split(), str(folder)]


def grid_outcome(folder: Path) -> dict[str, Any]:
    """Return what a grid came to and that does not depend on the clock."""
    kept = ("evaluations", "steps", "setting_name", "parameters")
    return {line["key"]: {name: line[name] for name in kept} for line in read_results(folder / "results.jsonl")}


def complete_grid(folder: Path) -> dict[str, Any]:
    """Run the benchmark, or what is missing of it, and return its outcome."""
    complete(Command(grid_words(folder), output_of(folder)))
    return grid_outcome(folder)


def kill_grid(folder: Path, moments: Iterable[Moment], reference: dict[str, Any]) -> list[Tried]:
    """Start a benchmark, kill it at each of the moments, give the same command again in between, and at last let it end."""
    words, output = grid_words(folder), output_of(folder)
    costs = _kill_at(moments, lambda moment: Command(words, output, moment=moment), lambda: _lost_of_grid(folder))
    what = "" if complete_grid(folder) == reference else "results differ"
    missing = [name for name in ("table.md", "curve.png", "report.html") if not (folder / name).is_file()]
    return [judge(_name("bench", moment), cost, what, ", ".join(missing)) for moment, cost in costs]


def _lost_of_grid(folder: Path) -> Lost:
    costs = [lost(run_dir) for run_dir in (folder / "running").glob("*")]
    file = folder / "results.jsonl"
    cut = len(file.read_text().rpartition("\n")[2]) if file.is_file() else 0
    in_vain = sum(path.stat().st_size for path in folder.glob(".*.tmp"))
    return Lost(sum(cost.steps for cost in costs), sum(cost.bytes for cost in costs) + cut + in_vain)


def begin_grid(folder: Path) -> Command:
    """Start a benchmark and wait until one of its workers has written a checkpoint."""
    command = Command(grid_words(folder), output_of(folder))
    while not list((folder / "running").glob("*/checkpoints/step_*.pt")):
        if not command.process.is_alive():
            raise Failed(f"the benchmark ended before its first checkpoint: {command.stderr[-2000:]}")
        time.sleep(0.01)
    return command


def signal_grid(folder: Path, signum: int, reference: dict[str, Any]) -> Tried:
    """Send a signal to a benchmark at work: it and its workers must end, and the same command must resume it."""
    command = begin_grid(folder)
    status = command.end_with(signum)
    cost = _lost_of_grid(folder)
    return judge(
        f"bench: {signal.Signals(signum).name}",
        cost,
        "" if status == 128 + signum else f"exit status {status}",
        "" if "the same command goes on" in command.stderr else f"said {command.stderr[-500:]!r}",
        "" if complete_grid(folder) == reference else "results differ",
    )
