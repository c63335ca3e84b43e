"""A curriculum over one option of the env: short tasks first, twice as long whenever the agent masters them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mru_rl.agents.console.errors import require

MASTERED = 0.9
"""Success rate over the last 100 episodes of a level from which on the next one begins."""


@dataclass(frozen=True)
class Curriculum:
    """Levels of the option `name`: first, twice first, four times first, ... and last."""

    name: str
    first: int
    last: int

    def after(self, level: int) -> int:
        """The level that follows; the last one follows itself."""
        return min(2 * level, self.last)


def split_curriculum(env_kwargs: dict[str, Any]) -> Curriculum | None:
    """The curriculum that a range such as length=10..1000 asks for; None where there is no range.

    Raises ValueError for a range that does not rise and for more than one.
    """
    found = []
    for name, value in env_kwargs.items():
        ends = re.fullmatch(r"(\d+)\.\.(\d+)", value) if isinstance(value, str) else None
        if ends:
            first, last = int(ends[1]), int(ends[2])
            require(
                0 < first < last,
                f"a range of an env option rises from 1 or more, got {name}={value}; try {name}=10..1000",
            )
            found.append(Curriculum(name, first, last))
    require(len(found) < 2, f"one env option can be a range, got {', '.join(c.name for c in found)}; fix all but one")
    return found[0] if found else None


def at_level(env_kwargs: dict[str, Any], level: int | None = None) -> dict[str, Any]:
    """The options with a range replaced by `level`, by its far end where none is given."""
    curriculum = split_curriculum(env_kwargs)
    if curriculum is None:
        return env_kwargs
    return env_kwargs | {curriculum.name: curriculum.last if level is None else level}
