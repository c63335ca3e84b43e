"""The panels of the picture of an episode: inputs, actions, reward, value, and the units of each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mru_rl.agents.inspection.bins import Bins
from mru_rl.agents.inspection.episode import CellMemory
from mru_rl.agents.inspection.memory_image import HELD, WRITTEN, activity, memory_image, scaled, unit_order

DPI = 130
WIDE, MARGIN = 8.7, 0.006
"""width of a panel, in inches, and room before the first step and behind the last, as a fraction of all"""
LABELED, ROWS = 24, 64
"""rows of an image of channels: at most so many are all labeled; more channels than ROWS share rows"""
LINES = 4
"""parts of an action that are drawn as lines; more are an image"""
NARROW, RARE, MARKED = 150, 0.02, 128
"""Events get a diamond in rows that have them in at most a fraction RARE of at least NARROW columns, if rows are at most
MARKED: they are easily overlooked."""
DENSE = 0.25
"""fraction of many columns with a reward from which on it is a line"""
BLUE, RED, INK = "#0b6e99", "#b3541e", "#222222"
RANGE = "from minus (blue) to plus (red) its largest size"
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 8, "color": INK, "pad": 3}


class Panel(NamedTuple):
    """height: inches. draw: draws into an axis and the narrow one beside it; returns True if it drew diamonds."""

    height: float
    draw: Callable[[Any, Any], bool]


def channels_panel(title: str, values: np.ndarray, names: Sequence[str], columns: Bins, *, mark: bool = True) -> Panel:
    """Values [T, channels] as an image, a row per channel or per few neighbors, the strongest on show.

    mark: draw diamonds where a value other than 0 is rare.
    """
    rows = Bins.at_most(ROWS, len(names))
    count = len(rows.firsts)

    def draw(axis: Any, side: Any) -> bool:
        side.set_axis_off()
        strongest = columns.strongest(values).T
        image = rows.strongest(scaled(strongest))
        _show(axis, columns, image, cmap="RdBu_r", vmin=-1.25, vmax=1.25)
        labels = [names[i] for i in rows.firsts]
        if rows.width > 1:
            labels = [f"{names[i]}–{names[j].rpartition(' ')[2]}" for i, j in zip(rows.firsts, rows.lasts, strict=True)]
        some = range(0, count, 1 if count <= LABELED else 4)
        axis.set_yticks(some, [labels[i] for i in some])
        share = (
            f", {len(names)} channels, {rows.width} to a row, of which the strongest shows" if rows.width > 1 else ""
        )
        axis.set_title(f"{title}{share}, each channel {RANGE}", **TITLE)
        return mark and _mark_rare(axis, columns, rows.any(strongest != 0).T)

    return Panel(max(count * (0.17 if count <= LABELED else 0.06), 0.5), draw)


def actions_panel(action: np.ndarray, columns: Bins) -> Panel:
    """Actions [T, parts], as lines if they have few parts."""
    parts = action.shape[1]
    if parts > LINES:
        return channels_panel(
            "actions", action.astype(np.float64), [f"part {i}" for i in range(parts)], columns, mark=False
        )

    def draw(axis: Any, side: Any) -> bool:
        side.set_axis_off()
        for i, part in enumerate(action.T.astype(np.float64)):
            _line(axis, columns, part, f"C{i}")
        if np.issubdtype(action.dtype, np.integer):
            axis.set_ylim(min(0, action.min()) - 0.3, max(1, action.max()) + 0.3)
        _few_ticks(axis, integer=np.issubdtype(action.dtype, np.integer))
        axis.set_title("action" if parts == 1 else f"action, a line for each of its {parts} parts", **TITLE)
        return False

    return Panel(0.6, draw)


def reward_panel(reward: np.ndarray, columns: Bins) -> Panel:
    """Reward [T] on an axis of its own: a stem where it is not 0, a line if it seldom is 0."""

    def draw(axis: Any, side: Any) -> bool:
        side.set_axis_off()
        strongest = columns.strongest(reward)
        paid = strongest != 0
        if len(paid) > NARROW and paid.mean() > DENSE:
            _line(axis, columns, reward, RED)
        else:
            axis.vlines(columns.centers[paid], 0, strongest[paid], color=RED, linewidth=1.4)
            axis.plot(columns.centers[paid], strongest[paid], ".", color=RED, markersize=4)
        axis.axhline(0, color=INK, linewidth=0.5)
        if paid.any():
            axis.margins(y=0.15)
        else:
            axis.set_ylim(-1, 1)
        _few_ticks(axis)
        axis.set_title("reward" if paid.any() else "reward, 0 throughout", **TITLE)
        return False

    return Panel(0.55, draw)


def value_panel(value: np.ndarray, columns: Bins) -> Panel:
    """Values [T] on an axis of their own."""

    def draw(axis: Any, side: Any) -> bool:
        side.set_axis_off()
        _line(axis, columns, value, BLUE)
        axis.margins(y=0.15)
        _few_ticks(axis)
        axis.set_title("value, the discounted return that the agent expected", **TITLE)
        return False

    return Panel(0.6, draw)


def memory_panel(memory: CellMemory, columns: Bins) -> Panel:
    """Units of a cell by time, and beside it how active each is."""
    units = memory.states.shape[1]
    moved = memory.states.any()

    def draw(axis: Any, side: Any) -> bool:
        order = unit_order(memory)
        _show(axis, columns, memory_image(memory, columns, order))
        marked = memory.writes is not None and _mark_rare(axis, columns, columns.any(memory.writes)[:, order])
        axis.set_ylim(1.004 * units - 0.5, -0.004 * units - 0.5)  # the frame covers no row
        named = range(units) if units <= 64 and moved else []
        axis.set_yticks(named, [str(order[row]) for row in named], fontsize=5)
        axis.tick_params(axis="y", length=0, pad=1)
        _memory_title(axis, memory)
        _activity(side, memory, order)
        side.set_ylim(axis.get_ylim())
        return marked

    rows = units if moved else 1
    return Panel(
        float(np.clip(rows * 0.085, 0.5, max(5.5, 1.02 * rows / DPI))), draw
    )  # a pixel a unit at the very least


def _memory_title(axis: Any, memory: CellMemory) -> None:
    title = f"{memory.title}: {memory.states.shape[1]} units, the least active on top"
    if memory.two_valued:
        colors = {
            "−level": HELD[-1],
            "−level written": WRITTEN[-1],
            "+level": HELD[1],
            "+level written": WRITTEN[1],
            "nothing written yet": HELD[0],
        }
        axis.legend(
            handles=[
                Patch(facecolor=c, edgecolor="#999999", linewidth=0.4, label=label) for label, c in colors.items()
            ],
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(colors),
            fontsize=7,
            frameon=False,
            borderaxespad=0.1,
            handlelength=1.1,
        )
    elif not memory.states.any():
        title = f"{memory.title}: its state is 0 throughout"
    else:
        title += f"; each {RANGE}" + ("" if memory.writes is None else "; dark if written")
    axis.set_title(title, **TITLE)


def _activity(side: Any, memory: CellMemory, order: np.ndarray) -> None:
    share = activity(memory)[order]
    active = np.flatnonzero(share)  # a logarithmic axis has no zero
    side.barh(active, share[active], height=0.8, color="#777777")
    side.set_title("change per step" if memory.writes is None else "write rate", fontsize=7, color=INK, pad=3)
    side.spines[["top", "right"]].set_visible(False)
    side.set_yticks([])


def _show(axis: Any, columns: Bins, image: np.ndarray, **options: Any) -> None:
    """Draw an image [rows, columns, ...]: step t centered on t, row i on i, the first on top."""
    extent = (-0.5, len(columns.firsts) * columns.width - 0.5, len(image) - 0.5, -0.5)
    axis.imshow(image, aspect="auto", interpolation="nearest", extent=extent, **options)


def _mark_rare(axis: Any, columns: Bins, events: np.ndarray) -> bool:
    """Draw diamonds where events [columns, rows] happen in rows where they are rare; return True if there are any."""
    steps, rows = events.shape
    rare = (events.mean(axis=0) <= RARE) & (steps >= NARROW) & (rows <= MARKED)
    column, row = np.nonzero(events & rare)
    look = {"color": INK, "markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.6, "clip_on": False}
    axis.plot(columns.centers[column], row, "D", **look)
    return len(row) > 0


def _line(axis: Any, columns: Bins, values: np.ndarray, color: str) -> None:
    """Draw the last value of each column, and a band from the column's lowest to its highest."""
    axis.stairs(columns.last(values), columns.edges, baseline=None, linewidth=0.9, color=color)
    if columns.width > 1:
        low, high = columns.low(values), columns.high(values)
        axis.stairs(high, columns.edges, baseline=low, fill=True, alpha=0.3, linewidth=0, color=color)
        axis.use_sticky_edges = False  # the band would take the margin below it


def _few_ticks(axis: Any, *, integer: bool = False) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(3, integer=integer, min_n_ticks=1))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))  # no offset or power in a corner
