"""Damaged and forged checkpoints, a full disk, a read-only directory: is it reported, and is the run unharmed?"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mru_rl.agents.records.checkpoint import list_checkpoints, load_checkpoint
from rig.commands import NO_LIMITS, Limits, Moment
from rig.runs import Failed, Lost, Task, Tried, begin, complete, difference, judge, lost


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


class Canary:
    """What a forged checkpoint holds: when pickle reads it, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def forge(path: Path) -> None:
    """Put code where a tensor was, under a checksum that is right."""
    content = load_checkpoint(path)
    buffer = io.BytesIO()
    torch.save(content | {"policy": Canary(path.parent / "code-was-run")}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_bytes(f"mru_rl checkpoint 1 {digest}\n".encode() + buffer.getvalue())


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "with a flipped bit": flip_a_bit,
    "empty": empty,
    "full of zeros": fill_with_zeros,
    "forged to run code": forge,
}


def stopped(task: Task, run_dir: Path) -> None:
    """Start a run and kill it in the middle, when it has three checkpoints."""
    command = begin(task, run_dir, moment=Moment("rename", "step_", 6))
    if not command.wait_for_moment():
        raise Failed(f"the run ended before its sixth checkpoint: {command.stderr[-2000:]}")
    command.end_with(signal.SIGKILL)


def damage(task: Task, run_dir: Path, how: str, reference: dict[str, Any]) -> Tried:
    """Damage the newest checkpoint of a run: the one before it must be used, stderr must say so, and no code may run."""
    stopped(task, run_dir)
    newest, before = list_checkpoints(run_dir / "checkpoints")[:2]
    DAMAGES[how](newest)
    cost = lost(run_dir)
    said = complete(begin(task, run_dir)).stderr
    return judge(
        f"{task.algorithm}: newest checkpoint {how}",
        cost,
        "" if newest.name in said and f"using {before.name}" in said else f"said {said[-500:]!r}",
        "code was run" if (newest.parent / "code-was-run").exists() else "",
        difference(task, run_dir, reference),
    )


def refusal(task: Task, run_dir: Path, says: str, limits: Limits) -> tuple[Lost, str]:
    """Resume a stopped run that cannot be written: it must end with one clear line and leave every checkpoint as it was.

    says: a part of the line. Returns what is lost, and what was wrong.
    """
    before = {path: path.read_bytes() for path in list_checkpoints(run_dir / "checkpoints")}
    command = begin(task, run_dir, limits=limits)
    status, lines = command.join(), command.stderr.splitlines()
    own = [line for line in lines if line.startswith("mru-rl:")]
    clear = status == 2 and len(own) == 1 and says in own[0] and f"mru-rl resume {run_dir}" in own[0]
    wrong = "" if clear and "Traceback" not in command.stderr else f"exit status {status}, said {lines[-3:]}"
    touched = [path.name for path, raw in before.items() if not path.is_file() or path.read_bytes() != raw]
    return lost(run_dir), "; ".join(filter(None, [wrong, *(f"{name} changed" for name in touched)]))


def over_the_size_limit(task: Task, run_dir: Path, reference: dict[str, Any]) -> Tried:
    """No file may grow to the size of a checkpoint (setrlimit(2))."""
    stopped(task, run_dir)
    cost, wrong = refusal(task, run_dir, "step_", Limits(file_bytes=8192))
    return judge(f"{task.algorithm}: checkpoint over the size limit", cost, wrong, difference(task, run_dir, reference))


def directory_read_only(task: Task, run_dir: Path, reference: dict[str, Any]) -> Tried:
    """The directory of the checkpoints cannot be written."""
    stopped(task, run_dir)
    checkpoints = run_dir / "checkpoints"
    checkpoints.chmod(0o555)
    try:
        cost, wrong = refusal(task, run_dir, "Permission denied", Limits(plain_user=True))
    finally:
        checkpoints.chmod(0o755)
    return judge(f"{task.algorithm}: read-only directory", cost, wrong, difference(task, run_dir, reference))


def disk_full(task: Task, disk: Path, reference: dict[str, Any]) -> Tried:
    """The disk is full in the middle of a run, and then has room again. Raises PermissionError like small_disk."""
    with small_disk(disk, "16m") as resize:
        run_dir = disk / "run"
        stopped(task, run_dir)
        resize(f"{shutil.disk_usage(disk).used // 1024 + 4}k")
        cost, wrong = refusal(task, run_dir, "No space left on device", NO_LIMITS)
        resize("16m")
        return judge(f"{task.algorithm}: disk full", cost, wrong, difference(task, run_dir, reference))


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system in the folder; yield a function that resizes it. Raises PermissionError if mounting is forbidden."""
    folder.mkdir(parents=True)

    def mount(*words: str) -> None:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PermissionError(f"mount {' '.join(words)}: {done.stderr.strip()}")

    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield lambda size: mount("-o", f"remount,size={size}", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
