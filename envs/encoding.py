"""From gymnasium spaces to flat float32 vectors: numbers one-hot, floats as they are, in the order of the space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import embedding

SUPPORTED_OBSERVATIONS = "Discrete, MultiDiscrete, MultiBinary, Box, and Tuple or Dict of those"


class Leaf(NamedTuple):
    """One simple space inside an observation space."""

    space: spaces.Space
    columns: int
    categories: tuple[int, ...]
    """How many values each column can take; empty where the columns are numbers to be used as they are."""
    counts: bool
    """True if the columns are whole numbers."""


def leaves(space: spaces.Space) -> Iterator[Leaf]:
    """Yield the simple spaces inside `space`, in gymnasium's own order."""
    if isinstance(space, spaces.Discrete):
        yield Leaf(space, 1, (int(space.n),), True)
    elif isinstance(space, spaces.MultiDiscrete):
        yield Leaf(space, space.nvec.size, tuple(space.nvec.flatten().tolist()), True)
    elif isinstance(space, spaces.MultiBinary):
        yield Leaf(space, int(np.prod(space.shape)), (), True)
    elif isinstance(space, spaces.Box):
        yield Leaf(space, int(np.prod(space.shape)), (), False)
    elif isinstance(space, (spaces.Tuple, spaces.Dict)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from leaves(part)
    else:
        raise ValueError(
            f"observation space {space} is not supported; supported are {SUPPORTED_OBSERVATIONS}: "
            "wrap the env so that it shows those"
        )


class Encoding:
    """The tensor layout of a space (see BatchedEnv) and its flat form, which equals gymnasium's `flatten`.

    layout      `dtype` and `shape` of one raw row: () for a lone Discrete, (columns,) for everything else
    flat        float32 [..., size]; a number outside a Discrete's range raises an error of torch's
    """

    def __init__(self, space: spaces.Space, *, device: torch.device) -> None:
        parts = list(leaves(space))
        self.dtype = torch.int64 if all(part.counts for part in parts) else torch.float32
        self.shape = () if isinstance(space, spaces.Discrete) else (sum(part.columns for part in parts),)
        hot: list[int] = []
        offset: list[int] = []
        plain_from: list[int] = []
        plain_to: list[int] = []
        size = column = 0
        for part in parts:
            columns = range(column, column + part.columns)
            for i, count in zip(columns, part.categories, strict=False):
                hot.append(i)
                offset.append(size)
                size += count
            if not part.categories:
                plain_from += columns
                plain_to += range(size, size + part.columns)
                size += part.columns
            column += part.columns
        self.size = size
        self._all_hot, self._all_plain = not plain_from, not hot
        self._eye = torch.eye(size, device=device) if self.shape == () else None
        self._hot = torch.tensor(hot, dtype=torch.int64, device=device)
        self._offset = torch.tensor(offset, dtype=torch.int64, device=device)
        self._plain_from = torch.tensor(plain_from, dtype=torch.int64, device=device)
        self._plain_to = torch.tensor(plain_to, dtype=torch.int64, device=device)

    def check(self, raw: Any, id: str) -> None:
        """Raise TypeError or ValueError if raw cannot be an obs of the space, by type, dtype or width."""
        if not isinstance(raw, Tensor):
            raise TypeError(
                f"an obs of {id} is a tensor, got {type(raw).__name__}; give what reset() and step() return"
            )
        if raw.dtype != self.dtype or (self.shape and raw.shape[-1:] != self.shape):
            raise ValueError(
                f"an obs of {id} is {str(self.dtype).removeprefix('torch.')} [..., {', '.join(map(str, self.shape))}], got "
                f"{str(raw.dtype).removeprefix('torch.')} {list(raw.shape)}; give what reset() and step() return"
            )

    def __call__(self, raw: Tensor) -> Tensor:
        if self._eye is not None:
            return embedding(raw, self._eye)
        if self._all_plain:
            return raw.to(torch.float32, copy=True)
        flat = raw.new_zeros((*raw.shape[:-1], self.size), dtype=torch.float32)
        numbers = raw if self._all_hot else raw[..., self._hot].long()
        flat.scatter_(-1, numbers + self._offset, 1.0)
        if not self._all_hot:
            flat[..., self._plain_to] = raw[..., self._plain_from].float()
        return flat
