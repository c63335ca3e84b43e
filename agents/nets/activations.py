"""How much memory a network needs to learn from a step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mru_rl.agents.nets.networks import Policy
from mru_rl.envs.input_rules import InputRules

_STEPS = 32


def bytes_to_learn_from(policy: Policy, rules: InputRules) -> int:
    """Bytes that one step of one row takes while its gradient is awaited, its observation included: measured on zeros."""
    device = next(policy.parameters()).device
    x = torch.zeros(1, _STEPS, rules.size, dtype=rules.dtype, device=device)
    own = {p.untyped_storage().data_ptr() for p in (*policy.parameters(), *policy.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        out = policy(x, policy.core.initial_state(1), torch.zeros(1, _STEPS, dtype=torch.bool, device=device))
    del out
    return x.nbytes // _STEPS + sum(kept.values()) // _STEPS
