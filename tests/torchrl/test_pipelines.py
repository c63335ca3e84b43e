"""A MemoryModule in torchrl's envs and collectors: what registers itself, what every process carries from step to step."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torchrl.envs import (
    Compose,
    EnvCreator,
    GymEnv,
    InitTracker,
    ParallelEnv,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
    check_env_specs,
)
from torchrl.modules import set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module, get_primers_from_module

import mru_rl.envs
from mru_rl import MemoryModule

with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.collectors import Collector

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")
maze = partial(mru_rl.envs.make, "mru_rl/TMaze-v0", length=4)


def assert_remembers(memory, data) -> None:
    """The state is carried from step to step, zero where an episode begins, and replays to what acting wrote."""
    begins = data["is_init"].squeeze(-1)
    assert begins.any()
    assert (~begins).any()
    assert (data[STATE][begins] == 0).all()
    assert torch.equal(data[STATE][:, 1:][~begins[:, 1:]], data[NEXT_STATE][:, :-1][~begins[:, 1:]])
    assert data[NEXT_STATE].flatten(2).abs().sum(-1).gt(0).all()
    with torch.no_grad(), set_recurrent_mode(True):
        again = memory(data.select(*memory.in_keys).clone())
    torch.testing.assert_close(again[NEXT_STATE], data[NEXT_STATE], atol=1e-5, rtol=1e-5)


# primers and what registers itself


def test_the_primer_is_of_the_cores_state_and_found_inside_any_module(make_memory, make_actor):
    memory = make_memory("bmru+mingru,gru", state_size=10)
    primer = get_primers_from_module(make_actor(memory))
    assert isinstance(primer, TensorDictPrimer)
    assert primer.primers[STATE].shape == (2, 10)
    assert primer.primers[STATE].dtype == torch.float32
    assert make_memory("gru").double().make_tensordict_primer().primers[STATE].dtype == torch.float64
    tracker, primer = get_env_transforms_from_module(make_actor(memory))
    assert isinstance(tracker, InitTracker)
    assert isinstance(primer, TensorDictPrimer)


def test_an_env_with_tracker_and_primer_passes_torchrls_checker(make_memory):
    env = TransformedEnv(mru_rl.envs.as_torchrl(maze(num_envs=3)), get_env_transforms_from_module(make_memory()))
    check_env_specs(env)


def test_the_primer_zeroes_the_state_of_the_envs_that_restart_and_keeps_the_others(make_memory, make_actor):
    memory = make_memory("bmru")
    actor = make_actor(memory)
    env = TransformedEnv(mru_rl.envs.as_torchrl(maze(num_envs=3)), get_env_transforms_from_module(actor))
    td = env.rollout(3, actor)[:, -1]["next"].exclude("reward")
    assert td[STATE].flatten(1).abs().sum(1).gt(0).all()
    fresh = env.reset(td.clone().set("_reset", torch.tensor([[True], [False], [True]])))
    assert (fresh[STATE][::2] == 0).all()
    assert torch.equal(fresh[STATE][1], td[STATE][1])
    assert fresh["is_init"].squeeze(-1).tolist() == [True, False, True]


def test_two_memories_with_keys_of_their_own_live_in_one_policy(make_actor):
    def memory(value: str, state: str, features: str) -> MemoryModule:
        return MemoryModule("bmru", 4 if value == "observation" else 8, 8,
                            in_keys=[value, state], out_keys=[features, ("next", state)])  # fmt: skip

    lower, upper = memory("observation", "low", "middle"), memory("middle", "high", "features")
    actor = make_actor(torch.nn.Module())
    actor.module[0].module[0] = lower
    actor.module[0].module.insert(1, upper)
    env = TransformedEnv(mru_rl.envs.as_torchrl(maze(num_envs=2)), get_env_transforms_from_module(actor))
    data = env.rollout(8, actor, break_when_any_done=False)
    with set_recurrent_mode(True):
        again = upper(lower(data.exclude("middle", "features", "next")))
    for key in ("low", "high"):
        torch.testing.assert_close(again["next", key], data["next", key])
        assert data["next", key].abs().sum() > 0


def test_a_collector_told_so_registers_tracker_and_primer_and_finds_those_that_are_there(make_memory, make_actor):
    memory = make_memory()
    for transforms in (None, get_env_transforms_from_module(memory)):
        env = mru_rl.envs.as_torchrl(maze(num_envs=3))
        env = env if transforms is None else TransformedEnv(env, transforms)
        collector = Collector(
            env, make_actor(memory), frames_per_batch=36, total_frames=36, auto_register_policy_transforms=True
        )
        (data,) = collector
        kinds = [type(t) for t in collector.env.transform]
        collector.shutdown()
        assert sorted(k.__name__ for k in kinds) == ["InitTracker", "TensorDictPrimer"]
        assert data.shape == (3, 12)
        assert data.names == [None, "time"]
        assert_remembers(memory, data)


def test_without_a_primer_nobody_carries_the_state_and_torchrl_warns_of_it(make_memory, make_actor):
    actor = make_actor(make_memory())
    env = TransformedEnv(mru_rl.envs.as_torchrl(maze(num_envs=3)), InitTracker())
    with pytest.warns(FutureWarning, match="auto_register_policy_transforms"):
        collector = Collector(env, actor, frames_per_batch=36, total_frames=36)
    (data,) = collector
    collector.shutdown()
    assert STATE not in data.keys()  # noqa: SIM118
    assert NEXT_STATE in data.keys(include_nested=True)
    with torch.no_grad():  # every step from an empty memory
        alone = actor.module[0](data.select("observation", "is_init").reshape(-1))
    torch.testing.assert_close(alone["logits"], data["logits"].reshape(-1, 2))


# gym envs


@pytest.mark.parametrize("env_id", ["CartPole-v1", "mru_rl/TMaze-v0"])
def test_a_gym_env_given_the_policy_carries_its_memory(env_id, make_memory, make_actor):
    memory = make_memory()
    actor = make_actor(memory)
    env = GymEnv(env_id, categorical_action_encoding=True, policy=actor)
    env.set_seed(0)
    data = env.rollout(130, actor, break_when_any_done=False)[None]
    env.close()
    assert_remembers(memory, data)


# many processes


def gym_workers(kind, transforms=None):
    def one():
        env = GymEnv("CartPole-v1", categorical_action_encoding=True)
        return env if transforms is None else TransformedEnv(env, transforms())

    return kind(2, EnvCreator(one) if kind is ParallelEnv else one)


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        (SerialEnv, True),
        (SerialEnv, False),
        (ParallelEnv, True),
        pytest.param(ParallelEnv, False, marks=pytest.mark.slow),
    ],
)
def test_envs_in_workers_carry_the_memory(kind, inside, make_memory, make_actor):
    memory = make_memory()
    actor = make_actor(memory)
    transforms = partial(get_env_transforms_from_module, actor)
    env = gym_workers(kind, transforms) if inside else TransformedEnv(gym_workers(kind), transforms())
    env.set_seed(0)
    collector = Collector(env, actor, frames_per_batch=120, total_frames=120, auto_register_policy_transforms=False)
    (data,) = collector
    data = data.clone()
    collector.shutdown()
    assert data.shape == (2, 60)
    assert_remembers(memory, data)


@pytest.mark.parametrize("sync", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_collectors_in_processes_carry_the_memory_and_follow_new_weights(sync, make_memory, make_actor):
    memory = make_memory()
    actor = make_actor(memory)

    def env():
        inner = mru_rl.envs.as_torchrl(mru_rl.envs.make("mru_rl/TMaze-v0", 3, length=4))
        return TransformedEnv(inner, Compose(*get_env_transforms_from_module(actor), StepCounter()))

    collector = Collector(
        env, actor, backend="process", num_collectors=2, sync=sync, frames_per_batch=72, total_frames=-1,
        auto_register_policy_transforms=False, **({"cat_results": "stack"} if sync else {}),
    )  # fmt: skip
    try:
        batches = iter(collector)
        for _ in range(2):
            data = next(batches).clone()
            assert_remembers(memory, data.flatten(0, -2))
            with torch.no_grad():
                for p in actor.parameters():
                    p += 0.2 * torch.randn_like(p)
            collector.update_policy_weights_()
            if not sync:
                for _ in range(10):
                    next(batches)  # those under way are of the old weights
    finally:
        collector.shutdown()
