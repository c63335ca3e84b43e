"""The agent's networks: an encoder where the inputs need one, a memory core, then heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrl.modules.functional import signed_hyperbolic, signed_parabolic

from mru_rl.agents.nets.encoders import InputEncoder
from mru_rl.blocks.core import MemoryCore

FORBIDDEN = -1e9
"""Parameter of an action that there is not: its probability is 0, its value below all others."""
Inputs = Tensor | tuple[Tensor, Tensor | None]
"""Inputs [..., D], or their floats and bytes apart."""


class PolicyOutput(NamedTuple):
    """params: [..., num_params] of the action head; value: [...]; state: [B, layers, S] to carry on from."""

    params: Tensor
    value: Tensor
    state: Tensor


class Policy(nn.Module):
    """Inputs -> encoder, where there is one -> memory core -> heads.

    `actor` maps features of the core to the parameters of an action head; those of actions that inputs say there are not
    become FORBIDDEN.
    """

    actor: nn.Module
    stochastic: bool = True
    """Whether actions are drawn from probabilities; False where the network values them."""

    def __init__(self, core: MemoryCore, encoder: InputEncoder | None = None) -> None:
        super().__init__()
        self.core, self.encoder = core, encoder
        self.mask_to_params: Callable[[Tensor], Tensor] | None = None
        """The action head's: from choices there are to parameters that count. None: they are the same."""

    def encode(self, x: Inputs) -> Tensor:
        """Inputs [..., D] as the core reads them, float32 [..., input_size of the core]."""
        if self.encoder is None:
            assert isinstance(x, Tensor)
            return x
        return self.encoder.features(*x) if isinstance(x, tuple) else self.encoder(x)

    def forward(self, x: Inputs, state: Tensor, is_init: Tensor) -> PolicyOutput:
        """A sequence. x: [B, T, D]; state: [B, layers, S]; is_init: bool [B, T]."""
        y, state = self.core(self.encode(x), state, is_init)
        return self._said(y, x, state)

    def step(self, x: Inputs, state: Tensor, is_init: Tensor) -> PolicyOutput:
        """One step. x: [B, D]; state: [B, layers, S]; is_init: bool [B]."""
        y, state = self.core.step(self.encode(x), state, is_init)
        return self._said(y, x, state)

    def _said(self, y: Tensor, x: Inputs, state: Tensor) -> PolicyOutput:
        params, value = self.read(y)
        if self.encoder is not None and self.encoder.masks:
            params = self._mask(params, self.encoder.allowed(x))
            value = self.value_of(params, value)
        return PolicyOutput(params, value, state)

    def params(self, y: Tensor, x: Inputs) -> Tensor:
        """Parameters of the action head alone, from features y of the core and the inputs x they came from."""
        params = self.actor(y)
        if self.encoder is not None and self.encoder.masks:
            params = self._mask(params, self.encoder.allowed(x))
        return params

    def _mask(self, params: Tensor, allowed: Tensor) -> Tensor:
        if self.mask_to_params is not None:
            allowed = self.mask_to_params(allowed)
        none = ~allowed.any(-1, keepdim=True)  # no action is there after the last step of an episode
        return params.masked_fill(~(allowed | none), FORBIDDEN)

    def value_of(self, params: Tensor, value: Tensor) -> Tensor:
        """The value once the parameters of actions that there are not are known."""
        return value

    @abstractmethod
    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the action head [..., num_params] and value [...] from features y [..., hidden]."""


class ActorCritic(Policy):
    """Two heads with a hidden layer each; the critic says values in units of `value_scale`.

    learned: parameters of the action head that do not depend on the features.
    """

    value_scale: Tensor

    def __init__(
        self, core: MemoryCore, num_params: int, encoder: InputEncoder | None = None, *, learned: Sequence[int] = ()
    ) -> None:
        super().__init__(core, encoder)
        self.actor = _head(core.hidden_size, num_params - len(learned), gain=0.01)
        if learned:
            self.actor = WithLearned(self.actor, num_params, learned)
        self.critic = _head(core.hidden_size, 1, gain=1.0)
        self.register_buffer("value_scale", torch.ones(()))

    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(y), self.critic(y).squeeze(-1) * self.value_scale

    @torch.no_grad()
    def rescale_value(self, scale: float, *, kept: bool) -> None:
        """Say values in another unit from now on. kept: the values stay what they are, as in PopArt, van Hasselt et al. 2016,
        arXiv:1602.07714; otherwise, as before anything was learned, they are multiplied by it."""
        if kept:
            for parameter in self.critic[-1].parameters():
                parameter.mul_(self.value_scale / scale)
        self.value_scale.fill_(scale)


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

    def __init__(
        self, core: MemoryCore, num_actions: int, encoder: InputEncoder | None = None, *, rescaled: bool = True
    ) -> None:
        super().__init__(core, encoder)
        self.actor = Dueling(core.hidden_size, num_actions)
        self.rescaled = rescaled
        self.register_buffer("reward_scale", torch.ones(()))

    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.actor(y)
        return q, self.value_of(q, q)

    def value_of(self, params: Tensor, value: Tensor) -> Tensor:
        return self.unscale(params.amax(-1)) / self.reward_scale

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
