"""Encoders of pictures and texts: bytes to features."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mru_rl.envs.columns import GRID

_CHANNELS = (1, 2, 3, 4)
_LEAST_FLOAT_SIDE = 8
_NATURE_SIDE = 36


class ImageShape(NamedTuple):
    """How a picture lies in its space: `frames` pictures of height x width x channels behind each other."""

    frames: int
    height: int
    width: int
    channels: int
    channels_last: bool

    def to_channels_first(self, image: Tensor) -> Tensor:
        """[N, *shape of the space] -> [N, frames * channels, height, width]."""
        image = image.reshape(-1, self.frames, *self._one())
        if self.channels_last:
            image = image.movedim(-1, 2)
        return image.flatten(1, 2)

    def _one(self) -> tuple[int, int, int]:
        if self.channels_last:
            return self.height, self.width, self.channels
        return self.channels, self.height, self.width


def is_picture(space: spaces.Space) -> bool:
    """Whether a Box is a picture: bytes in two to four dimensions, or floats in [0, 1] with one to four channels."""
    if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4:
        return False
    if space.dtype == np.uint8:
        return True
    if not np.issubdtype(space.dtype, np.floating) or len(space.shape) != 3:
        return False
    sides = sorted(space.shape)
    return bool(
        min(space.shape[0], space.shape[2]) in _CHANNELS
        and sides[1] >= _LEAST_FLOAT_SIDE
        and (space.low == 0).all()
        and (space.high == 1).all()
    )


def image_shape(space: spaces.Box) -> ImageShape:
    """Where height, width and channels of a picture are. [H, W]; [H, W, C] or [C, H, W], the channels being the one to four,
    or else beside two equal sides, or the fewer; [N, ...] of those, several behind each other.

    Raises ValueError where the layout cannot be told from the shape.
    """
    shape = space.shape
    if len(shape) == 2:
        return ImageShape(1, shape[0], shape[1], 1, channels_last=True)
    frames, shape = (shape[0], shape[1:]) if len(shape) == 4 else (1, shape)
    last, first = shape[2] in _CHANNELS, shape[0] in _CHANNELS
    if last == first:  # many channels: two equal sides are height and width
        last, first = shape[0] == shape[1], shape[1] == shape[2]
    if last == first:
        last, first = shape[2] < shape[0], shape[0] < shape[2]
    if last == first and shape[2] in _CHANNELS:  # 3 x 5 x 3: gymnasium's order
        last = True
    elif last == first:
        raise ValueError(
            f"the layout of an image of shape {list(space.shape)} is ambiguous: channels may come first or last; give it as "
            "[height, width, channels] with one to four channels, or as floats in a Box of one dimension"
        )
    if last:
        return ImageShape(frames, shape[0], shape[1], shape[2], channels_last=True)
    return ImageShape(frames, shape[1], shape[2], shape[0], channels_last=False)


class ImageEncoder(nn.Module):
    """A picture as features: [N, *shape of its space] -> [N, out_size]. Bytes are divided by 255.

    nature    three convolutions and a linear layer, Mnih et al. 2015, https://doi.org/10.1038/nature14236
    impala    three stages of residual blocks, Espeholt et al. 2018, arXiv:1802.01561, figure 3
    small     three 3 x 3 convolutions and a linear layer, for pictures of under 36 rows or columns
    codes     bytes that are codes, as in a grid of cells: embedded by value and channel, then two 3 x 3 convolutions
    auto      codes up to 16 x 16, nature from 36 x 36, small between

    Raises ValueError for a picture that is too small for the net that was asked for.
    """

    def __init__(self, space: spaces.Box, kind: str = "auto") -> None:
        super().__init__()
        self.shape = image_shape(space)
        self.is_bytes = space.dtype == np.uint8
        self.kind, self.reason = (kind, "asked for") if kind != "auto" else self._pick()
        channels = self.shape.frames * self.shape.channels
        side = min(self.shape.height, self.shape.width)
        if self.kind == "nature" and side < _NATURE_SIDE:
            raise ValueError(
                f"the nature encoder needs pictures of at least {_NATURE_SIDE} x {_NATURE_SIDE}, got {self.shape.height} x "
                f"{self.shape.width}; take auto, small, impala or codes"
            )
        self.codes: nn.EmbeddingBag | None = None
        self.out_size = 256
        if self.kind == "codes":
            self.codes = nn.EmbeddingBag(256 * channels, 32, mode="sum")
            self.out_size = 128
            layers = [_conv(32, 32, 3, padding=1), nn.ReLU(), _conv(32, 32, 3, padding=1), nn.ReLU()]
        elif self.kind == "nature":
            layers = [_conv(channels, 32, 8, 4), nn.ReLU(), _conv(32, 64, 4, 2), nn.ReLU(), _conv(64, 64, 3), nn.ReLU()]
            self.out_size = 512
        elif self.kind == "impala":
            stages = zip([channels, 16, 32], [16, 32, 32], strict=True)
            layers = [*(_ImpalaStage(before, after) for before, after in stages), nn.ReLU()]
        else:
            layers = [
                _conv(channels, 32, 3, 2, padding=1),
                nn.ReLU(),
                _conv(32, 32, 3, 2, padding=1),
                nn.ReLU(),
                _conv(32, 32, 3, padding=1),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        with torch.no_grad():
            wide = self.layers(torch.zeros(1, 32 if self.codes is not None else channels, *self.shape[1:3])).numel()
        self.head = nn.Sequential(_orthogonal(nn.Linear(wide, self.out_size)), nn.ReLU())

    def _pick(self) -> tuple[str, str]:
        height, width = self.shape[1:3]
        if self.is_bytes and max(height, width) <= GRID:
            return "codes", f"{height} x {width} is at most {GRID} x {GRID}"
        if min(height, width) >= _NATURE_SIDE:
            return "nature", f"{height} x {width} is at least {_NATURE_SIDE} x {_NATURE_SIDE}"
        return "small", f"{height} x {width} is under {_NATURE_SIDE} x {_NATURE_SIDE}"

    def forward(self, image: Tensor) -> Tensor:
        x = self.shape.to_channels_first(image)
        if self.codes is not None:
            offset = 256 * torch.arange(x.shape[1], device=x.device)
            cells = x.long().movedim(1, -1) + offset  # [N, H, W, C]
            x = self.codes(cells.flatten(0, 2)).unflatten(0, cells.shape[:3]).movedim(-1, 1)
        else:
            x = x.float().div_(255) if self.is_bytes else x
        return self.head(self.layers(x).flatten(1))


def _conv(before: int, after: int, size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return _orthogonal(nn.Conv2d(before, after, size, stride, padding))


def _orthogonal(layer: nn.Conv2d | nn.Linear):  # type: ignore[no-untyped-def]
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class _ImpalaStage(nn.Module):
    """A convolution, pooling, and two residual blocks of two convolutions each."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = _conv(before, after, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), _conv(after, after, 3, padding=1), nn.ReLU(), _conv(after, after, 3, padding=1))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.first(x))
        for block in self.blocks:
            x = x + block(x)
        return x


class TextEncoder(nn.Module):
    """A text as features: places of characters [N, length], 0 behind its end, -> [N, out_size].

    Characters are embedded; two convolutions of five of them each and the largest value of each channel follow. What lies
    behind the end counts for nothing, and texts that are there several times are encoded once: a mission is the same for a
    whole episode.
    """

    def __init__(self, space: spaces.Text) -> None:
        super().__init__()
        self.out_size = 64
        self.characters = nn.Embedding(len(space.character_set) + 1, 32, padding_idx=0)
        self.layers = nn.ModuleList([nn.Conv1d(32, 64, 5, padding=2), nn.Conv1d(64, self.out_size, 5, padding=2)])

    def forward(self, codes: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or not len(codes):
            return self._encode(codes)
        longest = int((codes != 0).any(0).sum()) if codes.shape[1] else 0
        different, which = torch.unique(codes[:, : max(longest, 1)], dim=0, return_inverse=True)
        return self._encode(different).index_select(0, which)

    def _encode(self, codes: Tensor) -> Tensor:
        there = (codes != 0).unsqueeze(1)
        x = self.characters(codes.long()).movedim(-1, 1)
        for layer in self.layers:
            x = layer(x).relu() * there
        return x.amax(-1)


class IndexEncoder(nn.Module):
    """Numbers of many values as features: int64 [N, columns] -> [N, out_size], an embedding of each, side by side."""

    def __init__(self, categories: tuple[int, ...]) -> None:
        super().__init__()
        width = 32 if len(categories) <= 8 else 8
        self.out_size = width * len(categories)
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in categories)

    def forward(self, numbers: Tensor) -> Tensor:
        found = [table(column) for table, column in zip(self.tables, numbers.long().unbind(-1), strict=True)]
        return torch.cat(found, dim=-1)
