from __future__ import annotations

from pathlib import Path

import pytest

from mru_rl.agents import train
from mru_rl.agents.config import PPOConfig
from mru_rl.agents.runs import Run


@pytest.fixture
def small(tmp_path: Path):
    """Build the config of a run of a second or two; keyword arguments change it."""

    def build(name: str = "run", **changes) -> PPOConfig:
        settings = {
            "env": "popgym-RepeatFirstEasy-v0", "core": "bmru", "steps": 4096, "num_envs": 8, "minibatches": 2, "epochs": 2,
            "hidden_size": 16, "segment": 64, "checkpoint_seconds": 0.0, "tensorboard": False, "run_dir": tmp_path / name,
        }  # fmt: skip
        return PPOConfig(**settings | changes)

    return build


@pytest.fixture
def trained(small):
    """A finished small run and its trainer."""

    def run(**changes) -> tuple[Run, train.Trainer]:
        run, trainer = train.start(small(**changes))
        train.run_to_end(run, trainer)
        return run, trainer

    return run
