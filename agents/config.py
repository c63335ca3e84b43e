"""What every run is made from, in groups. Light on imports: the command line reads this file before torch is there."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mru_rl.agents.console.errors import require

if TYPE_CHECKING:
    from typing_extensions import Self  # Python 3.10 has none of its own

EVALUATION_SEED = 1_000_003
"""Seed of evaluation envs, unless another is given; not that of training."""
Chosen = tuple[Any, str]
"""A value and the reason for it."""


@dataclass(frozen=True)
class Task:
    """What an env says of itself, from which values that were not given are chosen.

    horizon: most steps of an episode; credit_horizon: most steps from an action to a reward it decides; None where the
    env does not know. open_loop: observations do not depend on actions. continuous: an action is, or holds, a Box of floats.
    sources: where an env from elsewhere has these
    from, in words, by name; the reasons say it.

    >>> from mru_rl.agents import PPOConfig, Task
    >>> config, reasons = PPOConfig().resolve(Task(horizon=50, credit_horizon=0, open_loop=True))
    >>> config.segment, reasons["segment"]
    (100, '2 episode(s) of 50 steps, at most 16,384')
    """

    horizon: int | None
    credit_horizon: int | None
    open_loop: bool
    sources: Mapping[str, str] = field(default_factory=dict)
    continuous: bool = False

    def source(self, name: str) -> str:
        """ ", from ..." for a reason to end with; "" where the env is one of ours."""
        return f", from {self.sources[name]}" if name in self.sources else ""


@dataclass(frozen=True)
class GivenEnv:
    """Stands in a config read from disk for an env that was given as a Python object, which no file can hold."""

    name: str


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The env, and what the agent sees of it."""

    group: ClassVar[str] = "task"

    env: Any = "popgym-RepeatFirstEasy-v0"
    """env id; `mru-rl envs` lists ours, any other gymnasium id works too, module:Name-v0 imports the module first, which may
    stand in the working directory: --env myenvs:Mine-v0. From Python also a gymnasium env factory (`lambda: MyEnv()`), a
    batched env of ours, or a gymnasium VectorEnv"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """options of the env as name=value pairs: --env-kwargs length=100 noise=0.1. A range, length=10..1000, is a
    curriculum: from 10 on, twice as long each time 90% of 100 episodes succeed"""
    wrappers: tuple[str, ...] = ()
    """wrappers around each single env, the first innermost, as module:Name or module:Name(2, x=3), with commas or spaces
    between: --wrappers minigrid.wrappers:ImgObsWrapper. mru_rl.envs.wrappers has HideVelocity, HideColumns(1, 3) and
    SuccessReturn(0.5). A batched env of ours is then stepped row by row"""
    frame_skip: int = 1
    """steps of the env that each action is repeated for: rewards are summed, and images are the maximum of the last two,
    against flicker. It goes around a single env before --wrappers; a batched env of ours is then stepped row by row.
    --steps and all lengths count the agent's steps. An ALE env has a skip of its own, which --env-kwargs frameskip=1 takes away"""
    frame_stack: int = 1
    """how many of the last images the agent sees at once; at the start of an episode the first one is repeated. Images are
    those of bytes (uint8); the rest of an observation is the newest alone. R2D2's replay keeps each image once"""
    backend: Literal["auto", "batched", "upstream"] = "auto"
    """auto takes our batched port of an env where there is one; upstream takes the original package"""
    previous_action: bool | None = None
    """give the agent its previous action as an input; where not given, only if observations depend on actions: otherwise
    its own actions would be a memory outside it"""
    previous_reward: bool = False
    """give the agent its previous reward as an input; where every answer is paid at once it tells which one was right"""
    start_flag: bool = True
    """tell the agent on which step an episode starts"""
    info_metrics: tuple[str, ...] = ()
    """numbers in the info of an episode's last step to record as info_NAME, for a gymnasium env: --info-metrics a,b.
    is_success, or else success, is always read: where it is there it is the success rate"""
    imports: tuple[str, ...] = ()
    """modules to import first: what they register (cells, envs, algorithms, loggers) can be used by name, here and
    wherever the run is read again. The working directory is searched first"""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """What reads the observations: an encoder where they need one, and the recurrent core."""

    group: ClassVar[str] = "memory"

    encoder: Any = "auto"
    """net for images in observations: auto (from their size), nature, impala, small, codes (cells of a grid); or an encoder
    of your own for the whole observation, by the name it was registered with or as module:Name"""
    normalize_obs: bool | None = None
    """bring numbers of observations to mean 0 and deviation 1, as seen so far; where not given, those that are unbounded,
    or not of usual size in their space or in a first look: the largest between 0.2 and 5"""
    core: str = "bmru+mingru"
    """memory: cell names, + side by side in one layer, a comma stacks layers; `mru-rl cores` lists them"""
    hidden_size: int = 64
    """width of the network"""
    state_size: int | None = None
    """real numbers of memory state per layer, shared by cells side by side; hidden_size where not given"""
    num_layers: int = 1
    """how often the core spec is repeated"""
    read_before_write: bool = True
    """read the state before each step as well as the one after it; --no-read-before-write to compare"""
    core_options: dict[str, Any] = field(default_factory=dict)
    """options of the cells as name=value pairs, for every cell that takes them: --core-options init_horizon=1000. The core
    spec sets them for one cell alone (bmru:48:slope=2.0)"""
    surrogate_slope: float = 4.0
    """memory recurrent units: steepness of the surrogate derivative of the write gate"""
    carry_share: float = 0.5
    """carry-bmru: fraction of training over which `carry`, what a write keeps of the old value, is annealed to 0 from a half
    or from what the core spec says (carry-bmru:64:carry=0.3)"""
    warm_up: bool = True
    """memory recurrent units: spread the write rates over [1/2, 1/horizon] on a first batch of observations"""
    initialisation: Literal["published", "long"] = "published"
    """long starts the cells so that memories last up to the env's horizon (chrono biases, slower decays), where their
    papers' own start was made for shorter delays"""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How much experience, and what is made of it."""

    group: ClassVar[str] = "learning"

    steps: int = 600_000
    """env steps to train for, over all envs; whole segments, so the last one may pass it"""
    num_envs: int = 64
    """envs stepped side by side"""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how it runs, what is kept, and when it ends."""

    group: ClassVar[str] = "run"

    seed: int = 0
    """decides everything random: parameters, envs, actions, minibatches"""
    run_dir: Path | None = None
    """where the run is kept; runs/ALGORITHM-ENV-CORE/seed_SEED where not given"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""
    threads: int = 1
    """CPU threads of torch; part of what makes a run repeatable to the bit. On busy cores more than one
    can be many times slower than one"""
    workers: Literal["sync", "process"] = "sync"
    """gymnasium envs only: all in this process, or one process each (for slow envs)"""
    checkpoint_seconds: float = 30.0
    """a checkpoint is written this often, and at the end; less often where writing one takes more than a second, so that it
    takes at most 5 % of the time"""
    tensorboard: bool = True
    """write TensorBoard events beside metrics.jsonl"""
    logger: tuple[str, ...] = ()
    """more places to write records to, by name: csv, wandb, mlflow (each needs its package), or one that a module
    named with --import registers"""
    eval_every: int | None = None
    """evaluate the agent every so many env steps, on envs of its own, greedily and sampled; the best agent is kept as
    checkpoints/best.pt. Training is the same to the bit with and without"""
    eval_episodes: int = 64
    """episodes of each such evaluation"""
    eval_max_steps: int | None = None
    """cut an episode of such an evaluation after so many steps: its return is that so far, and it is no success. 10,000
    where not given, or twice the longest episode the env names if that is more"""
    stop_at_success: float | None = None
    """end the run once this share of episodes succeeds: of an evaluation where there are any, else of the last 100"""
    stop_at_return: float | None = None
    """end the run once the mean return is this high, measured in the same way"""
    init_from: Path | None = None
    """start from the weights of another run, or of an agent file"""
    init_part: Literal["all", "core"] = "all"
    """which weights to take: all of them, or those of the memory core alone"""


@dataclass(frozen=True, kw_only=True)
class FaultOptions:
    """What happens when something goes wrong."""

    group: ClassVar[str] = "faults"

    on_nonfinite: Literal["stop", "drop"] = "stop"
    """NaN or infinity in observations, rewards, memory or gradients: stop the run, its last checkpoint being from before,
    or leave the row of the rollout or the gradient step out and count it"""
    worker_seconds: float = 60.0
    """an env process that does not answer a step or a reset within this time is replaced"""
    worker_restarts: int = 10
    """env processes that may be replaced, having died, hung or raised; after one more the run stops"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TaskOptions, MemoryOptions, LearningOptions, RunOptions, FaultOptions):
    """What every algorithm's run has. A config of an algorithm derives from it, names the algorithm, and adds its own fields.

    Raises OptionError, a ValueError, naming the field that holds what it must not.

    >>> from dataclasses import dataclass
    >>> from typing import ClassVar
    >>> from mru_rl.agents import TrainConfig
    >>> @dataclass(frozen=True, kw_only=True)
    ... class MyConfig(TrainConfig):
    ...     algorithm: ClassVar[str] = "mine"
    ...     learning_rate: float = 1e-3
    >>> MyConfig(seed=3).learning_rate
    0.001
    """

    group: ClassVar[str] = "learning"
    algorithm: ClassVar[str] = ""
    """Its name: what `mru-rl train NAME` and a run's config.json say."""

    def __post_init__(self) -> None:
        for name in ("run_dir", "init_from"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        self._read_wrappers()
        for name in ("imports", "logger", "info_metrics"):
            if isinstance(getattr(self, name), list):  # as JSON has it
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_kinds(self)
        names = (name.strip() for word in self.info_metrics for name in word.split(","))
        object.__setattr__(self, "info_metrics", tuple(dict.fromkeys(filter(None, names))))
        require(
            isinstance(self.env, (str, GivenEnv)) or callable(self.env) or hasattr(self.env, "step"),
            f"{{env}} must be an env id, a function that makes a gymnasium env, a batched env or a gymnasium VectorEnv, got "
            f"{self.env!r}",
        )
        require(self.seed >= 0, f"{{seed}} must not be negative, got {self.seed}")
        counts = (
            "steps",
            "num_envs",
            "threads",
            "hidden_size",
            "num_layers",
            "eval_episodes",
            "frame_skip",
            "frame_stack",
        )
        for name in counts:
            require(getattr(self, name) >= 1, f"{{{name}}} must be at least 1, got {getattr(self, name)}")
        require(self.threads <= 1024, f"{{threads}} must be at most 1024, got {self.threads}")
        for name in ("state_size", "eval_every", "eval_max_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{{{name}}} must be at least 1, got {value}")
        require(self.worker_seconds > 0, f"{{worker_seconds}} must be positive, got {self.worker_seconds}")
        require(self.worker_restarts >= 0, f"{{worker_restarts}} must not be negative, got {self.worker_restarts}")
        require(0 <= self.carry_share <= 1, f"{{carry_share}} must lie in [0, 1], got {self.carry_share}")
        require(self.surrogate_slope > 0, f"{{surrogate_slope}} must be positive, got {self.surrogate_slope}")
        require(
            self.checkpoint_seconds >= 0,
            f"{{checkpoint_seconds}} must not be negative, got {self.checkpoint_seconds}",
        )
        require(
            self.stop_at_success is None or 0 < self.stop_at_success <= 1,
            f"{{stop_at_success}} is a share of episodes, above 0 and at most 1, got {self.stop_at_success}",
        )
        if not isinstance(self.encoder, str):
            from mru_rl.agents.nets.encoders import encoder_name  # torch takes a second

            object.__setattr__(self, "encoder", encoder_name(self.encoder))  # the dataclass is frozen
        self._check_core()

    def _read_wrappers(self) -> None:
        """One name each, also where a word holds several; raises OptionError for what is no name."""
        given: Any = self.wrappers
        if given == ():
            return
        from mru_rl.envs.from_gymnasium.named import split_wrappers  # no help text waits for gymnasium

        names = [given] if isinstance(given, str) else given
        require(
            isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names),
            f"{{wrappers}} are names such as 'module:Name', which config.json can hold, got {given!r}; put a function into a "
            "module, or around the env: env=lambda: wrap(gymnasium.make(...))",
        )
        object.__setattr__(self, "wrappers", split_wrappers(names))

    def _check_core(self) -> None:
        """Raises ValueError for a core spec that does not parse, the cells of `imports` known."""
        from mru_rl.agents.console.imports import import_modules
        from mru_rl.blocks.spec import parse_layers  # torch takes a second, which no help text waits for

        import_modules(self.imports)
        parse_layers(self.core)

    def resolve(self, task: Task) -> tuple[Self, dict[str, str]]:
        """The config with every value that was not given chosen from the task, and the reason for each."""
        values = self.choose(task)
        if self.previous_action is None:
            reason = f"observations {'do not ' if task.open_loop else ''}depend on actions{task.source('open_loop')}"
            values["previous_action"] = not task.open_loop, reason
        chosen = {name: value for name, (value, _) in values.items()}
        return self._filled(chosen), {name: reason for name, (_, reason) in values.items()}

    def choose(self, task: Task) -> dict[str, Chosen]:
        """What an algorithm chooses from the task, value and reason by field; nothing unless it overrides this."""
        return {}

    def _filled(self, chosen: dict[str, Any]) -> Self:
        """This config with some fields filled in; a type whose fields are no longer optional where there is one."""
        return dataclasses.replace(self, **chosen)


def values_of(config: TrainConfig) -> dict[str, Any]:
    """The fields of a config by name, as they are."""
    return {spec.name: getattr(config, spec.name) for spec in dataclasses.fields(config)}


def discount_for(task: Task) -> tuple[float, str]:
    """A discount that sees a reward from the action it depends on, and why."""
    late = task.credit_horizon
    if late is not None:
        why = f"a reward comes {late} steps after its action at the latest{task.source('credit_horizon')}"
        return 1 - 1 / (late + 2), why
    if task.continuous and task.horizon is not None:
        discount = min(max(1 - 10 / task.horizon, 0.95), 0.99)
        return discount, f"a tenth of {task.horizon} steps for continuous actions{task.source('horizon')}, 20 to 100"
    return 0.99, "the env does not say how late rewards come"


def env_name(env: Any) -> str:
    """What an env is called in files and messages: its id, or the name of what makes it."""
    if isinstance(env, str):
        return env
    if isinstance(env, GivenEnv):
        return env.name
    for found in (getattr(env, "id", None), getattr(getattr(env, "spec", None), "id", None)):
        if isinstance(found, str):
            return found
    name = getattr(env, "__name__", type(env).__name__)
    return "env" if name == "<lambda>" else name


def to_json(config: TrainConfig) -> dict[str, Any]:
    """A config as JSON can hold it, with its algorithm's name; an env given as an object is there by name."""
    order = [name for members in groups(type(config)).values() for name in members]
    found = {name: _plain(getattr(config, name)) for name in order}
    if not isinstance(config.env, str):
        found |= {"env": env_name(config.env), "env_given": True}
    return {"algorithm": config.algorithm, **found}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


GROUPS: Mapping[str, str] = {
    kind.group: (kind.__doc__ or "").rstrip(".")
    for kind in (TaskOptions, MemoryOptions, LearningOptions, RunOptions, FaultOptions)
}
"""The groups of options and what each is about, in the order in which help shows them."""


def groups(kind: type[TrainConfig]) -> dict[str, list[str]]:
    """The fields of a config class by group; those that a class adds without naming a group belong to learning."""
    found: dict[str, list[str]] = {name: [] for name in GROUPS}
    for spec in dataclasses.fields(kind):
        home = next(cls for cls in reversed(kind.__mro__) if spec.name in inspect.get_annotations(cls))
        found[getattr(home, "group", "learning")].append(spec.name)
    return found


def field_docs(kind: type) -> Mapping[str, str]:
    """What is written under each field of a class and of its bases; the nearest class counts. One line each."""
    docs: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):  # made without a file: no text to find
            continue
        body = ast.parse(textwrap.dedent(source)).body[0]
        assert isinstance(body, ast.ClassDef)
        for above, below in zip(body.body, body.body[1:], strict=False):
            said = below.value if isinstance(below, ast.Expr) else None
            if (
                isinstance(above, ast.AnnAssign)
                and isinstance(above.target, ast.Name)
                and isinstance(said, ast.Constant)
            ):
                docs[above.target.id] = " ".join(str(said.value).split())
    return types.MappingProxyType({name: text for name, text in docs.items() if name != "algorithm"})


_TYPES: dict[type, Mapping[str, Any]] = {}


def field_types(kind: type) -> Mapping[str, Any]:
    """The type of every field of a config class, resolved."""
    if kind not in _TYPES:  # every config asks
        names = {spec.name for spec in dataclasses.fields(kind)}
        hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name in names}
        _TYPES[kind] = types.MappingProxyType(hints)
    return _TYPES[kind]


def check_kinds(config: TrainConfig) -> None:
    """Raises OptionError for a field whose value is not of the kind its annotation names.

    A whole number is a float too; a float is finite, unless it is a time, in seconds.
    """
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        require(
            any(_is(value, kind, endless=name.endswith("_seconds")) for kind in kinds),
            f"{{{name}}} must be {' or '.join(map(_said, kinds))}, got {value!r}",
        )


def _is(value: Any, kind: Any, *, endless: bool) -> bool:
    if kind is Any:
        return True
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and (endless or math.isfinite(value))
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(word, str) for word in value)
    return isinstance(value, kind)


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a tuple of words"
    names = {
        int: "a whole number below 2^62",
        float: "a finite number",
        bool: "true or false",
        str: "a word",
        type(None): "left out",
    }
    return names.get(kind, "options by name" if typing.get_origin(kind) is dict else "a path")
