"""A cell's units over time as an image: what they held, and when they wrote."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from mru_rl.agents.inspection.bins import Bins
from mru_rl.agents.inspection.episode import CellMemory

HELD = {-1: "#a6c8e4", 0: "#f4f4f2", 1: "#f8c99b"}
WRITTEN = {-1: "#0b4f8a", 0: "#f4f4f2", 1: "#b3420e"}
"""colors of a two-valued unit by the sign of its state, while it holds and where it writes"""


def memory_image(memory: CellMemory, columns: Bins, order: np.ndarray) -> np.ndarray:
    """Return RGB [units, columns, 3], the units in this order from the top.

    A column shows what a unit held at its last step, in the darker color if the unit wrote at any of its steps.
    """
    states = columns.last(memory.states)[:, order].T
    if memory.two_valued:
        held, written = (np.array([to_rgb(palette[s]) for s in (-1, 0, 1)]) for palette in (HELD, WRITTEN))
        sign = np.sign(states).astype(int) + 1
        image, dark = held[sign], written[sign]
    else:
        image = colormaps["RdBu_r"](0.5 + 0.5 * scaled(states))[..., :3]
        dark = 0.45 * image
    if memory.writes is None:
        return image
    return np.where(columns.any(memory.writes)[:, order].T[..., None], dark, image)


def activity(memory: CellMemory) -> np.ndarray:
    """Return the fraction of steps each unit wrote at, [units]; without write gates its mean change per step over its range."""
    if memory.writes is not None:
        return memory.writes.mean(axis=0)
    states = memory.states.astype(np.float64)
    span = np.ptp(states, axis=0)
    change = np.abs(np.diff(states, axis=0)).mean(axis=0) if len(states) > 1 else np.zeros(states.shape[1])
    return np.divide(change, span, out=np.zeros_like(span), where=span > 0)


def unit_order(memory: CellMemory) -> np.ndarray:
    """Sort units from the least to the most active, so that what is held stands on top; of two alike, the earlier one first.

    Units that stayed at 0 come last.
    """
    moved = memory.states != 0
    first = np.where(moved.any(axis=0), moved.argmax(axis=0), len(moved))
    return np.lexsort((first, activity(memory), ~moved.any(axis=0)))


def scaled(rows: np.ndarray) -> np.ndarray:
    """Divide each row of [rows, C] by its largest size, so that it lies in [-1, 1]; a row of zeros stays as it is."""
    size = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(size > 0, size, 1)
