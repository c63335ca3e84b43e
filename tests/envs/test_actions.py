"""Any action space as a simple one, and back to what the env takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from mru_rl.envs.actions import ActionCheck, action_layout, null_action, simple_action_space
from mru_rl.envs.native import native_action, native_rows
from mru_rl.envs.to_torchrl import spec_of

CPU = torch.device("cpu")
SIMPLE = [
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 3]),
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([4, 4])]),
]
REDUCED = {
    "a start": (spaces.Discrete(3, start=-4), spaces.Discrete(3)),
    "starts": (spaces.MultiDiscrete([2, 3], start=[5, -1]), spaces.MultiDiscrete([2, 3])),
    "two axes": (spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 2], [3, 4]]), spaces.MultiDiscrete([2, 3, 4, 5])),
    "bits": (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2, 2])),
    "bits on two axes": (spaces.MultiBinary([2, 2]), spaces.MultiDiscrete([2] * 4)),
    "bytes": (spaces.Box(0, 255, (3,), np.uint8), spaces.MultiDiscrete([256] * 3)),
    "signed bytes": (spaces.Box(-128, 127, (2, 1), np.int8), spaces.MultiDiscrete([256] * 2)),
    "far whole numbers": (spaces.Box(2**62, 2**62 + 2, (2,), np.int64), spaces.MultiDiscrete([3, 3])),
    "one whole number": (spaces.Box(-2, 2, (), np.int16), spaces.Discrete(5)),
    "a tuple": (
        spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
        spaces.MultiDiscrete([3, 2, 2]),
    ),
    "a nest": (
        spaces.Dict({"b": spaces.Tuple([spaces.Discrete(4), spaces.Dict({"z": spaces.Discrete(2)})]), "a": spaces.Discrete(3)}),
        spaces.MultiDiscrete([3, 4, 2]),
    ),
    "boxes": (
        spaces.Dict({"a": spaces.Box(-1, 1, (2, 2), np.float64), "b": spaces.Box(0, np.inf, (), np.float16)}),
        spaces.Box(np.float32([-1] * 4 + [0]), np.float32([1] * 4 + [np.inf])),
    ),
    "a mixture": (
        spaces.Dict(
            {"gear": spaces.Discrete(5, start=-1), "steer": spaces.Box(-1, 1, (2, 1)), "lamps": spaces.MultiBinary([1, 2])}
        ),
        spaces.Tuple([spaces.Discrete(5), spaces.MultiDiscrete([2, 2]), spaces.Box(-1, 1, (2,))]),
    ),
}  # fmt: skip
ALL = {name: native for name, (native, _) in REDUCED.items()} | {str(space): space for space in SIMPLE}


def draw(space: spaces.Space, rows: int) -> torch.Tensor:
    """Return random actions of a space in BatchedEnv's layout, the highest in row 0."""
    spec = spec_of(simple_action_space(space), rows, CPU)
    torch.manual_seed(0)
    actions = spec.rand() if action_layout(space)[0] == torch.int64 else torch.rand(spec.shape)
    simple = simple_action_space(space)
    if isinstance(simple, spaces.Tuple):
        actions = torch.stack([torch.as_tensor([c % 2 for c in range(actions.shape[1])]).float()] * rows)
    return actions


@pytest.mark.parametrize("space", SIMPLE, ids=str)
def test_a_simple_space_is_left_as_it_is(space):
    assert simple_action_space(space) is space


@pytest.mark.parametrize("name", REDUCED)
def test_other_spaces_become_simple_ones(name):
    native, simple = REDUCED[name]
    assert simple_action_space(native) == simple
    assert simple_action_space(simple) == simple


@pytest.mark.parametrize("name", ALL)
def test_an_action_goes_back_to_one_of_the_envs_own_alone_and_in_a_batch(name):
    space, actions = ALL[name], draw(ALL[name], 4)
    ActionCheck(space, num_envs=4, device=CPU)(actions)
    batch = native_action(space, actions, batched=True)
    assert batch_space(space, 4).contains(batch)
    rows = list(native_rows(space, batch))
    for i, row in enumerate(rows):
        assert space.contains(row)
        assert isinstance(row, type(space.sample())) or row.shape == ()
        assert repr(row) == repr(native_action(space, actions[i : i + 1], batched=False))
    assert len(list(iterate(batch_space(space, 4), batch))) == len(rows) == 4


def test_numbers_keep_their_places_and_starts():
    space = REDUCED["a mixture"][0]
    native = native_action(space, torch.tensor([[4.0, 0.0, 1.0, -0.5, 0.25]]), batched=False)
    assert native["gear"] == 3
    assert native["lamps"].tolist() == [[0, 1]]
    assert native["steer"].tolist() == [[-0.5], [0.25]]
    signed = native_action(REDUCED["signed bytes"][0], torch.tensor([[0, 255]]), batched=False)
    assert (signed.dtype, signed.tolist()) == (np.int8, [[-128], [127]])
    far = native_action(REDUCED["far whole numbers"][0], torch.tensor([[0, 2]]), batched=False)
    assert far.tolist() == [2**62, 2**62 + 2]
    axes = native_action(REDUCED["two axes"][0], torch.tensor([[0, 1, 2, 3]]), batched=False)
    assert axes.tolist() == [[1, 3], [5, 7]]


def test_what_a_float16_cannot_hold_becomes_its_largest_number():
    space = spaces.Box(-np.inf, np.inf, (1,), np.float16)
    assert native_action(space, torch.tensor([[1e6]]), batched=False) == np.finfo(np.float16).max


def test_a_mixture_is_checked_part_by_part():
    check = ActionCheck(REDUCED["a mixture"][0], num_envs=2, device=CPU)
    good = torch.tensor([[4.0, 0, 1, -1, 1], [0, 1, 0, 0.5, 0]])
    check(good)
    for column, number in ((0, 5), (0, -1), (0, 0.5), (1, 2), (3, 1.5), (4, float("nan"))):
        bad = good.clone()
        bad[1, column] = number
        with pytest.raises(ValueError, match="in row 1; number choices from 0 and clip floats"):
            check(bad)


def test_the_null_action_is_finite_whatever_the_bounds():
    assert null_action(REDUCED["a mixture"][0]).tolist() == [0, 0, 0, 0, 0]
    assert null_action(spaces.Tuple([spaces.Discrete(3), spaces.Box(1, 2, (1,))])).tolist() == [0, 1]
    half = spaces.Box(np.float32([-np.inf, 1]), np.float32([-5, np.inf]))
    assert null_action(half).tolist() == [-5, 1]
    assert null_action(REDUCED["one whole number"][0]).tolist() == 0


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Text(3), "action space Text.* is not supported; supported are Discrete.*wrap the env"),
        (spaces.Box(0, 4096, (1,), np.int32), "Box.*int32.* is not supported"),
        (spaces.Box(0, np.inf, (1,), np.int64), "Box.*int64.* is not supported"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]), r"not supported \(for its part Text"),
        (spaces.Tuple([]), "has no parts, so there is nothing to choose"),
        (spaces.Box(-1, 1, (0,)), "is not supported"),
        (
            spaces.Tuple([spaces.Discrete(2**24 + 1), spaces.Box(-1, 1)]),
            "a part of 16,777,217 choices beside a Box of floats, where at most 16,777,216",
        ),
    ],
)
def test_what_cannot_be_a_simple_space_is_one_line(space, words):
    with pytest.raises(ValueError, match=words) as caught:
        simple_action_space(space)
    assert "\n" not in str(caught.value)
