"""Players to measure agents against: random actions on every task, rules in the modules beside this one.

A player is made with `player(env, generator)` for one episode per row and called with the obs at every step; it returns
the actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mru_rl.envs.base import BatchedEnv

Act = Callable[[Tensor], Tensor]
Player = Callable[[Any, torch.Generator], Act]


def returns(env: BatchedEnv, player: Player, generator: torch.Generator) -> Tensor:
    """Play one episode in every row; return what each earned, float64 [B]."""
    obs, act = env.reset(), player(env, generator)
    total = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    playing = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    while playing.any():
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total += reward.double() * playing
        playing &= ~(terminated | truncated)
    return total


def random_actions(env: BatchedEnv, generator: torch.Generator) -> Act:
    """Return a player of uniform actions."""
    return _uniform(env.action_space, env.num_envs, generator)


def _uniform(space: spaces.Space, rows: int, generator: torch.Generator) -> Act:
    if isinstance(space, spaces.Tuple):
        parts = [_uniform(part, rows, generator) for part in space.spaces]
        return lambda obs: torch.cat([part(obs).reshape(rows, -1).float() for part in parts], dim=1)
    if isinstance(space, spaces.Discrete):
        return lambda obs: torch.randint(int(space.n), (rows,), generator=generator)
    if isinstance(space, spaces.MultiDiscrete):
        counts = torch.as_tensor(space.nvec)
        return lambda obs: (torch.rand(rows, len(counts), generator=generator, dtype=torch.float64) * counts).long()
    assert isinstance(space, spaces.Box), space
    low, high, shape = torch.as_tensor(space.low), torch.as_tensor(space.high), space.shape or ()
    return lambda obs: low + torch.rand(rows, *shape, generator=generator) * (high - low)
