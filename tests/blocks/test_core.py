"""MemoryCore from its spec string: what it builds, what it refuses and in which words, what it shows of itself."""

from __future__ import annotations

import pytest
import torch

from mru_rl import list_cells, make_core
from mru_rl.blocks.spec import Part, cell_options, format_spec, parse_layers, parse_spec
from mru_rl.cells.mru.base import MRU
from mru_rl.cells.registry import get_cell


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def inputs(core, B=2, T=3):
    x = torch.randn(B, T, core.input_size)
    return x, core.initial_state(B), torch.zeros(B, T, dtype=torch.bool)


# specs


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("bmru", [["bmru"]]),
        ("bmru+mingru", [["bmru", "mingru"]]),
        (" bmru , lru+gru ", [["bmru"], ["lru", "gru"]]),
        ("gru+gru", [["gru", "gru"]]),
    ],
)
def test_a_spec_names_layers_and_the_cells_side_by_side_in_each(spec, layers):
    assert parse_spec(spec) == layers


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "names at least one cell"),
        ("  ", "names at least one cell"),
        ("bmru+", "empty part"),
        (",bmru", "empty part"),
        ("bmru,,lru", "empty part"),
        ("bmrru", "did you mean 'bmru'"),
        ("BMRU", "there is no cell named 'BMRU'; did you mean 'bmru'"),
        ("bmru;lru", "there is no cell named"),
        ("bmru mingru", "there is no cell named"),
        ("bmru-mingru", "there is no cell named"),
    ],
)
def test_a_spec_that_does_not_parse_is_refused_with_what_to_write(spec, words):
    with pytest.raises(ValueError, match=words):
        make_core(spec, 3, 8)


def test_an_unknown_cell_is_answered_with_the_nearest_name_and_all_names():
    with pytest.raises(ValueError, match=r"did you mean 'mingru'\? cells are .*bmru") as error:
        get_cell("minigru")
    assert all(name in str(error.value) for name in list_cells())


def test_an_odd_state_is_refused_by_a_complex_cell():
    with pytest.raises(ValueError, match="must be even, got 7"):
        make_core("lru", 3, 8, state_size=7)


def test_a_state_too_small_for_the_cells_side_by_side_is_refused():
    with pytest.raises(ValueError, match="state_size 3 is too small for 2 cells"):
        make_core("bmru+mingru", 3, 8, state_size=3)


@pytest.mark.parametrize("value", [0, -1, 2.0, "8"])
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "state_size", "num_layers"])
def test_a_size_that_is_no_positive_whole_number_is_refused(name, value):
    sizes = {"input_size": 3, "hidden_size": 8, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
        make_core("bmru", **sizes)


def test_an_option_no_cell_takes_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="'slop'; did you mean 'slope'"):
        make_core("bmru+gru", 3, 8, slop=2.0)
    assert make_core("bmru+gru", 3, 8, slope=2.0).blocks[0].cell.parts[0].slope == 2.0


# sizes


@pytest.mark.parametrize("spec", ["bmru", "bmru+mingru", "bmru+lru+gru"])
def test_cells_side_by_side_share_the_state_and_lose_none_of_it(spec):
    core = make_core(spec, 3, 8, state_size=16)
    assert core.initial_state(2).shape == (2, 1, 16)
    parts = getattr(core.blocks[0].cell, "parts", [core.blocks[0].cell])
    assert sum(part.state_size for part in parts) == 16


def test_num_layers_repeats_the_whole_spec():
    core = make_core("bmru,lru", 3, 8, num_layers=2)
    assert [block.cell.name for block in core.blocks] == ["bmru", "lru", "bmru", "lru"]
    assert core.initial_state(5).shape == (5, 4, 8)


def test_reading_before_writing_doubles_what_the_block_reads_and_not_the_state():
    with_, without = make_core("bmru", 3, 8), make_core("bmru", 3, 8, read_before_write=False)
    assert with_.blocks[0].mix.in_features == 2 * without.blocks[0].mix.in_features == 16
    assert with_.state_size == without.state_size == 8


# sizes and options per cell


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("bmru:48+mingru:16", [[Part("bmru", 48), Part("mingru", 16)]]),
        ("bmru:48 + mingru , gru:8", [[Part("bmru", 48), Part("mingru")], [Part("gru", 8)]]),
        ("bmru:48:slope=2.0:surrogate=atan", [[Part("bmru", 48, {"slope": 2.0, "surrogate": "atan"})]]),
        ("bmru:slope=1e-1:read_before_write=false", [[Part("bmru", None, {"slope": 0.1, "read_before_write": False})]]),
        ([["bmru", ("mingru", 16)], [("lru", None, {"r_min": 0.5})]],
         [[Part("bmru"), Part("mingru", 16)], [Part("lru", None, {"r_min": 0.5})]]),
        (["bmru:48+gru", ["lru"]], [[Part("bmru", 48), Part("gru")], [Part("lru")]]),
    ],
)  # fmt: skip
def test_a_cell_of_a_spec_can_have_its_own_state_size_and_options(spec, layers):
    assert parse_layers(spec) == layers
    assert parse_layers(format_spec(layers)) == layers


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("bmru:48+mingru:16", [48, 16]),
        ("bmru:40+mingru:30", [40, 30]),  # whatever state_size says
        ("bmru:40+mingru", [40, 24]),
        ("bmru+mingru:40+gru", [12, 40, 12]),
        ("bmru+mingru+gru", [24, 20, 20]),
    ],
)
def test_cells_without_a_size_share_what_the_others_leave(spec, sizes):
    core = make_core(spec, 3, 8, state_size=64)
    assert [part.state_size for part in core.blocks[0].cell.parts] == sizes
    assert core.initial_state(2).shape == (2, 1, sum(sizes))


def test_an_option_of_a_cell_comes_before_that_of_the_core():
    core = make_core([["bmru", ("bmru", None, {"slope": 2.0, "read_before_write": False})]], 3, 8, slope=9.0)
    one, other = core.blocks[0].cell.parts
    assert (one.slope, other.slope) == (9.0, 2.0)
    assert (one.feature_size, other.feature_size) == (8, 4)
    assert core.spec == "bmru+bmru:slope=2.0:read_before_write=False"
    assert core(*inputs(core))[0].shape == (2, 3, 8)


def test_the_same_core_comes_from_a_string_and_from_lists():
    def weights(spec):
        torch.manual_seed(3)
        return list(make_core(spec, 3, 8, state_size=16).parameters())

    strings, lists = weights("bmru:10+lru,gru:4"), weights([[("bmru", 10), "lru"], [("gru", 4)]])
    assert all(torch.equal(p, q) for p, q in zip(strings, lists, strict=True))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bmru:", "empty part"),
        (":48", "empty part"),
        ("bmru::slope=2", "empty part"),
        ("bmru:0", "state size of 'bmru' .* whole number of at least 1"),
        ("bmru:-4", "state size of 'bmru' .* whole number of at least 1"),
        ("bmru:4.5", "state size of 'bmru' .* whole number of at least 1"),
        ("bmru:slope=2.0:48", "'48' .* is not an option; the state size comes after the name"),
        ("bmru:48:slop=2.0", "'bmru' does not take the option 'slop'; did you mean 'slope'"),
        ("gru:slope=2.0+bmru", "'gru' does not take the option 'slope'"),
        ("lru:7", "must be even, got 7"),
        ("bmru:60+mingru+gru", "60 are given away by size.* too small for 3 cells side by side; use 64 or more"),
        ([], "a string such as .* or a list of layers"),
        (3, "a string such as .* or a list of layers"),
        ([3], "a layer of a core spec is a list"),
        ([[]], "a layer of a core spec is a list"),
        (["bmru,lru"], "without commas"),
        ([[3]], "a name or a tuple"),
        ([[("bmru",)]], "a name or a tuple"),
        ([[("bmru", 8.0)]], "whole number of at least 1"),
        ([[("bmru", True)]], "whole number of at least 1"),
        ([[("bmru", 8, "slope")]], "options of 'bmru' in a core spec are a dict"),
        ([[("bmrru", 8)]], "did you mean 'bmru'"),
    ],
)  # fmt: skip
def test_a_size_or_option_that_does_not_fit_is_refused_with_what_to_write(spec, words):
    with pytest.raises(ValueError, match=words):
        make_core(spec, 3, 8, state_size=62)


def test_an_option_of_a_base_class_can_be_set_on_every_cell():
    for name in list_cells():
        assert "read_before_write" in cell_options(name)
        if issubclass(get_cell(name), MRU):
            assert {"slope", "sign_slope", "surrogate", "init_horizon"} <= cell_options(name)


# trace


def test_trace_names_layers_and_cells_and_shows_states_and_writes():
    core = make_core("bmru+mingru,bmru+bmru", 3, 8)
    x, state, is_init = inputs(core, T=5)
    found = core.trace(x, state, is_init)
    assert set(found.keys()) == {"layer_0", "layer_1"}
    assert set(found["layer_0"].keys()) == {"bmru", "mingru"}
    assert set(found["layer_1"].keys()) == {"bmru", "bmru_1"}
    assert found["layer_0", "bmru", "writes"].dtype == torch.bool
    assert "writes" not in found["layer_0", "mingru"]
    _, states, _ = core.unroll(x, state, is_init)
    assert torch.equal(torch.cat([found["layer_0", n, "states"] for n in ("bmru", "mingru")], -1), states[:, :, 0])
    one = core.trace(x[:, 0], state, is_init[:, 0])
    assert one.batch_size == (2,)
    torch.testing.assert_close(one["layer_1", "bmru_1", "states"], found["layer_1", "bmru_1", "states"][:, 0])


def test_the_same_seed_builds_the_same_core():
    def weights():
        torch.manual_seed(3)
        return list(make_core("bmru+lru,gru", 3, 8).parameters())

    assert all(torch.equal(p, q) for p, q in zip(weights(), weights(), strict=True))


@pytest.mark.parametrize("spec", [*list_cells(), "bmru+mingru", "gru,bmru+lru", "lru,mlp"])
def test_advancing_ends_in_the_state_of_the_whole_sequence(spec):
    core = make_core(spec, 3, 8)
    x, state, is_init = torch.randn(2, 40, 3), torch.rand(core.initial_state(2).shape), torch.rand(2, 40) < 0.1
    with torch.no_grad():
        want = core(x, state, is_init)[1]
        assert torch.equal(core.advance(x, state, is_init), want)
