"""An episode's memory in a few lines of text."""

from __future__ import annotations

import numpy as np

from mru_rl.agents.inspection.episode import CellMemory, Episode

CLASSES = [("over half of the steps", 0.5), ("10 to 50%", 0.1), ("1 to 10%", 0.01), ("under 1%", 0.0)]
"""Classes of units by the fraction of steps they write at, each with its lower bound, which is excluded."""
SHOWN, NAMED = 3, 12
"""at most: steps whose writes were kept to the end; units named for each of them"""


def headline(episode: Episode) -> str:
    """Return the title: env, core, seed, return."""
    options = "".join(f" {name}={value}" for name, value in episode.env_kwargs.items())
    outcome = {True: ", success", False: ", no success", None: ""}[episode.success]
    cut = "" if episode.finished else f", cut after {episode.steps:,} steps"
    return (
        f"{episode.env}{options}, {episode.core}, seed {episode.train_seed}, trained for {episode.trained_steps:,} steps; "
        f"episode {episode.number}: return {episode.total:.3f}{outcome}{cut}"
    )


def text(episode: Episode) -> list[str]:
    """Return lines on the return and, for each cell with write gates, on write rates, the longest hold and what was kept."""
    lines = [headline(episode), f"  {episode.steps:,} steps"]
    for memory in episode.memory:
        if memory.writes is None:
            continue
        lines.append(f"  {memory.title}: {memory.writes.shape[1]} units, {memory.writes.sum():,} writes")
        lines += [f"    {line}" for line in (_classes(memory.writes), _longest_hold(memory), *_kept(memory))]
    if all(memory.writes is None for memory in episode.memory):
        lines.append(f"  no cell of {episode.core} has write gates, so there are no writes to count")
    return lines


def write_classes(writes: np.ndarray) -> dict[str, np.ndarray]:
    """Sort the units of bool [T, units] by how often they wrote, the rarest last; classes without units are left out."""
    counts = writes.sum(axis=0)
    rate = counts / len(writes)
    found, upper = {}, np.inf
    for name, lower in CLASSES:
        found[name] = np.flatnonzero((rate > lower) & (rate <= upper) & (counts > 1))
        upper = lower
    found["once"], found["never"] = np.flatnonzero(counts == 1), np.flatnonzero(counts == 0)
    return {name: units for name, units in found.items() if len(units)}


def last_write(writes: np.ndarray, before: int) -> np.ndarray:
    """Return the step of each unit's last write before step `before`, int [units]; -1 if there is none."""
    step = np.arange(before)[:, None]
    return np.where(writes[:before], step, -1).max(axis=0, initial=-1)


def longest_hold(writes: np.ndarray) -> tuple[int, int, int]:
    """Return unit, step of the write, and steps of the longest time from a write to the unit's next one or the episode's end.

    Raises ValueError if nothing was written.
    """
    steps, units = writes.shape
    best = (0, 0, -1)
    for unit in range(units):
        at = np.flatnonzero(writes[:, unit])
        held = np.diff(np.append(at, steps))
        if len(at) and held.max() > best[2]:
            best = (unit, int(at[held.argmax()]), int(held.max()))
    if best[2] < 0:
        raise ValueError("no unit wrote anything, so nothing was held")
    return best


def _classes(writes: np.ndarray) -> str:
    counts = writes.sum(axis=0)
    return "units by write rate: " + "; ".join(
        f"{name} {len(units)}" + (f" ({counts[units].sum():,} writes)" if name not in ("once", "never") else "")
        for name, units in write_classes(writes).items()
    )


def _longest_hold(memory: CellMemory) -> str:
    assert memory.writes is not None
    if not memory.writes.any():
        return "nothing was written"
    unit, step, steps = longest_hold(memory.writes)
    to_end = " to the end" if step + steps == len(memory.writes) else ""
    return f"longest hold: {steps:,} steps, unit {unit}, {memory.states[step, unit]:+.3g} written at step {step:,} and kept{to_end}"


def _kept(memory: CellMemory) -> list[str]:
    """Return lines on what the last step found in memory, by the step it was written at, the oldest first."""
    assert memory.writes is not None
    written = last_write(memory.writes, before=len(memory.writes) - 1)
    steps = np.unique(written[written >= 0])
    if not len(steps):
        return ["the last step found nothing written before it"]
    lines = ["what the last step found in memory was written at"]
    for step in steps[:SHOWN]:
        units = np.flatnonzero(written == step).tolist()
        more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
        lines.append(f"  step {step:,}: {_units(len(units))} ({', '.join(map(str, units[:NAMED]))}{more})")
    if len(steps) > SHOWN:
        lines.append(f"  later steps: {_units(int((written > steps[SHOWN - 1]).sum()))}")
    return lines


def _units(count: int) -> str:
    return f"{count} unit{'' if count == 1 else 's'}"
