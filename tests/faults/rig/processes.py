"""Processes of this machine as /proc shows them. Linux only."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes below one, itself not included."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        below.setdefault(int(rest.split()[1]), []).append(int(name.split()[0]))
    found: set[int] = set()
    new = below.get(pid, [])
    while new:
        found |= set(new)
        new = [child for parent in new for child in below.get(parent, [])]
    return found


def alive(pid: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
