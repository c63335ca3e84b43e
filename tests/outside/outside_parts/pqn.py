"""PQN with a memory, as an algorithm of one's own: Q-learning on fresh rollouts, without replay and target network.

After Gallici et al. 2024, arXiv:2407.04811: epsilon-greedy over many envs, Q(lambda) returns, several epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mru_rl.agents import Task, TrainConfig, Trainer, register_algorithm
from mru_rl.agents.acting.behavior import EpsilonGreedy
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.build import make_body
from mru_rl.agents.nets.heads import ActionHead, value_head
from mru_rl.agents.nets.networks import QNetwork
from mru_rl.envs.input_rules import InputRules


@dataclass(frozen=True, kw_only=True)
class PQNConfig(TrainConfig):
    """Train a memory agent with PQN: Q-learning on whole rollout segments, no replay, no target network."""

    algorithm: ClassVar[str] = "pqn"

    segment: int | None = None
    """env steps per env between two updates; one episode where the env says how long they are, else 64"""
    discount: float = 0.95
    """discount per step"""
    q_lambda: float = 0.65
    """how far returns look ahead beyond one step"""
    learning_rate: float = 1e-3
    """Adam's step size at the start"""
    schedule: Literal["linear", "constant"] = "linear"
    """learning rate over the run"""
    epochs: int = 2
    """passes over each rollout"""
    minibatches: int = 4
    """gradient steps per pass"""
    epsilon_start: float = 1.0
    """fraction of random actions at the start"""
    epsilon_end: float = 0.05
    """fraction of random actions from the middle of the run on"""

    def choose(self, task: Task) -> dict[str, tuple[Any, str]]:
        if self.segment is not None:
            return {}
        known = task.horizon is not None and task.horizon <= 1024
        return {"segment": (task.horizon, "one episode") if known else (64, "episodes are long or of unknown length")}


@register_algorithm(PQNConfig)
class PQNTrainer(Trainer):
    """Acting loop and learner of a PQN run."""

    config: PQNConfig
    policy: QNetwork

    def __init__(self, config: PQNConfig) -> None:
        super().__init__(config)
        self.behavior = EpsilonGreedy(torch.full((self.config.num_envs,), config.epsilon_start))
        generator = torch.Generator(device=self.device).manual_seed(config.seed + 1)
        self.collector = ActingLoop(self.env, self.policy, self.head, generator, self.behavior, self.guard)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.learning_rate)
        self.order = torch.Generator().manual_seed(config.seed + 2)

    @staticmethod
    def make_agent(config: PQNConfig, inputs: InputRules) -> tuple[ActionHead, QNetwork]:
        head = value_head(inputs.action_space)
        encoder, core = make_body(config, inputs)
        return head, QNetwork(core, head.num_params, encoder, rescaled=False)

    @property
    def segment(self) -> int:
        assert self.config.segment is not None
        return self.config.segment

    def learn(self, rollout: Rollout) -> dict[str, float]:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        rollout = rollout.kept()
        data, state = rollout.data, rollout.start_state
        target = self._targets(rollout)
        losses = []
        for _ in range(config.epochs):
            for rows in torch.randperm(len(data), generator=self.order).chunk(config.minibatches):
                q = self.policy(data["observation"][rows], state[rows], data["is_init"][rows]).params
                taken = q.gather(-1, data["action"][rows].unsqueeze(-1)).squeeze(-1)
                loss = 0.5 * (taken - target[rows]).square().mean()
                self.optimizer.zero_grad()
                loss.backward()
                if self.guard.clip(self.policy, 10.0, {"Q value": taken}) is not None:
                    self.optimizer.step()
                    losses.append(loss.item())
        left = max(1 - 2 * self.progress, 0.0)
        epsilon = config.epsilon_end + (config.epsilon_start - config.epsilon_end) * left
        self.behavior.epsilon.fill_(epsilon)
        return {"loss": sum(losses) / max(len(losses), 1), "q_mean": target.mean().item()}

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> Tensor:
        """Q(lambda) returns [B, T]; the value of what a step led to is one step from the memory after it."""
        data, config = rollout.data, self.config
        rows, steps = data.batch_size
        _, states, _ = self.policy.core.unroll(data["observation"], rollout.start_state, data["is_init"])
        assert states is not None
        after = data["next", "observation"].flatten(0, 1)
        never = torch.zeros(rows * steps, dtype=torch.bool)
        best = self.policy.step(after, states.flatten(0, 1), never).params.amax(-1).unflatten(0, (rows, steps))
        best = best * ~data["next", "terminated"]
        reward, done = data["next", "reward"], data["next", "done"]
        target = torch.empty_like(best)
        ahead = best[:, -1]
        for t in reversed(range(steps)):
            ahead = torch.where(done[:, t], best[:, t], (1 - config.q_lambda) * best[:, t] + config.q_lambda * ahead)
            ahead = target[:, t] = reward[:, t] + config.discount * ahead
        return target

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"order": self.order.get_state(), "epsilon": self.behavior.epsilon.clone()}

    def load_state_dict(self, saved: dict[str, Any]) -> list[str]:
        lost = super().load_state_dict(saved)
        self.order.set_state(saved["order"])
        self.behavior.epsilon.copy_(saved["epsilon"])
        return lost
