"""Which actions a batch of envs takes: any action space as a simple one, and what arrives checked before anything is stepped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

SUPPORTED_ACTIONS = "Discrete, MultiDiscrete, MultiBinary, Box of floats, Box of up to 4,096 whole numbers each, and Tuple or Dict of those"
MOST_WHOLE_NUMBERS = 4096
"""Values that a part of a Box of whole numbers has at most: each is a choice of its own."""
MOST_AS_FLOAT = 2**24
"""Choices that a part has at most beside a Box of floats: float32 holds the numbers up to here exactly."""


def simple_action_space(space: spaces.Space) -> spaces.Space:
    """Return an action space as BatchedEnv has it; the space itself where it is one of those already.

    Discrete(n)                 from Discrete with any start, and a Box of whole numbers without dimensions
    MultiDiscrete, one axis     from MultiDiscrete and MultiBinary of any axes, a Box of whole numbers (counted from its
                                low), and Tuple and Dict of parts that all count
    Box of floats               of any shape; from Tuple and Dict of such Boxes too: one axis, float32
    Tuple                       where a Tuple or Dict has both: its parts in order, each of the above without axes or with one

    `native_action` of mru_rl.envs.native goes the other way. Raises ValueError for a space that is not supported.
    """
    if not isinstance(space, (spaces.Tuple, spaces.Dict)):
        return _simple_leaf(space, space)
    parts = [_simple_leaf(leaf, space) for leaf in action_leaves(space)]
    if not parts:
        raise ValueError(f"action space {space} has no parts, so there is nothing to choose; give it one")
    boxes = [part for part in parts if isinstance(part, spaces.Box)]
    if not boxes:
        return spaces.MultiDiscrete(np.concatenate([choices(part) for part in parts]))
    if len(boxes) == len(parts):
        low, high = (np.concatenate(sides) for sides in zip(*map(float32_bounds, boxes), strict=True))
        return spaces.Box(low, high, dtype=np.float32)
    most = max(int(choices(part).max()) for part in parts if not isinstance(part, spaces.Box))
    if most > MOST_AS_FLOAT:
        raise ValueError(
            f"action space {space} has a part of {most:,} choices beside a Box of floats, where at most {MOST_AS_FLOAT:,} "
            "are told apart; wrap the env so that it has fewer"
        )
    flat = [
        spaces.Box(*float32_bounds(part), dtype=np.float32) if isinstance(part, spaces.Box) else part for part in parts
    ]
    return space if _is_simple(space, flat) else spaces.Tuple(flat)


def action_leaves(space: spaces.Space) -> Iterator[spaces.Space]:
    """Yield the spaces inside an action space that are no Tuple or Dict, in gymnasium's own order."""
    if isinstance(space, (spaces.Tuple, spaces.Dict)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from action_leaves(part)
    else:
        yield space


def choices(space: spaces.Space) -> np.ndarray:
    """Return how many choices each number of a simple Discrete or MultiDiscrete has, int64 [n]."""
    assert isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)), space
    return np.asarray([space.n] if isinstance(space, spaces.Discrete) else space.nvec, dtype=np.int64)


def float32_bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return both bounds of a Box as float32 [n]; infinite where float32 does not reach."""
    with np.errstate(over="ignore"):
        return space.low.astype(np.float32).reshape(-1), space.high.astype(np.float32).reshape(-1)


def _is_simple(space: spaces.Space, flat: list[spaces.Space]) -> bool:
    return isinstance(space, spaces.Tuple) and list(space.spaces) == flat


def _simple_leaf(leaf: spaces.Space, whole: spaces.Space) -> spaces.Space:
    if isinstance(leaf, spaces.Discrete):
        return leaf if leaf.start == 0 else spaces.Discrete(leaf.n)
    if isinstance(leaf, spaces.MultiDiscrete) and leaf.nvec.size:
        return leaf if leaf.nvec.ndim == 1 and not leaf.start.any() else spaces.MultiDiscrete(leaf.nvec.reshape(-1))
    if isinstance(leaf, spaces.MultiBinary) and np.prod(leaf.shape):
        return spaces.MultiDiscrete([2] * int(np.prod(leaf.shape)))
    if isinstance(leaf, spaces.Box) and leaf.low.size and leaf.dtype.kind in "fiu" and leaf.dtype.itemsize <= 8:
        if leaf.dtype.kind == "f":
            return leaf
        counts = leaf.high.astype(object) - leaf.low.astype(object) + 1  # beyond int64 where a Box is
        if np.max(counts) <= MOST_WHOLE_NUMBERS:
            counts = np.asarray(counts, dtype=np.int64)
            return spaces.MultiDiscrete(counts.reshape(-1)) if leaf.shape else spaces.Discrete(int(counts))
    inside = "" if leaf is whole else f" (for its part {leaf})"
    raise ValueError(
        f"action space {whole} is not supported{inside}; supported are {SUPPORTED_ACTIONS}: wrap the env so that it takes those"
    )


class ActionCheck:
    """Call it with an action: it raises TypeError or ValueError unless dtype, shape, device and range are right.

    A call costs a few microseconds.
    """

    def __init__(self, space: spaces.Space, *, num_envs: int, device: torch.device) -> None:
        self.space, self.device = space, device
        self.dtype, row_shape = action_layout(space)
        self.shape = torch.Size((num_envs, *row_shape))
        self.count: int | None = None
        self.whole: Tensor | None = None
        space = simple_action_space(space)
        if not isinstance(space, (spaces.Box, spaces.Tuple)) and (choices(space) == choices(space)[0]).all():
            self.count = int(choices(space)[0])
            return
        low, high = (torch.as_tensor(side, device=device).reshape(row_shape) for side in _bounds(space))
        self.low, self.high = low.to(self.dtype), high.to(self.dtype)
        if isinstance(space, spaces.Tuple):
            self.whole = torch.as_tensor(_counting_columns(space), device=device)

    def __call__(self, action: Any) -> None:
        if not isinstance(action, Tensor):
            self._refuse(TypeError, type(action).__name__, "convert it with torch.as_tensor")
        if action.dtype != self.dtype:
            self._refuse(TypeError, f"dtype {action.dtype}", f"convert it with action.to({self.dtype})")
        if action.shape != self.shape:
            self._refuse(ValueError, f"shape {list(action.shape)}", "give one action per env, in the order of the rows")
        if action.device != self.device:
            self._refuse(ValueError, f"one on {action.device}", f"move it with action.to({str(self.device)!r})")
        if self.count is not None:
            low, high = torch.aminmax(action)
            in_range = low.item() >= 0 and high.item() < self.count
        else:
            in_range = bool(self._inside(action).all())
        if not in_range:
            self._refuse(ValueError, self._culprit(action), "number choices from 0 and clip floats to the bounds")

    def _inside(self, action: Tensor) -> Tensor:
        inside = (action >= self.low) & (action <= self.high)
        return inside if self.whole is None else inside & (~self.whole | (action == action.floor()))

    def _culprit(self, action: Tensor) -> str:
        fits = self._inside(action) if self.count is None else (action >= 0) & (action < self.count)
        inside = fits.reshape(self.shape[0], -1).all(1)
        row = int((~inside).nonzero()[0, 0])
        return f"{action[row].tolist()} in row {row}"

    def _refuse(self, error: type[Exception], arrived: str, move: str) -> None:
        raise error(
            f"an action for {self.space} must be a tensor {str(self.dtype).removeprefix('torch.')} {list(self.shape)} "
            f"on {self.device} with every entry inside the space, got {arrived}; {move}"
        )


def action_layout(space: spaces.Space) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return dtype and shape of one row of actions for this space. Raises ValueError if the space is not supported."""
    space = simple_action_space(space)
    if isinstance(space, spaces.Discrete):
        return torch.int64, ()
    if isinstance(space, spaces.MultiDiscrete):
        return torch.int64, space.nvec.shape
    if isinstance(space, spaces.Box):
        return torch.float32, space.shape
    assert isinstance(space, spaces.Tuple), space
    return torch.float32, _counting_columns(space).shape


def null_action(space: spaces.Space) -> Tensor:
    """Return the action that stands for "none yet" in one row.

    0 where a Box has it, else its lowest, or what is nearest to 0 where no lowest is; numbers are 0.
    """
    space = simple_action_space(space)
    if isinstance(space, spaces.Tuple):
        return torch.cat([null_action(part).reshape(-1).float() for part in space.spaces])
    dtype, shape = action_layout(space)
    zeros = torch.zeros(shape, dtype=dtype)
    if isinstance(space, spaces.Box) and not space.contains(zeros.numpy().astype(space.dtype)):
        low, high = (torch.as_tensor(side).reshape(shape) for side in float32_bounds(space))
        return low if low.isfinite().all() else zeros.clamp(low, high)
    return zeros


def _bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest action of a simple space, flat."""
    if isinstance(space, spaces.Tuple):
        low, high = (np.concatenate(sides) for sides in zip(*map(_bounds, space.spaces), strict=True))
        return low, high
    if isinstance(space, spaces.Box):
        return float32_bounds(space)
    return np.zeros_like(choices(space)), choices(space) - 1


def _counting_columns(space: spaces.Tuple) -> np.ndarray:
    """Return which columns of a mixed action are numbers of choices, bool [n]."""
    return np.concatenate([np.full(_bounds(part)[0].size, not isinstance(part, spaces.Box)) for part in space.spaces])
