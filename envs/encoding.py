"""From gymnasium spaces to flat rows: numbers one-hot, floats as they are, bytes as bytes, in the order of the space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import embedding

from mru_rl.envs.columns import is_bytes, parts_of

SUPPORTED_OBSERVATIONS = "Discrete, MultiDiscrete, MultiBinary, Box, Text, and Tuple or Dict of those"
LARGE = 512
"""A number that can take more values than this is not made one-hot: its column stays a number, for a network to embed."""
MOST_VALUES = 2**24
"""Most values of such a number: float32 holds them exactly."""
MOST_CHARACTERS = 255
_FLOAT_BYTES = 4


class Leaf(NamedTuple):
    """One simple space inside an observation space."""

    space: spaces.Space
    columns: int
    categories: tuple[int, ...]
    """How many values each column can take; empty where the columns are numbers to be used as they are."""
    counts: bool
    """True if the columns are whole numbers."""
    place: str = ""
    """Where it is: "" for the whole obs, else the names of the Dicts and Tuples around it, as in "arm.speed"."""


class Part(NamedTuple):
    """Some columns of an encoded row, and what they are."""

    place: str
    kind: Literal["numbers", "one-hot", "index", "bytes"]
    """numbers as they are, one-hot, one whole number per column, or bytes (an image, a text, a vector of bytes)."""
    space: spaces.Space
    start: int
    stop: int
    """Columns among the floats of a row; of bytes among its bytes."""
    categories: tuple[int, ...] = ()
    """Of "index": how many values each column can take."""


def leaves(space: spaces.Space) -> Iterator[Leaf]:
    """Yield the simple spaces inside `space`, in gymnasium's own order. Raises ValueError for one not supported."""
    for place, simple in parts_of(space):
        yield _leaf(place, simple, space)


def _leaf(place: str, simple: spaces.Space, whole: spaces.Space) -> Leaf:
    if isinstance(simple, spaces.Discrete):
        leaf = Leaf(simple, 1, (int(simple.n),), True, place)
    elif isinstance(simple, spaces.MultiDiscrete):
        leaf = Leaf(simple, simple.nvec.size, tuple(simple.nvec.flatten().tolist()), True, place)
    elif isinstance(simple, spaces.MultiBinary):
        leaf = Leaf(simple, int(np.prod(simple.shape)), (), True, place)
    elif isinstance(simple, spaces.Box):
        leaf = Leaf(simple, int(np.prod(simple.shape)), (), False, place)
    elif isinstance(simple, spaces.Text):
        leaf = Leaf(simple, simple.max_length, (), False, place)
        if len(simple.character_set) > MOST_CHARACTERS:
            raise ValueError(
                f"a text has at most {MOST_CHARACTERS} different characters, {_named(simple, place)} has "
                f"{len(simple.character_set)}; give its space the charset it needs"
            )
    else:
        raise ValueError(
            f"observation space {_named(simple, place)} is not supported; supported are {SUPPORTED_OBSERVATIONS}: "
            "wrap the env so that it shows those"
        )
    if any(n > MOST_VALUES for n in leaf.categories):
        raise ValueError(
            f"a number of an observation has at most {MOST_VALUES:,} values, {_named(simple, place)} has "
            f"{max(leaf.categories):,}; wrap the env so that it shows several smaller ones, or a Box"
        )
    return leaf


def _named(space: spaces.Space, place: str) -> str:
    return f"{space} at {place!r}" if place else str(space)


class Encoding:
    """The tensor layout of a space (see BatchedEnv) and its flat form.

    layout      `dtype` and `shape` of one raw row: () for a lone Discrete, (columns,) for everything else; where `packed`
                it is uint8: the float32 bytes of all columns that are none, then those that are
    floats      float32 [..., size], what encoding makes of the columns that are no bytes: gymnasium's `flatten` of them,
                but for numbers of over 512 values, which stay one column; a number outside a Discrete's range raises an
                error of torch's
    parts       what the columns of an encoded row are, in order; those of bytes count from the first byte
    """

    def __init__(self, space: spaces.Space, *, device: torch.device) -> None:
        self.device = device
        found = list(leaves(space))
        plain = [leaf for leaf in found if not is_bytes(leaf.space)]
        self.bytes = sum(leaf.columns for leaf in found if is_bytes(leaf.space))
        self.packed = len(plain) < len(found)
        self.raw_floats = sum(leaf.columns for leaf in plain)
        self.parts: list[Part] = []
        hot: list[int] = []
        offset: list[int] = []
        plain_from: list[int] = []
        plain_to: list[int] = []
        size = column = byte = 0
        for leaf in found:
            if is_bytes(leaf.space):
                self.parts.append(Part(leaf.place, "bytes", leaf.space, byte, byte + leaf.columns))
                byte += leaf.columns
                continue
            columns, first = range(column, column + leaf.columns), size
            small = bool(leaf.categories) and max(leaf.categories) <= LARGE
            if small:
                for i, count in zip(columns, leaf.categories, strict=True):
                    hot.append(i)
                    offset.append(size)
                    size += count
            else:
                plain_from += columns
                plain_to += range(size, size + leaf.columns)
                size += leaf.columns
            kind: Literal["one-hot", "index", "numbers"]
            kind = "one-hot" if small else "index" if leaf.categories else "numbers"
            categories = leaf.categories if kind == "index" else ()
            self.parts.append(Part(leaf.place, kind, leaf.space, first, size, categories))
            column += leaf.columns
        self.size = size
        if self.packed:
            self.dtype = torch.uint8
            self.shape: tuple[int, ...] = (_FLOAT_BYTES * self.raw_floats + self.bytes,)
        else:
            self.dtype = torch.int64 if all(leaf.counts for leaf in found) else torch.float32
            self.shape = () if isinstance(space, spaces.Discrete) else (self.raw_floats,)
        self._all_hot, self._all_plain = not plain_from, not hot
        self._eye = torch.eye(size, device=device) if self.shape == () and self._all_hot else None
        self._hot = torch.tensor(hot, dtype=torch.int64, device=device)
        self._offset = torch.tensor(offset, dtype=torch.int64, device=device)
        self._plain_from = torch.tensor(plain_from, dtype=torch.int64, device=device)
        self._plain_to = torch.tensor(plain_to, dtype=torch.int64, device=device)

    @property
    def width(self) -> int:
        """Width of an encoded row: of floats, or of bytes where it is packed."""
        return _FLOAT_BYTES * self.size + self.bytes if self.packed else self.size

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

    def split(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a raw row in two: the columns that are no bytes, as they are or float32 [..., n], and those that are."""
        return unpack(raw, self.raw_floats) if self.packed else (raw, None)

    def __call__(self, raw: Tensor) -> Tensor:
        """Return the first of the two that `split` gives, encoded: float32 [..., size], a new tensor."""
        if self._eye is not None:
            return embedding(raw, self._eye)
        if self.shape == ():
            return raw.unsqueeze(-1).float()
        if self._all_plain:
            return raw.to(torch.float32, copy=True)
        flat = raw.new_zeros((*raw.shape[:-1], self.size), dtype=torch.float32)
        numbers = raw if self._all_hot else raw[..., self._hot].long()
        flat.scatter_(-1, numbers.long() + self._offset, 1.0)
        if not self._all_hot:
            flat[..., self._plain_to] = raw[..., self._plain_from].float()
        return flat


def pack(floats: Tensor, bytes: Tensor) -> Tensor:
    """Return one row of bytes: float32 [..., n] and uint8 [..., m] as uint8 [..., 4 n + m]."""
    return torch.cat((floats.contiguous().view(torch.uint8), bytes), dim=-1) if floats.shape[-1] else bytes


def unpack(row: Tensor, floats: int) -> tuple[Tensor, Tensor]:
    """Return what `pack` packed: float32 [..., floats] and uint8 [..., m], which may share memory with the row."""
    ahead = row[..., : _FLOAT_BYTES * floats]
    if not floats:
        return row.new_zeros((*row.shape[:-1], 0), dtype=torch.float32), row
    return ahead.clone(memory_format=torch.contiguous_format).view(torch.float32), row[..., _FLOAT_BYTES * floats :]
