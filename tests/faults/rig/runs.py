"""Small runs to harm: how they are started, what they come to, and what a fault cost them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mru_rl.agents.records.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
from mru_rl.agents.run import Run
from rig.commands import Command

CLOCK = ("seconds", "steps_per_second")
"""wall-clock fields of a record: all others are the same however often a run was stopped"""
OPTIONS = {
    "ppo": "--segment 8 --minibatches 2 --epochs 1",
    "r2d2": "--segment 8 --sequence 4 --burn-in 2 --overlap 2 --batch 4 --learning-starts 6 --replay-sequences 20 "
    "--target-period 2 --samples-per-insert 2",
}
ENVS = 4
UPDATES = 24


class Task(NamedTuple):
    """A run of UPDATES updates that takes a second or two."""

    algorithm: str = "ppo"
    core: str = "bmru+mingru"
    env: str = "mru_rl/TMaze-v0"
    seed: int = 0
    checkpoint_seconds: float = 0.0

    def words(self, run_dir: Path) -> list[str]:
        """Return the arguments of `mru-rl` that start it."""
        task = (
            f"train {self.algorithm} --env {self.env} --core {self.core} --seed {self.seed} {OPTIONS[self.algorithm]}"
        )
        size = f"--num-envs {ENVS} --hidden-size 8 --steps {8 * ENVS * UPDATES} --device cpu"
        files = f"--checkpoint-seconds {self.checkpoint_seconds} --no-tensorboard --run-dir"
        return [*f"{task} {size} {files}".split(), str(run_dir)]

    def __str__(self) -> str:
        return f"{self.algorithm} {self.core} {self.env}"


class Lost(NamedTuple):
    """What a fault cost. steps: env steps that are taken again; bytes: what lies on disk without use."""

    steps: int
    bytes: int


class Tried(NamedTuple):
    """One fault: what was done, if the run ended as if it had not happened, and what it cost."""

    fault: str
    survived: bool
    lost: Lost
    what: str = ""
    """what was wrong, empty if it survived"""


class Failed(RuntimeError):
    """A command did not end as it should."""


def begin(task: Task, run_dir: Path, **options: Any) -> Command:
    """Start a run, or resume it if it has begun."""
    words = ["resume", str(run_dir)] if (run_dir / "config.json").is_file() else task.words(run_dir)
    return Command(words, output_of(run_dir), **options)


def complete(command: Command, status: int = 0) -> Command:
    """Wait for the end of a command. Raises Failed if its exit status is another one."""
    found = command.join()
    if found != status:
        raise Failed(f"exit status {found} instead of {status}: {command.stderr[-2000:]}")
    return command


def outcome(run_dir: Path) -> dict[str, Any]:
    """Return all that a run came to and that does not depend on the clock: parameters, an evaluation, every record."""
    words = ["eval", str(run_dir), "--episodes", "8", "--json"]
    found = json.loads(complete(Command(words, output_of(run_dir))).stdout)
    return {"evaluation": found, "records": without_clock(Run(run_dir).records())}


def unbroken(task: Task, run_dir: Path) -> dict[str, Any]:
    """Return what a run comes to if nothing happens to it."""
    complete(begin(task, run_dir))
    return outcome(run_dir)


def without_clock(records: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Return records without their wall-clock fields."""
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in records]


def lost(run_dir: Path) -> Lost:
    """Return what is lost if the run resumes from its newest intact checkpoint."""
    in_vain = sum(
        path.stat().st_size for folder in (run_dir, run_dir / "checkpoints") for path in folder.glob(".*.tmp")
    )
    kept_steps = -1
    for path in list_checkpoints(run_dir / "checkpoints"):
        try:
            kept_steps = load_checkpoint(path)["steps"]
            break
        except CheckpointError:
            in_vain += path.stat().st_size
    records = Run(run_dir).records()
    raw = Run(run_dir).metrics_file.read_text() if records else ""
    kept_bytes = sum(len(json.dumps(record)) + 1 for record in records if record["steps"] <= kept_steps)
    trained = records[-1]["steps"] if records else 0
    return Lost(max(int(trained) - max(kept_steps, 0), 0), in_vain + len(raw) - kept_bytes)


def difference(task: Task, run_dir: Path, reference: dict[str, Any]) -> str:
    """Let a run go to its end and return how it differs from the unbroken one, "" if it does not."""
    try:
        complete(begin(task, run_dir))
        found = outcome(run_dir)
    except (Failed, ValueError) as error:
        return str(error)
    leftovers = [path.name for path in run_dir.rglob(".*.tmp")]
    if leftovers:
        return f"left behind: {', '.join(leftovers)}"
    return ", ".join(f"{name} differ" for name in reference if found[name] != reference[name])


def judge(fault: str, cost: Lost, *wrong: str) -> Tried:
    """Return the verdict on a fault: survived if all of `wrong` are empty."""
    what = "; ".join(filter(None, wrong))
    return Tried(fault, not what, cost, what)


def output_of(run_dir: Path) -> Path:
    """Return where the output of a run's commands goes: beside the directory the run is in, which may be full."""
    return run_dir.parent.with_name(f"{run_dir.parent.name}-output") / run_dir.name
