"""Cells by name. A new cell is one file and one line here; every law test covers it."""

from __future__ import annotations

import difflib
import inspect
import re

from mru_rl.cells.base import Cell
from mru_rl.cells.brc import BRC
from mru_rl.cells.deltanet import DeltaNet
from mru_rl.cells.elman import Elman
from mru_rl.cells.ffm import FFM
from mru_rl.cells.framestack import FrameStack
from mru_rl.cells.gateloop import GateLoop
from mru_rl.cells.gru import GRU
from mru_rl.cells.hgrn import HGRN
from mru_rl.cells.linear_attention import LinearAttention
from mru_rl.cells.lru import LRU
from mru_rl.cells.lstm import LSTM
from mru_rl.cells.mamba import Mamba
from mru_rl.cells.mingru import MinGRU
from mru_rl.cells.minlstm import MinLSTM
from mru_rl.cells.mlp import MLP
from mru_rl.cells.mru.acmru import AlphaCMRU
from mru_rl.cells.mru.bmru import BMRU
from mru_rl.cells.mru.carry_bmru import CarryBMRU
from mru_rl.cells.mru.cmru import CMRU
from mru_rl.cells.nbrc import NBRC
from mru_rl.cells.rglru import RGLRU
from mru_rl.cells.s4d import S4D
from mru_rl.cells.s5 import S5
from mru_rl.cells.slstm import SLSTM

_CELLS: dict[str, type[Cell]] = {
    cell.name: cell
    for cell in (
        *(BMRU, CMRU, AlphaCMRU, CarryBMRU),  # memory recurrent units
        *(LRU, S4D, S5, MinGRU, MinLSTM, RGLRU, HGRN, GateLoop, Mamba, FFM),  # fading memory, in a scan
        *(LinearAttention, DeltaNet),  # a matrix as state
        *(Elman, GRU, LSTM, SLSTM, BRC, NBRC),  # one step after the other
        *(MLP, FrameStack),  # no memory, and memory of bounded reach
    )
}


def list_cells() -> list[str]:
    """Names a core spec can use."""
    return list(_CELLS)


def register_cell(cell: type[Cell]) -> type[Cell]:
    """Make a cell class known to core specs under its `name`; usable as a decorator.

    Raises TypeError for what is no cell class, ValueError for a name that is taken or that a core spec cannot spell.
    """
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
    if name in _CELLS:
        raise ValueError(f"there is a cell named {name!r} already, {_CELLS[name].__qualname__}; choose another name")
    _CELLS[name] = cell
    return cell


def get_cell(name: str) -> type[Cell]:
    """The class behind a name. Raises ValueError with the nearest name where there is none."""
    if not isinstance(name, str):
        raise ValueError(f"a cell is asked for by its name, got {name!r}; cells are {', '.join(_CELLS)}")
    if name in _CELLS:
        return _CELLS[name]
    near = difflib.get_close_matches(name, _CELLS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no cell named {name!r}; {hint}cells are {', '.join(_CELLS)}")
