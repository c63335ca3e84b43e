"""A run on disk: config.json, provenance.json, metrics.jsonl, TensorBoard events, checkpoints/, learning_curve.png."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import mru_rl
from mru_rl.agents.config import TrainConfig, to_json
from mru_rl.agents.console.streams import warn
from mru_rl.agents.records.checkpoint import delete_leftovers, newest_checkpoint, write_atomically


class Run:
    """The directory of one run. `Run.create` makes it, `Run.open` finds it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics_file = path / "metrics.jsonl"

    @classmethod
    def create(cls, path: Path, algorithm: str, config: TrainConfig, device: str) -> Run:
        """Make the directory with its config and provenance. Raises ValueError where it exists and is not empty."""
        cls.check_free(path)
        run = cls(path)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        with alone_in(path, "give another --run-dir"):
            cls.check_free(path)  # once more: another process may have been quicker
            delete_leftovers(path)
            write_json(path / "provenance.json", provenance(device) | {"seed": config.seed})
            write_json(path / "config.json", {"algorithm": algorithm, **to_json(config)})
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises ValueError where a directory cannot be used for a new run; what a start that was killed left can."""
        if path.exists() and not (path.is_dir() and _is_unborn(path)):
            raise ValueError(
                f"run directory {path} exists; continue it with `mru-rl resume {path}`, or give another --run-dir"
            )

    @classmethod
    def open(cls, path: Path) -> Run:
        """Raises ValueError where the directory holds no run."""
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} is no run directory: it has no config.json; `mru-rl train` makes one")
        return cls(path)

    def config(self) -> dict[str, Any]:
        """config.json as it was written. Raises ValueError where it cannot be read."""
        try:
            values = json.loads((self.path / "config.json").read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path / 'config.json'} is not valid JSON: {error}") from None
        if not isinstance(values, dict) or "algorithm" not in values:
            raise ValueError(f"{self.path / 'config.json'} is no config of mru_rl: it names no algorithm")
        return values

    def checkpoint(self) -> dict[str, Any]:
        """The newest intact checkpoint. Raises CheckpointError where there is none."""
        return newest_checkpoint(self.checkpoints)[1]

    def metrics(self) -> list[dict[str, float]]:
        """All records so far; a last line that a kill cut short is left out, damaged ones too, which is said on stderr."""
        if not self.metrics_file.is_file():
            return []
        lines = [line for line in self.metrics_file.read_text(errors="replace").split("\n")[:-1] if line]
        records = [record for record in map(_as_record, lines) if record is not None]
        if len(records) < len(lines):
            warn(f"{len(lines) - len(records)} line(s) of {self.metrics_file} are damaged; they are left out")
        return records

    @property
    def provenance(self) -> dict[str, Any]:
        """provenance.json, which a run can do without: empty where it is gone or damaged."""
        try:
            made = json.loads((self.path / "provenance.json").read_text())
        except (OSError, ValueError):
            return {}
        return made if isinstance(made, dict) else {}

    def drop_metrics_after(self, steps: int) -> None:
        """Forget records later than a checkpoint, which a resumed run will write again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["steps"] <= steps]
        write_atomically(self.metrics_file, "".join(kept).encode())


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def alone_in(folder: Path, advice: str = "wait for it, or give another --out") -> Iterator[None]:
    """Hold a folder alone; the lock falls with the process, however that ends. Raises ValueError where another holds it."""
    path = folder / ".lock"
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is at work in {folder}; {advice}") from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                warn(f"{folder} is on a file system without locks; see to it that no other process works there")
            if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                continue  # the one before has just left and taken its file along
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _as_record(line: str) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("steps"), int) else None


def _is_unborn(path: Path) -> bool:
    """Whether a directory is empty, or holds no more than a run that was killed before its config was written."""
    checkpoints = path / "checkpoints"
    ours = {path / "provenance.json", path / ".lock", checkpoints, *path.glob(".*.json.*.tmp")}
    return set(path.iterdir()) <= ours and not (checkpoints.is_dir() and any(checkpoints.iterdir()))


def provenance(device: str) -> dict[str, Any]:
    """What made a result: command, commit, versions, machine."""
    packages = ("torch", "torchrl", "tensordict", "gymnasium", "popgym", "numpy")
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"mru_rl": mru_rl.__version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "machine": machine(device),
    }


def machine(device: str) -> dict[str, Any]:
    """What this process runs on."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system(), "device": device}


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


@functools.cache  # the code of a long process is that of its start, whatever happens to the checkout meanwhile
def _commit() -> str | None:
    """The commit of the checkout this package runs from, "+" appended where files differ from it; None outside one."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def cpu_name() -> str:
    """The processor, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
