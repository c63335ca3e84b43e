from __future__ import annotations

import pytest
import torch

import mru_rl
from mru_rl.blocks.state_codes import pack_state, unpack_state


def lived_state(core: mru_rl.MemoryCore) -> torch.Tensor:
    """States [5, layers, S] after some steps."""
    x = torch.randn(5, 30, core.input_size, generator=torch.Generator().manual_seed(2))
    return core(x, core.initial_state(5), torch.zeros(5, 30, dtype=torch.bool))[1].detach()


@pytest.mark.parametrize("spec", ["bmru", "bmru:6+mingru:3", "bmru,lru", "gru+bmru:5", "carry-bmru"])
def test_unpacking_gives_back_the_state_to_the_bit(spec):
    torch.manual_seed(0)
    core = mru_rl.make_core(spec, 4, 8, state_size=10)
    for state in (lived_state(core), core.initial_state(5)):
        assert torch.equal(unpack_state(core, pack_state(core, state)), state)


def test_units_of_a_bmru_take_two_bits_and_others_stay_floats():
    core = mru_rl.make_core("bmru:6+mingru:3", 4, 8)
    packed = pack_state(core, lived_state(core))
    assert packed["layer_0", "part_0"].dtype == torch.uint8
    assert packed["layer_0", "part_0"].shape == (5, 2)
    assert packed["layer_0", "part_1"].shape == (5, 3)


def test_signs_take_the_level_that_the_unit_has_now():
    torch.manual_seed(0)
    core = mru_rl.make_core("bmru", 4, 8)
    state = lived_state(core)
    packed = pack_state(core, state)
    (cell,) = core.cells_by_layer()[0]
    with torch.no_grad():
        cell.alpha.mul_(2)
    assert state.abs().sum() > 0
    assert torch.equal(unpack_state(core, packed), 2 * state)


def test_states_of_another_core_are_named():
    narrow, wide = mru_rl.make_core("bmru", 4, 8), mru_rl.make_core("bmru", 4, 16)
    with pytest.raises(ValueError, match=r"core 'bmru' end in \[1, 16\], got \[5, 1, 8\]"):
        pack_state(wide, narrow.initial_state(5))
    with pytest.raises(ValueError, match="'bmru' packs layer 0, bmru, in 4 numbers, found 2 numbers"):
        unpack_state(wide, pack_state(narrow, narrow.initial_state(5)))
