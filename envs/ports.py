"""The batched envs of this library by id: where the class of each stands, and what its id fixes."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mru_rl.envs.base import BatchedEnv

GYMNASIUM_NAMESPACE = "mru_rl/"
"""gymnasium knows the batched envs under their ids with this in front, also those that are ports of others' ids."""
LEVELS = ("Easy", "Medium", "Hard")
GIVEN = ("id", "num_envs", "seed", "device")
"""What every batched env is made with, beside its options."""
_COMMON = {*GIVEN, "observation_space", "action_space", "options"}


class Entry(NamedTuple):
    """A batched env behind an id. env: "module:Class" inside mru_rl.envs, or the class; fixed: options the id fixes."""

    env: str | type[BatchedEnv]
    fixed: dict[str, Any]

    def load(self) -> Any:
        """Return the class, importing it if need be."""
        if not isinstance(self.env, str):
            return self.env
        module, _, name = self.env.partition(":")
        return getattr(importlib.import_module(f"mru_rl.envs.{module}"), name)

    def options(self) -> list[str]:
        """Return the names of the options that a caller may give: those that the constructor names and the id leaves open."""
        named = [p.name for p in self._parameters() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return [name for name in named if name not in _COMMON | self.fixed.keys()]

    def takes_any(self) -> bool:
        """Return True if the constructor has a ** of its own: one that names num_envs passes it to nobody else."""
        kinds = {p.name: p.kind for p in self._parameters()}
        return "num_envs" in kinds and inspect.Parameter.VAR_KEYWORD in kinds.values()

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.load()).parameters.values())


def _popgym(
    module: str, name: str, *, easy: dict, medium: dict, hard: dict, class_name: str | None = None
) -> dict[str, Entry]:
    difficulties = {"Easy": easy, "Medium": medium, "Hard": hard}
    return {
        f"popgym-{name}{level}-v0": Entry(f"popgym.{module}:{class_name or name}", fixed)
        for level, fixed in difficulties.items()
    }


def _horizon(module: str, name: str) -> dict[str, Entry]:
    return {f"{GYMNASIUM_NAMESPACE}{name}-v0": Entry(f"horizon.{module}:{name}", {})}


PORTS: dict[str, Entry] = {
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
