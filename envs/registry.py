"""From an id to an env: the batched envs of this library and of others, upstream popgym, and every other gymnasium id."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from mru_rl.envs.from_gymnasium.named import (
    OWN_OPTIONS,
    WORKER_OPTIONS,
    Wrapper,
    import_family,
    import_named,
    split_wrappers,
)
from mru_rl.envs.ports import GIVEN, GYMNASIUM_NAMESPACE, LEVELS, PORTS, Entry

if TYPE_CHECKING:
    import torch

    from mru_rl.envs.base import BatchedEnv

    EnvClass = TypeVar("EnvClass", bound=type[BatchedEnv])

BACKENDS = ("auto", "batched", "upstream")
_ID = re.compile(r"([\w-]+/)?[\w.-]+-v\d+")
_REGISTERED: dict[str, Entry] = {}


def list_ids() -> list[str]:
    """Return the ids of the batched envs: those of this library, then those that `register_env` added, oldest first.

    `make` and `describe` take all of them, and every id that gymnasium knows besides.
    """
    return [*PORTS, *_REGISTERED]


def list_upstream_ids() -> list[str]:
    """Return the ids that the installed popgym registers; those without a port run through gymnasium."""
    envs = importlib.import_module("popgym.envs")
    return [entry["id"] for entry in envs.ALL.values()]


def register_with_gymnasium() -> None:
    """Register every batched env of this library with gymnasium; once is enough, more does no harm.

    The envs are loaded when they are made.
    """
    for id in PORTS:
        _register_with_gymnasium(GYMNASIUM_NAMESPACE + id.removeprefix(GYMNASIUM_NAMESPACE), id)


def _register_with_gymnasium(name: str, id: str) -> None:
    from gymnasium.envs.registration import register, registry

    if name not in registry:
        register(
            id=name,
            entry_point="mru_rl.envs.to_gymnasium.adapter:GymnasiumSingleEnv",
            vector_entry_point="mru_rl.envs.to_gymnasium.adapter:make_vector",
            kwargs={"env_id": id},
        )


@overload
def register_env(id: str, env: None = None, **fixed: Any) -> Callable[[EnvClass], EnvClass]: ...
@overload
def register_env(id: str, env: EnvClass, **fixed: Any) -> EnvClass: ...
def register_env(id: str, env: Any = None, **fixed: Any) -> Any:
    """Make a batched env of your own known under an id; return its class.

    id      Name-v0 or NAMESPACE/Name-v0, with any version
    env     a class derived from BatchedEnv or TensorEnv, made with id=, num_envs=, seed= and device= beside its options;
            left out, register_env is a decorator. Its options are the parameters that its constructor names, and
            any at all where it names num_envs and has a ** as well
    fixed   options that the id fixes, so that one class can stand behind several ids

        @mru_rl.envs.register_env("me/Echo-v0")
        class Echo(mru_rl.envs.TensorEnv): ...

        mru_rl.envs.register_env("me/LongEcho-v0", Echo, length=1000)

    From then on `make`, `describe`, `list_ids`, `mru-rl envs`, training and gymnasium.make know the id. Registering the
    same class again, as when a notebook cell is run twice, replaces it.
    Raises TypeError if `env` is not such a class or is abstract, ValueError if the id has another form or is taken.
    """
    if not isinstance(id, str):
        raise TypeError(
            f"the id of an env is a word such as 'me/Mine-v0', got {id!r}; write @register_env('me/Mine-v0')"
        )
    if not _ID.fullmatch(id):
        raise ValueError(
            f"the id of an env has the form NAMESPACE/Name-v0 or Name-v0, got {id!r}; give it a version and no other signs than "
            "letters, digits, '_', '-' and '.'"
        )
    if env is None:
        return lambda decorated: register_env(id, decorated, **fixed)
    _check_env_class(id, env, fixed)
    _check_free(id, env)
    _REGISTERED[id] = Entry(env, fixed)
    _register_with_gymnasium(id, id)
    return env


def _check_env_class(id: str, env: Any, fixed: dict[str, Any]) -> None:
    from mru_rl.envs.base import BatchedEnv

    if not (isinstance(env, type) and issubclass(env, BatchedEnv)):
        raise TypeError(
            f"register_env takes a class derived from BatchedEnv or TensorEnv, got {env!r} for {id}; register single "
            "gymnasium envs with gymnasium.register"
        )
    if inspect.isabstract(env):
        missing = ", ".join(sorted(env.__abstractmethods__))
        raise TypeError(
            f"register_env takes a class that can be made, got {env.__name__} for {id} without {missing}; add them"
        )
    try:
        inspect.signature(env).bind_partial(**dict.fromkeys(GIVEN), **fixed)
    except TypeError as error:
        raise TypeError(
            f"a batched env is made with {', '.join(f'{name}=' for name in [*GIVEN, *fixed])}, but {env.__name__} for {id} has "
            f"{error}; name them in its constructor, or pass ** on to its base class"
        ) from error


def _check_free(id: str, env: type) -> None:
    import gymnasium

    known = _REGISTERED.get(id)
    if known is not None and _origin(known.load()) == _origin(env):
        return
    holder = None
    if known is not None:
        holder = f"{known.load().__module__}.{known.load().__qualname__}"
    elif id in PORTS:
        holder = "an env of mru_rl"
    elif id in gymnasium.registry:
        holder = "gymnasium's registry"
    if holder is not None:
        raise ValueError(
            f"the id of an env must be new, got {id!r}, which {holder} has; choose another name or version"
        )


def _origin(env: type) -> tuple[str, str]:
    """Return the name of a class and where it was written, the same however its file was imported."""
    file = getattr(sys.modules.get(env.__module__), "__file__", None)
    return env.__qualname__, os.path.realpath(file) if file else env.__module__


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
    frame_stack: int = 1,
    wrappers: str | Sequence[Wrapper] = (),
    options: Mapping[str, Any] | None = None,
    **named: Any,
) -> BatchedEnv:
    """Make a batch of `num_envs` copies of the env `id`.

    id          one of `list_ids`, or any other that gymnasium knows, those with a vector_entry_point alone included.
                "module:Name-v0" imports the module first, for which the working directory is put in front of sys.path;
                the packages of well-known ids, as MiniGrid-... and ALE/..., are imported by themselves
    backend     "auto" takes the batched env where there is one and gymnasium otherwise; "batched" and "upstream" take
                that one or raise
    state       "none", or for oracle runs "append" or "only", which show the hidden Markov state beside or in place of
                the obs: see TensorEnv
    flatten, previous_action, start_flag, previous_reward, frame_stack: see AgentInput
    wrappers    around each single gymnasium env, the first innermost: "module:Name", "module:Name(2, x=3)" with literal
                arguments beside the env, several in one word with commas between, or functions env -> env. A batched env
                of `list_ids` is then stepped row by row, as the env that gymnasium.make gives for it
    options     options of the env itself by name, those too that `make` has a parameter for: options={"seed": 5}
    named       further options of the env

    `env.options` holds all of them: make(env.id, n, **env.options) gives the same env again. Raises ValueError for an
    unknown id, option or value, for a package that the env needs and that is not installed, for a wrapper that cannot be
    had or put around the env, and for whatever the env's module or constructor raises.
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
            f"the id of an env is a word such as 'popgym-RepeatFirstEasy-v0', got {id!r}; list_ids() lists the batched ones"
        )
    wrappers = split_wrappers(wrappers)
    named, own = _plain_and_own(named, options or {})
    id = _without_module(id)
    if id not in PORTS and id.removeprefix(GYMNASIUM_NAMESPACE) in PORTS:
        id = id.removeprefix(GYMNASIUM_NAMESPACE)
    entry = PORTS.get(id) or _REGISTERED.get(id)
    if entry is not None and backend != "upstream":
        if "state" in own and "state" not in entry.options():
            state = own.pop("state")
        others = WORKER_OPTIONS if wrappers else ()
        checked = {name for name in named if name not in others}
        _check_options(id, entry, {*checked, *own}, [*inputs, "frame_stack", "state", *sorted(others)])
    if entry is not None and backend != "upstream" and not wrappers:
        env: BatchedEnv = entry.load()(
            id=id, num_envs=num_envs, seed=seed, device=device, **entry.fixed, **named, **own
        )
        kept = env.options | {name: value for name, value in named.items() if name not in env.options}
        env.options = {name: value for name, value in kept.items() if name not in {*entry.fixed, *own}}
        if own:
            env.options["options"] = own
        _show_state(env, state)
    elif entry is not None and backend != "upstream":
        if backend == "batched":
            raise ValueError(
                f"wrappers go around single gymnasium envs, got {wrappers} for {id} with backend='batched'; use backend='auto'"
            )
        name = id if id in _REGISTERED else GYMNASIUM_NAMESPACE + id.removeprefix(GYMNASIUM_NAMESPACE)
        shown = {} if state == "none" else {"state": state}
        inside = {"options": own} if own else {}
        env = _from_gymnasium(name, num_envs, seed, device, wrappers, inside, {**named, **shown})
        env.id = id
        env.options |= inside
    else:
        if id not in PORTS:
            _import_family(id)
        _check_upstream(id, backend)
        if state != "none":
            raise ValueError(f"{id} runs through gymnasium, which shows no state, got state={state!r}; leave it out")
        env = _from_gymnasium(id, num_envs, seed, device, wrappers, own, named)
    if not any(inputs.values()) and frame_stack == 1:
        return env
    from mru_rl.envs.agent_input import AgentInput

    return AgentInput(env, **inputs, frame_stack=frame_stack)


def _without_module(id: str) -> str:
    """Return the id in "module:id" after importing the module; any other id as it is."""
    module, colon, name = id.rpartition(":")
    if not colon:
        return id
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        raise ValueError(f"the id {id!r} must name a module before its ':', got {module!r}; write module:Name-v0")
    import_named(module, f"register {name!r}")
    return name


def _import_family(id: str) -> None:
    import gymnasium

    if id not in gymnasium.registry:
        import_family(id)


def _plain_and_own(named: dict[str, Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options whose names mean nothing else to `make`, and those that only its `options` can hold."""
    taken = {*inspect.signature(make).parameters, *OWN_OPTIONS, "factory"}
    own = {name: value for name, value in options.items() if name in taken}
    if "factory" in named:
        own["factory"] = named.pop("factory")
    return {**named, **{name: value for name, value in options.items() if name not in taken}}, own


def _check_options(id: str, entry: Entry, options: set[str], others: list[str]) -> None:
    unknown = [] if entry.takes_any() else sorted(options - set(entry.options()))
    unknown += sorted(options & {*GIVEN, *entry.fixed} - set(unknown))
    if unknown:
        has = [name for name in [*entry.options(), *others] if name not in unknown]
        raise ValueError(f"{id} has no option {', '.join(map(repr, unknown))}; it has {', '.join(has)}")


def _show_state(env: BatchedEnv, state: str) -> None:
    from mru_rl.envs.tensor_env import TensorEnv

    if isinstance(env, TensorEnv):
        env.show_state(state)
    elif state != "none":
        raise ValueError(f"{env.id} is not a TensorEnv and shows no state, got state={state!r}; leave it out")


def _from_gymnasium(
    id: str,
    num_envs: int,
    seed: int,
    device: str | torch.device,
    wrappers: tuple[Any, ...],
    options: dict[str, Any],
    named: dict[str, Any],
) -> BatchedEnv:
    import gymnasium

    if gymnasium.spec(id).entry_point is not None:
        from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv

        return GymnasiumEnv(
            id=id, num_envs=num_envs, seed=seed, device=device, wrappers=wrappers, options=options, **named
        )
    if wrappers:
        raise ValueError(
            f"wrappers go around single gymnasium envs, got {wrappers} for {id}, which is made as a vector env; leave them out"
        )
    from mru_rl.envs.from_gymnasium.vector_env import make_vector_env

    return make_vector_env(id, num_envs, seed=seed, device=device, options=options, named=named)


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
    """Return what `mru-rl envs` shows about an id with these options; makes one env to find out.

    summary     first line of what the class of the env says about itself, "" if it says nothing
    horizon     most steps of an episode, credit_horizon most steps from an action to the last reward that depends on
                it; None: unknown
    obs, action the spaces in words; obs_size is the width of an encoded obs
    backend     "batched" for an env that is batched itself, "gymnasium" for one that runs through gymnasium

    Raises what `make` raises.
    """
    from mru_rl.envs.agent_input import AgentInput
    from mru_rl.envs.from_gymnasium.vector import GymnasiumEnv
    from mru_rl.envs.from_gymnasium.vector_env import VectorEnvAsBatched

    with make(id, 1, **options) as env:
        inner = env.env if isinstance(env, AgentInput) else env
        summary, backend = (type(inner).__doc__ or "").strip().split("\n")[0], "batched"
        if isinstance(inner, (GymnasiumEnv, VectorEnvAsBatched)):
            summary, backend = inner.summary, "gymnasium"
        return Description(
            id,
            summary,
            env.horizon,
            env.credit_horizon,
            str(env.observation_space),
            env.obs_size,
            str(env.action_space),
            backend,
        )


def _check_upstream(id: str, backend: str) -> None:
    """Raise ValueError unless gymnasium knows the id and the backend may be gymnasium."""
    import gymnasium

    importlib.import_module("popgym")
    if id.startswith("popgym-Labyrinth") and id in PORTS and id not in gymnasium.registry:
        raise ValueError(
            f"upstream popgym registers {id} only where mazelib is installed; run `pip install mazelib`, or use "
            "backend='auto': the batched port needs none"
        )
    if id in _REGISTERED or (id in PORTS and id.startswith(GYMNASIUM_NAMESPACE)):
        owner = "the program that registered it" if id in _REGISTERED else "mru_rl"
        raise ValueError(f"{id} has no upstream, it is an env of {owner} alone; use backend='auto'")
    try:
        gymnasium.spec(id)
    except gymnasium.error.Error:
        raise ValueError(f"no env has the id {id!r}; {_suggestion(id, list(gymnasium.registry))}") from None
    if backend == "batched":
        raise ValueError(f"{id} has no batched port; use backend='auto', or one of: {', '.join(list_ids())}")


def _suggestion(id: str, registered: list[str]) -> str:
    """Return what to do about an unknown id: the one that is meant, probably; of a family the easiest."""
    ids = [*registered, *reversed(list_ids())]  # the last of a family is found: the newest version, or Easy
    level_named = re.search("|".join(LEVELS), id, re.IGNORECASE)
    by_lower = {name.lower(): name for name in ids}
    near = difflib.get_close_matches(id.lower(), by_lower, n=1, cutoff=0.5)
    found = None if level_named else {_family(name): name for name in ids}.get(_family(id))
    namespace, slash, _ = id.rpartition("/")
    foreign = slash and not any(name.startswith(f"{namespace}/") for name in ids)
    if found is None and (foreign or not near):
        return (
            "see `mru-rl envs`, or import the package that registers it first: PACKAGE:ID does, as in --env PACKAGE:ID, and "
            "--import PACKAGE"
        )
    if found is None and not difflib.get_close_matches(id.lower(), near, cutoff=0.75):
        return f"did you mean {by_lower[near[0]]!r}? One of another package is named with it: PACKAGE:{id}"
    found = found or by_lower[near[0]]
    stem, level, version = _parts(found)
    levels = [level for level in LEVELS if f"{stem}{level}{version}" in ids]
    if not level or level_named or len(levels) < 2:
        return f"did you mean {found!r}?"
    return f"did you mean '{stem}{levels[0]}{version}'? It exists as {', '.join(levels[:-1])} and {levels[-1]}"


def _parts(id: str) -> tuple[str, str, str]:
    """Return an id in three parts: up to the level, "Easy" or another level, "-v0" or another version."""
    match = re.fullmatch(rf"(.*?)({'|'.join(LEVELS)})?(-v\d+)?", id, re.IGNORECASE | re.DOTALL)
    assert match is not None  # everything but the first part may be missing
    stem, level, version = match.groups("")
    return stem, level, version


def _family(id: str) -> str:
    """Return an id in small letters, without "mru_rl/", "popgym-", level and version."""
    return _parts(id)[0].lower().removeprefix(GYMNASIUM_NAMESPACE).removeprefix("popgym-")
