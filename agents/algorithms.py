"""The algorithms by name: a config says which one a run is for. Open: `register_algorithm` adds one of your own.

Light on imports: the command line reads this file before torch is there.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mru_rl.agents.config import GivenEnv, TrainConfig, field_types
from mru_rl.agents.console.errors import nearest, require
from mru_rl.agents.console.imports import import_modules

if TYPE_CHECKING:
    from mru_rl.agents.trainer import Trainer

T = TypeVar("T", bound="type[Trainer]")

_ALGORITHMS: dict[str, tuple[str | type[TrainConfig], str | type[Trainer]]] = {
    "ppo": ("mru_rl.agents.ppo.config:PPOConfig", "mru_rl.agents.ppo.trainer:PPOTrainer"),
    "r2d2": ("mru_rl.agents.r2d2.config:R2D2Config", "mru_rl.agents.r2d2.trainer:R2D2Trainer"),
}
"""Name -> the classes of its config and of its trainer, or where they are."""


def list_algorithms() -> list[str]:
    """Names that `mru-rl train NAME` takes.

    >>> from mru_rl.agents import list_algorithms
    >>> list_algorithms()[:2]
    ['ppo', 'r2d2']
    """
    return list(_ALGORITHMS)


def register_algorithm(config: type[TrainConfig]) -> Callable[[T], T]:
    """Make an algorithm known under its config's name, as a decorator of its trainer.

    config: a frozen dataclass derived from TrainConfig with `algorithm` set; its fields become options of
    `mru-rl train NAME`. The trainer derives from `mru_rl.agents.Trainer`. From then on train, eval, resume, inspect, bench
    and report take it; processes of their own find it through `imports` (`--import MODULE`), the module that registers it.
    Registering again under the same module and class names, as a notebook cell that runs twice does, replaces it.

    A whole one, PQN in 130 lines, is tests/outside/outside_parts/pqn.py in the repository. Here PPO with another name:

    >>> from dataclasses import dataclass
    >>> from typing import ClassVar
    >>> from mru_rl.agents import PPOConfig, list_algorithms, register_algorithm
    >>> from mru_rl.agents.ppo.trainer import PPOTrainer
    >>> @dataclass(frozen=True, kw_only=True)
    ... class EagerConfig(PPOConfig):
    ...     algorithm: ClassVar[str] = "eager-ppo"
    ...     epochs: int = 10
    >>> @register_algorithm(EagerConfig)
    ... class EagerTrainer(PPOTrainer):
    ...     pass
    >>> "eager-ppo" in list_algorithms()
    True

    Raises TypeError for what is not such a class, ValueError for a name that is taken.
    """
    if not (isinstance(config, type) and issubclass(config, TrainConfig) and config is not TrainConfig):
        raise TypeError(f"an algorithm's config is a dataclass derived from TrainConfig, got {config!r}")
    name = config.algorithm
    require(
        bool(re.fullmatch(r"[a-z][a-z0-9_-]*", name)),
        f"{config.__name__}.algorithm is the algorithm's name in lower-case letters, as in 'pqn', got {name!r}",
    )

    def register(trainer: T) -> T:
        from mru_rl.agents.trainer import Trainer  # torch takes a second

        if not (isinstance(trainer, type) and issubclass(trainer, Trainer)):
            raise TypeError(f"an algorithm's trainer is a class derived from mru_rl.agents.Trainer, got {trainer!r}")
        if inspect.isabstract(trainer):
            missing = ", ".join(sorted(trainer.__abstractmethods__))
            raise TypeError(
                f"{trainer.__qualname__} does not say how to do this yet: {missing}; define it, then register"
            )
        if name in _ALGORITHMS and _address(_ALGORITHMS[name][0]) != _address(config):
            raise ValueError(
                f"there is an algorithm named {name!r} already, {_address(_ALGORITHMS[name][0])}; choose another name"
            )
        _ALGORITHMS[name] = config, trainer
        return trainer

    return register


def config_class(algorithm: str) -> type[TrainConfig]:
    """The config class of an algorithm. Raises ValueError with the nearest name where there is none."""
    require(
        algorithm in _ALGORITHMS,
        f"there is no algorithm {algorithm!r}; {nearest(str(algorithm), _ALGORITHMS)}algorithms are "
        f"{', '.join(_ALGORITHMS)}, and those that a module named with {{imports}} registers",
    )
    return _load(_ALGORITHMS[algorithm][0])


def trainer_class(config: TrainConfig) -> type[Trainer]:
    """The class of a config's trainer. Raises ValueError where the config names no algorithm."""
    config_class(config.algorithm)
    return _load(_ALGORITHMS[config.algorithm][1])


def make_trainer(config: TrainConfig) -> Trainer:
    """The trainer of a config, ready for its first step."""
    return trainer_class(config)(config)


def config_from_json(values: dict[str, Any]) -> TrainConfig:
    """Inverse of config.to_json. The modules that the config names are imported first.

    Raises ValueError for a module that does not import, an algorithm or fields that this version does not have.
    """
    imports = values.get("imports", [])
    require(
        isinstance(imports, list) and all(isinstance(name, str) for name in imports),
        f"imports in config.json is a list of module names, got {imports!r}",
    )
    import_modules(imports)
    algorithm = values["algorithm"]
    require(
        isinstance(algorithm, str) and algorithm in _ALGORITHMS,
        f"this run was trained with {algorithm!r}, which is not known here; it knows {', '.join(_ALGORITHMS)}, and what a "
        "module that is imported registers",
    )
    kind = config_class(algorithm)
    given = {name: value for name, value in values.items() if name not in ("algorithm", "env_given")}
    unknown = sorted(set(given) - set(field_types(kind)))
    require(not unknown, f"config.json has fields this version of mru_rl does not know: {', '.join(unknown)}")
    if values.get("env_given"):
        given["env"] = GivenEnv(str(given["env"]))
    return kind(**given)


def _load(place: str | type) -> Any:
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _address(place: str | type) -> str:
    return place if isinstance(place, str) else f"{place.__module__}:{place.__qualname__}"
