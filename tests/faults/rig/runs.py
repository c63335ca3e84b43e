"""Small runs to do harm to: how they are started, what they come to, and what a fault has cost them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mru_rl.agents.records.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
from mru_rl.agents.records.run import Run
from rig.commands import Command

CLOCK = ("seconds", "steps_per_second")
"""What a record says of the clock on the wall: the rest is the same however often a run was stopped."""
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
        """The command that starts it."""
        options = OPTIONS[self.algorithm].split()
        size = ["--num-envs", str(ENVS), "--hidden-size", "8", "--steps", str(8 * ENVS * UPDATES), "--device", "cpu"]
        return [
            "train", self.algorithm, "--env", self.env, "--core", self.core, "--seed", str(self.seed), *options, *size,
            "--checkpoint-seconds", str(self.checkpoint_seconds), "--no-tensorboard", "--run-dir", str(run_dir),
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.algorithm} {self.core} {self.env}"


class Lost(NamedTuple):
    """What a fault cost. steps: env steps that will be taken again; bytes: what the disk holds in vain."""

    steps: int
    bytes: int


class Tried(NamedTuple):
    """One fault: what was done, whether all that followed was as if it had not been, and what it cost."""

    fault: str
    survived: bool
    lost: Lost
    what: str = ""
    """where it did not survive: what was wrong"""


class Failed(RuntimeError):
    """A command ended in another way than it should have."""


def begin(task: Task, run_dir: Path, **options: Any) -> Command:
    """Start a run, or go on with it where it has begun."""
    words = ["resume", str(run_dir)] if (run_dir / "config.json").is_file() else task.words(run_dir)
    return Command(words, output_of(run_dir), **options)


def complete(command: Command, status: int = 0) -> Command:
    """Wait for the end of a command. Raises Failed where it has another exit status."""
    found = command.join()
    if found != status:
        raise Failed(f"exit status {found} instead of {status}: {command.stderr[-2000:]}")
    return command


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that a run came to and that does not depend on the clock: parameters, an evaluation, every record."""
    words = ["eval", str(run_dir), "--episodes", "8", "--json"]
    found = json.loads(complete(Command(words, output_of(run_dir))).stdout)
    return {"evaluation": found, "records": without_clock(Run(run_dir).metrics())}


def unbroken(task: Task, run_dir: Path) -> dict[str, Any]:
    """What a run comes to that nothing happens to."""
    complete(begin(task, run_dir))
    return outcome(run_dir)


def without_clock(records: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Records without their wall-clock fields."""
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in records]


def lost(run_dir: Path) -> Lost:
    """What going on from the newest intact checkpoint will leave behind."""
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
    records = Run(run_dir).metrics()
    raw = Run(run_dir).metrics_file.read_text() if records else ""
    kept_bytes = sum(len(json.dumps(record)) + 1 for record in records if record["steps"] <= kept_steps)
    trained = records[-1]["steps"] if records else 0
    return Lost(max(int(trained) - max(kept_steps, 0), 0), in_vain + len(raw) - kept_bytes)


def difference(task: Task, run_dir: Path, reference: dict[str, Any]) -> str:
    """Let a run go to its end; how it differs from the unbroken one, empty where it does not."""
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
    """A fault is survived where nothing was wrong."""
    what = "; ".join(filter(None, wrong))
    return Tried(fault, not what, cost, what)


def output_of(run_dir: Path) -> Path:
    """Where the output of a run's commands goes: beside the directory the run is in, which may be full."""
    return run_dir.parent.with_name(f"{run_dir.parent.name}-output") / run_dir.name
