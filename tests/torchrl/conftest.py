"""What the torchrl tests share: data in torchrl's layout, actors and their data, the module played step by step."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Categorical
from torchrl.data.replay_buffers.samplers import prioritized
from torchrl.envs import Compose, StepCounter, TransformedEnv
from torchrl.modules import ProbabilisticActor
from torchrl.modules.utils import get_env_transforms_from_module

import mru_rl.envs
from mru_rl import MemoryModule

with warnings.catch_warnings():  # torchrl 0.14 warns of its own classes while it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.collectors import Collector

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")


@pytest.fixture
def random_data():
    """Return a function from a module and a batch shape to observations, stored states and resets; seeded."""

    def draw(module, *batch: int, reset_rate: float = 0.3) -> TensorDict:
        core = module.core
        state = 0.5 * torch.randn(*batch, core.num_layers, core.state_size, dtype=core.initial_state(0).dtype)
        columns = {
            "observation": torch.randn(*batch, core.input_size, dtype=core.encoder.weight.dtype),
            STATE: state,
            "is_init": torch.rand(*batch, 1) < reset_rate,
        }
        return TensorDict(columns, batch)

    return draw


@pytest.fixture
def play():
    """Return a function that steps a module through rows [B, T] and restarts it from the stored state at is_init.

    It uses nothing but single steps without resets: the definition that recurrent mode must meet.
    """

    def steps(module, data: TensorDict) -> TensorDict:
        state = data[STATE][:, 0]
        for t in range(data.shape[1]):
            at = data[:, t].select("observation", "is_init")
            state = torch.where(at["is_init"][..., None], data[STATE][:, t], state)
            at = module(at.set(STATE, state).set("is_init", torch.zeros_like(at["is_init"])))
            state = at[NEXT_STATE]
            yield at

    return lambda module, data: torch.stack(list(steps(module, data)), dim=1)


@pytest.fixture
def make_actor():
    """Return a function from a memory module to an actor of two actions on its features."""

    def make(memory: TensorDictModule) -> ProbabilisticActor:
        head = TensorDictModule(nn.Linear(8, 2), in_keys=["features"], out_keys=["logits"])
        return ProbabilisticActor(
            TensorDictSequential(memory, head), in_keys=["logits"], distribution_class=Categorical, return_log_prob=True
        )

    return make


@pytest.fixture
def make_memory():
    """Return a function from a spec to the memory of agents in a T-maze."""
    return lambda spec="bmru,gru", **arguments: MemoryModule(
        spec, input_size=4, hidden_size=8, in_key="observation", out_key="features", **arguments
    )


@pytest.fixture
def collect():
    """Return a function from an actor to what a Collector records of it in T-mazes [rows, steps].

    Episodes terminate after five steps, or are truncated after `truncate` of them.
    """

    def run(actor, rows: int = 3, steps: int = 24, truncate: int | None = None) -> TensorDict:
        maze = mru_rl.envs.as_torchrl(mru_rl.envs.make("mru_rl/TMaze-v0", rows, length=4, seed=0))
        env = TransformedEnv(maze, Compose(*get_env_transforms_from_module(actor), StepCounter(truncate)))
        collector = Collector(
            env, actor, frames_per_batch=rows * steps // 2, total_frames=rows * steps, auto_register_policy_transforms=False
        )  # fmt: skip
        with torch.no_grad():
            data = torch.cat([batch.clone() for batch in collector], dim=1)
        collector.shutdown()
        return data

    return run


class SegmentTree:
    """The part of torchrl's compiled segment trees that the samplers call, in numpy.

    The extension in torchrl's wheel loads only beside the torch it was built against; torchrl's sampler around it is
    what is tested here.
    """

    def __init__(self, capacity: int) -> None:
        self.values = np.full(capacity, self.empty, dtype=np.float32)

    def __getitem__(self, index):
        return self.values[np.asarray(index)]

    def __setitem__(self, index, value) -> None:
        self.values[np.asarray(index)] = np.asarray(value)

    def query(self, start: int, end: int) -> float:
        return float(self.reduce(self.values[start:end]))

    def scan_lower_bound(self, mass):
        return np.searchsorted(np.cumsum(self.values, dtype=np.float64), np.asarray(mass)).clip(
            max=len(self.values) - 1
        )


class SumTree(SegmentTree):
    empty, reduce = 0.0, staticmethod(np.sum)


class MinTree(SegmentTree):
    empty, reduce = np.inf, staticmethod(np.min)


@pytest.fixture
def segment_trees(monkeypatch):
    """Let PrioritizedSliceSampler work beside a torch that the wheel of torchrl was not built against."""
    if prioritized.SumSegmentTreeFp32 is not None:
        return
    for name, tree in (("Sum", SumTree), ("Min", MinTree)):
        for width in ("Fp32", "Fp64"):
            monkeypatch.setattr(prioritized, f"{name}SegmentTree{width}", tree)
    warnings.filterwarnings("ignore", "Failed to import torchrl C")  # pytest puts the filters back
