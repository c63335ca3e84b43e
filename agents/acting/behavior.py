"""How a policy acts, and what learning needs of each step: passed to the acting loop."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.agents.acting.rollout import Rollout, make_rollout
from mru_rl.agents.nets.heads import ActionHead
from mru_rl.agents.nets.networks import FORBIDDEN, Policy, PolicyOutput
from mru_rl.envs.base import Step

Columns = dict[str, Tensor]
"""What is kept of one step, by name, [B, ...] each; of a segment, [B, T, ...]."""


class Behavior(ABC):
    """Chooses actions and says what is kept of a step. One of your own gives `choose`, `keep` and `rollout`.

    At every step the loop calls `choose` with what the network said, steps the envs, and calls `keep`; at the end `rollout`
    with the columns of the segment. What every step keeps besides: observation, is_init, reward, terminated, truncated.
    """

    looks_ahead: bool = False
    """Whether the network is asked once more, for what the envs show after the segment."""

    @abstractmethod
    def choose(self, out: PolicyOutput, head: ActionHead, generator: torch.Generator) -> Tensor:
        """The head's actions for all rows, from the network's output; random numbers from `generator` alone."""

    @abstractmethod
    def keep(
        self, out: PolicyOutput, before: Tensor, action: Tensor, after: Step, policy: Policy, head: ActionHead
    ) -> Columns:
        """What learning needs of a step beside what every step keeps.

        before: the memory [B, layers, S] the step found; out.state: that after it; after: what the envs returned.
        """

    @abstractmethod
    def rollout(self, columns: Columns, start_state: Tensor, ahead: PolicyOutput | None) -> Rollout:
        """The rollout of a segment. ahead: what the network says of what the envs show after it, where `looks_ahead`."""


class Sampling(Behavior):
    """An actor-critic: actions are drawn from the policy, and every step is valued.

    The rollout is that of `make_rollout`: action, action_log_prob, state_value and, under "next", reward, terminated,
    truncated, done and state_value.
    """

    looks_ahead = True

    def choose(self, out: PolicyOutput, head: ActionHead, generator: torch.Generator) -> Tensor:
        return head.sample(out.params, generator)

    def keep(
        self, out: PolicyOutput, before: Tensor, action: Tensor, after: Step, policy: Policy, head: ActionHead
    ) -> Columns:
        log_prob, _ = head.log_prob_and_entropy(out.params, action)
        final_value = out.value
        if after.truncated.any():  # the episode was cut, not over: value what it would have gone on from
            final_value = policy.step(after.final_obs, out.state, torch.zeros_like(after.truncated)).value
        return {
            "action": action,
            "action_log_prob": log_prob,
            "state_value": out.value,
            "final_value": final_value,
        }

    def rollout(self, columns: Columns, start_state: Tensor, ahead: PolicyOutput | None) -> Rollout:
        assert ahead is not None
        return make_rollout(start_state, last_value=ahead.value, **columns)


class EpsilonGreedy(Behavior):
    """Action values: each env takes the best action, or a random one with its own probability, epsilon [B].

    The rollout holds observation, action, is_init, state [B, T, layers, S], the memory before each step, and, under "next",
    observation, what the action led to before any reset, reward, terminated, truncated and done.
    """

    def __init__(self, epsilon: Tensor) -> None:
        self.epsilon = epsilon

    def choose(self, out: PolicyOutput, head: ActionHead, generator: torch.Generator) -> Tensor:
        q, device = out.params, generator.device
        self.epsilon = self.epsilon.to(device)
        explores = torch.rand(len(q), generator=generator, device=device) < self.epsilon
        drawn = torch.randint(q.shape[-1], (len(q),), generator=generator, device=device)
        there = q > FORBIDDEN
        if not there.all():
            drawn = torch.multinomial(there.float(), 1, generator=generator).squeeze(1)
        return torch.where(explores, drawn, head.mode(q))

    def keep(
        self, out: PolicyOutput, before: Tensor, action: Tensor, after: Step, policy: Policy, head: ActionHead
    ) -> Columns:
        return {"state": before, "action": action, "final_obs": after.final_obs}

    def rollout(self, columns: Columns, start_state: Tensor, ahead: PolicyOutput | None) -> Rollout:
        data = TensorDict(
            {
                "observation": columns["observation"],
                "is_init": columns["is_init"],
                "state": columns["state"],
                "action": columns["action"],
                "next": {
                    "observation": columns["final_obs"],
                    "reward": columns["reward"],
                    "terminated": columns["terminated"],
                    "truncated": columns["truncated"],
                    "done": columns["terminated"] | columns["truncated"],
                },
            },
            batch_size=columns["reward"].shape[:2],
        )
        return Rollout(data, start_state)
