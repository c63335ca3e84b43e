"""Options of the commands: those of a config in groups, those of commands that have no config, and how values are typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mru_rl.agents.config import EVALUATION_SEED, GROUPS, TrainConfig, field_docs, field_types, groups
from mru_rl.agents.console.errors import flag, nearest, require

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class EvalArgs:
    """Run whole episodes with a trained agent and print mean return, 95% interval and success rate."""

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`"""
    episodes: int | None = None
    """episodes to run, rounded up to fill the rows of the env; 128 where not given, down to 32 where they are long"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env to change, as name=value: --env-kwargs length=100000"""
    checkpoint: str = "last"
    """last, best (by evaluation, of a run with --eval-every), or step_N"""
    seed: int = EVALUATION_SEED
    """seed of the evaluation envs, not that of training"""
    sample: bool = False
    """draw actions from the policy instead of taking the most likely one"""
    device: Device | None = None
    """cpu or cuda; that of the run where not given, the CPU where there is no GPU"""
    max_steps: int | None = None
    """cut an episode after so many steps: its return is that so far, and it is no success. 10,000 where not given, or twice
    the longest episode the env names if that is more"""
    video: Path | None = None
    """GIF or MP4 of one episode to write, for an env that renders; MP4 needs the extra `video`"""
    json: bool = False
    """print one JSON object on stdout"""

    def __post_init__(self) -> None:
        for name in ("episodes", "max_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{{{name}}} must be at least 1, got {value}")


@dataclass(frozen=True)
class InspectArgs:
    """Draw the memory of a trained agent over one episode: each unit by time, below what the agent saw, did and got.

    Writes a PNG and prints the return, how often units wrote, the longest hold, and since when the units hold what the
    last step found in them. Actions are the most likely ones. --npz writes the same episode as arrays, for numpy.load:
    inputs [T, D], channels [D], frames [T, ...] of an image, action, reward and value [T], layer_0.bmru.states and
    .writes [T, units] of each cell, and about, a JSON object.
    """

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`"""
    episode: int = 0
    """which episode, 0 to 63: the first one in this row of the 64 envs that `mru-rl eval` steps with the same seed"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env to change, as name=value: --env-kwargs length=1000"""
    checkpoint: str = "last"
    """last, best (by evaluation, of a run with --eval-every), or step_N"""
    out: Path | None = None
    """PNG to write; RUN/inspect_episode_K.png if not given"""
    npz: Path | None = None
    """file to write the arrays of the episode to, for plots of your own: --npz episode.npz"""
    max_steps: int = 100_000
    """cut the episode after this many steps; the picture says so"""
    seed: int = EvalArgs.seed
    """seed of the envs, not that of training"""
    device: Device | None = None
    """cpu or cuda; that of the run where not given, the CPU where there is no GPU"""

    def __post_init__(self) -> None:
        require(self.max_steps >= 1, f"{{max_steps}} must be at least 1, got {self.max_steps}")


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
    """Go on with a run from its newest checkpoint, with its own config, to the step count it was started with, or further."""

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`"""
    steps: int | None = None
    """train on until so many env steps in all, also after the run has ended"""
    learning_rate: float | None = None
    """another start of the schedule; the rate goes over to it without a jump, within 5% of the steps left"""
    device: Device | None = None
    """go on on another device, say cpu for a run made on cuda; that of the run where not given"""


@dataclass(frozen=True)
class ExportArgs:
    """Write a trained agent for programs without this library: one step, observation and state in, action and state out.

    Encoder, core, heads and the input rules (previous action, start flag) are inside. A JSON file beside it says the names,
    shapes and meaning of inputs and outputs. Needs the extra `export`.
    """

    run: tyro.conf.Positional[Path]
    """run directory, as made by `mru-rl train`, or an agent file"""
    to: Literal["onnx"] = "onnx"
    """format"""
    out: Path | None = None
    """file to write; RUN/agent.onnx where not given"""
    checkpoint: str = "last"
    """last, best (by evaluation, of a run with --eval-every), or step_N"""


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


_TYPED = {"env": str, "encoder": str}
"""What is typed for a field that holds more in Python."""


def config_schema(kind: type[TrainConfig]) -> Any:
    """A dataclass of the config's groups, in their order, for a parser that shows each under its head."""
    hints, docs = field_types(kind), field_docs(kind)
    specs = {spec.name: spec for spec in dataclasses.fields(kind)}
    members = []
    for group, head in GROUPS.items():
        rows = []
        for name in groups(kind)[group]:
            hint: Any = Annotated[
                _TYPED.get(name, hints[name]), tyro.conf.arg(name=flag(name)[2:], help=docs.get(name, ""))
            ]
            default, factory = specs[name].default, specs[name].default_factory
            made = dataclasses.field(default_factory=factory) if default is dataclasses.MISSING else default
            rows.append((name, hint, made))
        cls = dataclasses.make_dataclass(group, rows, frozen=True, kw_only=True)
        members.append((group, Annotated[cls, tyro.conf.arg(help=head)], dataclasses.field(default_factory=cls)))
    schema = dataclasses.make_dataclass(kind.__name__, members)
    schema.__doc__ = kind.__doc__
    return schema


def spelled_out(words: list[str], kind: type[TrainConfig]) -> list[str]:
    """The words with a value behind switches that may also be left out: --previous-action alone is --previous-action True."""
    switches = {flag(name)[2:] for name, hint in field_types(kind).items() if hint == (bool | None)}
    spelled: list[str] = []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        name = word.removeprefix("--no-").removeprefix("--").replace("_", "-")
        if not word.startswith("--") or name not in switches or not following.startswith("-"):
            spelled.append(word)
        else:
            spelled += [f"--{name}", str(not word.startswith("--no-"))]
    return spelled


def config_from(kind: type[TrainConfig], parsed: Any) -> TrainConfig:
    """The config that was typed, from its groups. Raises OptionError for what it must not hold."""
    values = {
        spec.name: getattr(getattr(parsed, group), spec.name)
        for group in GROUPS
        for spec in dataclasses.fields(getattr(parsed, group))
    }
    return kind(**values)


ELSEWHERE = {
    "--lr": "--learning-rate",
    "--alpha": "--learning-rate",
    "--gamma": "--discount",
    "--lambda": "--gae-lambda",
    "--total-timesteps": "--steps",
    "--timesteps": "--steps",
    "--total-steps": "--steps",
    "--env-id": "--env",
    "--n-envs": "--num-envs",
    "--n-steps": "--segment",
    "--num-steps": "--segment",
    "--rollout-length": "--segment",
    "--n-epochs": "--epochs",
    "--update-epochs": "--epochs",
    "--num-minibatches": "--minibatches",
    "--batch-size": "--batch",
    "--clip-range": "--clip",
    "--clip-coef": "--clip",
    "--ent-coef": "--entropy",
    "--vf-coef": "--value-coef",
    "--buffer-size": "--replay-sequences",
    "--save-dir": "--run-dir",
    "--logdir": "--run-dir",
    "--out": "--run-dir",
}
"""What other libraries call an option -> what it is called here."""


def hint(name: str, options: Iterable[str]) -> str:
    """The option that somebody who typed `name` may have meant, as a question; "" where none comes to mind."""
    known = set(options)
    here = ELSEWHERE.get(name.replace("_", "-"))
    return f"did you mean {here}? " if here in known else nearest(name, known)
