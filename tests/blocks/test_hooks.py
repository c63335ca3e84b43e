"""What cells bring of their own, over the registry and through a core: codes of states, annealing, gates, export."""

from __future__ import annotations

import pytest
import torch

import mru_rl
from mru_rl.cells.base import Cell
from mru_rl.cells.mru.bmru import BMRU
from mru_rl.cells.registry import get_cell

LAYERS = [*mru_rl.list_cells(), "bmru+mingru", "bmru+bmru+lru"]


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


def layer(spec: str) -> Cell:
    """One cell, or several side by side, of 16 inputs and some 24 numbers of state; levels away from 1."""
    cell = mru_rl.make_core(spec, 4, 16, state_size=24).blocks[0].cell
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return cell


def lived_state(core: mru_rl.MemoryCore) -> torch.Tensor:
    """States [5, layers, S] after some steps."""
    return core(torch.randn(5, 30, core.input_size))[1].detach()


# codes of states


@pytest.mark.parametrize("spec", LAYERS)
def test_decoding_gives_back_what_was_encoded_to_the_bit(spec):
    cell = layer(spec)
    start = cell.initial_state(3)
    states = cell(torch.randn(3, 40, 16), start, torch.rand(3, 40) < 0.05).states.detach()
    if spec != "mlp":
        assert states.any()
    for state in (start, states):
        code = cell.encode_state(state)
        assert code.shape == (*state.shape[:-1], cell.code_size)
        assert torch.equal(cell.decode_state(code), state)


@pytest.mark.parametrize("spec", ["bmru", "bmru:6+mingru:3", "bmru,lru", "gru+bmru:5", "carry-bmru"])
def test_a_core_decodes_what_it_encoded_to_the_bit(spec):
    core = mru_rl.make_core(spec, 4, 8, state_size=10)
    for state in (lived_state(core), core.initial_state(5)):
        assert torch.equal(core.decode_state(core.encode_state(state)), state)


def test_units_of_a_bmru_take_two_bits_and_others_stay_floats():
    core = mru_rl.make_core("bmru:6+mingru:3", 4, 8)
    codes = core.encode_state(lived_state(core))
    assert codes["layer_0", "part_0"].dtype == torch.uint8
    assert codes["layer_0", "part_0"].shape == (5, 2)
    assert codes["layer_0", "part_1"].shape == (5, 3)


def test_a_unit_derived_from_a_bmru_keeps_its_whole_state():
    class Louder(BMRU):
        def level(self, x):
            return 1 + x[..., :1].abs()

    unit = Louder(3, 6, init_horizon=2)
    states = unit(torch.randn(2, 30, 3), unit.initial_state(2), torch.zeros(2, 30, dtype=torch.bool)).states
    assert torch.equal(unit.decode_state(unit.encode_state(states)), states)


def test_signs_take_the_level_that_the_unit_has_now():
    core = mru_rl.make_core("bmru", 4, 8)
    state = lived_state(core)
    codes = core.encode_state(state)
    (cell,) = core.cells_by_layer()[0]
    with torch.no_grad():
        cell.alpha.mul_(2)
    assert state.abs().sum() > 0
    assert torch.equal(core.decode_state(codes), 2 * state)


def test_states_of_another_core_are_named():
    narrow, wide = mru_rl.make_core("bmru", 4, 8), mru_rl.make_core("bmru", 4, 16)
    with pytest.raises(ValueError, match=r"core 'bmru' end in \[1, 16\], got \[5, 1, 8\]"):
        wide.encode_state(narrow.initial_state(5))
    with pytest.raises(ValueError, match="'bmru' encodes layer 0, bmru, in 4 numbers, found 2 numbers"):
        wide.decode_state(narrow.encode_state(narrow.initial_state(5)))
    with pytest.raises(TypeError, match="a state is a tensor, got list"):
        wide.encode_state([0.0])


# annealing


@pytest.mark.parametrize(("spec", "done"), [("carry-bmru", "bmru"), ("bmru+carry-bmru:4:carry=1.0", "bmru+bmru:4")])
def test_a_carry_bmru_is_a_bmru_when_training_is_done(spec, done):
    core, bistable = mru_rl.make_core(spec, 4, 8), mru_rl.make_core(done, 4, 8)
    bistable.load_state_dict({key: value for key, value in core.state_dict().items() if not key.endswith("eps")})
    x = torch.randn(3, 40, 4)
    core.set_progress(0.0)
    assert not torch.equal(core(x)[0], bistable(x)[0])
    core.set_progress(1.0)
    assert torch.equal(core(x)[0], bistable(x)[0])


def test_a_carry_falls_evenly_over_its_share_of_training():
    unit = get_cell("carry-bmru")(3, 6, carry=0.8, carry_share=0.25)
    for progress, left in ((0.0, 0.8), (0.125, 0.4), (0.25, 0.0), (1.0, 0.0), (0.0, 0.8)):
        unit.set_progress(progress)
        assert unit.carry == unit.eps.item() == pytest.approx(left)
    with pytest.raises(ValueError, match=r"over which carry is annealed to 0, must be a number in \[0, 1\], got -0.5"):
        get_cell("carry-bmru")(3, 6, carry_share=-0.5)


@pytest.mark.parametrize("name", sorted(set(mru_rl.list_cells()) - {"carry-bmru"}))
def test_progress_changes_nothing_in_other_cells(name):
    cell = layer(name)
    before = {key: value.clone() for key, value in cell.state_dict().items()}
    cell.set_progress(0.5)
    assert all(torch.equal(before[key], value) for key, value in cell.state_dict().items())


@pytest.mark.parametrize("progress", [-0.1, 1.5, float("nan"), None, True])
def test_a_progress_that_is_no_fraction_is_refused(progress):
    with pytest.raises(ValueError, match=r"training done, must be a number in \[0, 1\], got"):
        mru_rl.make_core("carry-bmru", 4, 8).set_progress(progress)


# gates, export, warm-up


@pytest.mark.parametrize("spec", LAYERS)
def test_a_cell_with_gates_says_which_units_write(spec):
    cell = layer(spec)
    gates = cell.gates(torch.randn(3, 5, 16))
    assert cell.has_gates == (gates is not None)
    if gates is not None:
        assert gates.shape == (3, 5, cell.state_size)
        assert set(gates.unique().tolist()) == {0.0, 1.0}


def test_a_core_has_gates_if_one_of_its_cells_has():
    assert mru_rl.make_core("gru,lru+bmru", 4, 8).has_gates
    assert not mru_rl.make_core("gru,lru+mingru", 4, 8).has_gates


@pytest.mark.parametrize("spec", LAYERS)
def test_a_layer_is_exportable_unless_it_computes_with_complex_numbers(spec):
    cell = layer(spec)
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend([out.is_complex()] if isinstance(out, torch.Tensor) else [])
            return out

    with Watch(), torch.no_grad():
        cell.step(torch.randn(2, 16), cell.initial_state(2), torch.zeros(2, dtype=torch.bool))
    assert cell.exportable == (not any(seen))


def test_warming_up_a_core_warms_up_cells_that_stand_side_by_side():
    core = mru_rl.make_core("bmru+mingru,cmru+bmru", 4, 16, state_size=32)
    units = [cell for layer in core.cells_by_layer() for cell in layer if cell.has_gates]
    before = [unit.input.bias.clone() for unit in units]
    core.warm_up(torch.randn(8, 50, 4), torch.zeros(8, 50, dtype=torch.bool), horizon=20.0)
    assert len(units) == 3
    assert not any(torch.equal(unit.input.bias, bias) for unit, bias in zip(units, before, strict=True))
