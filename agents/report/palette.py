"""One look per core, the same on every plot and page: colors that color-blind readers can tell apart, and markers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

# Okabe and Ito's colors without the yellow, which is too pale for lines on white
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#8A8A8A"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "p"]
DASHES = ["-", "--", ":"]
USUAL = ["bmru", "bmru+mingru", "gru", "mingru", "mlp", "lru", "lstm"]
"""Cores that are compared most keep their look from page to page."""


class Look(NamedTuple):
    """How a core is drawn."""

    color: str
    marker: str
    dash: str


def looks(cores: Iterable[str]) -> dict[str, Look]:
    """A look for every core: the usual ones have their own, the others take what is left, in order.

    Where colors run out, they come again with another dash.
    """
    every = [Look(*shown, dash) for dash, shown in itertools.product(DASHES, zip(COLORS, MARKERS, strict=True))]
    cores = list(dict.fromkeys(cores))
    found = {core: every[USUAL.index(core)] for core in cores if core in USUAL}
    left = itertools.cycle([look for look in every if look not in found.values()])
    return {core: found.get(core) or next(left) for core in cores}
