"""Spaces as JSON: every space that can be written is read back as it was, everything else is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mru_rl.envs.spaces import space_from_json, space_to_json

QUICK = settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
SIZES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
WHOLE = st.integers(-5, 5)


@st.composite
def boxes(draw):
    """Boxes of every dtype, some bounds infinite, some constant."""
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64", "float16", "int64", "int8", "uint8", "uint64"])))
    shape = draw(st.one_of(SIZES, st.just((2, 0))))
    if dtype.kind == "f":
        lows = st.floats(-100, 0, width=16) | st.just(-np.inf)
        highs = st.floats(0, 100, width=16) | st.just(np.inf)
    else:
        limits = np.iinfo(dtype)
        lows, highs = st.integers(int(limits.min), 0), st.integers(1, int(limits.max))
        if dtype.kind == "i" and draw(st.booleans()):
            return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    if draw(st.booleans()):
        return spaces.Box(draw(lows), draw(highs), shape, dtype.type)
    size = int(np.prod(shape))
    low, high = (
        np.array(draw(st.lists(bound, min_size=size, max_size=size)), dtype=dtype).reshape(shape)
        for bound in (lows, highs)
    )
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def multi_discretes(draw):
    shape = draw(SIZES.filter(len))
    nvec = np.array(draw(st.lists(st.integers(1, 9), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    start = np.array(draw(st.lists(WHOLE, min_size=nvec.size, max_size=nvec.size)))
    return spaces.MultiDiscrete(
        nvec.reshape(shape), start=start.reshape(shape), dtype=draw(st.sampled_from([np.int64, np.int32]))
    )


SIMPLE = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), WHOLE),
    multi_discretes(),
    st.builds(spaces.MultiBinary, st.integers(1, 5) | st.lists(st.integers(1, 3), min_size=1, max_size=3)),
    boxes(),
    st.builds(
        lambda least, more, signs: spaces.Text(least + more, min_length=least, charset="".join(signs)),
        st.integers(0, 3),
        st.integers(1, 3),
        st.lists(st.characters(), min_size=1, max_size=5, unique=True),
    ),
)
SPACES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.lists(st.tuples(st.text(max_size=3), inner), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(
            spaces.Dict
        ),
    ),
    max_leaves=5,
)


def same(one, other) -> None:
    """Assert what `==` of gymnasium leaves out: it compares bounds of Boxes roughly and not where they are bounded."""
    assert type(one) is type(other)
    assert one == other
    if isinstance(one, spaces.Box):
        assert one.low.tobytes() + one.high.tobytes() == other.low.tobytes() + other.high.tobytes()
        assert one.bounded_below.tolist() == other.bounded_below.tolist()
        assert one.bounded_above.tolist() == other.bounded_above.tolist()
    elif isinstance(one, spaces.Text):
        assert one.character_list == other.character_list
    elif isinstance(one, (spaces.Tuple, spaces.Dict)):
        named = isinstance(one, spaces.Dict)
        assert list(one.spaces) == list(other.spaces)
        for mine, theirs in zip(*(list(s.spaces.values() if named else s.spaces) for s in (one, other)), strict=True):
            same(mine, theirs)
    else:
        assert one.dtype == other.dtype


@QUICK
@given(space=SPACES)
def test_a_space_comes_back_from_json_as_it_was(space):
    written = json.dumps(space_to_json(space), allow_nan=False, sort_keys=True)
    same(space_from_json(json.loads(written)), space)


def test_constant_bounds_are_one_number_and_infinite_ones_words():
    assert space_to_json(spaces.Box(-1, np.inf, (84, 84, 4))) == {
        "type": "Box",
        "shape": [84, 84, 4],
        "low": -1.0,
        "high": "inf",
        "dtype": "float32",
    }
    assert space_to_json(spaces.Box(np.array([0.0, -np.inf]), 2.5, dtype=np.float64))["low"] == [0.0, "-inf"]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Tuple([spaces.Sequence(spaces.Discrete(2))]),
        spaces.Dict({1: spaces.Discrete(2)}),
    ],
    ids=str,
)
def test_a_space_without_a_json_form_is_named_with_those_that_have_one(space):
    with pytest.raises(
        ValueError, match="cannot be written as JSON; supported are Discrete, MultiDiscrete, MultiBinary"
    ):
        space_to_json(space)


BOX = {"type": "Box", "shape": [2], "low": 0, "high": 1, "dtype": "float32"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "with a type of Discrete.*got NoneType"),
        ({"type": "Graph"}, "got type 'Graph'"),
        ({"type": ["Box"]}, r"got type \['Box'\]"),
        ({"type": "Discrete", "n": 0, "start": 0}, "of type Discrete has fields that make no space"),
        ({"type": "Discrete", "n": 2}, "missing.*start"),
        ({"type": "Discrete", "n": 2, "start": 0, "seed": 3}, "unexpected.*seed"),
        ({"type": "MultiDiscrete", "nvec": [2.5], "start": [0]}, "whole numbers are wanted, got float64"),
        (BOX | {"low": "NaN"}, "a bound is a number, 'inf' or '-inf', got 'NaN'"),
        (BOX | {"low": [0, 0, 0]}, r"a bound of shape \[3\] for a Box of shape \[2\]"),
        (BOX | {"low": 2}, "low"),
        (BOX | {"dtype": "object"}, "numbers of at most 8 bytes are wanted, got dtype 'object'"),
        (BOX | {"shape": "x"}, "of type Box has fields"),
        ({"type": "Tuple", "parts": [BOX | {"low": None}]}, "of type Box has fields"),
        ({"type": "Dict", "parts": [["a"]]}, "of type Dict has fields"),
        ({"type": "Text", "min_length": 0, "max_length": 2, "charset": ["a"]}, "a charset is a string, got list"),
    ],
)
def test_json_that_is_no_space_is_refused_in_one_line(data, words):
    with pytest.raises(ValueError, match=words) as stop:
        space_from_json(data)
    assert "pass what space_to_json gave" in str(stop.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 99)
    | st.floats()
    | st.sampled_from(["inf", "-inf", "x", "int64", "float32"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(
    st.sampled_from(["n", "start", "nvec", "shape", "low", "high", "dtype", "parts", "charset"]), JSON
)


@QUICK
@given(
    kind=st.sampled_from(["Discrete", "MultiDiscrete", "MultiBinary", "Box", "Text", "Tuple", "Dict"]), fields=FIELDS
)
def test_any_fields_make_a_space_or_a_value_error(kind, fields):
    try:
        space = space_from_json({"type": kind, **fields})
    except ValueError:
        return
    same(space_from_json(space_to_json(space)), space)
