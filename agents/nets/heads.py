"""Action heads: what a network's outputs mean for each kind of action space.

Written here because torch.distributions samples from the global generator; a run that resumes to the bit needs its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class ActionHead(ABC):
    """params [..., num_params] from the network -> actions, their log-probability and the entropy.

    Actions: int64 [...] for Discrete, int64 [..., n] for MultiDiscrete, float32 [..., n] for Box.
    """

    num_params: int

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor: ...

    @abstractmethod
    def mode(self, params: Tensor) -> Tensor: ...

    @abstractmethod
    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both [...], summed over the parts of an action."""

    def to_env(self, action: Tensor) -> Tensor:
        """The action as the env takes it."""
        return action


def _categorical_sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel-max: argmax of logits - log(exponential noise)."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log_()).argmax(dim=-1)


class DiscreteHead(ActionHead):
    """One categorical over n actions."""

    def __init__(self, n: int) -> None:
        self.num_params = n

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return _categorical_sample(params, generator)

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(dim=-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(params, dim=-1)
        chosen = log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return chosen, -(log_p.exp() * log_p).sum(-1)


class MultiDiscreteHead(ActionHead):
    """Independent categoricals, one per part of the action."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.num_params = sum(sizes)
        self._parts = [DiscreteHead(n) for n in sizes]

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        return params.split(self.sizes, dim=-1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([_categorical_sample(p, generator) for p in self._split(params)], dim=-1)

    def mode(self, params: Tensor) -> Tensor:
        return torch.stack([p.argmax(dim=-1) for p in self._split(params)], dim=-1)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [
            head.log_prob_and_entropy(p, a)
            for head, p, a in zip(self._parts, self._split(params), action.unbind(-1), strict=True)
        ]
        log_probs, entropies = zip(*pairs, strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)


class RavelledHead(DiscreteHead):
    """A MultiDiscrete action as one number: all combinations of its parts counted through, the last part fastest."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(math.prod(sizes))
        self.sizes = sizes

    def to_env(self, action: Tensor) -> Tensor:
        return torch.stack(torch.unravel_index(action, self.sizes), dim=-1)


class BoxHead(ActionHead):
    """Independent normals on [-1, 1] (mean and log-deviation from the network), stretched to the box and clipped there.

    Sides without a finite bound are left as they are.
    """

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        low, high = (torch.as_tensor(np.asarray(side, dtype=np.float32)).flatten() for side in (space.low, space.high))
        bounded = low.isfinite() & high.isfinite()
        self.shape = space.shape
        self.low, self.high = low, high
        self.scale = torch.where(bounded, high / 2 - low / 2, 1.0)  # halves: all of float32 fits
        self.centre = torch.where(bounded, high / 2 + low / 2, 0.0)
        self.num_params = 2 * low.numel()

    def _normal(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = params.chunk(2, dim=-1)
        return mean, log_std.clamp(-5.0, 1.0)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = self._normal(params)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + log_std.exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        return self._normal(params)[0]

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self._normal(params)
        z = (action - mean) * (-log_std).exp()
        log_prob = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
        return log_prob.sum(-1), (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        stretched = self.centre.to(action) + self.scale.to(action) * action
        clipped = torch.maximum(torch.minimum(stretched, self.high.to(action)), self.low.to(action))
        return clipped.reshape(*action.shape[:-1], *self.shape)


def action_head(space: gymnasium.Space) -> ActionHead:
    """The head for an action space. Raises ValueError for one that is not Discrete, MultiDiscrete or a float Box."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return DiscreteHead(int(space.n))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and len(space.shape) == 1:
        return MultiDiscreteHead([int(n) for n in space.nvec])
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return BoxHead(space)
    raise ValueError(
        f"actions must be Discrete, flat MultiDiscrete or a float Box, got {space}; wrap the env to change them"
    )


def choices(space: gymnasium.Space) -> list[int]:
    """How many choices each part of an action has; none for a Box."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec.flatten()] if isinstance(space, gymnasium.spaces.MultiDiscrete) else []


_MOST_COMBINATIONS = 4096


def value_head(space: gymnasium.Space) -> DiscreteHead:
    """The head of a network that values every action, one number each.

    Raises ValueError for a Box, whose actions cannot be counted, and for a MultiDiscrete of more than 4,096 combinations.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return DiscreteHead(int(space.n))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and len(space.shape) == 1:
        head = RavelledHead([int(n) for n in space.nvec])
        if head.num_params <= _MOST_COMBINATIONS:
            return head
        raise ValueError(
            f"r2d2 values every combination of a MultiDiscrete action, at most {_MOST_COMBINATIONS:,} of them, and {space} has "
            f"{head.num_params:,}; use `mru-rl train ppo`, which takes its parts one by one"
        )
    raise ValueError(
        f"r2d2 values every action, so actions must be Discrete or flat MultiDiscrete, got {space}; use `mru-rl train ppo`, "
        "which takes Box actions, or wrap the env to make them discrete"
    )
