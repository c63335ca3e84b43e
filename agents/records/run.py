"""A run on disk: config.json, spaces.json, provenance.json, metrics.jsonl, TensorBoard events, checkpoints/, learning_curve.png."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mru_rl
from mru_rl.agents.console.errors import OptionError
from mru_rl.agents.console.streams import warn
from mru_rl.agents.records.checkpoint import (
    CheckpointError,
    checkpoint_path,
    delete_leftovers,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    steps_of,
    write_atomically,
)

if TYPE_CHECKING:
    from typing_extensions import Self  # Python 3.10 has none of its own


class RunDirectory:
    """The files of one run. `create` makes them, `open` finds them again."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics_file = self.path / "metrics.jsonl"

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], spaces: dict[str, Any], device: str) -> Self:
        """Make the directory with its config, its agent's spaces, and provenance, all as JSON.

        Raises ValueError where it exists and is not empty.
        """
        cls.check_free(Path(path))
        run = cls(path)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(run.path, "give another {run_dir}"):
            cls.check_free(run.path)  # once more: another process may have been quicker
            delete_leftovers(run.path)
            write_json(run.path / "provenance.json", provenance(device) | {"seed": config["seed"]})
            write_json(run.path / "spaces.json", spaces)
            write_json(run.path / "config.json", config)
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises ValueError where a directory cannot be used for a new run; what a start that was killed left can."""
        if path.exists() and not (path.is_dir() and _is_unborn(path)):
            raise OptionError(
                f"run directory {path} exists; continue it with `mru-rl resume {path}`, or give another {{run_dir}}"
            )

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises ValueError where the directory holds no run."""
        if not (Path(path) / "config.json").is_file():
            raise ValueError(f"{path} is not a run directory (no config.json); `mru-rl train` makes one")
        return cls(path)

    def config_values(self) -> dict[str, Any]:
        """config.json as it was written. Raises ValueError where it cannot be read."""
        return self._read_json("config.json", "algorithm")

    def spaces(self) -> dict[str, Any]:
        """spaces.json as it was written: what the agent sees and does. Raises ValueError where it cannot be read."""
        return self._read_json("spaces.json", "action")

    def _read_json(self, name: str, key: str) -> dict[str, Any]:
        path = self.path / name
        try:
            values = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        except FileNotFoundError:
            raise ValueError(f"{path} is missing; a run needs it: put it back, or train again") from None
        if not isinstance(values, dict) or key not in values:
            raise ValueError(f"{path} was not written by mru_rl: it has no {key!r}")
        return values

    def change_config(self, changes: dict[str, Any]) -> None:
        """Write config.json with some fields changed."""
        write_json(self.path / "config.json", self.config_values() | changes)

    def checkpoint(self, which: str = "last") -> dict[str, Any]:
        """A checkpoint: "last", the newest intact one; "best", by evaluation; or "step_N".

        Raises CheckpointError where there is none.
        """
        if which == "last":
            return newest_checkpoint(self.checkpoints)[1]
        found = re.fullmatch(r"(?:step_)?(\d+)", which)
        path = checkpoint_path(self.checkpoints, int(found[1])) if found else self.best
        if which != "best" and not found:
            raise CheckpointError(f"a checkpoint is last, best or step_N, got {which!r}")
        if not path.is_file():
            there = ", ".join(f"step_{steps_of(path)}" for path in list_checkpoints(self.checkpoints)) or "none"
            best = "best" if self.best.is_file() else "no best (train with {eval_every} to keep one)"
            raise CheckpointError(f"{self.path} has no checkpoint {which}; it has {there}, and {best}")
        return load_checkpoint(path)

    @property
    def best(self) -> Path:
        """Where the best agent by evaluation is kept."""
        return self.checkpoints / "best.pt"

    def records(self) -> list[dict[str, float]]:
        """All records so far; a last line that a kill cut short is left out, damaged ones too, which is said on stderr."""
        if not self.metrics_file.is_file():
            return []
        lines = [line for line in self.metrics_file.read_text(errors="replace").split("\n")[:-1] if line]
        records = [record for record in map(_as_record, lines) if record is not None]
        if len(records) < len(lines):
            warn(f"{len(lines) - len(records)} line(s) of {self.metrics_file} are damaged; they are left out")
        return records

    def metrics(self) -> dict[str, list[float]]:
        """The records as columns of one length, NaN where a record has no such number: `pandas.DataFrame(run.metrics())`.

        Names are explained in `mru_rl.agents.records.metrics.GLOSSARY`.
        """
        records = self.records()
        names = dict.fromkeys(name for record in records for name in record)
        return {name: [record.get(name, math.nan) for record in records] for name in names}

    @property
    def provenance(self) -> dict[str, Any]:
        """provenance.json, which a run can do without: empty where it is gone or damaged."""
        try:
            made = json.loads((self.path / "provenance.json").read_text())
        except (OSError, ValueError):
            return {}
        return made if isinstance(made, dict) else {}

    def drop_records_after(self, steps: int) -> None:
        """Forget records later than a checkpoint, which a resumed run will write again."""
        kept = [json.dumps(record) + "\n" for record in self.records() if record["steps"] <= steps]
        write_atomically(self.metrics_file, "".join(kept).encode())


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def exclusive_lock(folder: Path, advice: str = "wait for it, or give another {out}") -> Iterator[None]:
    """Work in a folder alone; the lock ends with the process, however that ends. Raises ValueError where another holds it."""
    path = folder / ".lock"
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OptionError(f"another process is at work in {folder}; {advice}") from None
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
    ours = {path / "provenance.json", path / "spaces.json", path / ".lock", checkpoints, *path.glob(".*.json.*.tmp")}
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
