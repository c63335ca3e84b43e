"""How far the values of a replayed sequence are off because its start state is old, or is none.

After the measurement of Kapturowski et al. 2019, ICLR, section 3: the Q difference |q(s') - q(s)| / max |q(s)| between the
values from a start state s' and those from the state s that the present network has after the whole episode so far. The
paper's text was not at hand; the formula follows facts about it and is this project's derivation in its details.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.agents.nets.networks import QNetwork

STARTS = ("stored", "zero", "signs")
"""Start states of a sequence: as acting left it, none, and as acting left it but with a BMRU's units kept as signs."""


class Episode(NamedTuple):
    """A whole episode as it was acted: observation [T, D], and state [T, layers, S] before each step; packed: the same
    states as signs, which do not know the levels they had."""

    observation: Tensor
    state: Tensor
    packed: TensorDict


class EpisodeProbe:
    """Follows a few rows of the rollouts and keeps their newest whole episodes, states as acting left them."""

    def __init__(self, rows: int, keep: int) -> None:
        self.rows = rows
        self.episodes: deque[Episode] = deque(maxlen=keep)
        self._open: list[list[tuple[Tensor, Tensor]] | None] = [None] * rows

    def follow(self, data: TensorDict, policy: QNetwork) -> None:
        """Take in a rollout [B, T], which follows the one before it."""
        for row in range(self.rows):
            columns = (data[name][row] for name in ("observation", "state", "is_init"))
            for obs, state, is_init, done in zip(*columns, data["next", "done"][row], strict=True):
                if is_init:
                    self._open[row] = []
                steps = self._open[row]
                if steps is None:  # the episode began before the first rollout
                    continue
                steps.append((obs, torch.where(is_init, 0.0, state)))
                if done:
                    observation, states = (torch.stack(column) for column in zip(*steps, strict=True))
                    self.episodes.append(Episode(observation, states, policy.core.encode_state(states)))
                    self._open[row] = None


class Difference(NamedTuple):
    """Mean Q difference at the first and at the last learned step of sequences, by start state."""

    first: dict[str, float]
    last: dict[str, float]


@torch.no_grad()
def q_difference(policy: QNetwork, episodes: list[Episode], *, burn_in: int, length: int, stride: int) -> Difference:
    """Q differences over all sequences of these episodes whose learned steps begin after burn_in steps or later.

    Learned parts of `length` steps begin every `stride` steps; those that begin with the episode have no state to store.
    """
    sums = {(start, place): [0.0, 0] for start in STARTS for place in ("first", "last")}
    for episode in episodes:
        steps = len(episode.observation)
        begins = torch.arange(max(burn_in, 1), steps - length + 1, stride)
        if not len(begins):
            continue
        true, largest = _values_along(policy, episode)
        window = (begins - burn_in)[:, None] + torch.arange(burn_in + length)
        x, starts_at = episode.observation[window], begins - burn_in
        never = torch.zeros(window.shape, dtype=torch.bool)
        stored = episode.state[starts_at]
        states = {
            "stored": stored,
            "zero": torch.zeros_like(stored),
            "signs": policy.core.decode_state(episode.packed[starts_at]),
        }
        for start, state in states.items():
            q = policy(x, state, never).params[:, burn_in:]
            off = (q - true[window[:, burn_in:]]).norm(dim=-1) / largest
            for place, at in (("first", 0), ("last", -1)):
                sums[start, place][0] += off[:, at].sum().item()
                sums[start, place][1] += len(off)
    means = {key: total / count if count else float("nan") for key, (total, count) in sums.items()}
    return Difference(*({start: means[start, place] for start in STARTS} for place in ("first", "last")))


def _values_along(policy: QNetwork, episode: Episode) -> tuple[Tensor, Tensor]:
    """Values [T, actions] with the state recomputed from the episode's first step, and the largest of them."""
    is_init = torch.zeros(1, len(episode.observation), dtype=torch.bool)
    is_init[0, 0] = True
    q = policy(episode.observation[None], policy.core.initial_state(1), is_init).params[0]
    return q, q.abs().max()
