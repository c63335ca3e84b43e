"""The keys a MemoryModule reads and writes, in the way torchrl's recurrent modules name them."""

from __future__ import annotations

from typing import Any

from tensordict import unravel_key_list
from tensordict.utils import NestedKey

STATE = "recurrent_state"
"""The state's key by default."""
IS_INIT = "is_init"
"""What torchrl's InitTracker writes; recurrent modules know no other name for it."""
TRAJECTORY = ("collector", "traj_ids")
"""Where torchrl's collectors number trajectories."""


def memory_keys(in_key: Any, in_keys: Any, out_key: Any, out_keys: Any) -> tuple[list[NestedKey], list[NestedKey]]:
    """Return [value, state, "is_init"] and [features, next state] from one key or a list on either side.

    Raises ValueError unless one of in_key and in_keys and one of out_key and out_keys is given, and if a list does not
    hold the keys above ("is_init" may be left out).
    """
    reads = _expand("in", in_key, in_keys, STATE)
    writes = _expand("out", out_key, out_keys, ("next", STATE))
    if len(reads) == 2:
        reads = [*reads, IS_INIT]
    if len(reads) != 3 or reads[2] != IS_INIT or IS_INIT in reads[:2]:
        raise ValueError(
            f"in_keys are the value, the state and, last, 'is_init', got {reads}; "
            f"write in_keys=['observation', '{STATE}', 'is_init'] or in_key='observation'"
        )
    if len(writes) != 2:
        raise ValueError(
            f"out_keys are the features and the next state, got {writes}; "
            f"write out_keys=['features', ('next', '{STATE}')] or out_key='features'"
        )
    return reads, writes


def _expand(side: str, one: Any, several: Any, state: NestedKey) -> list[NestedKey]:
    if (one is None) == (several is None):
        raise ValueError(
            f"give either {side}_key or {side}_keys, got {side}_key={one!r} and {side}_keys={several!r}; "
            f"{side}_key='x' stands for {side}_keys={['x', state]!r}"
        )
    keys = [one, state] if several is None else several
    if isinstance(keys, str) or not all(_is_key(key) for key in keys):
        raise ValueError(
            f"{side}_keys are a list of keys, strings or tuples of strings, got {keys!r}; for one key use {side}_key"
        )
    return unravel_key_list(list(keys))


def _is_key(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return len(parts) > 0 and all(isinstance(part, str) and part for part in parts)
