"""Action heads: what a network's outputs mean for each kind of action space.

Any action space becomes a simple one first: see `simple_action_space` of mru_rl.envs.actions.

Written here because torch.distributions samples from the global generator; a run that resumes to the bit needs its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor
from torch.nn import functional as F

from mru_rl.agents.console.errors import require
from mru_rl.envs.actions import action_leaves, float32_bounds, simple_action_space


class ActionHead(ABC):
    """params [..., num_params] from the network -> actions, their log-probability and the entropy.

    Actions: int64 [...] for Discrete, int64 [..., n] for MultiDiscrete, float32 [..., n] for Box and a mixture.
    """

    num_params: int
    learned: tuple[int, ...] = ()
    """Parameters that are the same in every state: the network learns them as they are, beginning at 0."""

    @property
    def notes(self) -> list[str]:
        """What to know of the actions before a run starts, a line each."""
        return []

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor: ...

    @abstractmethod
    def mode(self, params: Tensor) -> Tensor: ...

    @abstractmethod
    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both [...], summed over the parts of an action."""

    def mask_to_params(self, allowed: Tensor) -> Tensor:
        """bool [..., num_params], False for parameters of choices there are not.

        allowed: bool [..., n], one for each choice of each part that counts, in order.
        """
        return allowed

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

    def mask_to_params(self, allowed: Tensor) -> Tensor:
        first, *others = allowed.split(self.sizes, dim=-1)
        for part in others:
            first = (first.unsqueeze(-1) & part.unsqueeze(-2)).flatten(-2)
        return first

    def to_env(self, action: Tensor) -> Tensor:
        return torch.stack(torch.unravel_index(action, self.sizes), dim=-1)


_WIDE = 1e6
_LOG_STD = (-5.0, 1.0)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


class BoxHead(ActionHead):
    """Independent normals on [-1, 1] (mean and log-deviation from the network), stretched to the box and clipped there.

    A side without a bound, or with one beyond a million, leaves the scale as it is: what the other side bounds is moved so
    that -1 or 1 is that bound, and what no side bounds is not moved.

    squash: bend what both sides bound into the bounds with tanh instead of clipping it, Haarnoja et al. 2018,
    arXiv:1801.01290, appendix C. Actions are kept as they were before tanh, whose slope is part of their log-probability on
    [-1, 1]; the entropy is that after tanh, by Gauss-Hermite quadrature; `mode` is the median, tanh of the mean.
    learned_std: one log-deviation for all states.
    """

    def __init__(self, space: spaces.Box, *, squash: bool = False, learned_std: bool = False) -> None:
        low, high = (torch.as_tensor(side) for side in float32_bounds(space))
        has_low, has_high = low > -_WIDE, high < _WIDE
        has_both, bound = has_low & has_high, torch.where(has_low, low + 1, torch.where(has_high, high - 1, 0.0))
        self.shape = space.shape
        self.low, self.high = low, high
        self.scale = torch.where(has_both, high / 2 - low / 2, 1.0)
        self.centre = torch.where(has_both, high / 2 + low / 2, bound)
        self.squashed = has_both & squash
        self.squashes = bool(self.squashed.any())
        self.wide = bool(((low.isfinite() & ~has_low) | (high.isfinite() & ~has_high)).any())
        n = low.numel()
        self.num_params = 2 * n
        self.learned = tuple(range(n, 2 * n)) if learned_std else ()

    @property
    def notes(self) -> list[str]:
        if not self.wide:
            return []
        return [
            f"actions have bounds beyond {_WIDE:,.0f}: they are not stretched to those, and begin within about 1 of 0 or of a "
            "nearer bound; wrap the env to scale them otherwise"
        ]

    def _normal(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = params.chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD)

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
        entropy = log_std + 0.5 * math.log(2 * math.pi * math.e)
        if self.squashes:
            squashed = self.squashed.to(action.device)
            log_prob = log_prob - torch.where(squashed, _log_slope(action), 0.0)
            entropy = entropy + torch.where(squashed, self._mean_log_slope(mean, log_std), 0.0)
        return log_prob.sum(-1), entropy.sum(-1)

    def _mean_log_slope(self, mean: Tensor, log_std: Tensor) -> Tensor:
        nodes, weights = (torch.as_tensor(values).to(mean) for values in (_NODES, _WEIGHTS / _WEIGHTS.sum()))
        return _log_slope(mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * nodes) @ weights

    def to_env(self, action: Tensor) -> Tensor:
        if self.squashes:
            action = torch.where(self.squashed.to(action.device), action.tanh(), action)
        stretched = self.centre.to(action) + self.scale.to(action) * action
        clipped = torch.maximum(torch.minimum(stretched, self.high.to(action)), self.low.to(action))
        return clipped.reshape(*action.shape[:-1], *self.shape)


def _log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), exact where tanh rounds to 1."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class MixedHead(ActionHead):
    """Heads of several parts side by side; an action is float32 [..., n], numbers as floats."""

    def __init__(self, heads: list[ActionHead], widths: list[int]) -> None:
        self.heads, self.widths = heads, widths
        self.sizes = [head.num_params for head in heads]
        self.num_params = sum(self.sizes)
        first = np.cumsum([0, *self.sizes]).tolist()
        self.learned = tuple(start + i for head, start in zip(heads, first, strict=False) for i in head.learned)

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for head in self.heads for note in head.notes))

    def _parts(self, params: Tensor) -> zip[tuple[ActionHead, Tensor]]:
        return zip(self.heads, params.split(self.sizes, dim=-1), strict=True)

    def _split(self, action: Tensor) -> list[Tensor]:
        """The action of each head as that head has it."""
        parts = zip(self.heads, action.split(self.widths, dim=-1), strict=True)
        return [part if isinstance(head, BoxHead) else _as_numbers(head, part) for head, part in parts]

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return _side_by_side([head.sample(part, generator) for head, part in self._parts(params)], params)

    def mode(self, params: Tensor) -> Tensor:
        return _side_by_side([head.mode(part) for head, part in self._parts(params)], params)

    def log_prob_and_entropy(self, params: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [
            head.log_prob_and_entropy(part, chosen)
            for (head, part), chosen in zip(self._parts(params), self._split(action), strict=True)
        ]
        log_probs, entropies = zip(*pairs, strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)

    def to_env(self, action: Tensor) -> Tensor:
        parts = zip(self.heads, self._split(action), strict=True)
        return _side_by_side([head.to_env(part) for head, part in parts], action)

    def mask_to_params(self, allowed: Tensor) -> Tensor:
        given = iter(
            allowed.split([n for n, head in zip(self.sizes, self.heads, strict=True) if not _is_box(head)], dim=-1)
        )
        parts = [
            allowed.new_ones((*allowed.shape[:-1], n)) if _is_box(head) else next(given)
            for n, head in zip(self.sizes, self.heads, strict=True)
        ]
        return torch.cat(parts, dim=-1)


def _is_box(head: ActionHead) -> bool:
    return isinstance(head, BoxHead)


def _as_numbers(head: ActionHead, action: Tensor) -> Tensor:
    return action.long().squeeze(-1) if isinstance(head, DiscreteHead) else action.long()


def _side_by_side(parts: list[Tensor], like: Tensor) -> Tensor:
    """One float [..., n] of the actions of some heads."""
    lead = like.shape[:-1]
    return torch.cat([part.to(like.dtype).reshape(*lead, -1) for part in parts], dim=-1)


def action_head(
    space: Space, *, squash: bool = False, gaussian_std: Literal["state", "learned"] = "state"
) -> ActionHead:
    """The head for an action space; squash and gaussian_std: those of BoxHead.

    Raises ValueError for a space that is not supported, and for an option of a Box where there is none.
    """
    simple = simple_action_space(space)
    boxes = [leaf for leaf in action_leaves(simple) if isinstance(leaf, spaces.Box)]
    learned = gaussian_std == "learned"
    require(bool(boxes) or not learned, f"{{gaussian_std}} is for Box actions, got {space}; leave it out")
    require(bool(boxes) or not squash, f"{{squash}} is for Box actions, got {space}; leave it out")
    if isinstance(simple, spaces.Tuple):
        heads = [_simple_head(part, squash, learned) for part in simple.spaces]
        head: ActionHead = MixedHead(heads, [math.prod(part.shape or ()) for part in simple.spaces])
    else:
        heads = [head := _simple_head(simple, squash, learned)]
    squashed = any(isinstance(head, BoxHead) and head.squashes for head in heads)
    require(
        squashed or not squash,
        f"{{squash}} bends actions into their bounds, and none of {space} has two within a million; leave it out",
    )
    return head


def _simple_head(space: Space, squash: bool, learned_std: bool) -> ActionHead:
    if isinstance(space, spaces.Discrete):
        return DiscreteHead(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteHead([int(n) for n in space.nvec])
    assert isinstance(space, spaces.Box), space
    return BoxHead(space, squash=squash, learned_std=learned_std)


_MOST_COMBINATIONS = 4096


def value_head(space: Space) -> DiscreteHead:
    """The head of a network that values every action, one number each.

    Raises ValueError for an action with a Box of floats, which cannot be counted, and for one of several parts with more than
    4,096 combinations.
    """
    simple = simple_action_space(space)
    if isinstance(simple, spaces.Discrete):
        return DiscreteHead(int(simple.n))
    if isinstance(simple, spaces.MultiDiscrete):
        head = RavelledHead([int(n) for n in simple.nvec])
        if head.num_params <= _MOST_COMBINATIONS:
            return head
        raise ValueError(
            f"r2d2 values every combination of the parts of an action, at most {_MOST_COMBINATIONS:,} of them, and {space} has "
            f"{head.num_params:,}; use `mru-rl train ppo`, which takes its parts one by one"
        )
    raise ValueError(
        f"r2d2 values every action, so actions must be whole numbers, got {space}; use `mru-rl train ppo`, which takes Box "
        "actions, or wrap the env to make them discrete"
    )
