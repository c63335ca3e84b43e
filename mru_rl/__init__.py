"""Reinforcement-learning agents whose memory is the memory recurrent unit.

    core = mru_rl.make_core("bmru+mingru", input_size=8, hidden_size=64)     # the memory, in plain PyTorch
    memory = mru_rl.MemoryModule("bmru", input_size=3, hidden_size=32, in_key="observation", out_key="features")
                                                                             # the same in a torchrl pipeline
    env = mru_rl.envs.make("popgym-RepeatFirstEasy-v0", num_envs=8, seed=0)  # tasks: see help(mru_rl.envs)
    run = mru_rl.agents.train(mru_rl.agents.PPOConfig())                     # agents: see help(mru_rl.agents)

The names below, `mru_rl.envs` and `mru_rl.agents` among them, are resolved on first use, so that `mru-rl --help` does
not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PACKAGES = ("agents", "envs")


class _Checkout:
    """Finds the packages that lie beside this one in a checkout, where a wheel has them inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        parent, _, package = name.rpartition(".")
        if parent != __name__ or package not in _PACKAGES:
            return None
        folder = self.root / package
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


_here = Path(__file__).resolve().parent
if not any((_here / package).exists() for package in _PACKAGES):
    sys.meta_path.insert(0, _Checkout(_here.parent))  # before those of an editable install

if TYPE_CHECKING:
    from mru_rl.blocks.core import MemoryCore, make_core
    from mru_rl.cells.base import Cell, ScanCell
    from mru_rl.cells.mru.base import MRU
    from mru_rl.cells.registry import list_cells, register_cell
    from mru_rl.cells.sequential import SequentialCell
    from mru_rl.scan.dispatch import linear_scan
    from mru_rl.torchrl.memory_module import MemoryModule

_HOME = {
    "Cell": "mru_rl.cells.base",
    "MRU": "mru_rl.cells.mru.base",
    "MemoryCore": "mru_rl.blocks.core",
    "MemoryModule": "mru_rl.torchrl.memory_module",
    "ScanCell": "mru_rl.cells.base",
    "SequentialCell": "mru_rl.cells.sequential",
    "linear_scan": "mru_rl.scan.dispatch",
    "list_cells": "mru_rl.cells.registry",
    "make_core": "mru_rl.blocks.core",
    "register_cell": "mru_rl.cells.registry",
}
__all__ = [
    "MRU",
    "Cell",
    "MemoryCore",
    "MemoryModule",
    "ScanCell",
    "SequentialCell",
    "__version__",
    "linear_scan",
    "list_cells",
    "make_core",
    "register_cell",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"mru_rl.{name}")
    if name not in _HOME:
        names = ", ".join([*__all__, *_PACKAGES])
        raise AttributeError(f"module 'mru_rl' has no attribute '{name}'; it has {names}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
