"""Cells by name. A new cell is one file and one line here; every law test covers it.

A cell is imported when its name is first used: listing names waits neither for torch nor for the cells.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mru_rl.cells.base import Cell

_CELLS: dict[str, str | type[Cell]] = {
    # memory recurrent units
    "bmru": "mru_rl.cells.mru.bmru:BMRU",
    "cmru": "mru_rl.cells.mru.cmru:CMRU",
    "acmru": "mru_rl.cells.mru.acmru:AlphaCMRU",
    "carry-bmru": "mru_rl.cells.mru.carry_bmru:CarryBMRU",
    # fading memory, in a scan
    "lru": "mru_rl.cells.lru:LRU",
    "s4d": "mru_rl.cells.s4d:S4D",
    "s5": "mru_rl.cells.s5:S5",
    "mingru": "mru_rl.cells.mingru:MinGRU",
    "minlstm": "mru_rl.cells.minlstm:MinLSTM",
    "rglru": "mru_rl.cells.rglru:RGLRU",
    "hgrn": "mru_rl.cells.hgrn:HGRN",
    "gateloop": "mru_rl.cells.gateloop:GateLoop",
    "mamba": "mru_rl.cells.mamba:Mamba",
    "ffm": "mru_rl.cells.ffm:FFM",
    # a matrix as state
    "linear-attention": "mru_rl.cells.linear_attention:LinearAttention",
    "deltanet": "mru_rl.cells.deltanet:DeltaNet",
    # one step after the other
    "elman": "mru_rl.cells.elman:Elman",
    "gru": "mru_rl.cells.gru:GRU",
    "lstm": "mru_rl.cells.lstm:LSTM",
    "slstm": "mru_rl.cells.slstm:SLSTM",
    "brc": "mru_rl.cells.brc:BRC",
    "nbrc": "mru_rl.cells.nbrc:NBRC",
    # no memory, and memory of bounded reach
    "mlp": "mru_rl.cells.mlp:MLP",
    "framestack": "mru_rl.cells.framestack:FrameStack",
}
"""name -> "module:Class", or the class itself if somebody registered it"""


def list_cells() -> list[str]:
    """Names a core spec can use."""
    return list(_CELLS)


def register_cell(cell: type[Cell]) -> type[Cell]:
    """Make a cell class known to core specs under its `name`; usable as a decorator.

    The same class again, by module and qualified name, replaces the one before: a notebook cell may run twice.
    Raises TypeError if `cell` is not a finished class derived from Cell, ValueError if its name is taken or a core spec
    cannot spell it.
    """
    from mru_rl.cells.base import Cell  # here, so that listing names does not wait for torch

    if not (isinstance(cell, type) and issubclass(cell, Cell)):
        raise TypeError(
            f"a cell is a class derived from Cell, for example from mru_rl.MRU, got {cell!r}; give the class itself"
        )
    if inspect.isabstract(cell):
        missing = ", ".join(sorted(cell.__abstractmethods__))
        raise TypeError(f"{cell.__qualname__} does not say how to do this yet: {missing}; define it, then register")
    name = getattr(cell, "name", "")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise ValueError(f"a cell's name is lower-case letters, digits, - and _, as in 'my-unit'; got {name!r}")
    if name in _CELLS and _address(_CELLS[name]) != _address(cell):
        raise ValueError(f"there is a cell named {name!r} already, {_address(_CELLS[name])}; choose another name")
    _CELLS[name] = cell
    return cell


def get_cell(name: str) -> type[Cell]:
    """The class behind a name. Raises ValueError with the nearest name if there is none."""
    if not isinstance(name, str):
        raise ValueError(f"a cell is asked for by its name, got {name!r}; cells are {', '.join(_CELLS)}")
    if name not in _CELLS:
        near = difflib.get_close_matches(name.lower(), _CELLS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no cell named {name!r}; {hint}cells are {', '.join(_CELLS)}")
    cell = _CELLS[name]
    if isinstance(cell, str):
        module, _, cls = cell.partition(":")
        _CELLS[name] = cell = getattr(importlib.import_module(module), cls)
    return cell


def _address(cell: str | type[Cell]) -> str:
    return cell if isinstance(cell, str) else f"{cell.__module__}:{cell.__qualname__}"
