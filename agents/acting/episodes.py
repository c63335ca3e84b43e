"""What is counted of episodes while an agent acts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def success_of(said: Mapping[str, float], value: float, success_return: float | None) -> float:
    """The success of an episode that has ended: what its info says goes before what its return says; NaN for neither.

    said: what its info said, by name; value: its return; success_return: from which return on it is a success.
    """
    if "success" in said:
        return said["success"]
    return math.nan if success_return is None else float(value >= success_return)


def success_rate(successes: Sequence[float]) -> float | None:
    """Mean success; None where no episode says anything. One that does not counts as none: some envs name success alone."""
    if all(math.isnan(success) for success in successes):
        return None
    return sum(0.0 if math.isnan(success) else success for success in successes) / len(successes)


def info_means(said: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of what the infos of episodes said beside success, by name, each over those that said it."""
    found: dict[str, list[float]] = {}
    for one in said:
        for name, value in one.items():
            if name != "success":
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def of_row(ended: Mapping[str, Tensor], row: int) -> dict[str, float]:
    """What the episode that ended in a row says, by name; ended: as BatchedEnv has it."""
    values = ((name, column[row].item()) for name, column in ended.items())
    return {name: value for name, value in values if not math.isnan(value)}


class EpisodeLog:
    """Returns and lengths of the episodes of B rows: running ones, and the last hundred that finished."""

    def __init__(self, rows: int, success_return: float | None, device: torch.device) -> None:
        self.success_return = success_return
        self.running_return = torch.zeros(rows, device=device)
        self.running_length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.recent: deque[tuple[float, int, float]] = deque(maxlen=100)  # return, length, success of finished episodes
        self.said: deque[dict[str, float]] = deque(maxlen=100)  # what their infos said, by name
        self.episodes = 0

    def count(self, reward: Tensor, done: Tensor, ended: Mapping[str, Tensor] = NOTHING) -> None:
        """One step of all rows. reward: [B]; done: bool [B], the episode ended with it; ended: as BatchedEnv has it."""
        self.running_return += reward
        self.running_length += 1
        if not done.any():
            return
        rows = done.nonzero().flatten().tolist()
        finished = zip(rows, self.running_return[done].tolist(), self.running_length[done].tolist(), strict=True)
        for row, value, length in finished:
            said = of_row(ended, row)
            self.recent.append((value, length, success_of(said, value, self.success_return)))
            self.said.append(said)
            self.episodes += 1
        self.running_return[done] = 0
        self.running_length[done] = 0

    def count_segment(self, reward: Tensor, done: Tensor, ended: Mapping[str, Tensor] = NOTHING) -> None:
        """Several steps. reward: [B, T]; done: bool [B, T]; ended: [B, T] by name."""
        for step in range(reward.shape[1]):
            self.count(reward[:, step], done[:, step], {name: column[:, step] for name, column in ended.items()})

    @property
    def success_rate(self) -> float | None:
        """Mean success of the last hundred; None where nothing says it."""
        return success_rate([success for _, _, success in self.recent])

    def change_env(self, success_return: float | None) -> None:
        """Begin with another env; what was counted of the old one is forgotten."""
        self.success_return = success_return
        self.recent.clear()
        self.said.clear()
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
            "said": list(self.said),
            "episodes": self.episodes,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        device = self.running_return.device
        self.running_return = saved["episode_return"].to(device).clone()
        self.running_length = saved["episode_length"].to(device).clone()
        self.recent.clear()
        self.recent.extend(tuple(episode) for episode in saved["recent"])
        self.said.clear()
        self.said.extend(saved["said"])
        self.episodes = saved["episodes"]
