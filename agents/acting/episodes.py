"""What is counted of episodes while an agent acts."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor


class EpisodeLog:
    """Returns and lengths of the episodes of B rows: running ones, and the last hundred that finished."""

    def __init__(self, rows: int, success_return: float | None, device: torch.device) -> None:
        self.success_return = success_return
        self.running_return = torch.zeros(rows, device=device)
        self.running_length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.recent: deque[tuple[float, int, float]] = deque(maxlen=100)  # return, length, success of finished episodes
        self.episodes = 0

    def count(self, reward: Tensor, done: Tensor) -> None:
        """One step of all rows. reward: [B]; done: bool [B], the episode ended with it."""
        self.running_return += reward
        self.running_length += 1
        if not done.any():
            return
        ended = zip(self.running_return[done].tolist(), self.running_length[done].tolist(), strict=True)
        for value, length in ended:
            success = float("nan") if self.success_return is None else float(value >= self.success_return)
            self.recent.append((value, length, success))
            self.episodes += 1
        self.running_return[done] = 0
        self.running_length[done] = 0

    def count_segment(self, reward: Tensor, done: Tensor) -> None:
        """Several steps. reward: [B, T]; done: bool [B, T]."""
        for step in range(reward.shape[1]):
            self.count(reward[:, step], done[:, step])

    def change_env(self, success_return: float | None) -> None:
        """Begin with another env; what was counted of the old one is forgotten."""
        self.success_return = success_return
        self.recent.clear()
        self.restart()

    def restart(self, rows: slice | Tensor = slice(None)) -> None:
        """Forget the running episodes of some rows: others begin there."""
        self.running_return[rows] = 0
        self.running_length[rows] = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "episode_return": self.running_return,
            "episode_length": self.running_length,
            "recent": [list(episode) for episode in self.recent],
            "episodes": self.episodes,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        device = self.running_return.device
        self.running_return = saved["episode_return"].to(device).clone()
        self.running_length = saved["episode_length"].to(device).clone()
        self.recent.clear()
        self.recent.extend(tuple(episode) for episode in saved["recent"])
        self.episodes = saved["episodes"]
