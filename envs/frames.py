"""Stacks of frames: an agent that sees the last images of its env at once, where each is kept only once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.base import check_count
from mru_rl.envs.columns import is_bytes, parts_of
from mru_rl.envs.input_rules import ACTION_MASK


class Frames:
    """From rows that hold one image to rows that hold the last `count`, and back.

    Stacked are images of bytes, [H, W] or [H, W, C] in any order; they become [count, H, W, 1] or [count, H, W, C] in `space`,
    the newest last. A frame is all images of a row side by side, uint8 [..., size]. The row may be an obs of BatchedEnv, an
    input of InputRules, or the bytes of either: what stands before the bytes is passed on.
    `count` is at least 2. Raises ValueError for a space without such images.
    """

    def __init__(self, space: spaces.Space, count: int) -> None:
        self.count = check_count(count, name="frame_stack", least=2)
        leaves = [(place, part) for place, part in parts_of(space) if is_bytes(part)]
        widths = [getattr(part, "max_length", None) or int(np.prod(part.shape or ())) for _, part in leaves]
        self._pieces = [(width, _is_frame(*leaf)) for width, leaf in zip(widths, leaves, strict=True)]
        self.size = sum(width for width, is_frame in self._pieces if is_frame)
        if not self.size:
            raise ValueError(
                f"frame_stack stacks images, Boxes of uint8 with two or three dimensions, got {space}; leave it out, or have a "
                "wrapper show an image"
            )
        self.space = _stacked(space, self.count)

    def __call__(self, rows: Tensor, older: Tensor) -> Tensor:
        """Return rows [..., n] with the count - 1 frames before each, [..., count - 1, size] from the oldest on, as stacks."""
        stacked, column = [], 0
        for piece, is_frame in self._split(rows, 1):
            if is_frame:
                before = older[..., column : column + piece.shape[-1]]
                column += piece.shape[-1]
                stacked += [before.flatten(-2), piece]
            else:
                stacked.append(piece)
        return torch.cat(stacked, dim=-1)

    def newest(self, rows: Tensor) -> Tensor:
        """Return rows of stacks without the frames before the newest: what was stacked."""
        pieces = self._split(rows, self.count)
        return torch.cat(
            [piece[..., -(piece.shape[-1] // self.count) :] if flag else piece for piece, flag in pieces], dim=-1
        )

    def of(self, rows: Tensor) -> Tensor:
        """Return the frame of rows that are not stacked, [..., size]."""
        return torch.cat([piece for piece, is_frame in self._split(rows, 1) if is_frame], dim=-1)

    def first(self, rows: Tensor) -> Tensor:
        """Return the frames before the first one of an episode: that one, again and again, [..., count - 1, size]."""
        frame = self.of(rows).unsqueeze(-2)
        return frame.expand(*frame.shape[:-2], self.count - 1, self.size)

    def after(self, older: Tensor, rows: Tensor) -> Tensor:
        """Return the frames before the next one, from those before this one, [..., count - 1, size]."""
        return torch.cat([older[..., 1:, :], self.of(rows).unsqueeze(-2)], dim=-2)

    def _split(self, rows: Tensor, count: int) -> Iterator[tuple[Tensor, bool]]:
        """Yield what stands before the bytes, if anything does, then every leaf of bytes, and whether it is a frame."""
        widths = [width * (count if is_frame else 1) for width, is_frame in self._pieces]
        start = rows.shape[-1] - sum(widths)
        if start:
            yield rows[..., :start], False
        for width, (_, is_frame) in zip(widths, self._pieces, strict=True):
            yield rows[..., start : start + width], is_frame
            start += width


def _is_frame(place: str, space: spaces.Space) -> bool:
    image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)
    return image and place.split(".")[0] != ACTION_MASK


def _stacked(space: spaces.Space, count: int, place: str = "") -> spaces.Space:
    inner = f"{place}." if place else ""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, _stacked(part, count, f"{inner}{name}")) for name, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_stacked(part, count, f"{inner}{i}") for i, part in enumerate(space.spaces)])
    if not _is_frame(place, space):
        return space
    assert isinstance(space, spaces.Box)
    shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)  # four dimensions say where the frames are
    low, high = (np.broadcast_to(bound.reshape(shape), (count, *shape)) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=np.uint8)
