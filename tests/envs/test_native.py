"""Values of gymnasium envs as tensors and back: any form of an obs is laid out alike, every other one is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from mru_rl.envs.columns import columns, from_zero
from mru_rl.envs.encoding import Encoding
from mru_rl.envs.native import layout, native_action
from mru_rl.envs.to_gymnasium.adapter import to_native

SPACES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=-5),
    spaces.MultiDiscrete([2, 5], start=[3, -1]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (2, 3), np.float64),
    spaces.Box(0, 255, (2, 2, 1), np.uint8),
    spaces.Box(-1, 1, ()),
    spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,)), spaces.MultiBinary([2, 2])]),
    spaces.Dict({"b": spaces.Box(0, 1, ()), "a": spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3, start=7)])}),
]


def batch_of(space, samples):
    """Values of one env as gymnasium's vector envs put them together."""
    return concatenate(space, samples, create_empty_array(space, n=len(samples)))


@pytest.fixture(params=SPACES, ids=str)
def space(request):
    request.param.seed(0)
    return request.param


def test_an_obs_of_one_env_becomes_a_batch_of_one(space):
    encoding = Encoding(from_zero(space), device=torch.device("cpu"))
    for _ in range(5):
        sample = space.sample()
        for batched in (None, False):
            tensor, was_batch = layout(space, sample, batched=batched)
            assert not was_batch
            assert (tensor.dtype, tensor.shape) == (encoding.dtype, (1, *encoding.shape))
            flat = np.concatenate([leaf.astype(np.float32) for leaf in columns(space, sample)])
            assert tensor.reshape(-1).tolist() == flat.tolist()


def test_a_batch_is_laid_out_as_its_rows_are(space):
    samples = [space.sample() for _ in range(3)]
    batch = batch_of(space, samples)
    assert batch_space(space, 3).contains(batch)
    for batched in (None, True):
        tensor, was_batch = layout(space, batch, batched=batched)
        assert was_batch
        assert torch.equal(tensor, torch.cat([layout(space, sample)[0] for sample in samples]))


def test_a_tensor_of_batched_env_s_layout_is_taken_as_it_is(space):
    tensor = torch.cat([layout(space, space.sample())[0] for _ in range(3)])
    assert torch.equal(layout(space, tensor)[0], tensor)
    assert layout(space, tensor)[1] is True
    one, batched = layout(space, tensor[1])
    assert not batched
    assert torch.equal(one, tensor[1:2])
    assert torch.equal(layout(space, tensor[1], batched=False)[0], one)
    if tensor.dtype == torch.float32:
        assert torch.equal(layout(space, tensor.double())[0], tensor)


def test_layout_is_the_inverse_of_to_native(space):
    zero_based = from_zero(space)
    tensor = torch.cat([layout(space, space.sample())[0] for _ in range(3)])
    assert torch.equal(layout(zero_based, to_native(zero_based, tensor))[0], tensor)
    assert torch.equal(layout(zero_based, to_native(zero_based, tensor[0]))[0], tensor[:1])


def test_numbers_of_python_tuples_of_tensors_and_images_of_torch_are_taken():
    assert layout(spaces.Discrete(3, start=5), 7)[0].tolist() == [2]
    assert layout(spaces.Discrete(3), torch.tensor(2))[0].tolist() == [2]
    assert layout(spaces.Discrete(3), np.array([2, 0]))[0].tolist() == [2, 0]
    assert layout(spaces.Box(-1, 1, (2,)), [0.5, -0.5])[0].tolist() == [[0.5, -0.5]]
    pair = spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,))])
    nested = (torch.tensor(3), torch.zeros(2, requires_grad=True))
    assert layout(pair, nested)[0].tolist() == [[2, 0, 0]]
    image = torch.arange(4, dtype=torch.uint8).reshape(2, 2, 1)
    box = spaces.Box(0, 255, (2, 2, 1), np.uint8)
    assert layout(box, image)[0].tolist() == [[0, 1, 2, 3]]
    assert layout(box, torch.stack((image, image)))[0].tolist() == [[0, 1, 2, 3]] * 2


DISCRETE, BOX = spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (2, 2), np.uint8)
DICT = spaces.Dict({"a": DISCRETE, "b": BOX})


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (DISCRETE, 0, r"one obs or a batch of Discrete\(3, start=1\) is wanted, got 0 \(int64\)"),
        (DISCRETE, np.array([1, 4]), r"got \[1, 4\] \(int64\)"),
        (DISCRETE, 1.5, r"got 1.5 \(float64\)"),
        (DISCRETE, np.zeros((2, 2), int), r"got int64 \[2, 2\]"),
        (DISCRETE, np.zeros(0, int), "got a batch of 0 rows"),
        (DISCRETE, torch.tensor([3]), r"got \[3\] in a tensor, which counts from 0"),
        (DISCRETE, torch.tensor([0.0]), r"got a tensor float32 \[1\]"),
        (DISCRETE, torch.zeros(0, dtype=torch.int64), r"got a tensor int64 \[0\]"),
        (DISCRETE, "up", r"got array|got str 'up'"),
        (DISCRETE, None, "got NoneType None"),
        (BOX, np.zeros(3), r"got float64 \[3\]"),
        (BOX, np.zeros((1, 2, 2)), r"got float64 \[1, 2, 2\]"),
        (BOX, np.array(["a", "b"]), r"got <U1 \[2\]"),
        (BOX, torch.zeros(2, 3), r"got a tensor float32 \[2, 3\]"),
        (BOX, torch.zeros(2, dtype=torch.complex64), "got a tensor complex64"),
        (BOX, [[1, 2], [3]], "got list"),
        (DICT, {"a": 1}, "got a dict of 'a'"),
        (DICT, {"b": np.zeros(2), "a": np.array([1, 1])}, r"got float64 \[2\]"),
        (DICT, {"a": np.array([1, 1]), "b": np.zeros((3, 2))}, "got a batch of 2 and 3 rows"),
        (DICT, np.zeros(3), r"got float64 \[3\]"),
        (DICT, torch.tensor([0.5, 0, 0]), "in a tensor, which counts from 0"),
        (spaces.Tuple([BOX, BOX]), (np.zeros(2),), "got a tuple of 1"),
        (spaces.Tuple([BOX, BOX]), (), "got a tuple of 0"),
        (spaces.Text(3), "abcd", r"got a text of 4 characters, 'abcd', where at most 3 fit"),
        (spaces.Text(3), "a-b", r"'-', which is not among its characters"),
        (spaces.Text(3), 3, "got int 3"),
        (spaces.Sequence(BOX), (), r"observation space Sequence.*not supported"),
        (IMAGE, np.full((2, 2), 256), "got int64.*where the space has bytes"),
        (IMAGE, np.zeros((2, 2), np.float32), "got float32.*where the space has bytes"),
        (IMAGE, torch.zeros(2, 2), "got a tensor float32"),
    ],
)
def test_what_does_not_fit_the_space_is_refused_in_one_line(space, obs, words):
    with pytest.raises(ValueError, match=words) as stop:
        layout(space, obs)
    assert "\n" not in str(stop.value)


def test_one_and_a_batch_are_not_mistaken_where_the_caller_knows():
    with pytest.raises(ValueError, match=r"a batch of obs of Box.*got float32 \[2\]"):
        layout(BOX, BOX.sample(), batched=True)
    with pytest.raises(ValueError, match=r"one obs of Box.*got float32 \[1, 2\]"):
        layout(BOX, BOX.sample()[None], batched=False)
    row = spaces.Box(-1, 1, (1, 2))
    assert layout(row, torch.zeros(1, 2), batched=False)[1] is False
    assert layout(row, torch.zeros(1, 2))[1] is True


ACTIONS = [
    (spaces.Discrete(3, start=-4), torch.tensor([0, 2]), [-4, -2]),
    (spaces.MultiDiscrete([2, 3], start=[1, 5]), torch.tensor([[0, 0], [1, 2]]), [[1, 5], [2, 7]]),
    (spaces.Box(-2, 2, (1, 2)), torch.tensor([[[0.5, -2.0]], [[1.0, 2.0]]]), [[[0.5, -2.0]], [[1.0, 2.0]]]),
]


@pytest.mark.parametrize(
    ("space", "action", "want"), ACTIONS, ids=lambda value: str(value) if isinstance(value, spaces.Space) else ""
)
def test_actions_are_what_the_native_space_holds(space, action, want):
    batch = native_action(space, action, batched=True)
    assert batch.tolist() == want
    assert batch_space(space, 2).contains(batch)
    for row, one in enumerate(want):
        native = native_action(space, action[row : row + 1], batched=False)
        assert space.contains(native)
        assert native.tolist() == one
        assert type(native) is type(space.sample())


def test_rounding_to_another_float_leads_to_no_action_outside_the_box():
    tight = spaces.Box(-0.1, 0.1, (1,), np.float64)
    edge = torch.tensor([[0.1]])  # above 0.1 once it is wide
    assert edge.double().item() > tight.high[0]
    assert tight.contains(native_action(tight, edge, batched=False))


@pytest.mark.parametrize(
    ("space", "action", "batched", "words"),
    [
        (
            spaces.Discrete(3),
            torch.tensor([0.0]),
            True,
            r"actions for Discrete\(3\) are a tensor int64 \['B'\], got float32 \[1\]",
        ),
        (spaces.Discrete(3), torch.tensor(0), False, r"got int64 \[\]"),
        (spaces.Box(-1, 1, (2,)), torch.zeros(2), False, r"float32 \['B', 2\], got float32 \[2\]"),
        (spaces.Discrete(3), torch.tensor([0, 1]), False, "one action is one row, got 2; pass batched=True"),
        (spaces.Text(3), torch.zeros(1, 3), False, "is not supported"),
    ],
)
def test_wrong_actions_are_refused(space, action, batched, words):
    with pytest.raises(ValueError, match=words):
        native_action(space, action, batched=batched)
