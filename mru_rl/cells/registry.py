"""Cells by name. A new cell is one file and one line here; every law test covers it."""

from __future__ import annotations

import difflib

from mru_rl.cells.base import Cell
from mru_rl.cells.bmru import BMRU
from mru_rl.cells.gru import GRU
from mru_rl.cells.lru import LRU
from mru_rl.cells.mingru import MinGRU

_CELLS: dict[str, type[Cell]] = {cell.name: cell for cell in (BMRU, MinGRU, LRU, GRU)}


def list_cells() -> list[str]:
    """Names a core spec can use."""
    return list(_CELLS)


def get_cell(name: str) -> type[Cell]:
    """The class behind a name. Raises ValueError with the nearest name where there is none."""
    if name in _CELLS:
        return _CELLS[name]
    near = difflib.get_close_matches(name, _CELLS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no cell named {name!r}; {hint}cells are {', '.join(_CELLS)}")
