"""Recurrent PPO as one writes it with torchrl, with a memory core where GRUModule would stand.

    python examples/torchrl_ppo.py --core bmru

The task: name the first of eleven symbols at the last step. Perfect memory earns 1; without memory every policy earns
0 on average (try --core mlp). `bmru` is above 0.9 after 30,000 steps, a few seconds.
"""

from __future__ import annotations

import argparse

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import RewardSum, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator, set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import mru_rl
import mru_rl.envs


def train(core: str = "bmru", steps: int = 60_000, seed: int = 0, num_envs: int = 40, rollout: int = 50) -> float:
    """Train an agent and return its mean return over the last tenth of the steps."""
    torch.manual_seed(seed)
    env = mru_rl.envs.as_torchrl(mru_rl.envs.make("mru_rl/RecallFirst-v0", num_envs, seed=seed, length=10, symbols=2))
    obs_size, num_actions = env.observation_spec["observation"].shape[-1], env.action_spec.n

    # the one line that differs: GRUModule takes the same arguments, but for the core
    memory = mru_rl.MemoryModule(core, input_size=obs_size, hidden_size=32, in_key="observation", out_key="features")
    policy = TensorDictModule(nn.Linear(32, num_actions), in_keys=["features"], out_keys=["logits"])
    actor = ProbabilisticActor(
        TensorDictSequential(memory, policy), in_keys=["logits"], distribution_class=Categorical, return_log_prob=True
    )
    critic = TensorDictSequential(memory, ValueOperator(nn.Linear(32, 1), in_keys=["features"]))

    env = TransformedEnv(env, get_env_transforms_from_module(actor))  # is_init, and the state from step to step
    env.append_transform(RewardSum())
    collector = Collector(
        env, actor, frames_per_batch=num_envs * rollout, total_frames=steps, auto_register_policy_transforms=False
    )
    advantage = GAE(gamma=0.9, lmbda=0.95, value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.01)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)

    returns = []
    for data in collector:  # [envs, steps]
        returns.append(data["next", "episode_reward"][data["next", "done"]].mean().item())
        for _ in range(4):
            with torch.no_grad(), set_recurrent_mode(True):  # GAE does not enter recurrent mode by itself
                advantage(data)
            for rows in torch.randperm(num_envs).chunk(4):  # whole rows: the memory replays them from stored states
                losses = loss(data[rows])
                optimizer.zero_grad()
                sum(losses[name] for name in ("loss_objective", "loss_critic", "loss_entropy")).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        collector.update_policy_weights_()
    collector.shutdown()
    last = returns[-max(len(returns) // 10, 1) :]
    return sum(last) / len(last)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", default="bmru", help="a core spec, such as bmru, gru or bmru+mingru")
    parser.add_argument("--steps", type=int, default=60_000, help="env steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"mean return: {train(options.core, options.steps, options.seed):.2f}")
