"""Cells by name: what a name leads to, cells of one's own, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import mru_rl
from mru_rl.cells import registry
from mru_rl.cells.base import Cell

BUILT_IN = dict(registry._CELLS)  # as imported: addresses, unless another test file has used the name


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_CELLS", dict(registry._CELLS))


class Careful(mru_rl.MRU):
    """A unit with a floor under its thresholds."""

    name = "careful"

    def candidate_and_threshold(self, x):
        candidate, threshold = super().candidate_and_threshold(x)
        return candidate, threshold.clamp(min=0.5)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_name_leads_to_the_cell_that_bears_it(name):
    cell = registry.get_cell(name)
    assert issubclass(cell, Cell)
    assert cell.name == name
    assert registry.get_cell(name) is cell


def test_listing_the_cells_does_not_wait_for_torch():
    code = "import sys, mru_rl; print(*mru_rl.list_cells()); assert 'torch' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert listed.split() == list(BUILT_IN)


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
    with pytest.raises(ValueError, match="'bmru' already, mru_rl.cells.mru.bmru:BMRU; choose another name"):
        mru_rl.register_cell(type("Mine", (mru_rl.MRU,), {"name": "bmru"}))
    for name in ("", "My Unit", "a+b", "a,b"):
        with pytest.raises(ValueError, match="a cell's name is lower-case"):
            mru_rl.register_cell(type("Mine", (mru_rl.MRU,), {"name": name}))


def test_the_same_class_again_replaces_the_one_before():
    def run_a_notebook_cell(slope: float) -> type[mru_rl.MRU]:
        class Mine(mru_rl.MRU):
            name = "mine"
            steepness = slope

        return mru_rl.register_cell(Mine)

    run_a_notebook_cell(1.0)
    again = run_a_notebook_cell(2.0)
    assert registry.get_cell("mine") is again
    assert mru_rl.list_cells().count("mine") == 1
    with pytest.raises(ValueError, match="'mine' already, .*run_a_notebook_cell.<locals>.Mine; choose another name"):
        mru_rl.register_cell(type("Other", (mru_rl.MRU,), {"name": "mine"}))


@pytest.mark.parametrize(("asked", "meant"), [("BMRU", "bmru"), ("Carry-BMRU", "carry-bmru"), ("minGRUs", "mingru")])
def test_the_nearest_name_is_found_whatever_the_case(asked, meant):
    with pytest.raises(ValueError, match=f"no cell named '{asked}'; did you mean '{meant}'"):
        registry.get_cell(asked)
