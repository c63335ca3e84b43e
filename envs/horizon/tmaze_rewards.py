"""What the T-mazes pay, in three variants."""

from __future__ import annotations

from typing import NamedTuple

UP, DOWN, FORWARD, BACK = range(4)


class Rewards(NamedTuple):
    """right, wrong: at the junction; astray: for an action that does not lead on (which ones: see the maze)."""

    right: float
    wrong: float
    astray: float

    @property
    def guessing(self) -> float:
        """Mean reward at the junction without knowing the side."""
        return (self.right + self.wrong) / 2


VARIANTS = ("turn", "bakker", "memory-rl")


def rewards_of(variant: str, length: int) -> Rewards:
    """Return the rewards of a variant in a corridor of that length.

    turn        +1 and -1 at the junction, nothing else matters
    bakker      4 and -0.1 at the junction, -0.1 for standing still: Bakker 2001, Reinforcement Learning with Long
                Short-Term Memory. Its text on the task was not at hand: numbers as known from those who cite it
    memory-rl   1 and 0 at the junction, -1 / length for every step behind: Ni et al. 2023, arXiv:2307.03864, read in
                their code, twni2016/Memory-RL@fe89009, envs/tmaze.py and configs/envs/tmaze_passive.py
    """
    return {
        "turn": Rewards(1.0, -1.0, 0.0),
        "bakker": Rewards(4.0, -0.1, -0.1),
        "memory-rl": Rewards(1.0, 0.0, -1.0 / length),
    }[variant]
