"""Targets for torchrl's DQNLoss if the value network has a memory."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import DQNLoss


@torch.no_grad()
def next_values(loss: DQNLoss, data: TensorDictBase, *, double_dqn: bool = False) -> Tensor:
    """Value [*B, T, 1] of every next observation, the target network unrolled over the same steps as the data.

        state'[t] = target memory after step t of the window, from the stored states
        value[t]  = max over a of Q'(next obs[t], state'[t])[a]
        double    = Q'(next obs[t], state'[t])[a*], a* the best action of the online network from its own states

    DQNLoss takes its targets from a sequence of next observations that starts where the online network's first step
    ended. torchrl's GRUModule leaves zeros there, so that targets begin from an empty memory; MemoryModule leaves
    the true state, of the online network, and goes on across episodes and flat slices unless ("next", "is_init") says
    where they begin, which neither env nor sampler writes. Here every next value is one step from the state that the
    target network has reached by then: nothing to mark, right for flat slices and at truncated steps too. Give the
    values to the loss in place of its own:

        loss = DQNLoss(network, action_space="categorical", delay_value=True)
        loss.make_value_estimator(TD0Estimator(gamma=0.99, value_network=None))
        data["next", "state_value"] = next_values(loss, data, double_dqn=True)
        loss(data)["loss"].backward()

    data: [*B, T], time last, with what the value network reads, here and under "next". One discrete action per step.
    Raises KeyError and ValueError as MemoryModule does.
    """
    target = _after_each_step(loss, loss.target_value_network_params, data)
    if not double_dqn:
        return target.amax(-1, keepdim=True)
    online = _after_each_step(loss, loss.value_network_params, data)
    return target.gather(-1, online.argmax(-1, keepdim=True))


def _after_each_step(loss: DQNLoss, params: TensorDictBase, data: TensorDictBase) -> Tensor:
    """Action values [*B, T, A] of the next observations, each one step after the state that params reach by then."""
    network = loss.value_network
    with params.to_module(network, preserve_module_state=False):
        with set_recurrent_mode(True):
            here = network(data.select(*network.in_keys, strict=False))
        after = data["next"].select(*network.in_keys, strict=False).update(here["next"])
        after["is_init"] = torch.zeros_like(data["is_init"])  # still the same episode
        with set_recurrent_mode(False):
            return network(after)[loss.tensor_keys.action_value]
