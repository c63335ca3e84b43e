"""Hybrids are data: a core spec is a list of layers, a layer a list of cell names that stand side by side."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mru_rl.cells.base import Cell, CellOutput
from mru_rl.cells.registry import get_cell


def parse_spec(spec: str) -> list[list[str]]:
    """Layers of a core: "bmru,lru" stacks two, "bmru+mingru" puts two cells side by side in one.

    Raises ValueError for an empty part, an unknown cell or a character that is no part of a spec.
    """
    if not spec.strip():
        raise ValueError('a core spec names at least one cell, got an empty one; try "bmru" or "bmru+mingru"')
    layers = [[part.strip() for part in layer.split("+")] for layer in spec.split(",")]
    for layer in layers:
        for name in layer:
            if not name:
                raise ValueError(
                    f"core spec {spec!r} has an empty part; join cells with + (side by side) and layers with , "
                    '(stacked), as in "bmru+mingru,lru"'
                )
            get_cell(name)
    return layers


class SideBySide(Cell):
    """Cells that read the same input; their states and features stand beside each other.

    Persistent and fading memory in one layer, as the hybrids of arXiv:2601.09495.
    """

    name = "side-by-side"

    def __init__(self, parts: list[Cell]) -> None:
        super().__init__(
            parts[0].input_size, sum(p.state_size for p in parts), read_before_write=parts[0].read_before_write
        )
        self.parts = nn.ModuleList(parts)
        self.widths = [p.state_size for p in parts]

    @property
    def feature_size(self) -> int:
        return sum(p.feature_size for p in self.parts)

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        states = state.split(self.widths, dim=-1)
        restarts = [None] * len(self.widths) if restart is None else restart.split(self.widths, dim=-1)
        outs = [part(x, s, is_init, r) for part, s, r in zip(self.parts, states, restarts, strict=True)]
        return CellOutput(*(torch.cat(column, dim=-1) for column in zip(*outs, strict=True)))

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        states = state.split(self.widths, dim=-1)
        outs = [part.step(x, s, is_init) for part, s in zip(self.parts, states, strict=True)]
        features, after = zip(*outs, strict=True)
        return torch.cat(features, dim=-1), torch.cat(after, dim=-1)


def build_layer(names: list[str], input_size: int, state_size: int, options: dict[str, Any]) -> Cell:
    """One layer from cell names; the state is shared out evenly, in even numbers so that complex cells fit.

    options reach the cells that take them; raises ValueError for one that none takes (see core.make_core).
    """
    count = len(names)
    if count == 1:
        return _build_cell(names[0], input_size, state_size, options)
    share = state_size // count // 2 * 2
    if share < 1:
        raise ValueError(
            f"state_size {state_size} is too small for {count} cells side by side; use {2 * count} or more"
        )
    sizes = [state_size - share * (count - 1)] + [share] * (count - 1)
    return SideBySide([_build_cell(n, input_size, size, options) for n, size in zip(names, sizes, strict=True)])


def cell_options(name: str) -> set[str]:
    """Names of the options a cell's constructor takes beside its sizes."""
    return set(inspect.signature(get_cell(name)).parameters) - {"input_size", "state_size"}


def _build_cell(name: str, input_size: int, state_size: int, options: dict[str, Any]) -> Cell:
    known = cell_options(name)
    return get_cell(name)(input_size, state_size, **{k: v for k, v in options.items() if k in known})
