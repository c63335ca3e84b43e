"""Checks of options that several long-horizon tasks have."""

from __future__ import annotations

import math
from typing import Any


def check_number(value: Any, *, name: str, least: float, hint: str) -> float:
    """Return a finite number that is at least `least`, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise ValueError(f"{name} must be a number >= {least:g}, got {value!r}; {hint}")
    return float(value)


def check_noise(value: Any, *, task: str) -> float:
    """Return the half-width of a noise channel."""
    return check_number(value, name=f"{task}'s option noise", least=0, hint="0 switches the channel off")


def check_choice(value: Any, *, name: str, choices: tuple[str, ...]) -> str:
    """Return one of the choices, or name them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}; the first is the default")
    return value
