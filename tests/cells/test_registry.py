from __future__ import annotations

import pytest
import torch

import mru_rl
from mru_rl.cells import registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_CELLS", dict(registry._CELLS))


class Careful(mru_rl.MRU):
    """A unit with a floor under its thresholds."""

    name = "careful"

    def candidate_and_threshold(self, x):
        candidate, threshold = super().candidate_and_threshold(x)
        return candidate, threshold.clamp(min=0.5)


def test_a_unit_of_ones_own_gets_scan_step_and_inspection():
    mru_rl.register_cell(Careful)
    assert "careful" in mru_rl.list_cells()
    core = mru_rl.make_core("careful:6+mingru:2", 3, 8)
    x, is_init, state = torch.randn(2, 20, 3), torch.rand(2, 20) < 0.1, core.initial_state(2)
    y, last = core(x, state, is_init)
    for t in range(20):
        y_t, state = core.step(x[:, t], state, is_init[:, t])
        torch.testing.assert_close(y_t, y[:, t], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, last)
    cell = core.blocks[0].cell.parts[0]
    assert cell.candidate_and_threshold(torch.randn(5, 8))[1].min() >= 0.5
    assert core.trace(x, core.initial_state(2), is_init)["layer_0", "careful", "writes"].shape == (2, 20, 6)


def test_a_name_that_is_taken_or_cannot_be_spelled_is_refused():
    with pytest.raises(ValueError, match="'bmru' already, BMRU"):
        mru_rl.register_cell(type("Mine", (mru_rl.MRU,), {"name": "bmru"}))
    for name in ("", "My Unit", "a+b", "a,b"):
        with pytest.raises(ValueError, match="a cell's name is lower-case"):
            mru_rl.register_cell(type("Mine", (mru_rl.MRU,), {"name": name}))
