"""Reinforcement-learning agents whose memory is the memory recurrent unit.

The names below are resolved on first use, so that `mru-rl --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "envs" / "registry.py").is_file() and not (_checkout / "mru_rl" / "envs").exists():
    __path__.append(str(_checkout))  # in a checkout envs/ and agents/ lie beside this package, not inside it

if TYPE_CHECKING:
    from mru_rl.blocks.core import MemoryCore, make_core
    from mru_rl.cells.mru.base import MRU
    from mru_rl.cells.registry import list_cells, register_cell
    from mru_rl.scan.dispatch import linear_scan
    from mru_rl.torchrl.memory_module import MemoryModule

_HOME = {
    "MRU": "mru_rl.cells.mru.base",
    "MemoryCore": "mru_rl.blocks.core",
    "MemoryModule": "mru_rl.torchrl.memory_module",
    "linear_scan": "mru_rl.scan.dispatch",
    "list_cells": "mru_rl.cells.registry",
    "make_core": "mru_rl.blocks.core",
    "register_cell": "mru_rl.cells.registry",
}
__all__ = [
    "MRU", "MemoryCore", "MemoryModule", "__version__", "linear_scan", "list_cells", "make_core", "register_cell",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mru_rl' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
