"""What a trainer collects from, whatever steps policy and envs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from mru_rl.agents.acting.episodes import EpisodeLog
from mru_rl.agents.acting.rollout import Rollout


class Collector(ABC):
    """Segments of a policy's acting, and a count of the episodes that ended in them."""

    log: EpisodeLog
    name: str
    """What runs the envs, for a message."""

    @property
    def recent(self) -> deque[tuple[float, int, float]]:
        """Return, length and success (NaN where the env names none) of the last hundred finished episodes."""
        return self.log.recent

    @property
    def episodes(self) -> int:
        """How many have finished."""
        return self.log.episodes

    @abstractmethod
    def collect(self, segment: int) -> Rollout:
        """One segment of all envs, going on where the last one ended.

        Raises NonFiniteError naming row and step where the env returned NaN or infinity.
        """

    @abstractmethod
    def change_env(self, env: Any) -> None:
        """Go on in another env of the same spaces, with fresh episodes; what was counted of the old one is forgotten."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that acting on needs, as far as it can be saved."""

    @abstractmethod
    def load_state_dict(self, saved: dict[str, Any]) -> bool:
        """Go on from a state_dict. Returns whether the envs were restored; if not, they start fresh episodes."""

    @abstractmethod
    def close(self) -> None:
        """Close the envs and end what runs them."""
