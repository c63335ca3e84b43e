"""Same weights in, same numbers out, where the other's code cannot be a dependency: recorded.json holds what it gave.

Each entry names the code that computed `features` (and `last`, the state) from `weights`, `x` and `state`: its own
functions were run, not formulas of ours. The packages pin other versions of numpy, need a compiler, or are on no index.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mru_rl.cells.registry import get_cell

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_a_cell_gives_the_numbers_its_public_implementation_gave(name):
    entry = RECORDED[name]
    x, state, features = (torch.tensor(entry[key], dtype=torch.float64) for key in ("x", "state", "features"))
    cell = get_cell(name)(x.shape[-1], state.shape[-1], read_before_write=False, **entry.get("options", {})).double()
    cell.load_state_dict({key: torch.tensor(value, dtype=torch.float64) for key, value in entry["weights"].items()})
    out = cell(x, state, torch.zeros(x.shape[:2], dtype=torch.bool))
    got = out.features
    if "output_map" in entry:  # ours is the block's
        c = torch.view_as_complex(torch.tensor(entry["output_map"], dtype=torch.float64))
        h = torch.view_as_complex(got.unflatten(-1, (-1, 2)))
        got = (h @ c.T).real if name == "s5" else 2 * (h.unflatten(-1, c.shape) * c).sum(-1).real
    assert features.abs().mean() > 1e-2
    torch.testing.assert_close(got, features, rtol=1e-5, atol=1e-6)  # theirs computed in float32
    if "last" in entry:
        torch.testing.assert_close(out.last, torch.tensor(entry["last"], dtype=torch.float64), rtol=1e-5, atol=1e-6)
