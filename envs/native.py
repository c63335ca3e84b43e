"""Between the values of a gymnasium env and the tensors of BatchedEnv, for one env or a batch of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.actions import action_layout
from mru_rl.envs.columns import (
    columns,
    counts,
    described,
    is_bytes,
    is_packed,
    shortened,
    side_by_side,
    to_array,
    with_texts,
)
from mru_rl.envs.encoding import Leaf, leaves, unpack


def layout(space: spaces.Space, obs: Any, *, batched: bool | None = None) -> tuple[Tensor, bool]:
    """Lay out an observation as BatchedEnv does; return it and whether it was a batch.

    obs         as a gymnasium env gives it: a number, an array, a tuple, a dict, nested as `space` is; numbers count
                from the space's own start. A batch has arrays [B, ...] in their places, as a gymnasium VectorEnv's.
                Or a tensor: of BatchedEnv's layout, [B, columns] or [columns], where numbers count from 0; the shape of
                a simple space, [*shape] or [B, *shape], is taken as well
    batched     True or False where the caller knows; None reads it from the shape
    returned    int64 where the whole space counts, uint8 where some of it are bytes, else float32; [B] for a lone Discrete,
                else [B, columns]; B = 1 for one obs. On the CPU, or where the tensor was; it may be the tensor that was given

    Raises ValueError for an obs of another shape or dtype, and for a number that the space does not have. Floats
    outside the bounds of a Box are taken as they are.
    """
    space = with_texts(space)
    list(leaves(space))  # says so if a space inside is not supported
    try:
        if isinstance(obs, Tensor):
            return _from_tensor(space, obs, batched)
        return from_native(space, obs, batched=batched)
    except ValueError as error:
        form = {None: "one obs or a batch", True: "a batch of obs", False: "one obs"}[batched]
        raise ValueError(
            f"{form} of {space} is wanted, got {error}; give what reset() and step() of the env return"
        ) from error


def from_native(space: spaces.Space, value: Any, *, batched: bool | None = None) -> tuple[Tensor, bool]:
    """Do what `layout` does with a value that is a gymnasium env's, tensors included: a new tensor on the CPU.

    Raises ValueError saying in few words what arrived.
    """
    value = _without_tensors(value)
    lead = _lead(space, value) if batched is None else int(batched)
    parts = columns(space, value, lead=lead)
    rows = {len(part) for part in parts} if lead else {1}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"a batch of {' and '.join(map(str, sorted(rows)))} rows")
    flat = side_by_side(space, parts, lead=lead)
    width = () if isinstance(space, spaces.Discrete) else flat.shape[lead:]
    return torch.from_numpy(flat.reshape(rows.pop(), *width)), bool(lead)


def _lead(space: spaces.Space, value: Any) -> int:
    """Return how many dimensions the first array inside a value has before those of its space: 0 or 1."""
    if isinstance(space, spaces.Dict):
        first = next(iter(space.spaces), None)
        if first is None or not isinstance(value, Mapping) or first not in value:
            raise ValueError(described(value))
        return _lead(space.spaces[first], value[first])
    if isinstance(space, spaces.Tuple):
        if not space.spaces or not isinstance(value, (tuple, list)) or not value:
            raise ValueError(described(value))
        return _lead(space.spaces[0], value[0])
    if isinstance(space, spaces.Text):
        return int(not isinstance(value, str))
    extra = to_array(value).ndim - len(cast("tuple[int, ...]", space.shape))
    if extra not in (0, 1):
        raise ValueError(described(value))
    return extra


def _without_tensors(value: Any) -> Any:
    """Return a nested value with arrays in the place of tensors."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, Mapping):
        return {name: _without_tensors(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_without_tensors(inner) for inner in value)
    return value


def _from_tensor(space: spaces.Space, obs: Tensor, batched: bool | None) -> tuple[Tensor, bool]:
    parts = list(leaves(space))
    whole = counts(space)
    arrived = f"a tensor {str(obs.dtype).removeprefix('torch.')} {list(obs.shape)}"
    packed = is_packed(space)
    if obs.dtype.is_complex or (whole and obs.dtype.is_floating_point) or (packed and obs.dtype != torch.uint8):
        raise ValueError(arrived)
    width = sum(part.columns * (4 if packed and not is_bytes(part.space) else 1) for part in parts)
    row: tuple[int, ...] = () if isinstance(space, spaces.Discrete) else (width,)
    shapes = [(row, 1), (row, 0)]
    if space.shape is not None:  # a simple space, in its own shape
        shapes += [(space.shape, 0), (space.shape, 1)]
    leads = [lead for shape, lead in shapes if obs.shape[lead:] == shape and obs.ndim == lead + len(shape)]
    leads = [lead for lead in leads if batched is None or lead == batched]
    if not leads or (leads[0] and not len(obs)):
        raise ValueError(arrived)
    lead = leads[0]
    flat = obs.reshape(len(obs) if lead else 1, *row)
    plain = [part for part in parts if not is_bytes(part.space)]
    numbers = unpack(flat, sum(part.columns for part in plain))[0] if packed else flat
    _check_columns(plain, numbers)
    return flat if packed else flat.to(torch.int64 if whole else torch.float32), bool(lead)


def _check_columns(parts: list[Leaf], numbers: Tensor) -> None:
    column = 0
    for part in parts:
        if part.counts:
            chosen = numbers if numbers.ndim == 1 else numbers[:, column : column + part.columns]
            _check_numbers(part.categories or (2,), chosen)
        column += part.columns


def _check_numbers(categories: tuple[int, ...], numbers: Tensor) -> None:
    """Raise ValueError where a column of numbers [B, n] (or [B]) has one outside 0..categories - 1."""
    limit = torch.tensor(categories, device=numbers.device)
    fits = (numbers >= 0) & (numbers < limit)
    if numbers.dtype.is_floating_point:
        fits &= numbers == numbers.floor()
    if not fits.all():
        raise ValueError(f"{shortened(str(numbers.tolist()))} in a tensor, which counts from 0")


def native_action(space: spaces.Space, action: Tensor, *, batched: bool) -> Any:
    """Return actions as a gymnasium env of action space `space` takes them; the inverse of BatchedEnv's layout.

    action      a tensor [B, ...] as BatchedEnv lays actions out; numbers from 0
    returned    batched: arrays [B, ...] of the space's dtype, in tuples and dicts nested as the space is, as a VectorEnv
                takes them. Else, with B = 1, what `space.sample()` would give: a numpy integer for Discrete, an array of
                the space's shape otherwise, nested likewise. Numbers count from the space's own start, those of a Box of
                whole numbers from its low; floats of another dtype than float32 are clipped to the Box and to what the
                dtype holds, since rounding may lead outside

    Raises ValueError for a tensor of another dtype or shape.
    """
    dtype, shape = action_layout(space)
    if action.dtype != dtype or action.shape[1:] != shape or action.ndim != len(shape) + 1:
        raise ValueError(
            f"actions for {space} are a tensor {str(dtype).removeprefix('torch.')} {['B', *shape]}, got "
            f"{str(action.dtype).removeprefix('torch.')} {list(action.shape)}; give what the policy's head returned"
        )
    if not batched and len(action) != 1:
        raise ValueError(f"one action is one row, got {len(action)}; pass batched=True for a batch of envs")
    native, _ = _native(space, action.detach().reshape(len(action), -1).cpu().numpy(), 0)
    return native if batched else next(iter(native_rows(space, native)))


def native_rows(space: spaces.Space, batch: Any) -> Iterable[Any]:
    """Return one action after the other from a batch of them, both as a gymnasium env has them."""
    if isinstance(space, spaces.Dict):
        parts = [native_rows(part, batch[name]) for name, part in space.spaces.items()]
        return [dict(zip(space.spaces, row, strict=True)) for row in zip(*parts, strict=True)]
    if isinstance(space, spaces.Tuple):
        return list(zip(*map(native_rows, space.spaces, batch), strict=True))
    return batch if isinstance(space, spaces.Discrete) else [np.asarray(row) for row in batch]


def _native(space: spaces.Space, flat: np.ndarray, column: int) -> tuple[Any, int]:
    """Return the actions that begin at a column of flat [B, columns], and the column behind them."""
    if isinstance(space, spaces.Tuple):
        parts = []
        for part in space.spaces:
            value, column = _native(part, flat, column)
            parts.append(value)
        return tuple(parts), column
    if isinstance(space, spaces.Dict):
        named = {}
        for name, part in space.spaces.items():
            named[name], column = _native(part, flat, column)
        return named, column
    shape = cast("tuple[int, ...]", space.shape)
    after = column + math.prod(shape)
    values = flat[:, column:after].reshape(len(flat), *shape)
    if not isinstance(space, spaces.Box):
        return (values.astype(np.int64) + getattr(space, "start", 0)).astype(space.dtype), after
    if space.dtype.kind != "f":
        return values.astype(space.dtype) + space.low, after  # what wraps around on the way comes back
    if space.dtype != np.float32:
        limits = np.finfo(space.dtype)
        values = values.astype(np.promote_types(np.float32, space.dtype))
        values = values.clip(np.maximum(space.low, limits.min), np.minimum(space.high, limits.max))
    return values.astype(space.dtype), after
