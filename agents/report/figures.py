"""The plots of a report, as matplotlib figures in two widths, and how they get into a page."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from mru_rl.agents.report.data import MEASURES, Axis, Benchmark, FinishedJob
from mru_rl.agents.report.palette import DASHES, Look
from mru_rl.agents.report.statistics import Estimate, iqm
from mru_rl.agents.report.summary import Place, number, results

INK, GREY = "#222222", "#666666"
POINTS = 200  # of a learning curve, at most
CURVES = MEASURES | {"write_rate": "write rate"}
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#ececec",
    "axes.axisbelow": True,
    "svg.hashsalt": "mru_rl",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Picture:
    """A plot drawn for a laptop and for a phone, with the words that stand in for it."""

    draw: Callable[[bool], Figure]
    """draw(narrow) makes the figure"""
    alt: str

    def sources(self) -> dict[str, str]:
        """Data URIs of the wide and the narrow picture."""
        with matplotlib.rc_context(_STYLE):
            return {name: svg_uri(self.draw(name == "narrow")) for name in ("wide", "narrow")}

    def png(self) -> bytes:
        """The wide picture as a PNG."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            self.draw(False).savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()


def svg_uri(figure: Figure) -> str:
    """A figure as a data URI; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def main_picture(benchmark: Benchmark, table: dict[str, dict[Place, Estimate]], looks: dict[str, Look]) -> Picture:
    """The answer at a glance: the measure against the axis, or, where there is one place only, an interval per core."""
    measure = MEASURES[benchmark.measure]
    if benchmark.axis is None or len({place for known in table.values() for place in known}) == 1:
        return Picture(
            lambda narrow: _intervals(benchmark, table, looks, narrow), f"{measure} of every core with its interval"
        )
    return Picture(
        lambda narrow: _against_axis(benchmark, table, looks, narrow),
        f"{measure} of every core against {benchmark.axis.label}",
    )


def curve_picture(title: str, jobs: dict[str, list[FinishedJob]], name: str, looks: dict[str, Look]) -> Picture:
    """A learning curve per core: seeds thin, their interquartile mean thick. jobs: the final runs of each core."""
    what = CURVES.get(name, name)
    return Picture(lambda narrow: _small_multiples(jobs, name, looks, narrow), f"{what} while training, {title}")


def overview_picture(jobs: dict[str, list[FinishedJob]], algorithms: dict[str, str], looks: dict[str, Look]) -> Picture:
    """Learning curves of many runs: a panel per task, a color per core, a dash per algorithm.

    jobs: the runs of each task; algorithms: the algorithm of each run by its key.
    """
    return Picture(
        lambda narrow: _panels(jobs, algorithms, looks, narrow), f"return of {len(algorithms)} runs while training"
    )


def interquartile_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """IQM over seeds of curves (steps, values), on steps that all of them cover; values in between are interpolated."""
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.linspace(first, last, POINTS) if first < last else np.array([])
    return grid, iqm(np.array([np.interp(grid, *curve) for curve in curves]), axis=0)


def known_points(job: FinishedJob, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve where it has any, thinned out evenly to POINTS with the last one kept."""
    pairs = [
        (s, v) for s, v in zip(job.curve["steps"], job.curve[name], strict=True) if s is not None and v is not None
    ]
    kept = np.linspace(0, len(pairs) - 1, min(len(pairs), POINTS)).round().astype(int)
    points = np.array([pairs[i] for i in kept], dtype=float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Positions as near as can be (least squares) to the wanted ones, in their order, no two closer than gap."""
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    placed = np.empty(len(order))
    placed[order] = isotonic_regression(np.asarray(wanted, dtype=float)[order] - steps).x + steps
    return placed


def _against_axis(
    benchmark: Benchmark, table: dict[str, dict[Place, Estimate]], looks: dict[str, Look], narrow: bool
) -> Figure:
    assert benchmark.axis is not None
    rows = -(-(len(table) + 1) // 2) if narrow else 0
    figure = Figure(figsize=(4.2, 3.4 + 0.2 * rows) if narrow else (9, 4.6), layout="constrained")
    axis = figure.subplots()
    widths = np.linspace(2.8, 1.4, len(table))  # lines that coincide stay to be seen
    ends: dict[str, tuple[float, float, str]] = {}
    for (core, known), width in zip(table.items(), widths, strict=True):
        color, marker, dash = looks[core]
        x = np.array([place.x for place in known], dtype=float)
        point, low, high, _ = np.array(list(known.values())).T
        axis.fill_between(x, low, high, color=color, alpha=0.14, linewidth=0)
        axis.plot(x, point, dash, color=color, linewidth=width, marker=marker, markersize=3 + width, label=core)
        ends[core] = (x[-1], point[-1], color)
    _x_axis(
        axis, benchmark.axis, sorted({place.x for known in table.values() for place in known if place.x is not None})
    )
    axis.set_ylabel(f"{MEASURES[benchmark.measure]}, IQM over seeds")
    axis.margins(x=0.04, y=0.07)
    if benchmark.chance is not None:
        axis.axhline(benchmark.chance, color=GREY, linestyle=(0, (5, 3)), linewidth=1, label="chance")
        ends["chance"] = (axis.get_xlim()[1], benchmark.chance, GREY)
    if narrow:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    else:
        _label_ends(axis, ends)
    return figure


def _x_axis(axis: Any, described: Axis, xs: list[float]) -> None:
    """Scale, ticks and label; ticks stand where agents were evaluated, a dotted line where they were trained."""
    positive = [x for x in xs if x > 0]
    wide = len(positive) > 1 and positive[-1] >= 10 * positive[0]
    if described.log:
        axis.set_xscale("log")
    elif wide and len(positive) < len(xs):
        axis.set_xscale("symlog", linthresh=positive[0])  # 0 has a place beside 1, 10, 100
    if len(xs) <= 7 and wide:
        axis.xaxis.set_major_locator(FixedLocator(xs))
        axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
    axis.set_xlabel(described.label)
    if described.trained is not None:
        axis.axvline(described.trained, color=GREY, linestyle=":", linewidth=1)
        axis.annotate(
            "trained",
            (described.trained, 1),
            (0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=GREY,
        )


def _label_ends(axis: Any, ends: dict[str, tuple[float, float, str]]) -> None:
    """Names at the right ends (x, y, color) of lines, moved apart where they would overlap."""
    low, high = axis.get_ylim()
    placed = spread([(y - low) / (high - low) for _, y, _ in ends.values()], gap=min(0.052, 1 / max(len(ends) - 1, 1)))
    placed += max(0, -placed.min()) - max(0, placed.max() - 1)  # inside the axes
    for (name, (x, y, color)), height in zip(ends.items(), placed, strict=True):
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.5, "shrinkA": 1, "shrinkB": 3}
        axis.annotate(
            name, (x, y), (1.025, height), textcoords="axes fraction", va="center", color=color, arrowprops=leader
        )


def _intervals(
    benchmark: Benchmark, table: dict[str, dict[Place, Estimate]], looks: dict[str, Look], narrow: bool
) -> Figure:
    figure = Figure(figsize=(4.2 if narrow else 9, 1.0 + 0.32 * len(table)), layout="constrained")
    axis = figure.subplots()
    for row, (core, known) in enumerate(table.items()):
        place, found = next(iter(known.items()))
        look = looks[core]
        values = [result.value for result in results(benchmark, core, place)]
        axis.plot(values, [row + 0.24] * len(values), "|", color=look.color, markersize=5, alpha=0.45)
        axis.plot([found.low, found.high], [row, row], color=look.color, linewidth=5, alpha=0.3, solid_capstyle="butt")
        axis.plot(found.point, row, look.marker, color=look.color, markersize=6)
    axis.set_yticks(range(len(table)), table, fontsize=8 if narrow else 9)
    axis.set_ylim(len(table) - 0.5, -0.6)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(f"{MEASURES[benchmark.measure]}: IQM, 95% interval, and every run as a tick")
    if benchmark.chance is not None:
        axis.axvline(benchmark.chance, color=GREY, linestyle="--", linewidth=1)
    return figure


def _small_multiples(jobs: dict[str, list[FinishedJob]], name: str, looks: dict[str, Look], narrow: bool) -> Figure:
    columns = min(2 if narrow else 4, len(jobs))
    rows = -(-len(jobs) // columns)
    figure = Figure(figsize=(4.2 if narrow else 9, 0.6 + 1.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, (axis, (core, runs)) in enumerate(zip(grid.flat, jobs.items(), strict=False)):
        curves = [points for job in runs if len((points := known_points(job, name))[0])]
        for curve in curves:
            axis.plot(*curve, color=looks[core].color, linewidth=0.7, alpha=0.4)
        if curves:
            axis.plot(*interquartile_curve(curves), looks[core].dash, color=looks[core].color, linewidth=2)
        axis.set_title(core, color=looks[core].color, loc="left", fontsize=8 if narrow else 9)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.tick_params(labelsize=7, labelbottom=i + columns >= len(jobs))
    for axis in list(grid.flat)[len(jobs) :]:
        axis.set_axis_off()
    figure.supxlabel("env steps", fontsize=8)
    figure.supylabel(CURVES.get(name, name), fontsize=8)
    return figure


def _panels(
    jobs: dict[str, list[FinishedJob]], algorithms: dict[str, str], looks: dict[str, Look], narrow: bool
) -> Figure:
    columns = 1 if narrow else min(2, len(jobs))
    rows = -(-len(jobs) // columns)
    figure = Figure(figsize=(4.2 if narrow else 9, 0.7 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(algorithms.values()))
    dashes = dict(zip(names, itertools.cycle(DASHES), strict=False))
    shown: dict[str, Line2D] = {}
    for axis, (task, runs) in zip(grid.flat, jobs.items(), strict=False):
        for job in runs:
            look, points = looks[job.core], known_points(job, "return_mean")
            dash = dashes[algorithms[job.key]] if len(names) > 1 else look.dash
            marker = "o" if len(points[0]) == 1 else None  # one record is no line
            axis.plot(*points, dash, color=look.color, linewidth=1.2, alpha=0.8, marker=marker, markersize=4)
            shown.setdefault(
                job.core, Line2D([], [], color=look.color, linewidth=2, linestyle=dash if len(names) == 1 else "-")
            )
        axis.set_title(task, loc="left", fontsize=8 if narrow else 9)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.tick_params(labelsize=7)
    for axis in list(grid.flat)[len(jobs) :]:
        axis.set_axis_off()
    if len(names) > 1:
        shown |= {name: Line2D([], [], color=GREY, linestyle=dashes[name]) for name in names}
    figure.supxlabel("env steps", fontsize=8)
    figure.supylabel("return, mean of recent episodes", fontsize=8)
    figure.legend(
        list(shown.values()), list(shown), loc="outside upper left", ncols=2 if narrow else 5, frameon=False, fontsize=8
    )
    return figure
