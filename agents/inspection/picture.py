"""The picture of an episode: inputs, actions, reward and value, and below them every unit of the memory over time."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mru_rl.agents.inspection.columns import Columns
from mru_rl.agents.inspection.episode import CellMemory, Episode
from mru_rl.agents.inspection.summary import headline
from mru_rl.agents.records.plots import save_atomically

DPI = 130
COLUMNS = 900  # fewer than the panels have pixels across, so that none is lost in drawing
LINES = 4  # an action of at most so many parts is drawn as lines, a larger one as an image
HELD = {-1: "#a6c8e4", 0: "#f4f4f2", 1: "#f8c99b"}
WRITTEN = {-1: "#0b4f8a", 0: "#f4f4f2", 1: "#b3420e"}
BLUE, RED, INK = "#0b6e99", "#b3541e", "#222222"
NARROW, RARE, MARKED = 150, 0.02, 128
"""From so many columns on, what happens in so small a share of them is marked besides, where rows are at most so many."""
RANGE = "from minus (blue) to plus (red) its largest size"
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 8, "color": INK, "pad": 3}


def draw(episode: Episode, path: Path) -> None:
    """Write the picture as a PNG, atomically."""
    columns = Columns.at_most(COLUMNS, episode.steps)
    action = episode.action.reshape(episode.steps, -1)
    heights = [
        _height(episode.inputs.shape[1], 0.17), _height(action.shape[1], 0.2, least=0.6), 0.8,
        *(_height(memory.states.shape[1] if memory.states.any() else 1, 0.085) for memory in episode.memory),
    ]  # fmt: skip
    title = textwrap.wrap(headline(episode), 115)
    figure, panels = _figure(heights, title)
    _inputs(panels[0][0], columns, episode)
    _actions(panels[1][0], columns, action)
    _rewards(panels[2][0], columns, episode)
    for (main, side), memory in zip(panels[3:], episode.memory, strict=True):
        _memory(main, side, columns, memory)
    for main, side in panels[:3]:
        side.set_axis_off()
        main.tick_params(axis="y", labelsize=7)
        main.spines[["top", "right"]].set_visible(False)
    _step_axes([main for main, _ in panels], episode, columns)
    _rate_axes([side for _, side in panels], episode)
    save_atomically(figure, path, dpi=DPI)


def _figure(heights: list[float], title: list[str]) -> tuple[Figure, list[tuple[Any, Any]]]:
    """Panels below each other, each with a narrow one at its side; all sizes in inches, so that a pixel is a pixel."""
    above, below, width, left, main, side = 0.27, 0.16, 11.0, 0.95, 8.9, 0.85
    top = 0.1 + 0.2 * len(title)
    height = top + sum(heights) + len(heights) * (above + below) + 0.3
    figure, y = Figure(figsize=(width, height)), height - top
    panels: list[tuple[Any, Any]] = []
    for panel in heights:
        y -= above + panel
        bottom, tall = y / height, panel / height
        beside = figure.add_axes(((left + main + 0.15) / width, bottom, side / width, tall))
        panels.append((figure.add_axes((left / width, bottom, main / width, tall)), beside))
        y -= below
    figure.text(0.1 / width, 1 - 0.08 / height, "\n".join(title), fontsize=10, va="top", parse_math=False)
    return figure, panels


def memory_image(memory: CellMemory, columns: Columns, order: np.ndarray) -> np.ndarray:
    """RGB [units, C, 3], the units in this order from the top.

    A column shows what a unit held at its last step, in the darker colour where the unit wrote at any of its steps.
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
    """[units]: share of steps a unit wrote at; without write gates, its mean change per step over the range it covered."""
    if memory.writes is not None:
        return memory.writes.mean(axis=0)
    states = memory.states.astype(np.float64)
    span = np.ptp(states, axis=0)
    change = np.abs(np.diff(states, axis=0)).mean(axis=0) if len(states) > 1 else np.zeros(states.shape[1])
    return np.divide(change, span, out=np.zeros_like(span), where=span > 0)


def unit_order(memory: CellMemory) -> np.ndarray:
    """Units from the least to the most active, so that what is held stands on top; of two alike, the one that began first.
    Units that stayed at zero come last."""
    moved = memory.states != 0
    first = np.where(moved.any(axis=0), moved.argmax(axis=0), len(moved))
    return np.lexsort((first, activity(memory), ~moved.any(axis=0)))


def scaled(rows: np.ndarray) -> np.ndarray:
    """[rows, C]: each row over its largest size, so in [-1, 1]; a row of zeros stays as it is."""
    size = np.abs(rows).max(axis=1, keepdims=True)
    return rows / np.where(size > 0, size, 1)


def _height(rows: int, each: float, least: float = 0.5) -> float:
    """Inches for so many rows: `each` a row while that is not too tall, and a pixel a row at the very least."""
    return float(np.clip(rows * each, least, max(5.5, 1.02 * rows / DPI)))


def _extent(columns: Columns, rows: int) -> tuple[float, float, float, float]:
    """Where an image lies: step t is centred on t, row i on i, the first on top."""
    return -0.5, len(columns.starts) * columns.width - 0.5, rows - 0.5, -0.5


def _show(axis: Any, columns: Columns, image: np.ndarray, **options: Any) -> None:
    axis.imshow(image, aspect="auto", interpolation="nearest", extent=_extent(columns, image.shape[0]), **options)


def _mark_rare(axis: Any, columns: Columns, events: np.ndarray, color: str) -> None:
    """Diamonds where events [C, rows] happen, in rows where they are rare: one narrow column is easily overlooked.

    None where rows are so many that the diamonds would cover their neighbours.
    """
    steps, rows = events.shape
    rare = (events.mean(axis=0) <= RARE) & (steps >= NARROW) & (rows <= MARKED)
    column, row = np.nonzero(events & rare)
    axis.plot(
        columns.centres[column],
        row,
        "D",
        color=color,
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.6,
        clip_on=False,
    )


def _inputs(axis: Any, columns: Columns, episode: Episode) -> None:
    shown = [i for i, name in enumerate(episode.channels) if name != "going on"]  # all that start does not say
    inputs = columns.strongest(episode.inputs[:, shown])
    _show(axis, columns, scaled(inputs.T), cmap="RdBu_r", vmin=-1.25, vmax=1.25)
    _mark_rare(axis, columns, inputs != 0, INK)
    if len(shown) <= 24:
        axis.set_yticks(range(len(shown)), [episode.channels[i] for i in shown])
    axis.set_title(f"what the agent saw, each channel {RANGE}", **TITLE)


def _actions(axis: Any, columns: Columns, action: np.ndarray) -> None:
    parts = action.astype(np.float64)
    axis.set_title("actions" if parts.shape[1] <= LINES else f"actions, {parts.shape[1]} parts, blue to red", **TITLE)
    if parts.shape[1] > LINES:
        _show(axis, columns, columns.last(parts).T, cmap="RdBu_r")
        return
    for part in parts.T:
        _line(axis, columns, part)
    if np.issubdtype(action.dtype, np.integer):
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set_ylim(min(0, parts.min()) - 0.3, max(1, parts.max()) + 0.3)


def _rewards(axis: Any, columns: Columns, episode: Episode) -> None:
    _line(axis, columns, episode.value, BLUE)
    reward = columns.strongest(episode.reward)
    paid = reward != 0
    axis.vlines(columns.centres[paid], 0, reward[paid], color=RED, linewidth=1.4)
    axis.plot(columns.centres[paid], reward[paid], ".", color=RED, markersize=4)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.margins(y=0.1)
    axis.set_title("reward where it is not 0 (red) and the critic's value (blue)", **TITLE)


def _line(axis: Any, columns: Columns, values: np.ndarray, color: str | None = None) -> None:
    """A line through the last value of each column, and a band from the column's lowest to its highest."""
    (line,) = axis.plot(columns.centres, columns.last(values), linewidth=0.9, color=color, drawstyle="steps-mid")
    if columns.width > 1:
        low, high = columns.low(values), columns.high(values)
        axis.fill_between(columns.centres, low, high, step="mid", alpha=0.3, color=line.get_color(), linewidth=0)


def _memory(axis: Any, side: Any, columns: Columns, memory: CellMemory) -> None:
    order = unit_order(memory)
    _show(axis, columns, memory_image(memory, columns, order))
    if memory.writes is not None:
        _mark_rare(axis, columns, columns.any(memory.writes)[:, order], INK)
    units = len(order)
    axis.set_ylim(1.004 * units - 0.5, -0.004 * units - 0.5)  # the frame covers no row
    named = range(units) if units <= 64 and memory.states.any() else []
    axis.set_yticks(named, [str(order[row]) for row in named], fontsize=5)
    axis.tick_params(axis="y", length=0, pad=1)
    share = activity(memory)[order]
    active = np.flatnonzero(share)  # a logarithmic axis has no zero
    side.barh(active, share[active], height=0.8, color="#777777")
    what = "change per step" if memory.writes is None else "write rate"
    side.set_title(what, **TITLE | {"loc": "center", "fontsize": 7})
    side.spines[["top", "right"]].set_visible(False)
    side.set_ylim(axis.get_ylim())
    side.set_yticks([])
    title = f"{memory.title}: {units} units, the least active on top"
    if memory.two_valued:
        patches = [
            (HELD[-1], "-level held"), (WRITTEN[-1], "written"), (HELD[1], "+level held"), (WRITTEN[1], "written"),
            (HELD[0], "nothing written yet"),
        ]  # fmt: skip
        axis.legend(
            handles=[Patch(facecolor=c, edgecolor="#999999", linewidth=0.4, label=label) for c, label in patches],
            loc="lower right", bbox_to_anchor=(1, 1), ncols=5, fontsize=7, frameon=False, borderaxespad=0.1, handlelength=1.1,
        )  # fmt: skip
    elif not memory.states.any():
        title = f"{memory.title}: its state is zero throughout"
    else:
        title += f"; each {RANGE}" + ("" if memory.writes is None else "; dark where written")
    axis.set_title(title, **TITLE)


def _step_axes(axes: list[Any], episode: Episode, columns: Columns) -> None:
    margin = 0.006 * episode.steps  # room for the marks of the first step and the last
    for axis in axes:
        axis.set_xlim(-0.5 - margin, episode.steps - 0.5 + margin)
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.tick_params(axis="x", labelsize=8, labelbottom=axis is axes[-1])
    label = "step"
    if columns.width > 1:
        label += (
            f" (a column is {columns.width} steps: of inputs and rewards the value farthest from 0, of memory the last "
            "one, written if written at any of them)"
        )
    axes[-1].set_xlabel(label, fontsize=8)


def _rate_axes(axes: list[Any], episode: Episode) -> None:
    for axis in axes:
        axis.set_xlim(0.5 / episode.steps, 1.3)
        axis.set_xscale("log")
        axis.tick_params(axis="x", labelsize=6, labelbottom=axis is axes[-1])
        axis.tick_params(axis="x", which="minor", bottom=False)
