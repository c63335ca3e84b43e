"""What init_for_horizon changes, seen from outside: which units still show a first input after many steps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mru_rl import list_cells, make_core
from mru_rl.cells.base import Cell, chrono_bias, spread_spans
from mru_rl.cells.mru.base import MRU
from mru_rl.cells.registry import get_cell

WITHOUT = {"mlp", "framestack", "elman"}
STEPS, HORIZON = 1000, 30_000


def lasting_units(cell: nn.Module) -> float:
    """Share of the state's numbers in which a difference at step 0 is still there, a fifth of it or more, at the end."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, STEPS, cell.input_size, generator=generator)
    x[:, 0] *= 10  # a first input that every unit takes in
    other = x.clone()
    other[:, 0] = 10 * torch.randn(8, cell.input_size, generator=generator)
    is_init = torch.zeros(8, STEPS, dtype=torch.bool)
    with torch.no_grad():
        one, two = (cell(i, cell.initial_state(8), is_init).states for i in (x, other))
    size = (one - two).abs()
    begun = size[:, 0] > 1e-6
    return (size[:, -1] >= 0.2 * size[:, 0])[begun].float().mean().item()


def build(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return get_cell(name)(6, 32)


@pytest.mark.parametrize("name", sorted(set(list_cells()) - WITHOUT))
def test_a_cell_initialised_for_a_long_horizon_keeps_more_of_a_first_input(name):
    cells = [build(name, seed) for seed in range(8)]
    short = sum(map(lasting_units, cells)) / len(cells)
    for cell in cells:
        cell.init_for_horizon(HORIZON)
    long = sum(map(lasting_units, cells)) / len(cells)
    if issubclass(get_cell(name), MRU) and get_cell(name).carry == 1:
        assert short == long == 1.0, "a cumulative state forgets nothing anyway"
    else:
        assert long > short + 0.1


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_a_cell_without_such_an_initialisation_keeps_the_one_it_has(name):
    cell = build(name, 0)
    before = copy.deepcopy(cell.state_dict())
    cell.init_for_horizon(HORIZON)
    assert all(torch.equal(before[key], value) for key, value in cell.state_dict().items())


def test_a_core_passes_the_horizon_to_every_cell(monkeypatch):
    asked = []
    monkeypatch.setattr(Cell, "init_for_horizon", lambda self, horizon: asked.append((self.name, horizon)))
    core = make_core([["elman", "mlp"], ["framestack"]], 3, 16, state_size=16)
    core.init_for_horizon(77.0)
    assert {name for name, _ in asked} >= {"elman", "mlp", "framestack"}
    assert {horizon for _, horizon in asked} == {77.0}
    with pytest.raises(ValueError, match="at least 1, got 0.5"):
        core.init_for_horizon(0.5)


def test_spans_and_chrono_biases_reach_to_the_horizon():
    torch.manual_seed(0)
    spans = spread_spans(10_000, 10.0, 1000.0)
    assert 10 <= spans.min() < 10.1 < 990 < spans.max() <= 1000
    assert spans.log().mean().exp().item() == pytest.approx(100, rel=0.05)
    steps = chrono_bias(10_000, 1000.0).exp()
    assert 1 <= steps.min() < 2 < 990 < steps.max() <= 999
    assert steps.mean().item() == pytest.approx(500, rel=0.02)
