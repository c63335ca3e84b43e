"""The algorithms: name -> config and trainer. Light on imports: the command line reads this file before torch is there."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mru_rl.agents.config import TrainConfig
from mru_rl.agents.console.errors import require
from mru_rl.agents.ppo.config import PPOConfig
from mru_rl.agents.r2d2.config import R2D2Config

if TYPE_CHECKING:
    from mru_rl.agents.trainer import Trainer

ALGORITHMS: dict[str, tuple[type[TrainConfig], str]] = {
    "ppo": (PPOConfig, "mru_rl.agents.ppo.trainer:PPOTrainer"),
    "r2d2": (R2D2Config, "mru_rl.agents.r2d2.trainer:R2D2Trainer"),
}
"""Name -> class of its config, and where its trainer is."""


def algorithm_of(config: TrainConfig) -> str:
    """The name of the algorithm a config is for."""
    return next(name for name, (kind, _) in ALGORITHMS.items() if type(config) is kind)


def trainer_of(config: TrainConfig) -> type[Trainer]:
    """The class of a config's trainer."""
    module, _, name = ALGORITHMS[algorithm_of(config)][1].partition(":")
    return getattr(importlib.import_module(module), name)


def make_trainer(config: TrainConfig) -> Trainer:
    """The trainer of a config, ready for its first step."""
    return trainer_of(config)(config)


def config_from_json(values: dict[str, Any]) -> TrainConfig:
    """Inverse of config.to_json, with "algorithm" among the values.

    Raises ValueError for an algorithm or for fields that this version does not have.
    """
    algorithm = values["algorithm"]
    require(
        isinstance(algorithm, str) and algorithm in ALGORITHMS,
        f"this run was trained with {algorithm!r}, which this version of mru_rl does not know; it knows {', '.join(ALGORITHMS)}",
    )
    kind = ALGORITHMS[algorithm][0]
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(kind)} - {"algorithm"})
    require(not unknown, f"config.json has fields this version of mru_rl does not know: {', '.join(unknown)}")
    given = {name: value for name, value in values.items() if name != "algorithm"}
    if isinstance(given.get("run_dir"), str):
        given["run_dir"] = Path(given["run_dir"])
    return kind(**given)
