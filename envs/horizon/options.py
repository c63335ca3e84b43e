"""Checks of options that several long-horizon tasks have."""

from __future__ import annotations

import math
from typing import Any

LONGEST_GAP = 2**17
"""Steps between two events on average: numbers drawn from [0, 1) as float32 are multiples of 2^-24, so that chances down to
2^-17 are right to one in a hundred."""


def check_number(value: Any, *, name: str, least: float, most: float = math.inf, hint: str) -> float:
    """Return a finite number from `least` to `most`. Raises ValueError for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:
        span = f">= {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be a number {span}, got {value!r}; {hint}")
    return float(value)


def check_gap(value: Any, *, name: str, least: float) -> float:
    """Return a mean number of steps between two random events. Raises ValueError for anything else."""
    hint = "it is the mean number of steps between two pulses, which are drawn from float32 numbers and no rarer"
    return check_number(value, name=name, least=least, most=LONGEST_GAP, hint=hint)


def check_flag(value: Any, *, name: str) -> bool:
    """Return True or False. Raises TypeError for anything else."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}; write one of the two")
    return value


def check_noise(value: Any, *, task: str) -> float:
    """Return the half-width of a noise channel. Raises ValueError for anything else."""
    return check_number(value, name=f"{task}'s option noise", least=0, most=1e30, hint="0 switches the channel off")


def check_choice(value: Any, *, name: str, choices: tuple[str, ...]) -> str:
    """Return one of the choices. Raises ValueError naming them for anything else."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}; the first is the default")
    return value
