"""Cells side by side in one layer, and a layer built from the parts of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mru_rl.blocks.spec import Part, cell_options
from mru_rl.cells.base import Cell, CellOutput
from mru_rl.cells.registry import get_cell


class SideBySide(Cell):
    """Cells that read the same input; their states and features are concatenated.

    Persistent and fading memory in one layer, as the hybrids of arXiv:2601.09495.
    """

    name = "side-by-side"

    def __init__(self, parts: list[Cell]) -> None:
        super().__init__(
            parts[0].input_size, sum(p.state_size for p in parts), read_before_write=parts[0].read_before_write
        )
        self.parts = nn.ModuleList(parts)
        self.widths = [p.state_size for p in parts]

    def cells(self) -> list[Cell]:
        """The cells of this layer, in the order of their states."""
        return cast("list[Cell]", list(self.parts))

    @property
    def feature_size(self) -> int:
        return sum(cell.feature_size for cell in self.cells())

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor, restart: Tensor | None = None) -> CellOutput:
        states = state.split(self.widths, dim=-1)
        restarts = [None] * len(self.widths) if restart is None else restart.split(self.widths, dim=-1)
        outs = [part(x, s, is_init, r) for part, s, r in zip(self.cells(), states, restarts, strict=True)]
        return CellOutput(*(torch.cat(column, dim=-1) for column in zip(*outs, strict=True)))

    def advance(self, x: Tensor, state: Tensor, is_init: Tensor) -> Tensor:
        states = state.split(self.widths, dim=-1)
        return torch.cat([part.advance(x, s, is_init) for part, s in zip(self.cells(), states, strict=True)], dim=-1)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
        states = state.split(self.widths, dim=-1)
        outs = [part.step(x, s, is_init) for part, s in zip(self.cells(), states, strict=True)]
        features, after = zip(*outs, strict=True)
        return torch.cat(features, dim=-1), torch.cat(after, dim=-1)

    def init_for_horizon(self, horizon: float) -> None:
        for part in self.cells():
            part.init_for_horizon(horizon)

    def warm_up(self, x: Tensor, horizon: float) -> None:
        for part in self.cells():
            part.warm_up(x, horizon)

    def set_progress(self, progress: float) -> None:
        for part in self.cells():
            part.set_progress(progress)

    @property
    def exportable(self) -> bool:
        return all(part.exportable for part in self.cells())


def build_layer(layer: list[Part], input_size: int, state_size: int, options: Mapping[str, Any]) -> Cell:
    """Build one layer from its parts.

    Parts without a size of their own share evenly what the others leave of state_size, in even numbers so that complex
    cells fit. If every part has its own size, the layer's state is their sum.
    options reach the cells that take them; a part's own options take precedence.
    """
    sizes = _share_out(layer, state_size)
    cells = [_build_cell(part, input_size, size, options) for part, size in zip(layer, sizes, strict=True)]
    return cells[0] if len(cells) == 1 else SideBySide(cells)


def _share_out(layer: list[Part], state_size: int) -> list[int]:
    open_parts = [part for part in layer if part.state_size is None]
    if not open_parts:
        return [part.state_size for part in layer if part.state_size is not None]
    count, taken = len(open_parts), sum(part.state_size or 0 for part in layer)
    left = state_size - taken
    share = left if count == 1 else left // count // 2 * 2
    if share < 1:
        need = taken + (1 if count == 1 else 2 * count)
        fixed = f", of which {taken} are given away by size," if taken else ""
        raise ValueError(
            f"state_size {state_size}{fixed} is too small for {len(layer)} cells side by side; use {need} or more"
        )
    shares = iter([left - share * (count - 1)] + [share] * (count - 1))
    return [next(shares) if part.state_size is None else part.state_size for part in layer]


def _build_cell(part: Part, input_size: int, state_size: int, options: Mapping[str, Any]) -> Cell:
    known = cell_options(part.name)
    taken = {k: v for k, v in options.items() if k in known} | dict(part.options)
    return get_cell(part.name)(input_size, state_size, **taken)
