"""Gymnasium spaces as JSON and back, so that what an agent sees and does is known without its env.

space_to_json(Box(-1, np.inf, (2, 3)))
{"type": "Box", "shape": [2, 3], "low": -1.0, "high": "inf", "dtype": "float32"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space, spaces

SUPPORTED = "Discrete, MultiDiscrete, MultiBinary, Box, Text, and Tuple or Dict of those"


def space_to_json(space: Space) -> dict[str, Any]:
    """Return a space as a dict of plain values, with strings "inf" and "-inf" for what JSON has no number for.

    Raises ValueError for a space that is not Discrete, MultiDiscrete, MultiBinary, Box, Text, Tuple or Dict.
    """
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), **_dtype_of(space)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            **_dtype_of(space),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(n) for n in space.n]}
    if isinstance(space, spaces.Box) and space.dtype.itemsize <= 8:
        low = np.where(space.bounded_below, space.low.astype(object), -np.inf)
        high = np.where(space.bounded_above, space.high.astype(object), np.inf)
        return {
            "type": "Box",
            "shape": list(space.shape),
            "low": _compressed(low),
            "high": _compressed(high),
            "dtype": space.dtype.name,
        }
    if isinstance(space, spaces.Text):
        charset = "".join(space.character_list)
        return {"type": "Text", "min_length": space.min_length, "max_length": space.max_length, "charset": charset}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "parts": [space_to_json(part) for part in space.spaces]}
    if isinstance(space, spaces.Dict) and all(isinstance(name, str) for name in space.spaces):
        return {"type": "Dict", "parts": [[name, space_to_json(part)] for name, part in space.spaces.items()]}
    raise ValueError(f"space {space} cannot be written as JSON; supported are {SUPPORTED} with words as names")


def space_from_json(data: Any) -> Space:
    """Return the space that `space_to_json` wrote. Raises ValueError for anything else."""
    kind = data.get("type") if isinstance(data, dict) else None
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        arrived = f"type {kind!r}" if isinstance(data, dict) else type(data).__name__
        raise ValueError(
            f"a space in JSON is a dict with a type of {', '.join(_READERS)}, got {arrived}; pass what space_to_json gave"
        )
    fields = {str(name): value for name, value in data.items() if name != "type"}
    try:
        return read(**fields)
    except _MalformedError:  # of a space inside this one
        raise
    except (ValueError, TypeError, AssertionError, ArithmeticError, MemoryError) as error:
        raise _MalformedError(
            f"a space in JSON of type {kind} has fields that make no space ({error}); pass what space_to_json gave"
        ) from error


class _MalformedError(ValueError):
    """The fields of a space do not make one."""


def _dtype_of(space: Space) -> dict[str, str]:
    """Return the dtype if it is not the default: gymnasium 1.1 knows no other for Discrete."""
    return {} if space.dtype == np.int64 else {"dtype": np.dtype(space.dtype).name}


def _compressed(bound: np.ndarray) -> Any:
    """Return a Box's bound, an array of Python numbers: one number where all are equal, else nested lists."""
    values = [_number(value) for value in bound.reshape(-1)]
    if not values:
        return 0
    if len({repr(value) for value in values}) == 1:  # repr tells -0.0 from 0.0
        return values[0]
    return _nested(values, bound.shape)


def _number(value: Any) -> Any:
    """Return a bound as JSON has it: a number, or "inf" and "-inf"."""
    if isinstance(value, float) and np.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _nested(values: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return values
    step = len(values) // shape[0]
    return [_nested(values[i : i + step], shape[1:]) for i in range(0, len(values), step)]


def _read_discrete(n: Any, start: Any, dtype: str = "int64") -> Space:
    return spaces.Discrete(n, start=start, **_other_dtype(dtype))


def _read_multi_discrete(nvec: Any, start: Any, dtype: str = "int64") -> Space:
    return spaces.MultiDiscrete(_whole(nvec), start=_whole(start), **_other_dtype(dtype))


def _other_dtype(name: str) -> dict[str, Any]:
    return {} if name == "int64" else {"dtype": np.dtype(name).type}


def _whole(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"whole numbers are wanted, got {array.dtype}")
    return array


def _read_box(shape: Any, low: Any, high: Any, dtype: str) -> Space:
    kind, sizes = np.dtype(dtype), tuple(shape)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise ValueError(f"numbers of at most 8 bytes are wanted, got dtype {dtype!r}")
    lowest, bounded_below = _bound(low, sizes, kind)
    highest, bounded_above = _bound(high, sizes, kind)
    box = spaces.Box(lowest, highest, sizes, kind.type)
    box.bounded_below, box.bounded_above = bounded_below, bounded_above
    return box


def _bound(bound: Any, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return a bound as an array of a Box's dtype, and where it is finite: whole numbers have no infinity of their own."""
    given = np.array(_numbers(bound), dtype=object)
    if given.shape not in ((), shape):
        raise ValueError(f"a bound of shape {list(given.shape)} for a Box of shape {list(shape)}")
    values = np.broadcast_to(given, shape)
    wide = values.astype(np.float64)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.where(np.isinf(wide), np.where(wide > 0, limits.max, limits.min).astype(object), values)
    return values.astype(dtype), ~np.isinf(wide)


def _numbers(value: Any) -> Any:
    """Return numbers nested in lists, infinite ones as floats."""
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and value in ("inf", "-inf"):
        return float(value)
    if not isinstance(value, (int, float)):
        raise TypeError(f"a bound is a number, 'inf' or '-inf', got {value!r}")
    return value


def _read_text(min_length: Any, max_length: Any, charset: Any) -> Space:
    if not isinstance(charset, str):
        raise TypeError(f"a charset is a string, got {type(charset).__name__}")
    return spaces.Text(max_length, min_length=min_length, charset=charset)


def _read_tuple(parts: Any) -> Space:
    return spaces.Tuple([space_from_json(part) for part in parts])


def _read_dict(parts: Any) -> Space:
    return spaces.Dict([(str(name), space_from_json(part)) for name, part in parts])


_READERS: dict[str, Callable[..., Space]] = {
    "Discrete": _read_discrete,
    "MultiDiscrete": _read_multi_discrete,
    "MultiBinary": lambda n: spaces.MultiBinary(n),
    "Box": _read_box,
    "Text": _read_text,
    "Tuple": _read_tuple,
    "Dict": _read_dict,
}
