"""PPO over whole rollout segments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.agents.acting.behavior import Sampling
from mru_rl.agents.acting.collector import Collector
from mru_rl.agents.acting.guards import Guard
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.build import make_body, modules_of, pick_device
from mru_rl.agents.console.room import memory_notes
from mru_rl.agents.nets.activations import bytes_to_learn_from
from mru_rl.agents.nets.heads import ActionHead, action_head
from mru_rl.agents.nets.networks import ActorCritic
from mru_rl.agents.ppo.config import PPOConfig, ResolvedPPOConfig
from mru_rl.agents.returns import ReturnSize, gae
from mru_rl.agents.trainer import Trainer
from mru_rl.envs.input_rules import InputRules


class PPO:
    """Proximal policy optimisation, Schulman et al. 2017, arXiv:1707.06347, with a recurrent policy.

    A minibatch is a set of whole rows of the rollout; the memory runs over each row in one parallel scan, from the
    state stored at the segment's start (not recomputed between epochs), with resets inside.
    Written here, not taken from torchrl: ClipPPOLoss runs actor and critic as two modules, and the memory would be run
    twice; here both read one pass of it.
    """

    def __init__(
        self,
        policy: ActorCritic,
        head: ActionHead,
        config: ResolvedPPOConfig,
        generator: torch.Generator,
        guard: Guard | None = None,
    ) -> None:
        self.policy, self.head, self.config, self.generator = policy, head, config, generator
        self.guard = guard or Guard()
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)

    def update(self, rollout: Rollout, learning_rate: float) -> dict[str, float]:
        """Learn from one rollout with Adam's step size at this value."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        rollout = rollout.kept()
        rows = rollout.start_state.shape[0]
        metrics = {"learning_rate": learning_rate}
        if rows == 0:
            return metrics
        batch = self._prepare(rollout)
        totals, taken = torch.zeros(len(_LOSS_METRICS)), 0
        for _ in range(config.epochs):
            order = torch.randperm(rows, generator=self.generator).to(rollout.start_state.device)
            for chosen in order.chunk(config.minibatches):
                found = self._gradient_step({k: v.index_select(0, chosen) for k, v in batch.items()})
                if found is not None:
                    totals += found
                    taken += 1
        if taken:
            metrics |= dict(zip(_LOSS_METRICS, (totals / taken).tolist(), strict=True))
            metrics["explained_variance"] = _explained_variance(batch["value"], batch["target"])
        return metrics

    def _prepare(self, rollout: Rollout) -> dict[str, Tensor]:
        data = rollout.data
        value, after = data["state_value"], data["next"]
        advantage = gae(
            after["reward"],
            value,
            after["state_value"],
            after["terminated"],
            after["done"],
            gamma=self.config.discount,
            lam=self.config.gae_lambda,
        )
        return {
            "x": data["observation"],
            "is_init": data["is_init"],
            "action": data["action"],
            "log_prob": data["action_log_prob"],
            "value": value,
            "target": advantage + value,
            "advantage": _normalised(advantage),
            "state": rollout.start_state,
        }

    def _gradient_step(self, rows: dict[str, Tensor]) -> Tensor | None:
        """One step on some rows; the metrics _LOSS_METRICS, None where it was skipped."""
        config = self.config
        params, value, _ = self.policy(rows["x"], rows["state"], rows["is_init"])
        log_prob, entropy = self.head.log_prob_and_entropy(params, rows["action"])
        log_ratio = log_prob - rows["log_prob"]
        policy_loss = clipped_policy_loss(log_ratio, rows["advantage"], config.clip)
        value_loss = 0.5 * ((value - rows["target"]) / self.policy.value_scale).square().mean()
        entropy = entropy.mean()
        loss = policy_loss + config.value_coef * value_loss - config.entropy * entropy
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parts = {"target": rows["target"], "advantage": rows["advantage"], "value": value, "log-probability": log_prob}
        grad_norm = self.guard.clip(self.policy, config.max_grad_norm, parts)
        if grad_norm is None:
            return None
        self.optimizer.step()
        with torch.no_grad():
            ratio = log_ratio.exp()
            kl = (ratio - 1 - log_ratio).mean()
            clipped = ((ratio - 1).abs() > config.clip).float().mean()
            return torch.stack([policy_loss, value_loss, entropy, kl, clipped, grad_norm]).cpu()


_FEW_ROLLOUTS = 10
_LOSS_METRICS = ("policy_loss", "value_loss", "entropy", "kl", "clip_share", "grad_norm")


def clipped_policy_loss(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-E[min(r A, clip(r, 1 - clip, 1 + clip) A)] with r = exp(log_ratio); all [...], arXiv:1707.06347, section 3."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def _normalised(advantage: Tensor) -> Tensor:
    """Mean 0 and deviation 1; 0 where there is but one, or all are equal."""
    spread = advantage.std() if advantage.numel() > 1 else 0.0
    return (advantage - advantage.mean()) / (spread + 1e-8)


def _explained_variance(value: Tensor, target: Tensor) -> float:
    """1 - Var(target - value) / Var(target): 1 for a perfect critic, 0 for a constant one."""
    if target.numel() < 2 or not (variance := target.var()) > 0:
        return 0.0
    return float(1 - (target - value).var() / variance)


class PPOTrainer(Trainer):
    """Acting loop, actor-critic and learner of a PPO run."""

    config: ResolvedPPOConfig
    policy: ActorCritic

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        self.collector = self._make_collector()
        generator = torch.Generator().manual_seed(config.seed + 2)
        self.learner = PPO(self.policy, self.head, self.config, generator, self.guard)
        self.optimizer = self.learner.optimizer
        self.scales_values: bool | None = None
        """Whether values are in units of the size of returns; None before there was a return."""
        self.return_size = ReturnSize(self.config.discount)

    @staticmethod
    def make_agent(config: PPOConfig, inputs: InputRules) -> tuple[ActionHead, ActorCritic]:
        head = action_head(inputs.action_space, squash=config.squash, gaussian_std=config.gaussian_std)
        encoder, core = make_body(config, inputs)
        policy = ActorCritic(core, head.num_params, encoder, learned=head.learned)
        policy.mask_to_params = head.mask_to_params
        return head, policy.to(pick_device(config.device))

    def _make_collector(self) -> Collector:
        config = self.config
        if config.collector == "ray":
            from mru_rl.agents.acting.ray import RayCollectors  # torchrl's collectors take seconds to import

            return RayCollectors(
                self.env,
                self.policy,
                self.head,
                self.device,
                num_collectors=config.num_collectors,
                segment=self.segment,
                seed=config.seed,
                backend=config.backend,
                imports=(*config.imports, *modules_of(config.env)),
            )
        generator = torch.Generator(device=self.device).manual_seed(config.seed + 1)
        if config.collector == "torchrl":
            from mru_rl.agents.acting.torchrl import TorchRLCollector

            return TorchRLCollector(self.env, self.policy, self.head, generator, self.segment)
        return ActingLoop(self.env, self.policy, self.head, generator, Sampling(), self.guard)

    def notes(self) -> list[str]:
        config, notes = self.config, self.head.notes
        if config.collector == "ray":
            each = config.num_envs // config.num_collectors
            notes.append(f"acting on Ray: {config.num_collectors} collector(s) of {each} envs")
        size = self.segment * config.num_envs
        rollouts = -(-config.steps // size)
        learned = rollouts - (not self.warmed_up)
        if learned < _FEW_ROLLOUTS:
            warm_up = ", the first of which only sets write rates" if learned < rollouts else ""
            notes.append(
                f"--steps {config.steps:,} are {rollouts} rollout(s) of {size:,} env steps{warm_up}: few to learn from; give "
                "more --steps, fewer --num-envs or a shorter --segment"
            )
        return notes + self._memory_notes()

    def _memory_notes(self) -> list[str]:
        config, rules = self.config, self.env.rules
        obs, learned_from = rules.size * rules.dtype.itemsize, bytes_to_learn_from(self.policy, rules)
        parts = {
            "rollout": 2 * config.num_envs * self.segment * obs,  # steps, then what they are put into
            "learning": -(-config.num_envs // config.minibatches) * self.segment * learned_from,
        }
        less = "fewer --num-envs, a shorter --segment or more --minibatches"
        return memory_notes(parts, less, elsewhere=self.device != "cpu")

    @property
    def segment(self) -> int:
        return self.config.segment

    def learn(self, rollout: Rollout) -> dict[str, float]:
        self._scale_values(rollout)
        return self.learner.update(rollout, self.learning_rate)

    def _scale_values(self, rollout: Rollout) -> None:
        """Say values in units of the size of returns, if that is asked for, or not usual when there are first ones."""
        asked = self.config.normalize_reward
        kept = rollout.kept()
        if asked is False or self.scales_values is False or not len(kept.start_state):
            return
        after = kept.data["next"]
        self.return_size.observe(after["reward"], after["done"])
        size = self.return_size.size
        if size == 0:
            return
        first = self.scales_values is None
        if first:
            self.scales_values = bool(asked) or not self.return_size.is_usual
            if self.scales_values and asked is None:
                self.news.append(
                    f"returns are of size {size:.3g}: values are learned in that unit (--no-normalize-reward)"
                )
        if self.scales_values:
            learned = not first or (self.config.init_from is not None and self.config.init_part == "all")
            self.policy.rescale_value(size, kept=learned)
            if not learned:
                for values in (rollout.data, rollout.data["next"]):
                    values["state_value"] = values["state_value"] * size

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "minibatch_generator": self.learner.generator.get_state(),
            "scales_values": self.scales_values,
            "return_size": self.return_size.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> list[str]:
        lost = super().load_state_dict(saved)
        self.learner.generator.set_state(saved["minibatch_generator"])
        self.scales_values = saved["scales_values"]
        self.return_size.load_state_dict(saved["return_size"])
        return lost
