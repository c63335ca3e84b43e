"""The learning rate over a run, also over one that goes on further than it was meant to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BLEND = 0.05
"""Fraction of the steps that are left over which a changed schedule takes over from the old one."""


@dataclass(frozen=True)
class Schedule:
    """kind: "linear" falls from `start` to 0 at `steps`, "constant" stays.

    anchor: where the run was taken up under a changed schedule: env steps so far and the rate there. From it the rate
    goes over to the schedule linearly within the first BLEND of the steps left, without a jump.
    """

    kind: str
    start: float
    steps: int
    anchor: tuple[int, float] | None = None

    def at(self, steps: int) -> float:
        """The rate after so many env steps."""
        rate = self._line(steps)
        if self.anchor is None:
            return rate
        begun, before = self.anchor
        blended = (steps - begun) / max(BLEND * (self.steps - begun), 1.0)
        return rate + (before - self._line(begun)) * max(1.0 - blended, 0.0)

    def _line(self, steps: int) -> float:
        return self.start * (1 - min(steps / self.steps, 1.0) if self.kind == "linear" else 1)

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "start": self.start, "steps": self.steps, "anchor": self.anchor}

    def taken_up(self, saved: dict[str, Any], steps: int) -> Schedule:
        """This schedule for a run saved after so many steps under another, or under itself."""
        anchor = saved["anchor"]
        old = Schedule(saved["kind"], saved["start"], saved["steps"], None if anchor is None else tuple(anchor))
        if (old.kind, old.start, old.steps) == (self.kind, self.start, self.steps):
            return old
        return Schedule(self.kind, self.start, self.steps, (steps, old.at(steps)))
