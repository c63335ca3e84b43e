"""From what a gymnasium env returns to flat arrays, checked against its space.

Light on imports: the worker processes of from_gymnasium/ read this file and need no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from gymnasium import spaces

TEXT_LENGTH = 128
"""Most characters of a text whose space does not say how long it can be."""
TEXT_CHARACTERS = "".join(map(chr, range(32, 127)))
"""Its characters: those of ASCII that can be printed."""


GRID = 16
"""An image of at most so many rows and columns is taken for a grid of codes, not for a picture."""


def parts_of(space: spaces.Space) -> Iterator[tuple[str, spaces.Space]]:
    """Yield the simple spaces inside a space in the order of their columns, each with its place: "", "image", "0.speed"."""
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        yield "", space
        return
    named = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    for name, part in named:
        for inner, simple in parts_of(part):
            yield f"{name}.{inner}" if inner else str(name), simple


def is_bytes(space: spaces.Space) -> bool:
    """Return True for a simple space whose columns are bytes: a Box of uint8, and a text as numbers of its characters."""
    return isinstance(space, spaces.Text) or (
        isinstance(space, spaces.Box) and space.dtype == np.uint8 and bool(space.shape)
    )


def is_packed(space: spaces.Space) -> bool:
    """Return True if an obs of this space is laid out as bytes, since some of it are."""
    return any(is_bytes(simple) for _, simple in parts_of(space))


def counts(space: spaces.Space) -> bool:
    """Return True if every number in an obs of this space is a whole number."""
    return not any(isinstance(simple, spaces.Box) for _, simple in parts_of(space))


def columns(space: spaces.Space, value: Any, *, lead: int = 0) -> list[np.ndarray]:
    """Return the arrays inside an obs, flat and in the order of the space; numbers count from 0.

    lead: 0 for one obs, whose arrays become [columns]; 1 for a batch as gymnasium lays it out, a tuple or dict of
    arrays [B, ...], whose arrays become [B, columns].
    Raises ValueError saying what arrived if it does not fit the space. Floats outside a Box are taken as they are.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            raise ValueError(described(value))
        return [leaf for name, part in space.spaces.items() for leaf in columns(part, value[name], lead=lead)]
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise ValueError(described(value))
        return [
            leaf for part, inner in zip(space.spaces, value, strict=True) for leaf in columns(part, inner, lead=lead)
        ]
    if isinstance(space, spaces.Text):
        return [_codes(space, value, lead)]
    array = to_array(value)
    shape = cast("tuple[int, ...]", space.shape)
    if array.shape[lead:] != shape or array.ndim != lead + len(shape) or array.dtype.kind not in "biuf":
        raise ValueError(described(value))
    flat = (*array.shape[:lead], math.prod(shape))
    if is_bytes(space):
        if array.dtype != np.uint8 and (array.dtype.kind == "f" or ((array < 0) | (array > 255)).any()):
            raise ValueError(f"{described(value)}, where the space has bytes")
        return [array.astype(np.uint8, copy=False).reshape(flat)]
    if isinstance(space, spaces.Box):
        return [array.reshape(flat)]
    start = getattr(space, "start", 0)
    several = (
        2
        if isinstance(space, spaces.MultiBinary)
        else getattr(space, "n", None) or cast("spaces.MultiDiscrete", space).nvec
    )
    if array.dtype.kind == "f" or not ((array >= start) & (array < start + several)).all():
        raise ValueError(f"{shortened(str(array.tolist()))} ({array.dtype})")
    return [(array - start).reshape(flat)]


def side_by_side(space: spaces.Space, parts: list[np.ndarray], *, lead: int = 0) -> np.ndarray:
    """Return what `columns` gave as one new array: see BatchedEnv for its dtype and order.

    What float32 cannot hold becomes infinite.
    """
    with np.errstate(over="ignore"):
        if not is_packed(space):
            return np.concatenate(parts, axis=lead, dtype=np.int64 if counts(space) else np.float32, casting="unsafe")
        byte = [is_bytes(simple) for _, simple in parts_of(space)]
        numbers = [part for part, flag in zip(parts, byte, strict=True) if not flag]
        first = []
        if numbers:
            first = [np.concatenate(numbers, axis=lead, dtype=np.float32, casting="unsafe").view(np.uint8)]
    return np.concatenate([*first, *(part for part, flag in zip(parts, byte, strict=True) if flag)], axis=lead)


def _codes(space: spaces.Text, value: Any, lead: int) -> np.ndarray:
    """Return a text as the places of its characters in the sorted ones of its space, from 1 on; 0 behind its end."""
    texts = [value] if not lead else list(value) if isinstance(value, (tuple, list, np.ndarray)) else [None]
    place = _places(frozenset(space.character_set))
    codes = np.zeros((len(texts), space.max_length), dtype=np.uint8)
    for row, text in zip(codes, texts, strict=True):
        if not isinstance(text, str):
            raise ValueError(described(value))
        if len(text) > space.max_length:
            raise ValueError(
                f"a text of {len(text)} characters, {shortened(repr(text))}, where at most {space.max_length} fit"
            )
        strange = sorted({character for character in text if character not in place})
        if strange:
            raise ValueError(f"{shortened(repr(text))} with {strange[0]!r}, which is not among its characters")
        row[: len(text)] = [place[character] for character in text]
    return codes if lead else codes[0]


@functools.lru_cache(maxsize=64)
def _places(characters: frozenset[str]) -> dict[str, int]:
    return {character: i for i, character in enumerate(sorted(characters), start=1)}


def text_of(space: spaces.Text, codes: np.ndarray) -> str:
    """Return the text that `columns` made these numbers [max_length] of."""
    characters = sorted(space.character_set)
    return "".join(characters[code - 1] for code in codes.tolist() if code)


def to_array(value: Any) -> np.ndarray:
    """Return a value as an array, or raise ValueError saying what it is."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal lengths, tensors without data or with gradients
        raise ValueError(described(value)) from None


def described(value: Any) -> str:
    """Return what a value is, in few words."""
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {shortened(repr(value))}"


def shortened(text: str) -> str:
    """Return at most 60 characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def from_zero(space: spaces.Space) -> spaces.Space:
    """Return the space with every Discrete and MultiDiscrete in it counted from 0."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        return spaces.Discrete(space.n)
    if isinstance(space, spaces.MultiDiscrete) and space.start.any():
        return spaces.MultiDiscrete(space.nvec)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([from_zero(part) for part in space.spaces])
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, from_zero(part)) for name, part in space.spaces.items()])
    return space


def shown_space(observation_space: spaces.Space, action_space: spaces.Space) -> spaces.Space:
    """Return an observation space `with_texts`, an action mask in it in the order of the actions: a Dict sorts names or not."""
    space = with_texts(observation_space)
    if not (isinstance(space, spaces.Dict) and "action_mask" in space.spaces):
        return space
    parts = space.spaces | {"action_mask": _in_order(space.spaces["action_mask"], action_space)}
    return spaces.Dict(list(parts.items()))


def _in_order(mask: spaces.Space, action: spaces.Space | None) -> spaces.Space:
    if isinstance(mask, spaces.Dict) and isinstance(action, spaces.Dict):
        names = [*(name for name in action.spaces if name in mask.spaces), *mask.spaces]
        return spaces.Dict([(n, _in_order(mask.spaces[n], action.spaces.get(n))) for n in dict.fromkeys(names)])
    if isinstance(mask, spaces.Tuple) and isinstance(action, spaces.Tuple) and len(mask) == len(action):
        return spaces.Tuple([_in_order(*pair) for pair in zip(mask.spaces, action.spaces, strict=True)])
    return mask


def with_texts(space: spaces.Space) -> spaces.Space:
    """Return the space with every space of strings in it that is no gymnasium Text, such as MiniGrid's missions, as one."""
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([with_texts(part) for part in space.spaces])
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, with_texts(part)) for name, part in space.spaces.items()])
    strings = space.dtype is not None and np.dtype(space.dtype).kind == "U"
    if strings and not isinstance(space, spaces.Text):
        return spaces.Text(TEXT_LENGTH, min_length=0, charset=TEXT_CHARACTERS)
    return space
