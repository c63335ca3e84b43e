"""R2D2: Q-learning from replayed sequences that start from stored states."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.agents.acting.behavior import EpsilonGreedy
from mru_rl.agents.acting.guards import Guard
from mru_rl.agents.acting.loop import ActingLoop
from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.build import make_body, pick_device
from mru_rl.agents.console.errors import require
from mru_rl.agents.console.room import disk_notes, memory_notes
from mru_rl.agents.nets.activations import bytes_to_learn_from
from mru_rl.agents.nets.heads import ActionHead, value_head
from mru_rl.agents.nets.networks import QNetwork
from mru_rl.agents.r2d2.config import R2D2Config, ResolvedR2D2Config
from mru_rl.agents.r2d2.replay import SequenceReplay, bytes_per_sequence
from mru_rl.agents.r2d2.sequences import SequenceCutter, epsilon_ladder, stacked
from mru_rl.agents.returns import n_step_return
from mru_rl.agents.trainer import Trainer
from mru_rl.blocks.core import MemoryCore
from mru_rl.envs.input_rules import InputRules


class R2D2:
    """Recurrent replay distributed DQN, Kapturowski et al. 2019, ICLR, in one process.

    Double Q-learning (arXiv:1509.06461), dueling heads (arXiv:1511.06581), n-step returns, value rescaling
    (arXiv:1805.11593). Both networks burn in from the stored state, each with its own weights, and the target network
    is unrolled over the same window.
    Written here, not taken from torchrl: its DQNLoss values the next step from states of the online network.
    """

    def __init__(self, policy: QNetwork, config: ResolvedR2D2Config, guard: Guard | None = None) -> None:
        self.policy, self.config, self.guard = policy, config, guard or Guard()
        self.target = copy.deepcopy(policy).requires_grad_(False)
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
        self.gradient_steps = 0

    def sync_target(self) -> None:
        """Copy the network to the target network."""
        self.target.load_state_dict(self.policy.state_dict())

    def gradient_step(self, sequences: TensorDict, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Learn from sequences [N] with importance weights [N]; new priorities [N], and the metrics LOSS_METRICS.

        Where the step was skipped there are no metrics, and sequences whose TD error is not finite have next to no priority.
        """
        error, q = self.td_error(sequences)
        length = error.shape[1]
        loss = (weight * 0.5 * error.square().sum(1) / length).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = self.guard.clip(self.policy, self.config.max_grad_norm, {"TD error": error})
        with torch.no_grad():
            size = error.abs()
            steps = sequences["valid"][:, self.config.burn_in :].sum(1).clamp(min=1)
            priority = 0.9 * size.amax(1) + 0.1 * size.sum(1) / steps
            if grad_norm is None:
                return torch.where(priority.isfinite(), priority, _LEAST_PRIORITY), None
            self.optimizer.step()
            self.gradient_steps += 1
            if self.gradient_steps % self.config.target_period == 0:
                self.sync_target()
            return priority, torch.stack([loss, size.sum() / steps.sum(), q, grad_norm]).cpu()

    def td_error(self, sequences: TensorDict) -> tuple[Tensor, Tensor]:
        """Error of every learned step [N, length], 0 where it is padding, and the mean value of the actions taken."""
        action = sequences["action"][:, self.config.burn_in :]
        reward = sequences["reward"][:, self.config.burn_in :] * self.policy.reward_scale
        valid = sequences["valid"][:, self.config.burn_in :]
        q = self.values(self.policy, sequences)
        with torch.no_grad():
            target_q = self.values(self.target, sequences)
            best = q[:, 1:].argmax(-1, keepdim=True)
            next_value = self.policy.unscale(target_q[:, 1:].gather(-1, best).squeeze(-1))
            target = self.policy.scale(
                n_step_return(
                    reward, next_value, sequences["terminated"], gamma=self.config.discount, n=self.config.n_step
                )
            )
        taken = q[:, :-1].gather(-1, action.unsqueeze(-1)).squeeze(-1)
        error = (target - taken) * valid
        value = self.policy.unscale(taken.detach()) / self.policy.reward_scale
        return error, (value * valid).sum() / valid.sum().clamp(min=1)

    def values(self, network: QNetwork, sequences: TensorDict) -> Tensor:
        """Values of all actions [N, length + 1, actions] from the first learned step on to the one after the last."""
        x, is_init = network.encode(sequences["observation"]), sequences["is_init"]
        state = network.core.decode_state(sequences["packed"]) if "packed" in sequences else sequences["state"]
        burn_in = self.config.burn_in
        if burn_in:
            with torch.no_grad():
                state = network.core.advance(x[:, :burn_in], state, is_init[:, :burn_in])
        y, _ = network.core(x[:, burn_in:], state, is_init[:, burn_in:])
        return network.params(y, sequences["observation"][:, burn_in:])


LOSS_METRICS = ("loss", "td_error", "q_mean", "grad_norm")
_LEAST_PRIORITY = 1e-6
_WARM_UP_STEPS = 1024
_FEW_TARGETS = 5
_LEAST_SCALE = 1e-30


class R2D2Trainer(Trainer):
    """Acting loop, replay and learner of an R2D2 run."""

    config: ResolvedR2D2Config
    policy: QNetwork

    def __init__(self, config: R2D2Config) -> None:
        super().__init__(config)
        config = self.config
        require(
            config.overlap < config.sequence,
            f"{{overlap}} must be less than {{sequence}}, got {config.overlap} of {config.sequence} steps",
        )
        epsilon = epsilon_ladder(config.epsilon, min(config.epsilon_least, config.epsilon), config.num_envs)
        generator = torch.Generator(device=self.device).manual_seed(config.seed + 1)
        self.collector = ActingLoop(self.env, self.policy, self.head, generator, EpsilonGreedy(epsilon), self.guard)
        self.cutter = SequenceCutter(config.sequence, config.burn_in, config.overlap, self.env.frames)
        self.replay = SequenceReplay(
            min(
                config.replay_sequences, config.steps + config.segment * config.num_envs
            ),  # one a step is the most there is
            priority_exponent=config.priority_exponent,
            importance_exponent=config.importance_exponent,
            generator=torch.Generator().manual_seed(config.seed + 2),
            folder=config.run_dir / "replay" if config.replay_storage == "disk" and config.run_dir else None,
        )
        self.learner = R2D2(self.policy, config, self.guard)
        self.optimizer = self.learner.optimizer
        self.owed = 0.0
        """Sequences that are to be replayed for those inserted so far, before a gradient step is due."""

    @staticmethod
    def make_agent(config: R2D2Config, inputs: InputRules) -> tuple[ActionHead, QNetwork]:
        head = value_head(inputs.action_space)
        encoder, core = make_body(config, inputs)
        network = QNetwork(core, head.num_params, encoder, rescaled=config.value_rescaling)
        network.mask_to_params = head.mask_to_params
        return head, network.to(pick_device(config.device))

    def start_from(self, weights: dict[str, Tensor], part: str) -> None:
        super().start_from(weights, part)
        self.learner.sync_target()

    @property
    def segment(self) -> int:
        if self.warmed_up:
            return self.config.segment
        return max(self.config.segment, min(self.horizon or 128, _WARM_UP_STEPS))  # write rates are those of episodes

    def notes(self) -> list[str]:
        config = self.config
        learned = config.steps - (0 if self.warmed_up else self.segment * config.num_envs)
        inserted = max(learned, 0) // self.cutter.stride
        notes = self._storage_notes(min(inserted, self.replay.capacity))
        gradient_steps = int(
            max(inserted - self.config.learning_starts, 0) * config.samples_per_insert / self.config.batch
        )
        if gradient_steps < _FEW_TARGETS * config.target_period:
            notes.append(
                f"about {gradient_steps:,} gradient steps, and the target network follows every {config.target_period}: few to "
                "learn from; give more --steps or --samples-per-insert, or a smaller --batch"
            )
        return notes

    def _storage_notes(self, held: int) -> list[str]:
        """What a run will take, whose replay comes to hold so many sequences."""
        config, capacity = self.config, self.replay.capacity
        size = bytes_per_sequence(self.sequence_like(config.stored_state))
        on_disk, replay = config.replay_storage == "disk", held * size
        more = f"; up to {capacity:,} sequences where episodes are shorter than --sequence" if held < capacity else ""
        saved = ", as much again in each of 3 checkpoints (--no-save-replay leaves it out)"
        sequences = (
            f"replay of {held:,} sequences of {self.cutter.steps} steps, {size:,} bytes each: {replay / 2**20:,.0f} MiB "
            f"{'on disk' if on_disk else 'of memory'}{saved if config.save_replay else ''}{more}"
        )
        rules, rows = self.env.rules, config.num_envs
        obs, state = rules.size * rules.dtype.itemsize, self.policy.core.initial_state(1).nbytes
        tail = self._held(torch.zeros(rules.size, dtype=rules.dtype)).nbytes
        parts = {
            "rollout": 2 * rows * self.segment * (2 * obs + state),  # steps, then what they are put into
            "sequences in the making": 2 * rows * (self.cutter.steps - 1) * (tail + state),
            "learning": config.batch * self.cutter.steps * bytes_to_learn_from(self.policy, rules),
        }
        disk = replay * (on_disk + 3 * config.save_replay)
        if not on_disk:
            parts["replay"] = replay
        less = "a smaller --replay-sequences, --replay-storage disk or fewer --num-envs"
        return [
            sequences,
            *memory_notes(parts, less, elsewhere=self.device != "cpu"),
            *disk_notes(disk, config.run_dir, "a smaller --replay-sequences or --no-save-replay"),
        ]

    def sequence_like(self, stored_state: str) -> TensorDict:
        """A sequence [1] of zeros as replay holds them with states stored in that way."""
        steps, core, rules, frames = self.cutter.steps, self.policy.core, self.env.rules, self.env.frames
        older = {} if frames is None else {"older": torch.zeros(1, frames.count - 1, frames.size, dtype=torch.uint8)}
        return _packed(
            core,
            TensorDict(
                {
                    "observation": self._held(torch.zeros(1, steps + 1, rules.size, dtype=rules.dtype)),
                    **older,
                    "action": torch.zeros(1, steps, dtype=torch.int64),
                    "reward": torch.zeros(1, steps),
                    "valid": torch.zeros(1, steps, dtype=torch.bool),
                    "is_init": torch.zeros(1, steps + 1, dtype=torch.bool),
                    "terminated": torch.zeros(1, dtype=torch.bool),
                    "state": core.initial_state(1).cpu(),
                },
                batch_size=[1],
            ),
            stored_state,
        )

    def _held(self, observation: Tensor) -> Tensor:
        """Observations as sequences hold them, each frame once."""
        return observation if self.env.frames is None else self.env.frames.newest(observation)

    def _warm_up(self, rollout: Rollout) -> None:
        super()._warm_up(rollout)
        self._pass_over(rollout)

    def _pass_over(self, rollout: Rollout) -> None:
        self.cutter.cut(rollout.data)  # its steps are followed, not learned from: states of another network
        self.learner.sync_target()

    def _observe(self, rollout: Rollout) -> None:
        super()._observe(rollout)
        encoder, target = self.policy.encoder, self.learner.target.encoder
        if encoder is not None and target is not None and encoder.norm.active:
            target.norm.load_state_dict(encoder.norm.state_dict())  # both networks read the same numbers

    def learn(self, rollout: Rollout) -> dict[str, float]:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        inserted = _packed(
            self.policy.core, self.cutter.cut(rollout.data, rollout.finite_rows), config.stored_state
        ).cpu()
        self.replay.extend(inserted)
        metrics = {"replay_sequences": float(len(self.replay))}
        if len(self.replay) < self.config.learning_starts:
            return metrics
        if self.learner.gradient_steps == 0 and self.owed == 0:
            self._scale_rewards()
        self.owed += config.samples_per_insert * len(inserted)
        totals, taken = torch.zeros(len(LOSS_METRICS)), 0
        while self.owed >= self.config.batch:
            sequences, slots, weight = self.replay.sample(self.config.batch)
            sequences = sequences.to(self.device)
            if self.cutter.frames is not None:
                sequences = stacked(sequences, self.cutter.frames)
            priority, found = self.learner.gradient_step(sequences, weight.to(self.device))
            self.replay.update_priority(slots, priority)
            if found is not None:
                totals += found
                taken += 1
            self.owed -= self.config.batch
        if taken:
            metrics |= dict(zip(LOSS_METRICS, (totals / taken).tolist(), strict=True))
        return metrics | {"gradient_steps": float(self.learner.gradient_steps)}

    def _scale_rewards(self) -> None:
        """Choose the scale of rewards from what replay holds before the first gradient step."""
        reward = self.replay.column("reward")
        paid = reward[reward != 0]
        scale = self.config.reward_scale
        if scale is None:
            size = paid.double().square().mean().sqrt().item() if len(paid) else 1.0
            scale = 1 / size
            require(
                _LEAST_SCALE < scale < 1 / _LEAST_SCALE,
                f"rewards of {self.env.id} are of size {size:.3g}, which float32 cannot bring to size 1; scale them in the env, "
                "or give {reward_scale}",
            )
        self.policy.reward_scale.fill_(scale)
        self.learner.sync_target()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "target": self.learner.target.state_dict(),
            "gradient_steps": self.learner.gradient_steps,
            "cutter": self.cutter.state_dict(),
            "owed": self.owed,
            "replay": self.replay.state_dict() if self.config.save_replay else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> list[str]:
        lost = super().load_state_dict(saved)
        self.learner.target.load_state_dict(saved["target"])
        self.learner.gradient_steps, self.owed = saved["gradient_steps"], saved["owed"]
        self.cutter.load_state_dict(saved["cutter"])
        if saved["replay"] is None:
            return [
                *lost,
                f"replay was not saved: learning goes on after {self.config.learning_starts:,} new sequences",
            ]
        self.replay.load_state_dict(saved["replay"], self.sequence_like(self.config.stored_state))
        return lost


def _packed(core: MemoryCore, sequences: TensorDict, stored_state: str) -> TensorDict:
    """Sequences with their states stored as floats or with a BMRU's units as signs."""
    if stored_state == "floats":
        return sequences
    return sequences.exclude("state").set("packed", core.encode_state(sequences["state"]))
