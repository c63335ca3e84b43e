"""From what a gymnasium env returns to flat arrays, checked against its space.

Light on imports: the worker processes of from_gymnasium/ read this file and need no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium import spaces


def counts(space: spaces.Space) -> bool:
    """Return True if every number in an obs of this space is a whole number."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return all(counts(part) for part in (space.values() if isinstance(space, spaces.Dict) else space.spaces))
    return not isinstance(space, spaces.Box)


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
    array = to_array(value)
    shape = cast("tuple[int, ...]", space.shape)
    if array.shape[lead:] != shape or array.ndim != lead + len(shape) or array.dtype.kind not in "biuf":
        raise ValueError(described(value))
    flat = (*array.shape[:lead], math.prod(shape))
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
