"""The agent's networks: a memory core, then heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrl.modules.functional import signed_hyperbolic, signed_parabolic

from mru_rl.blocks.core import MemoryCore


class PolicyOutput(NamedTuple):
    """params: [..., num_params] of the action head; value: [...]; state: [B, layers, S] to carry on from."""

    params: Tensor
    value: Tensor
    state: Tensor


class Policy(nn.Module):
    """Inputs -> memory core -> heads. `actor` maps features of the core to the parameters of an action head."""

    actor: nn.Module
    stochastic: bool = True
    """Whether actions are drawn from probabilities; False where the network values them."""

    def __init__(self, core: MemoryCore) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor) -> PolicyOutput:
        """A sequence. x: [B, T, D]; state: [B, layers, S]; is_init: bool [B, T]."""
        y, state = self.core(x, state, is_init)
        return PolicyOutput(*self.read(y), state)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> PolicyOutput:
        """One step. x: [B, D]; state: [B, layers, S]; is_init: bool [B]."""
        y, state = self.core.step(x, state, is_init)
        return PolicyOutput(*self.read(y), state)

    @abstractmethod
    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the action head [..., num_params] and value [...] from features y [..., hidden]."""


class ActorCritic(Policy):
    """Two heads with a hidden layer each. learned: parameters of the action head that do not depend on the features."""

    def __init__(self, core: MemoryCore, num_params: int, learned: Sequence[int] = ()) -> None:
        super().__init__(core)
        self.actor = _head(core.hidden_size, num_params - len(learned), gain=0.01)
        if learned:
            self.actor = WithLearned(self.actor, num_params, learned)
        self.critic = _head(core.hidden_size, 1, gain=1.0)

    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(y), self.critic(y).squeeze(-1)


class WithLearned(nn.Module):
    """A net of features [..., hidden] whose outputs stand beside learned numbers, 0 at first -> [..., num_params]."""

    order: Tensor

    def __init__(self, net: nn.Module, num_params: int, learned: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.learned = nn.Parameter(torch.zeros(len(learned)))
        places = [*(i for i in range(num_params) if i not in learned), *learned]
        self.register_buffer("order", torch.tensor(places).argsort(), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        beside = self.learned.expand(*y.shape[:-1], -1)
        return torch.cat([self.net(y), beside], dim=-1).index_select(-1, self.order)


class Dueling(nn.Module):
    """Q(a) = V + A(a) - mean A, Wang et al. 2016, arXiv:1511.06581, equation 9; features [..., hidden] -> [..., actions]."""

    def __init__(self, hidden_size: int, num_actions: int) -> None:
        super().__init__()
        self.value = _head(hidden_size, 1, gain=1.0)
        self.advantage = _head(hidden_size, num_actions, gain=0.01)

    def forward(self, y: Tensor) -> Tensor:
        advantage = self.advantage(y)
        return self.value(y) + advantage - advantage.mean(-1, keepdim=True)


class QNetwork(Policy):
    """Action values, one per action: the most likely action is the most valued one.

    The parameters are values h(c q) of scaled returns, h(q) = sign(q) (sqrt(|q| + 1) - 1) + 0.001 q where rescaled, Pohlen
    et al. 2018, arXiv:1805.11593, else h(q) = q; c is `reward_scale`. `value` is the best q itself.
    """

    stochastic = False
    reward_scale: Tensor

    def __init__(self, core: MemoryCore, num_actions: int, *, rescaled: bool = True) -> None:
        super().__init__(core)
        self.actor = Dueling(core.hidden_size, num_actions)
        self.rescaled = rescaled
        self.register_buffer("reward_scale", torch.ones(()))

    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.actor(y)
        return q, self.unscale(q.amax(-1)) / self.reward_scale

    def scale(self, value: Tensor) -> Tensor:
        """h."""
        return signed_hyperbolic(value) if self.rescaled else value

    def unscale(self, value: Tensor) -> Tensor:
        """The inverse of h."""
        return signed_parabolic(value) if self.rescaled else value


def _head(width: int, outputs: int, gain: float) -> nn.Sequential:
    """Linear, SiLU, linear; orthogonal, the last layer scaled by gain so that a policy starts near uniform."""
    hidden, last = nn.Linear(width, width), nn.Linear(width, outputs)
    for layer, scale in ((hidden, 2**0.5), (last, gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(hidden, nn.SiLU(), last)
