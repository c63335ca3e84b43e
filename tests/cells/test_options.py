"""What a cell asks of its sizes and options, and in which words it refuses."""

from __future__ import annotations

import pytest
import torch

from mru_rl.cells.registry import get_cell, list_cells


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("lru", 7, "must be even, got 7"),
        ("s5", 7, "must be even, got 7"),
        ("gateloop", 7, "must be even, got 7"),
        ("lstm", 7, "must be even, got 7"),
        ("slstm", 6, "multiple of 4, got 6"),
        ("s4d", 12, "multiple of 8, got 12.*modes"),
        ("mamba", 6, "multiple of 4, got 6.*modes"),
        ("ffm", 12, "multiple of 8, got 12.*contexts"),
        ("framestack", 6, "multiple of 4, got 6.*frames"),
        ("linear-attention", 65, "multiple of 8, got 65.*key_size"),
        ("deltanet", 65, "multiple of 8, got 65.*key_size"),
    ],
)
def test_a_state_size_that_does_not_fit_is_refused_with_the_one_that_would(name, size, words):
    with pytest.raises(ValueError, match=f"state_size must be.*{words}|{words}"):
        get_cell(name)(3, size)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("hgrn", {"lower_bound": 1.0}, r"in \[0, 1\); got 1.0"),
        ("deltanet", {"steps": 0}, "at least 1, got 0"),
        ("carry-bmru", {"carry": 2.0}, r"in \[0, 1\], got 2.0"),
        ("mamba", {"modes": 0}, "state_size must be a multiple"),
    ],
)
def test_an_option_without_a_meaning_is_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        get_cell(name)(3, 8, **options)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("name", list_cells())
def test_a_size_below_one_is_refused(name, size):
    for sizes in ((size, 8), (3, size)):
        with pytest.raises(ValueError, match="whole number of at least 1"):
            get_cell(name)(*sizes)


@pytest.mark.parametrize("name", list_cells())
def test_a_state_of_64_numbers_suits_every_cell_and_is_what_its_state_holds(name):
    cell = get_cell(name)(8, 64)
    assert cell.initial_state(3).shape == (3, 64)
    out = cell(torch.randn(3, 5, 8), cell.initial_state(3), torch.zeros(3, 5, dtype=torch.bool))
    assert out.states.shape == (3, 5, 64)
    assert out.features.shape == (3, 5, cell.feature_size)


@pytest.mark.parametrize(("key_size", "shape"), [(None, (8, 8)), (4, (4, 16))])
def test_the_matrix_state_is_square_unless_told(key_size, shape):
    cell = get_cell("deltanet")(3, 64, key_size=key_size)
    assert (cell.key_size, cell.value_size) == shape
