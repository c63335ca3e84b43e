"""Pictures of runs, drawn from their recorded metrics."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from mru_rl.agents.records.checkpoint import write_atomically


def learning_curve(records: list[dict[str, float]], path: Path, title: str) -> None:
    """Return against env steps, and the write rate below it where the core has write gates. Writes a PNG atomically."""
    has_writes = any("write_rate" in r for r in records)
    figure = Figure(figsize=(7, 5 if has_writes else 3.6), layout="constrained")
    heights = [2, 1] if has_writes else [1]
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    top = axes[0, 0]
    points = [(r["steps"], r["return_mean"]) for r in records if "return_mean" in r]
    top.plot(*zip(*points, strict=True), color="#0b6e99") if points else None
    top.set_ylabel("return\n(mean of recent episodes)")
    top.set_title(title)
    if has_writes:
        points = [(r["steps"], r["write_rate"]) for r in records if "write_rate" in r]
        axes[1, 0].plot(*zip(*points, strict=True), color="#b3541e")
        axes[1, 0].set_ylim(bottom=0)
        axes[1, 0].set_ylabel("write rate\n(per unit and step)")
    axes[-1, 0].set_xlabel("env steps")
    axes[-1, 0].xaxis.set_major_formatter("{x:,.0f}")
    for row in axes:
        row[0].grid(alpha=0.3)
        row[0].spines[["top", "right"]].set_visible(False)
    save_atomically(figure, path, dpi=130)


def save_atomically(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a figure as a PNG, so that at any moment the old picture or the new one is there."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=dpi, format="png")
    write_atomically(path, picture.getvalue())
