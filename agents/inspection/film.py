"""What an agent saw, taken apart: numbers, and a film for each image; and which frames of a film to show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.agents.nets.images import ImageShape, image_shape, is_picture
from mru_rl.envs.input_rules import InputRules

CHUNK = 256
"""frames looked at together"""
DIM = 32
"""bytes of a film that are all under this are codes, or hardly seen: it is shown brighter"""


@dataclass(frozen=True)
class Film:
    """An image of an obs over T steps. name: its place in the obs, "" for the whole; frames: [T, *shape], as its space has it."""

    name: str
    frames: np.ndarray
    shape: ImageShape

    def rgb(self, steps: np.ndarray) -> np.ndarray:
        """Return frames to look at, uint8 [len(steps), H, W, 3]; of several behind each other the last, of codes the brightness.

        Three channels, or a multiple of three, are colors; of others the last is shown, in grey.
        """
        raw = torch.from_numpy(self.frames[steps])
        image = self.shape.to_channels_first(raw).movedim(1, -1)[..., -self.shape.channels :].numpy()
        image = image[..., -3:] if image.shape[-1] % 3 == 0 else image[..., -1:].repeat(3, axis=-1)
        if image.dtype != np.uint8:
            return (255 * image.clip(0, 1)).round().astype(np.uint8)
        return image if self.brighter == 1 else (image * self.brighter).astype(np.uint8)

    @property
    def brighter(self) -> float:
        """How many times brighter than its bytes the film is shown."""
        most = self.frames.max(initial=0) if self.frames.dtype == np.uint8 else DIM
        return 255 / float(most) if 0 < most < DIM else 1.0


def take_apart(rules: InputRules, x: Tensor) -> tuple[Tensor, list[str], list[Film]]:
    """Return inputs [T, size] as their numbers, float32 [T, D], a name for each of those, and the films of their images."""
    floats, rest = rules.split(x)
    numbers, films, count = [], [], {"obs": 0, "last action": 0}
    names: list[str] = []
    for i, part in enumerate(rules.parts):
        taken = (cast(Tensor, rest) if part.kind == "bytes" else floats)[:, part.start : part.stop]
        if i < rules.obs_parts and part.kind in ("numbers", "bytes") and is_picture(part.space):
            space = cast(spaces.Box, part.space)
            films.append(Film(part.place, taken.reshape(-1, *space.shape).cpu().numpy(), image_shape(space)))
            continue
        numbers.append(taken.float())
        if part.place == "start_flag" and i >= rules.obs_parts:
            names += ["going on", "start"]
        elif part.place == "previous_reward" and i >= rules.obs_parts:
            names += ["last reward"]
        else:
            family = "obs" if i < rules.obs_parts else "last action"
            first = count[family]
            count[family] += taken.shape[1]
            names += [f"{family} {n}" for n in range(first, count[family])]
    return torch.cat(numbers, dim=1) if numbers else floats[:, :0], names, films


def moments(film: Film, most: int) -> np.ndarray:
    """Return at most so many steps of a film to show, int, rising: all, or half of them evenly spread, the first and the last
    among them, and else those at which it changes most, none of these close to each other.

    What seldom changes counts more than what flickers.
    """
    steps = len(film.frames)
    if steps <= most:
        return np.arange(steps)
    even = np.unique(np.linspace(0, steps - 1, most // 2 + 1).round().astype(int))
    change = _change(film.frames)
    change[even] = 0
    apart = max(3, steps // (8 * most))
    best: list[int] = []
    while len(best) + len(even) < most and change.max() > 0:
        step = int(change.argmax())
        best.append(step)
        change[max(step - apart + 1, 0) : step + apart] = 0
    return np.sort(np.concatenate((even, np.array(best, dtype=int))))


def _change(frames: np.ndarray) -> np.ndarray:
    """Return how much a frame differs from the one before and, half as much, from the one after, float [T]; each pixel in
    units of its mean change."""
    size = frames[0].size
    usual = np.zeros(size)
    for _, change in _changes(frames):
        usual += change.sum(axis=0)
    weight = np.divide(1, usual, out=np.zeros(size), where=usual > 0)
    into = np.zeros(len(frames) + 1)
    for first, change in _changes(frames):
        into[first + 1 : first + 1 + len(change)] = change @ weight
    return into[:-1] + into[1:] / 2


def _changes(frames: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the changes from frame to frame, float32 [n, pixels], each with the frame that the first of them is from."""
    for first in range(0, len(frames) - 1, CHUNK):
        some = frames[first : first + CHUNK + 1].reshape(-1, frames[0].size).astype(np.float32)
        yield first, np.abs(np.diff(some, axis=0))
