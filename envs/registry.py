"""From an id to an env: the batched envs of this library, upstream popgym, and every other gymnasium id."""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from mru_rl.envs.base import BatchedEnv
    from mru_rl.envs.tensor_env import TensorEnv

BACKENDS = ("auto", "batched", "upstream")
GYMNASIUM_NAMESPACE = "mru_rl/"
"""gymnasium knows the batched envs under their ids with this in front, also those that are ports of others' ids."""


class Port(NamedTuple):
    """Where the class of a batched env stands, and what its id fixes."""

    module: str
    name: str
    fixed: dict[str, Any]

    def load(self) -> type[TensorEnv]:
        return getattr(importlib.import_module(f"mru_rl.envs.{self.module}"), self.name)

    def options(self) -> list[str]:
        """Return the names of the options a caller may give."""
        parameters = inspect.signature(self.load()).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in self.fixed]


def _popgym(
    module: str, name: str, *, easy: dict, medium: dict, hard: dict, class_name: str | None = None
) -> dict[str, Port]:
    difficulties = {"Easy": easy, "Medium": medium, "Hard": hard}
    return {
        f"popgym-{name}{level}-v0": Port(f"popgym.{module}", class_name or name, fixed)
        for level, fixed in difficulties.items()
    }


def _horizon(module: str, name: str) -> dict[str, Port]:
    return {f"{GYMNASIUM_NAMESPACE}{name}-v0": Port(f"horizon.{module}", name, {})}


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
    **_popgym("autoencode", "Autoencode", easy={"num_decks": 1}, medium={"num_decks": 2}, hard={"num_decks": 3}),
    **_popgym(
        "count_recall",
        "CountRecall",
        easy={"num_decks": 1, "face": "colors"},
        medium={"num_decks": 2, "face": "suits"},
        hard={"num_decks": 4, "face": "ranks"},
    ),
    **_popgym("higher_lower", "HigherLower", easy={"num_decks": 1}, medium={"num_decks": 2}, hard={"num_decks": 3}),
    **_popgym("battleship", "Battleship", easy={"board_size": 8}, medium={"board_size": 10}, hard={"board_size": 12}),
    **_popgym(
        "concentration",
        "Concentration",
        easy={"num_decks": 1, "face": "colors"},
        medium={"num_decks": 2, "face": "colors"},
        hard={"num_decks": 1, "face": "ranks"},
    ),
    **_popgym(
        "mine_sweeper",
        "MineSweeper",
        easy={"board_size": 4, "num_mines": 2},
        medium={"board_size": 6, "num_mines": 6},
        hard={"board_size": 8, "num_mines": 10},
    ),
    **_popgym(
        "multiarmed_bandit",
        "MultiarmedBandit",
        easy={"num_bandits": 10, "episode_length": 200},
        medium={"num_bandits": 20, "episode_length": 400},
        hard={"num_bandits": 30, "episode_length": 600},
    ),
    **_popgym(
        "position_only_cartpole",
        "PositionOnlyCartPole",
        easy={"max_episode_length": 200},
        medium={"max_episode_length": 400},
        hard={"max_episode_length": 600},
    ),
    **_popgym(
        "velocity_only_cartpole",
        "VelocityOnlyCartpole",
        class_name="VelocityOnlyCartPole",
        easy={"max_episode_length": 200},
        medium={"max_episode_length": 400},
        hard={"max_episode_length": 600},
    ),
    **_popgym(
        "noisy_position_only_cartpole",
        "NoisyPositionOnlyCartPole",
        easy={"max_episode_length": 200, "noise_sigma": 0.1},
        medium={"max_episode_length": 200, "noise_sigma": 0.2},
        hard={"max_episode_length": 200, "noise_sigma": 0.3},
    ),
    **_popgym(
        "position_only_pendulum",
        "PositionOnlyPendulum",
        easy={"max_episode_length": 200},
        medium={"max_episode_length": 150},
        hard={"max_episode_length": 100},
    ),
    **_popgym(
        "noisy_position_only_pendulum",
        "NoisyPositionOnlyPendulum",
        easy={"max_episode_length": 200, "noise_sigma": 0.1},
        medium={"max_episode_length": 200, "noise_sigma": 0.2},
        hard={"max_episode_length": 200, "noise_sigma": 0.3},
    ),
    **_popgym(
        "labyrinth_escape",
        "LabyrinthEscape",
        easy={"maze_size": 10},
        medium={"maze_size": 14},
        hard={"maze_size": 18},
    ),
    **_popgym(
        "labyrinth_explore",
        "LabyrinthExplore",
        easy={"maze_size": 10},
        medium={"maze_size": 14},
        hard={"maze_size": 18},
    ),
    **_horizon("tmaze", "TMaze"),
    **_horizon("active_tmaze", "ActiveTMaze"),
    **_horizon("recall_first", "RecallFirst"),
    **_horizon("contamination", "Contamination"),
    **_horizon("delayed_recall", "DelayedRecall"),
    **_horizon("key_door", "KeyDoor"),
    **_horizon("flip_flop", "FlipFlop"),
    **_horizon("event_count", "EventCount"),
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
    state: str = "none",
    flatten: bool = False,
    previous_action: bool = False,
    start_flag: bool = False,
    previous_reward: bool = False,
    **options: Any,
) -> BatchedEnv:
    """Make a batch of `num_envs` copies of the env `id`.

    backend: "auto" takes the batched port where there is one and gymnasium otherwise; "batched" and "upstream" take
    that one or raise. state: "none", or for oracle runs "append" or "only", which show the hidden Markov state beside
    or in place of the obs, see TensorEnv. flatten, previous_action, start_flag and previous_reward: see AgentInput.
    Everything else is an option of the env itself. `env.options` holds all of them: make(env.id, n, **env.options) gives the same env again.
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
    if not isinstance(id, str):
        raise TypeError(
            f"the id of an env is a word such as 'popgym-RepeatFirstEasy-v0', got {id!r}; list_ids() lists ours"
        )
    if id not in PORTS and str(id).removeprefix(GYMNASIUM_NAMESPACE) in PORTS:
        id = id.removeprefix(GYMNASIUM_NAMESPACE)
    port = PORTS.get(id)
    if port is not None and backend != "upstream":
        unknown = sorted(set(options) - set(port.options()))
        if unknown:
            has = ", ".join([*port.options(), *inputs, "state"])
            raise ValueError(f"{id} has no option {', '.join(map(repr, unknown))}; it has {has}")
        ported = port.load()(id=id, num_envs=num_envs, seed=seed, device=device, **port.fixed, **options)
        ported.show_state(state)
        env: BatchedEnv = ported
    else:
        from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv

        name = _upstream_name(id, backend)
        if state != "none":
            raise ValueError(f"{id} runs through gymnasium, which shows no state, got state={state!r}; leave it out")
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
    if id.startswith("popgym-Labyrinth") and id in PORTS and id not in gymnasium.registry:
        raise ValueError(
            f"upstream popgym registers {id} only where mazelib is installed; run `pip install mazelib`, or use "
            "backend='auto': the batched port needs none"
        )
    if id in PORTS and id.startswith(GYMNASIUM_NAMESPACE):
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
