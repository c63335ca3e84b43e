"""Agents on torchrl's parts learn what no agent without memory can: to name the first of five symbols at the last step."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical
from torchrl.data import LazyTensorStorage, PrioritizedSliceSampler, Sequence, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import EnvCreator, GymEnv, ParallelEnv, SerialEnv, TransformedEnv
from torchrl.envs.transforms import BurnInTransform
from torchrl.modules import EGreedyModule, ProbabilisticActor, QValueModule, ValueOperator, set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives import ClipPPOLoss, DQNLoss, SoftUpdate
from torchrl.objectives.value import GAE, TD0Estimator

import mru_rl.envs
from mru_rl import MemoryModule
from mru_rl.torchrl.dqn import next_values
from mru_rl.torchrl.replay import to_windows

with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.collectors import Collector

ENVS, STEPS, EPISODE = 16, 20, 5
ENDLESS = {"total_frames": -1, "auto_register_policy_transforms": False}


def half_of_the_envs():
    return mru_rl.envs.as_torchrl(mru_rl.envs.make("mru_rl/RecallFirst-v0", ENVS // 2, length=EPISODE - 1, symbols=2))


def make_env(policy, seed: int) -> TransformedEnv:
    env = mru_rl.envs.make("mru_rl/RecallFirst-v0", ENVS, seed=seed, length=EPISODE - 1, symbols=2)
    return TransformedEnv(mru_rl.envs.as_torchrl(env), get_env_transforms_from_module(policy))


def greedy_return(network, seed: int) -> float:
    with torch.no_grad():
        rollout = make_env(network, seed + 1000).rollout(10 * EPISODE, network, break_when_any_done=False)
    return rollout["next", "reward"].sum().item() / (10 * ENVS)


def learn_by_q(core: str, replay, *, seed: int, double_dqn: bool = True, updates: int = 200) -> float:
    """Train a Q network on what `replay` samples and return what it then earns greedily; guessing earns 0."""
    torch.manual_seed(seed)
    memory = MemoryModule(core, 4, 16, in_key="observation", out_key="features")
    head = TensorDictModule(nn.Linear(16, 2), in_keys=["features"], out_keys=["action_value"])
    network = TensorDictSequential(memory, head, QValueModule(action_space="categorical"))
    env = make_env(network, seed)
    policy = TensorDictSequential(network, EGreedyModule(env.action_spec, eps_init=0.3, eps_end=0.3))
    loss = DQNLoss(network, action_space="categorical", delay_value=True, reduction="none")
    loss.make_value_estimator(TD0Estimator(gamma=0.9, value_network=None))
    target, optimizer = SoftUpdate(loss, tau=0.05), torch.optim.Adam(loss.parameters(), lr=3e-3)
    collector = Collector(env, policy, frames_per_batch=ENVS * STEPS, **ENDLESS)
    replayed = replay(memory)
    for _, data in zip(range(updates // 10), collector, strict=False):
        replayed.extend(data)
        for _ in range(10):
            batch = replayed.sample()
            batch["next", "state_value"] = next_values(loss, batch, double_dqn=double_dqn)
            loss(batch)["loss"][replayed.learns(batch)].mean().backward()
            replayed.learned(batch)
            optimizer.step()
            optimizer.zero_grad()
            target.step()
    collector.shutdown()
    return greedy_return(network, seed)


class Slices:
    """SliceSampler's flat samples, each slice from its stored state."""

    def __init__(self, memory: MemoryModule) -> None:
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4000), **self.sampling())

    def sampling(self) -> dict:
        sampler = SliceSampler(slice_len=EPISODE, traj_key=("collector", "traj_ids"))
        return {"sampler": sampler, "batch_size": 32 * EPISODE}

    def extend(self, data: TensorDictBase) -> None:
        self.buffer.extend(data.reshape(-1))

    def sample(self) -> TensorDictBase:
        return self.buffer.sample()

    def learns(self, batch: TensorDictBase) -> torch.Tensor:
        """Which steps carry loss."""
        return torch.ones(batch.shape, dtype=torch.bool)

    def learned(self, batch: TensorDictBase) -> None:
        """What to do with the TD errors."""


class PrioritizedSlices(Slices):
    """PrioritizedSliceSampler's samples in windows; a start's priority is the largest TD error of its window."""

    def __init__(self, memory: MemoryModule) -> None:
        super().__init__(memory)
        self.buffer.set_rng(torch.Generator().manual_seed(0))  # numpy's global one otherwise

    def sampling(self) -> dict:
        sampler = PrioritizedSliceSampler(
            4000, alpha=0.6, beta=0.4, slice_len=EPISODE, traj_key=("collector", "traj_ids")
        )
        return {"sampler": sampler, "batch_size": 32 * EPISODE}

    def sample(self) -> TensorDictBase:
        return to_windows(self.buffer.sample(), EPISODE)

    def learned(self, batch: TensorDictBase) -> None:
        self.buffer.update_priority(batch["index"][:, 0].flatten(), batch["td_error"].squeeze(-1).amax(1))


class Sequences(Slices):
    """Windows of the Sequence sample unit: two steps that only warm the memory up, three that carry loss."""

    def sampling(self) -> dict:
        return {"sample_unit": Sequence(length=3, burn_in=2), "batch_size": 64}

    def extend(self, data: TensorDictBase) -> None:
        for row in data.unbind(0):
            self.buffer.extend(row)

    def sample(self) -> TensorDictBase:
        return to_windows(self.buffer.sample(), 5)

    def learns(self, batch: TensorDictBase) -> torch.Tensor:
        return batch["learning_mask"] & batch["validity_mask"]


class BurntIn(Slices):
    """Whole rows after BurnInTransform, whose seven steps end within an episode."""

    def __init__(self, memory: MemoryModule) -> None:
        transform = BurnInTransform([memory], burn_in=7)
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200), batch_size=16, transform=transform)

    def extend(self, data: TensorDictBase) -> None:
        self.buffer.extend(data)

    def sample(self) -> TensorDictBase:
        with set_recurrent_mode(True):
            return self.buffer.sample()


@pytest.mark.parametrize("seed", range(3))
def test_dqn_learns_to_remember_from_slices_that_start_from_stored_states(seed):
    assert learn_by_q("bmru", Slices, seed=seed) > 0.8


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("replay", [PrioritizedSlices, Sequences, BurntIn])
def test_dqn_learns_to_remember_from_every_other_kind_of_replay(replay, seed, segment_trees):
    assert learn_by_q("bmru", replay, seed=seed, double_dqn=False, updates=400 if replay is Sequences else 200) > 0.8


def test_dqn_without_a_memory_earns_no_more_than_guessing():
    assert abs(learn_by_q("mlp", Slices, seed=0)) < 0.4


def learn_by_ppo(collector_of, *, seed: int, batches: int = 60) -> float:
    """Train an actor on what a collector of 16 envs gives and return its mean return in the last six batches."""
    torch.manual_seed(seed)
    memory = MemoryModule("bmru", 4, 16, in_key="observation", out_key="features")
    policy = TensorDictModule(nn.Linear(16, 2), in_keys=["features"], out_keys=["logits"])
    actor = ProbabilisticActor(
        TensorDictSequential(memory, policy), in_keys=["logits"], distribution_class=Categorical, return_log_prob=True
    )
    critic = TensorDictSequential(memory, ValueOperator(nn.Linear(16, 1), in_keys=["features"]))
    advantage = GAE(gamma=0.9, lmbda=0.95, value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    collector = collector_of(actor, seed)
    earned = []
    try:
        for _, data in zip(range(batches), collector, strict=False):
            rows = data.reshape(ENVS, -1)
            earned.append(rows["next", "reward"].sum().item() / rows["next", "done"].sum().item())
            for _ in range(4):
                with torch.no_grad(), set_recurrent_mode(True):
                    advantage(rows)
                losses = loss(rows)
                sum(losses[name] for name in ("loss_objective", "loss_critic", "loss_entropy")).backward()
                optimizer.step()
                optimizer.zero_grad()
            collector.update_policy_weights_()
    finally:
        collector.shutdown()
    return sum(earned[-6:]) / 6


def direct(actor, seed):
    return Collector(make_env(actor, seed), actor, frames_per_batch=ENVS * STEPS, **ENDLESS)


def gym_envs(actor, seed):
    task = {"length": EPISODE - 1, "symbols": 2}
    make = partial(GymEnv, "mru_rl/RecallFirst-v0", categorical_action_encoding=True, **task)
    env = TransformedEnv(SerialEnv(ENVS, make), get_env_transforms_from_module(actor))
    env.set_seed(seed)
    return Collector(env, actor, frames_per_batch=ENVS * STEPS, **ENDLESS)


def parallel_envs(actor, seed):
    env = TransformedEnv(ParallelEnv(2, EnvCreator(half_of_the_envs)), get_env_transforms_from_module(actor))
    env.set_seed(seed)
    return Collector(env, actor, frames_per_batch=ENVS * STEPS, **ENDLESS)


def processes(actor, seed):
    transforms = get_env_transforms_from_module(actor)
    collector = Collector(
        lambda: TransformedEnv(half_of_the_envs(), transforms), actor, backend="process", num_collectors=2, sync=True,
        cat_results="stack", frames_per_batch=ENVS * STEPS, **ENDLESS,
    )  # fmt: skip
    collector.set_seed(seed)
    return collector


@pytest.mark.parametrize(
    ("collector_of", "seed"),
    [
        (direct, 0),
        *(pytest.param(direct, seed, marks=pytest.mark.slow) for seed in (1, 2)),
        *(pytest.param(gym_envs, seed, marks=pytest.mark.slow) for seed in range(3)),
        *(pytest.param(parallel_envs, seed, marks=pytest.mark.slow) for seed in range(3)),
        *(pytest.param(processes, seed, marks=pytest.mark.slow) for seed in range(3)),
    ],
)
def test_ppo_learns_to_remember_from_every_kind_of_collector(collector_of, seed):
    assert learn_by_ppo(collector_of, seed=seed) > 0.8
