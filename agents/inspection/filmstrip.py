"""The panel of an image: a few of its frames, each tied to its step on the time axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from mru_rl.agents.inspection.film import Film, moments
from mru_rl.agents.inspection.panels import INK, MARGIN, TITLE, WIDE, Panel

TALL, BELOW, GAP = 0.7, 0.3, 0.06
"""inches: height of a frame, room below it for its step and the line to the axis, and between two frames"""


def filmstrip_panel(title: str, film: Film) -> Panel:
    """Frames of a film of T steps, as many as there is room for: see `moments`."""
    height, width = film.shape[1:3]
    broad = float(np.clip(TALL * width / height, 0.45, 3.0))
    tall = min(TALL, broad * height / width)
    share = broad / WIDE
    steps = len(film.frames)
    shown = moments(film, int((WIDE + GAP) / (broad + GAP)))

    def draw(axis: Any, side: Any) -> bool:
        side.set_axis_off()
        at = (shown + 0.5 + MARGIN * steps) / (steps * (1 + 2 * MARGIN))
        left = spread_out(at - share / 2, share + GAP / WIDE, 1 - share)
        bottom, top = BELOW / (BELOW + TALL), (BELOW + tall) / (BELOW + TALL)
        for step, x, begin, image in zip(shown, at, left, film.rgb(shown), strict=True):
            axis.imshow(image, extent=(begin, begin + share, bottom, top), transform=axis.transAxes, aspect="auto")
            middle = begin + share / 2
            axis.plot([x, middle], [0, bottom * 0.45], color=INK, linewidth=0.6, transform=axis.transAxes)
            axis.text(
                middle,
                bottom * 0.95,
                f"{step:,}",
                fontsize=6,
                ha="center",
                va="top",
                color=INK,
                transform=axis.transAxes,
            )
        axis.set_ylim(0, 1)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_title(_title(title, film, len(shown)), **TITLE)
        return False

    return Panel(BELOW + TALL, draw)


def spread_out(wanted: np.ndarray, apart: float, last: float) -> np.ndarray:
    """Return places near the wanted ones, rising, at least `apart` from each other and from 0 to `last`, where they all fit."""
    count = np.arange(len(wanted)) * apart
    pushed = np.maximum.accumulate(np.maximum(wanted, 0) - count)  # to the right, where the one before is too near
    room = last - count[-1]
    return np.minimum(pushed, room) + count


def _title(title: str, film: Film, shown: int) -> str:
    steps, sizes = len(film.frames), " x ".join(map(str, film.frames.shape[1:]))
    told = f"{title}, {film.name or 'an image'} of {sizes}"
    depth = film.shape.frames * film.shape.channels
    if depth not in (1, 3):
        told += f", the last {'three' if film.shape.channels % 3 == 0 else 'one'} of its {depth} channels"
    if film.brighter > 1:
        told += f", {film.brighter:.0f} times brighter"
    if shown < steps:
        told += f"; {shown} of {steps:,} frames, half evenly spread, half where it changes most"
    return told
