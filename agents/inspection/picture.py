"""The picture of an episode: inputs, actions, reward and value, and below them each unit of the memory over time."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from mru_rl.agents.inspection.bins import Bins
from mru_rl.agents.inspection.episode import Episode
from mru_rl.agents.inspection.filmstrip import filmstrip_panel
from mru_rl.agents.inspection.panels import (
    DPI,
    INK,
    LABELED,
    MARGIN,
    WIDE,
    Panel,
    actions_panel,
    channels_panel,
    memory_panel,
    reward_panel,
    value_panel,
)
from mru_rl.agents.inspection.summary import headline
from mru_rl.agents.records.plots import save_atomically

COLUMNS = 900
"""at most: fewer than the panels have pixels across, so that none is lost in drawing"""
SHORT = 20
"""steps of an episode whose write rates are too few for a logarithmic axis"""


def draw(episode: Episode, path: Path) -> None:
    """Write the picture as a PNG, atomically."""
    save_atomically(picture(episode), path, dpi=DPI)


def picture(episode: Episode) -> Figure:
    """Return the picture, with the headline on top and at the bottom one line that says how to read it."""
    columns = Bins.at_most(COLUMNS, episode.steps)
    upper = [
        *_input_panels(episode, columns),
        actions_panel(episode.action.reshape(episode.steps, -1), columns),
        reward_panel(episode.reward, columns),
        value_panel(episode.value, columns),
    ]
    panels = [*upper, *(memory_panel(memory, columns) for memory in episode.memory)]
    figure, axes = _figure([panel.height for panel in panels], textwrap.wrap(headline(episode), 115))
    marked = [panel.draw(*pair) for panel, pair in zip(panels, axes, strict=True)]
    for main, _ in axes[: len(upper)]:
        main.tick_params(axis="y", labelsize=7)
        main.spines[["top", "right"]].set_visible(False)
    _step_axes([main for main, _ in axes], episode)
    _rate_axes([side for _, side in axes], episode)
    figure.text(
        0.1 / figure.get_figwidth(),
        0.08 / figure.get_figheight(),
        caption(columns, any(marked)),
        fontsize=7.5,
        color=INK,
    )
    return figure


def caption(columns: Bins, marked: bool) -> str:
    """Return the line that says how to read the picture."""
    told = "Each column is one step, each row of a memory one unit."
    if columns.width > 1:
        told = (
            f"Each column is {columns.width:,} steps: inputs show the value farthest from 0, memory the last (dark if written "
            "at any), lines the last and the range."
        )
    return told + (" A ◆ marks an input or a write that is rare in its row." if marked else "")


def _input_panels(episode: Episode, columns: Bins) -> list[Panel]:
    """Return one panel of all channels, or several if they are too many to label: obs, last action, start and last reward.

    Before them a strip for each image.
    """
    families: dict[str, list[int]] = {"obs": [], "last action": [], "other": []}
    for i, name in enumerate(episode.channels):
        if name != "going on":  # all that start does not say
            families.get(name.rpartition(" ")[0], families["other"]).append(i)
    groups: list[list[int]] = []
    for family in filter(None, families.values()):
        if groups and len(groups[-1]) + len(family) <= LABELED:
            groups[-1] += family
        else:
            groups.append(family)
    titles = ["what the agent saw", *["what it saw besides"] * (len(episode.films) + len(groups))]
    strips = [filmstrip_panel(title, film) for title, film in zip(titles, episode.films, strict=False)]
    return strips + [
        channels_panel(title, episode.inputs[:, group], [episode.channels[i] for i in group], columns)
        for title, group in zip(titles[len(strips) :], groups, strict=False)
    ]


def _figure(heights: list[float], title: list[str]) -> tuple[Figure, list[tuple[Any, Any]]]:
    """Panels below each other, each with a narrow one at its side; all sizes in inches, so that a pixel is a pixel."""
    above, below, width, left, main, gap, side = 0.27, 0.16, 11.0, 0.95, WIDE, 0.35, 0.85
    top = 0.1 + 0.2 * len(title)
    height = top + sum(heights) + len(heights) * (above + below) + 0.5
    figure, y = Figure(figsize=(width, height)), height - top
    axes: list[tuple[Any, Any]] = []
    for panel in heights:
        y -= above + panel
        bottom, tall = y / height, panel / height
        beside = figure.add_axes(((left + main + gap) / width, bottom, side / width, tall))
        axes.append((figure.add_axes((left / width, bottom, main / width, tall)), beside))
        y -= below
    figure.text(0.1 / width, 1 - 0.08 / height, "\n".join(title), fontsize=10, va="top", parse_math=False)
    return figure, axes


def _step_axes(axes: list[Any], episode: Episode) -> None:
    margin = MARGIN * episode.steps  # room for the marks of the first step and the last
    for axis in axes:
        axis.set_xlim(-0.5 - margin, episode.steps - 0.5 + margin)
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.tick_params(axis="x", labelsize=8, labelbottom=axis is axes[-1])
    axes[-1].set_xlabel("step", fontsize=8)


def _rate_axes(axes: list[Any], episode: Episode) -> None:
    for axis in axes:
        if episode.steps < SHORT:
            axis.set_xlim(0, 1.05)
            axis.set_xticks([0, 1])
        else:
            axis.set_xlim(0.5 / episode.steps, 1.3)
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(axis="x", which="minor", bottom=False)
        axis.tick_params(axis="x", labelsize=6, labelbottom=axis is axes[-1])
