"""What a run will take of memory and disk, said before it starts, beside what there is."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


def memory_notes(parts: dict[str, int], next_move: str, *, elsewhere: bool = False) -> list[str]:
    """A line of what a run takes, in all and by parts (bytes by name), and one more if that is more than is free.

    next_move: options that take less. elsewhere: the parts lie on another device, whose memory is not looked at.
    """
    said = f"memory: about {_mib(sum(parts.values()))} MiB ({', '.join(f'{k} {_mib(v)}' for k, v in parts.items())})"
    return [said, *([] if elsewhere else _warning(sum(parts.values()), free_memory(), "memory", next_move))]


def disk_notes(taken: int, folder: Path | None, next_move: str) -> list[str]:
    """A line if a run takes more bytes of a folder's disk than are free; the folder need not be there yet."""
    if folder is None:
        return []
    there = next(place for place in folder.absolute().parents if place.exists())
    return _warning(taken, shutil.disk_usage(there).free, "disk", next_move)


def free_memory() -> int | None:
    """Bytes that a process can still have: what the machine has, less if its control group allows less; None if unknown."""
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found:
            return min(
                [1024 * int(found[1]), *_left_to_control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
            )
    return None


def _left_to_control_groups(groups: Path, root: Path) -> Iterator[int]:
    """Bytes left to each control group of this process that has a limit, in either of Linux's two layouts."""
    if not groups.exists():
        return
    for line in groups.read_text().splitlines():
        _, kinds, group = line.split(":", 2)
        if kinds == "":
            top, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            top, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = top / group.lstrip("/")
        for place in (own, *own.parents[: len(own.parts) - len(top.parts)]):
            with contextlib.suppress(OSError, ValueError):  # no such file, or no limit: "max"
                left = int((place / limit).read_text()) - int((place / usage).read_text())
                cached = re.search(r"^inactive_file (\d+)", (place / "memory.stat").read_text(), re.MULTILINE)
                yield left + (int(cached[1]) if cached else 0)


def _warning(taken: int, free: int | None, what: str, next_move: str) -> list[str]:
    if free is None or taken <= free:
        return []
    return [f"that is more {what} than is free here, {_mib(taken)} of {_mib(free)} MiB: give {next_move}"]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"
