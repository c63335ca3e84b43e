"""States for replay memories and files: what a BMRU holds as two bits a unit, all else as it is."""

from __future__ import annotations

from typing import TypeGuard

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.blocks.core import MemoryCore
from mru_rl.cells.base import Cell
from mru_rl.cells.mru.bmru import BMRU


def pack_state(core: MemoryCore, state: Tensor) -> TensorDict:
    """States [..., layers, S] of a core as a TensorDict [...] with ("layer_i", "part_k") for each cell.

    Units of a BMRU are signs, four to a byte, uint8 [..., ceil(units / 4)]; other cells float [..., units] as they are.
    Raises ValueError where layers and S are not those of the core.
    """
    if state.shape[-2:] != (core.num_layers, core.state_size):
        raise ValueError(
            f"states of core {core.spec!r} end in [{core.num_layers}, {core.state_size}], got {list(state.shape)}; "
            "give what the core returned as its state"
        )
    packed = TensorDict(batch_size=state.shape[:-2])
    for layer, cells in enumerate(core.cells_by_layer()):
        parts = state[..., layer, : core.state_sizes[layer]].split([cell.state_size for cell in cells], -1)
        for k, (cell, part) in enumerate(zip(cells, parts, strict=True)):
            packed[f"layer_{layer}", f"part_{k}"] = _pack(cell, part)
    return packed


def unpack_state(core: MemoryCore, packed: TensorDict) -> Tensor:
    """States [..., layers, S] from `pack_state`; units of a BMRU take the level that the core given here has now.

    Raises ValueError where the states of another core were packed.
    """
    layers = []
    for layer, cells in enumerate(core.cells_by_layer()):
        parts = []
        for k, cell in enumerate(cells):
            part = packed.get(("layer_" + str(layer), f"part_{k}"), None)
            if part is None or part.shape[-1] != _packed_size(cell):
                found = "nothing" if part is None else f"{part.shape[-1]} numbers"
                raise ValueError(
                    f"core {core.spec!r} packs layer {layer}, {cell.name}, in {_packed_size(cell)} numbers, found {found}; "
                    "these states were packed by another core"
                )
            parts.append(cell.unpack_signs(part) if _is_bmru(cell) else part)
        state = torch.cat(parts, dim=-1)
        layers.append(torch.nn.functional.pad(state, (0, core.state_size - state.shape[-1])))
    return torch.stack(layers, dim=-2)


def _is_bmru(cell: Cell) -> TypeGuard[BMRU]:
    return type(cell) is BMRU  # a unit derived from it may hold more than a sign


def _packed_size(cell: Cell) -> int:
    return -(-cell.state_size // 4) if _is_bmru(cell) else cell.state_size


def _pack(cell: Cell, state: Tensor) -> Tensor:
    return cell.pack_signs(state, two_bit=True) if _is_bmru(cell) else state
