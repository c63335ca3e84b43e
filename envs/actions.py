"""Which actions a batch of envs takes, checked before anything is stepped."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

SUPPORTED_ACTIONS = "Discrete, MultiDiscrete (one axis) and Box of floats"


class ActionCheck:
    """Call it with an action: it raises TypeError or ValueError unless dtype, shape, device and range are right.

    A call costs a few microseconds.
    """

    def __init__(self, space: spaces.Space, *, num_envs: int, device: torch.device) -> None:
        self.space, self.device = space, device
        self.dtype, row_shape = action_layout(space)
        self.shape = torch.Size((num_envs, *row_shape))
        self.count: int | None = None
        if isinstance(space, spaces.Discrete):
            self.count = int(space.n)
        elif isinstance(space, spaces.MultiDiscrete) and (space.nvec == space.nvec[0]).all():
            self.count = int(space.nvec[0])
        elif isinstance(space, spaces.MultiDiscrete):
            self.high = torch.as_tensor(space.nvec.astype(np.int64) - 1, device=device)
            self.low = torch.zeros_like(self.high)
        elif isinstance(space, spaces.Box):
            self.low = torch.as_tensor(space.low.astype(np.float32), device=device)
            self.high = torch.as_tensor(space.high.astype(np.float32), device=device)

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
            in_range = bool(((action >= self.low) & (action <= self.high)).all())
        if not in_range:
            self._refuse(ValueError, self._culprit(action), "number choices from 0 and clip floats to the bounds")

    def _culprit(self, action: Tensor) -> str:
        low, high = (0, self.count - 1) if self.count is not None else (self.low, self.high)
        inside = ((action >= low) & (action <= high)).reshape(self.shape[0], -1).all(1)
        row = int((~inside).nonzero()[0, 0])
        return f"{action[row].tolist()} in row {row}"

    def _refuse(self, error: type[Exception], arrived: str, move: str) -> None:
        raise error(
            f"an action for {self.space} must be a tensor {str(self.dtype).removeprefix('torch.')} {list(self.shape)} "
            f"on {self.device} with every entry inside the space, got {arrived}; {move}"
        )


def action_layout(space: spaces.Space) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return dtype and shape of one row of actions for this space. Raises ValueError if the space is not supported."""
    if isinstance(space, spaces.Discrete):
        return torch.int64, ()
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return torch.int64, space.nvec.shape
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return torch.float32, space.shape
    raise ValueError(
        f"action space {space} is not supported; supported are {SUPPORTED_ACTIONS}: wrap the env so that it takes those"
    )


def null_action(space: spaces.Space) -> Tensor:
    """Return the action that stands for "none yet" in one row: 0 where the space has it, the lowest otherwise."""
    dtype, shape = action_layout(space)
    zeros = torch.zeros(shape, dtype=dtype)
    if isinstance(space, spaces.Box) and not space.contains(zeros.numpy().astype(space.dtype)):
        return torch.as_tensor(space.low.astype(np.float32))
    return zeros
