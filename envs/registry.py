"""From an id to an env: the batched envs of this library, upstream popgym, and every other gymnasium id."""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from mru_rl.envs.base import BatchedEnv

BACKENDS = ("auto", "batched", "upstream")


class Port(NamedTuple):
    """Where the class of a batched env stands, and what its id fixes."""

    module: str
    name: str
    fixed: dict[str, Any]

    def load(self) -> type[BatchedEnv]:
        return getattr(importlib.import_module(f"mru_rl.envs.{self.module}"), self.name)

    def options(self) -> list[str]:
        """Return the names of the options a caller may give."""
        parameters = inspect.signature(self.load()).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.fixed]


def _popgym(module: str, name: str, *, easy: dict, medium: dict, hard: dict) -> dict[str, Port]:
    difficulties = {"Easy": easy, "Medium": medium, "Hard": hard}
    return {f"popgym-{name}{level}-v0": Port(f"popgym.{module}", name, fixed) for level, fixed in difficulties.items()}


PORTS: dict[str, Port] = {
    **_popgym(
        "repeat_first",
        "RepeatFirst",
        easy={"num_decks": 1},
        medium={"num_decks": 8},
        hard={"num_decks": 16},
    ),
    **_popgym(
        "repeat_previous",
        "RepeatPrevious",
        easy={"num_decks": 1, "k": 4},
        medium={"num_decks": 2, "k": 32},
        hard={"num_decks": 3, "k": 64},
    ),
    "mru_rl/TMaze-v0": Port("horizon.tmaze", "TMaze", {}),
}


def list_ids() -> list[str]:
    """Return the ids of the batched envs of this library."""
    return list(PORTS)


def list_upstream_ids() -> list[str]:
    """Return the ids that the installed popgym registers; those without a port run through gymnasium."""
    envs = importlib.import_module("popgym.envs")
    return [entry["id"] for entry in envs.ALL.values()]


def make(
    id: str,
    num_envs: int,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    flatten: bool = False,
    previous_action: bool = False,
    start_flag: bool = False,
    previous_reward: bool = False,
    **options: Any,
) -> BatchedEnv:
    """Make a batch of `num_envs` copies of the env `id`.

    backend: "auto" takes the batched port where there is one and gymnasium otherwise; "batched" and "upstream" take
    that one or raise. flatten, previous_action, start_flag and previous_reward: see AgentInput. Everything else is an
    option of the env itself. `env.options` holds all of them: make(env.id, n, **env.options) gives the same env again.
    """
    inputs = {
        "flatten": flatten,
        "previous_action": previous_action,
        "start_flag": start_flag,
        "previous_reward": previous_reward,
    }
    if backend not in BACKENDS:
        raise ValueError(
            f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}; 'auto' is right for most uses"
        )
    port = PORTS.get(id)
    if port is not None and backend != "upstream":
        unknown = sorted(set(options) - set(port.options()))
        if unknown:
            has = ", ".join([*port.options(), *inputs])
            raise ValueError(f"{id} has no option {', '.join(map(repr, unknown))}; it has {has}")
        env = port.load()(id=id, num_envs=num_envs, seed=seed, device=device, **port.fixed, **options)
    else:
        from mru_rl.envs.vector import GymnasiumEnv

        name = _upstream_name(id, backend)
        env = GymnasiumEnv(id=name, num_envs=num_envs, seed=seed, device=device, **options)
    if not any(inputs.values()):
        return env
    from mru_rl.envs.agent_input import AgentInput

    return AgentInput(env, **inputs)


class Description(NamedTuple):
    """One line of the env table."""

    id: str
    summary: str
    horizon: int | None
    credit_horizon: int | None
    obs: str
    obs_size: int
    action: str
    backend: str


def describe(id: str, **options: Any) -> Description:
    """Return what `mru-rl envs` shows about an id; makes one env to find out."""
    with make(id, 1, **options) as env:
        summary = getattr(env, "summary", None) or (inspect.getdoc(type(env)) or "").split("\n")[0]
        return Description(
            id,
            summary,
            env.horizon,
            env.credit_horizon,
            str(env.observation_space),
            env.obs_size,
            str(env.action_space),
            "batched" if env.saves_state else "gymnasium",
        )


def _upstream_name(id: str, backend: str) -> str:
    """Return the id under which gymnasium knows it, or raise. "module:Name-v0" imports the module first, as there."""
    import gymnasium

    importlib.import_module("popgym")
    module, colon, id = id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"no module {module!r} to register {id!r} ({error}); install or rename it") from error
    if id in PORTS and id not in gymnasium.registry:
        raise ValueError(f"{id} has no upstream, it is an env of mru_rl alone; use backend='auto'")
    try:
        gymnasium.spec(id)
    except gymnasium.error.Error:
        raise ValueError(f"no env has the id {id!r}; {_suggestion(id, list(gymnasium.registry))}") from None
    if backend == "batched":
        raise ValueError(f"{id} has no batched port; use backend='auto', or one of: {', '.join(PORTS)}")
    return id


def _suggestion(id: str, registered: list[str]) -> str:
    by_lower = {name.lower(): name for name in [*registered, *PORTS]}
    near = difflib.get_close_matches(str(id).lower(), by_lower, n=1, cutoff=0.5)
    if near:
        return f"did you mean {by_lower[near[0]]!r}?"
    return "see `mru-rl envs`, or import the package that registers it first"
