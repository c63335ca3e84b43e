"""Options of the commands that have no config of their own, and how name=value pairs are read."""

from __future__ import annotations

import ast
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from mru_rl.agents.console.errors import require


@dataclass(frozen=True)
class EvalArgs:
    """Run whole episodes with a trained agent and print mean return, 95% interval and success rate."""

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`"""
    episodes: int | None = None
    """episodes to run, rounded up to fill the rows of the env; 128 where not given, down to 32 where they are long"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env to change, as name=value: --env-kwargs length=100000"""
    seed: int = 1_000_003
    """seed of the evaluation envs, not that of training"""
    sample: bool = False
    """draw actions from the policy instead of taking the most likely one"""
    json: bool = False
    """print one JSON object on stdout"""

    def __post_init__(self) -> None:
        require(self.episodes is None or self.episodes >= 1, f"--episodes must be at least 1, got {self.episodes}")


@dataclass(frozen=True)
class InspectArgs:
    """Draw the memory of a trained agent over one episode: units by time, below what it saw, did and got.

    Writes a PNG and prints the return, how often units wrote, the longest hold, and since when the units hold what the
    last step found in them. Actions are the most likely ones.
    """

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`"""
    episode: int = 0
    """which episode, 0 to 63: the first one in that row of the 64 envs that `mru-rl eval` steps with the same seed"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env to change, as name=value: --env-kwargs length=1000"""
    out: Path | None = None
    """PNG to write; RUN/inspect_episode_K.png where not given"""
    max_steps: int = 100_000
    """the episode is cut after so many steps, and the picture says so"""
    seed: int = EvalArgs.seed
    """seed of the envs, not that of training"""

    def __post_init__(self) -> None:
        require(self.max_steps >= 1, f"--max-steps must be at least 1, got {self.max_steps}")


@dataclass(frozen=True)
class ReportArgs:
    """Make one HTML page of results: tables, intervals over seeds, plots, and what made them.

    The page needs nothing beside itself and loads nothing from anywhere.
    """

    directory: tyro.conf.Positional[Path]
    """benchmark directory, as made by `mru-rl bench`; run directory, as made by `mru-rl train`; or one that holds several"""
    out: Path | None = None
    """HTML file to write; DIRECTORY/report.html where not given"""


@dataclass(frozen=True)
class ResumeArgs:
    """Go on with a run from its newest checkpoint, with its own config, to the step count it was started with."""

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`"""


@dataclass(frozen=True)
class EnvsArgs:
    """List the tasks that come with mru_rl: id, longest episode, input size, actions."""


@dataclass(frozen=True)
class DoctorArgs:
    """Print versions, devices and thread settings, try every scan backend for a second, and say what to do about problems.

    Exit status 1 where there is a problem.
    """


@dataclass(frozen=True)
class CoresArgs:
    """List the memory cells as one-layer cores: parameters and flops at equal state size, state size at equal parameters."""

    input_size: int = 10
    """width of the inputs the counts are for"""
    hidden_size: int = 64
    """width of the network"""
    state_size: int | None = None
    """real numbers of state per layer; hidden_size where not given"""


def known_options(schema: Any) -> set[str]:
    """Every --option a dataclass gives, switches in both forms."""
    options = {"--help"}
    for spec in dataclasses.fields(schema):
        name = spec.name.replace("_", "-")
        options |= {f"--{name}", f"--no-{name}"} if spec.type in (bool, "bool") else {f"--{name}"}
    return options


def read_pairs(words: list[str]) -> dict[str, Any]:
    """Options typed as name=value; numbers, true, false and none are read as such. Raises ValueError for other words."""
    pairs: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"env options are written name=value, as in length=100, got {word!r}")
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested beyond reason
            read = {"true": True, "false": False, "none": None}.get(value.lower(), value)
        if isinstance(read, float) and read.is_integer() and "." not in value:  # 1e4
            read = int(read)
        if isinstance(read, tuple):
            read = list(read)
        try:
            kept = json.loads(json.dumps(read))
        except TypeError:
            kept = None
        if kept != read:
            raise ValueError(
                f"env options are kept in config.json, which holds numbers, words, true, false, none, lists, and dicts by words; "
                f"got {word!r}"
            )
        pairs[name] = kept
    return pairs


registry = tyro.constructors.ConstructorRegistry()


@registry.primitive_rule
def _pairs_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """dict fields are typed as name=value words."""
    if info.type_origin is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=read_pairs,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{k}={v}" for k, v in value.items()],
    )
