"""The agent's network: memory core, then an actor and a critic."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mru_rl.blocks.core import MemoryCore


class ActorCriticOutput(NamedTuple):
    """params: [..., num_params] of the action head; value: [...]; state: [B, layers, S] to carry on from."""

    params: Tensor
    value: Tensor
    state: Tensor


class ActorCritic(nn.Module):
    """Inputs -> memory core -> two heads with a hidden layer each."""

    def __init__(self, core: MemoryCore, num_params: int) -> None:
        super().__init__()
        self.core = core
        self.actor = _head(core.hidden_size, num_params, gain=0.01)
        self.critic = _head(core.hidden_size, 1, gain=1.0)

    def forward(self, x: Tensor, state: Tensor, is_init: Tensor) -> ActorCriticOutput:
        """A sequence. x: [B, T, D]; state: [B, layers, S]; is_init: bool [B, T]."""
        y, state = self.core(x, state, is_init)
        return ActorCriticOutput(self.actor(y), self.critic(y).squeeze(-1), state)

    def step(self, x: Tensor, state: Tensor, is_init: Tensor) -> ActorCriticOutput:
        """One step. x: [B, D]; state: [B, layers, S]; is_init: bool [B]."""
        y, state = self.core.step(x, state, is_init)
        return ActorCriticOutput(self.actor(y), self.critic(y).squeeze(-1), state)


def _head(width: int, outputs: int, gain: float) -> nn.Sequential:
    """Linear, SiLU, linear; orthogonal, the last layer scaled by gain so that a policy starts near uniform."""
    hidden, last = nn.Linear(width, width), nn.Linear(width, outputs)
    for layer, scale in ((hidden, 2**0.5), (last, gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(hidden, nn.SiLU(), last)
