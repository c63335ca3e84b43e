"""The long tasks as pictures: what an obs says is drawn once for each thing it can say, and looked up from then on."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

SIZE = 24
IMAGE = Box(0, 255, (3, SIZE, SIZE), np.uint8)
MOST_COLORS = 64
"""Colors and symbols that can be told apart."""
SCALE = 8
"""Pixels on a side that `enlarged` makes of one."""
_LEVELS = 256
_SIGMAS = 3.0
"""Standard deviations of a burst from the middle of a byte to its end."""

Draw = Callable[[Tensor], Tensor]
"""From an obs, float32 [..., columns], to the bytes of its picture, uint8 [..., 3 * SIZE * SIZE]; a pure function."""

_FIGURE = ".##. .##. #### .##. #..#"
_UP = "..#.. .###. ##### ..#.. ..#.."
_DOWN = "..#.. ..#.. ##### .###. ..#.."
_BALL = ".###. ##### ##### ##### .###."
_KEY = ".##...... #..#..... #..###### #..#..#.# .##......"
_DOOR = "##### #...# #...# #...# #..## #...# #...# #...# #...#"
_ASK = ".###. #...# ....# ...#. ..#.. ..... ..#.."
_DISK = "..###.. .#####. ####### ####### ####### .#####. ..###.."
_SQUARE = "####### ####### ####### ####### ####### ####### #######"
_TRIANGLE = "...#... ...#... ..###.. ..###.. .#####. .#####. #######"
_CROSS = "##...## ###.### .#####. ..###.. .#####. ###.### ##...##"
_SYMBOLS = (_DISK, _SQUARE, _TRIANGLE, _CROSS)
_WHITE, _FLOOR, _GREEN, _ORANGE = (245, 245, 245), (196, 184, 160), (40, 200, 80), (250, 130, 20)


@dataclass(frozen=True)
class Album:
    """All pictures there are, and which one an obs shows: the page that `weights` add up to, or its `noise` one of 256 more.

    pages      uint8 [n, 3 * SIZE * SIZE], or [n * 256, ...] where the obs has noise
    weights    float32 [columns without noise], whole numbers
    noise      half-width of the noise in the last column of an obs; 0: there is none, or it is switched off
    """

    pages: Tensor
    weights: Tensor
    noise: float = 0.0

    def __call__(self, obs: Tensor) -> Tensor:
        page = (obs[..., : len(self.weights)] @ self.weights).long()
        if self.noise:
            page = page * _LEVELS + _level(obs[..., -1] / self.noise)
        return self.pages.index_select(0, page.flatten()).view(*page.shape, -1)


@dataclass(frozen=True)
class Burst:
    """RecallFirst's pictures, and static where an obs is none of RecallFirst's.

    The static shows every column of the obs as one of 256 levels, up to three times `scale`.
    """

    usual: Draw
    scale: float

    def __call__(self, obs: Tensor) -> Tensor:
        symbols = obs[..., :-2]
        usual = ((obs == 0) | (obs == 1)).all(-1) & (symbols.sum(-1) == 1)
        if usual.all():
            return self.usual(obs)
        shown = self.usual(torch.where(usual.unsqueeze(-1), obs, 0.0))
        levels = _level(obs[~usual] / (_SIGMAS * self.scale or 1.0)).to(torch.uint8)
        shuffled = (torch.arange(shown.shape[-1], device=obs.device) * 2654435761 % 2**32).argsort()
        shown[~usual] = _static(levels[:, shuffled % obs.shape[-1]])
        return shown


def tmaze_pictures(noise: float, device: torch.device) -> Draw:
    """Draw a TMaze: a corridor, at its start an arrow on one of its walls, at its end an opening on both sides.

    noise: half-width of the noise; the obs has its column even where it is 0. It is a strip of grey static.
    """
    junction = _corridor()
    junction[:, :21, 15:21] = _rgb(_FLOOR)
    scenes = [
        _corridor(),
        _stamped(_corridor(), _UP, 1, 9, _GREEN),
        _stamped(_corridor(), _DOWN, 15, 9, _ORANGE),
        junction,
    ]
    pages = torch.stack(scenes)
    if noise:
        pages = pages.unsqueeze(1).repeat(1, _LEVELS, 1, 1, 1)
        strip = torch.arange(_LEVELS, dtype=torch.uint8).unsqueeze(1).expand(-1, 3 * SIZE)
        pages[..., 21:, :] = _static(strip).view(_LEVELS, 1, 3, SIZE)  # grey: the same in all three colors
    return _album(pages, [1, 2, 3], device, noise)


def key_door_pictures(colors: int, device: torch.device) -> Draw:
    """Draw a KeyDoor: a corridor with balls, a key and a door in it."""
    hues = _hues(colors, "KeyDoor's option colors")
    kinds = [
        [_corridor() for _ in hues],
        [_stamped(_corridor(), _BALL, 8, 12, hue) for hue in hues],
        [_stamped(_corridor(), _KEY, 8, 10, hue) for hue in hues],
        [_stamped(_corridor(), _DOOR, 5, 16, (90, 50, 20), (150, 95, 45)) for _ in hues],
    ]
    pages = torch.stack([page for kind in kinds for page in kind])
    return _album(pages, [*range(colors), colors, 2 * colors, 3 * colors], device)


def recall_first_pictures(symbols: int, device: torch.device, task: str = "RecallFirst") -> Draw:
    """Draw a RecallFirst: a card with a symbol, framed at the cue, and beside it a mark at the question."""
    hues = _hues(symbols, f"{task}'s option symbols")
    pages = []
    for question in (False, True):
        for cue in (False, True):
            for symbol, hue in enumerate(hues):
                page = _filled((30, 70, 60))
                if cue:
                    page[:, 2:22, 1:16] = _rgb((255, 215, 0))
                page[:, 4:20, 3:14] = _rgb(_WHITE)
                _stamped(page, _SYMBOLS[symbol % len(_SYMBOLS)], 8, 5, hue)
                pages.append(_stamped(page, _ASK, 8, 18, _WHITE) if question else page)
    return _album(torch.stack(pages), [*range(symbols), symbols, 2 * symbols], device)


def enlarged(picture: Tensor) -> np.ndarray:
    """Return the bytes of a picture as one to look at, uint8 [height, width, 3], a square for each of its pixels."""
    image = picture.view(IMAGE.shape).movedim(0, -1)
    return image.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1).cpu().numpy()


def _album(pages: Tensor, weights: list[int], device: torch.device, noise: float = 0.0) -> Album:
    flat = pages.reshape(-1, 3 * SIZE * SIZE).to(device)
    return Album(flat, torch.tensor(weights, dtype=torch.float32, device=device), noise)


def _level(unit: Tensor) -> Tensor:
    """Return numbers in [-1, 1] as 0 to 255, int64; those beyond as the nearer end."""
    return ((unit + 1) * (_LEVELS / 2)).clamp(0, _LEVELS - 1).long()


def _static(levels: Tensor) -> Tensor:
    """Return levels 0 to 255, uint8 [..., pixels], as bytes that look random from pixel to pixel and from level to level.

    Each step can be undone, so that every pixel alone tells the level.
    """
    pixel = torch.arange(levels.shape[-1], device=levels.device)
    mixed = levels ^ (pixel * pixel * 29 + pixel * 101).to(torch.uint8)
    for factor in ((pixel * 37 | 1).to(torch.uint8), 165, 93):
        mixed = mixed * factor  # bytes wrap around
        mixed = mixed ^ mixed >> 4
    return mixed


def _corridor() -> Tensor:
    """Draw two walls of bricks, a floor between them, and who walks there, [3, SIZE, SIZE]."""
    page = _filled((120, 70, 60))
    row, column = torch.arange(SIZE).unsqueeze(1), torch.arange(SIZE)
    mortar = (row % 4 == 3) | ((column + 4 * (row // 4 % 2)) % 8 == 7)
    page[:, mortar] = _rgb((80, 45, 40)).flatten(1)
    page[:, 7:14] = _rgb(_FLOOR)
    return _stamped(page, _FIGURE, 8, 3, (60, 60, 90))


def _filled(color: tuple[int, int, int]) -> Tensor:
    return _rgb(color).expand(3, SIZE, SIZE).clone()


def _stamped(
    page: Tensor, art: str, top: int, left: int, ink: tuple[int, int, int], paper: tuple[int, int, int] | None = None
) -> Tensor:
    """Draw art, rows of # and . with spaces between, into a page; return the page."""
    marks = torch.tensor([[sign == "#" for sign in line] for line in art.split()])
    part = page[:, top : top + len(marks), left : left + marks.shape[1]]
    if paper is not None:
        part[:] = _rgb(paper)
    part[:, marks] = _rgb(ink).flatten(1)
    return page


def _rgb(color: tuple[int, int, int]) -> Tensor:
    return torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)


def _hues(count: int, name: str) -> list[tuple[int, int, int]]:
    """Return so many colors, far from each other. Raises ValueError if they are too many."""
    if count > MOST_COLORS:
        raise ValueError(
            f"{name} is at most {MOST_COLORS} with pixels=True, which shows each in a color of its own, got {count}; "
            "take fewer, or pixels=False"
        )
    unit = [colorsys.hsv_to_rgb(i / count, 0.9, 0.85) for i in range(count)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in unit]
