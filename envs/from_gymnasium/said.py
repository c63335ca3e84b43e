"""What a gymnasium env says of itself as a task, and what its info says at the end of an episode.

Light on imports: worker processes read this file and need no torch.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from mru_rl.envs.columns import described, to_array
from mru_rl.envs.wrappers import KEY, SUCCESS

_WHOLE = {"horizon": 1, "credit_horizon": 0}
_REAL = ("success_return", "perfect_return", "memoryless_return")
SAYABLE = (*_WHOLE, "open_loop", *_REAL)
"""What an env may say of itself; what each means stands in BatchedEnv."""


def said_by(env: Any, id: str) -> dict[str, tuple[Any, str]]:
    """Return what an env or a vector env says of itself, with the place where it does, by name.

    A name in metadata["mru_rl"] counts first, then an attribute, of the outermost wrapper that has it. None is not said.
    Raises ValueError for a value that cannot be meant and for a name in the metadata that says nothing.
    """
    in_metadata = (getattr(env, "metadata", None) or {}).get(KEY, {})
    if not isinstance(in_metadata, Mapping):
        raise ValueError(
            f"{id}: metadata[{KEY!r}] must be a dict such as {{'horizon': 100}}, got {described(in_metadata)}; mend the env"
        )
    for name in in_metadata:
        if name not in SAYABLE:
            near = difflib.get_close_matches(str(name), SAYABLE, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise ValueError(f"{id}: metadata[{KEY!r}] may hold {', '.join(SAYABLE)}, got {name!r}; {hint}")
    found = {}
    for name in SAYABLE:
        value, place = in_metadata.get(name), f"metadata[{KEY!r}]"
        if value is None:
            value, place = next(_attributes(env, name), (None, ""))
        if value is not None:
            found[name] = _checked(name, value, id, place), f"the env ({place})"
    low, high = (found.get(name, (None,))[0] for name in ("memoryless_return", "perfect_return"))
    if low is not None and high is not None and low >= high:
        raise ValueError(f"{id}: perfect_return must be above memoryless_return, got {high} and {low}; mend the env")
    return found


def adopt(batched: Any, env: Any, limit: tuple[int, str] | None) -> None:
    """Give a batched env what the env inside says of itself, and where each value is from.

    limit: the steps at which its episodes are cut, and where that is known from. The horizon is the smaller of that and
    what the env says; where it says no success_return, that is the id's reward_threshold.
    Raises ValueError as `said_by`.
    """
    said = said_by(env, batched.id)
    if limit is not None and ("horizon" not in said or limit[0] < said["horizon"][0]):
        said["horizon"] = limit
    for spec in (getattr(layer, "spec", None) for layer in layers(env)):
        if spec is not None and spec.reward_threshold is not None:
            said.setdefault("success_return", (spec.reward_threshold, "the env's reward_threshold"))
    for name, (value, _) in said.items():
        setattr(batched, name, value)
    batched.sources = {name: source for name, (_, source) in said.items()}


def _attributes(env: Any, name: str) -> Iterator[tuple[Any, str]]:
    for layer in layers(env):
        with contextlib.suppress(Exception):  # a property that is not to be asked before a reset
            value = getattr(layer, name)
            if value is not None:
                yield value, f"{type(layer).__name__}.{name}"


def layers(env: Any) -> Iterator[Any]:
    """Yield the wrappers around an env or a vector env, outermost first, and the env; of a SyncVectorEnv the first as well."""
    yield env
    if isinstance(env, (gymnasium.Wrapper, gymnasium.vector.VectorWrapper)):
        yield from layers(env.env)
    elif isinstance(env, gymnasium.vector.SyncVectorEnv):
        yield from layers(env.envs[0])


def _checked(name: str, value: Any, id: str, place: str) -> Any:
    checked: Any = None
    if name == "open_loop":
        rule, checked = "True or False", bool(value) if isinstance(value, (bool, np.bool_)) else None
    elif name in _WHOLE:
        rule, checked = f"a whole number of steps, at least {_WHOLE[name]}", _whole(value, _WHOLE[name])
    else:
        rule, checked = "a finite number", _finite(value)
    if checked is None:
        raise ValueError(
            f"{id}: {name} must be {rule}, got {value!r} in {place}; mend it, or say another in metadata[{KEY!r}] of a "
            "wrapper, which counts first"
        )
    return checked


def _whole(value: Any, least: int) -> int | None:
    try:
        count = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None
    return count if count is not None and count >= least else None


def _finite(value: Any) -> float | None:
    real = isinstance(value, (numbers.Real, np.number)) and not isinstance(value, (bool, np.bool_))
    return float(value) if real and math.isfinite(value) else None


def said_at_end(info: Any, wanted: Sequence[str], where: str) -> dict[str, float]:
    """Return the numbers that the info of an episode's last step says: success, and what is wanted, by name.

    Success is a truth value or a number; what is there under its name and is neither is not meant for us. NaN and infinity
    say nothing. Raises ValueError for something wanted that is not one number, naming `where`.
    """
    said: dict[str, float] = {}
    if not isinstance(info, Mapping):
        return said
    for name in SUCCESS:
        number = scalar(info.get(name), "biuf")
        if number is not None and math.isfinite(number):
            said["success"] = float(number)
            break
    for name in wanted:
        if info.get(name) is None:
            continue
        number = scalar(info[name], "biuf")
        if number is None:
            raise ValueError(
                f"{where}: info[{name!r}] must be one number, as info_metrics names it, got {described(info[name])}; leave it "
                "out there"
            )
        if math.isfinite(number):
            said[name] = float(number)
    return said


def info_of_row(info: Any, row: int) -> Mapping[str, Any]:
    """Return what the info of a vector env says of one row.

    info: gymnasium's dict of arrays [B, ...], each with a mask "_name" of the rows it is meant for, or a mapping per row.
    """
    if isinstance(info, Mapping):
        of_rows = {
            name: values
            for name, values in info.items()
            if (isinstance(values, (list, tuple)) or getattr(values, "ndim", False)) and len(values) > row
        }
        return {name: values[row] for name, values in of_rows.items() if of_rows.get(f"_{name}", {row: True})[row]}
    one = info[row] if isinstance(info, (np.ndarray, list, tuple)) and len(info) > row else None
    return one if isinstance(one, Mapping) else {}


def scalar(value: Any, kinds: str) -> Any:
    """Return the one number in a value if it is of one of numpy's kinds, None for everything else."""
    try:
        array = to_array(value)
    except ValueError:
        return None
    return array.reshape(()) if array.size == 1 and array.dtype.kind in kinds else None
