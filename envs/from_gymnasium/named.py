"""From what a user types to what it names: modules, packages of well-known envs, wrappers.

Light on imports: worker processes read this file and need no torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium

from mru_rl.envs.columns import described

Wrapper = str | Callable[[gymnasium.Env], gymnasium.Env]
"""What wraps an env: "module:Name", "module:Name(2, x=3)", or a function."""
WORKER_OPTIONS = {"workers", "worker_seconds", "worker_restarts"}
"""Options of single gymnasium envs, whichever they are: how they are stepped."""
OWN_OPTIONS = WORKER_OPTIONS | {"info_metrics"}
"""Those, and what is read of their info."""
FAMILIES = {
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "ALE/": ("ale_py", "ale-py"),
    "MiniWorld-": ("miniworld", "miniworld"),
    "Meta-World/": ("metaworld", "metaworld"),
}
"""How the ids of a well-known package begin -> the module that registers them, and the package as pip knows it."""
_MODULE = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"


def import_named(module: str, what: str) -> Any:
    """Return a module that a user named, which gives `what`; the working directory is searched first.

    Raises ValueError in one line if it is not there or raises while it is imported.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"no module {module!r} to {what} ({error}); install or rename it, it is looked for in the working directory "
                "and on PYTHONPATH"
            ) from error
        raise ValueError(
            f"module {module!r}, named to {what}, cannot be imported ({one_line(error)}); install what it needs"
        ) from error
    except Exception as error:
        raise ValueError(
            f"module {module!r}, named to {what}, cannot be imported, it {raised(error, 'mend it')}"
        ) from error


def import_family(id: str) -> None:
    """Import the package that registers an id, if the id is that of a well-known one. Raises ValueError without it."""
    for start, (module, package) in FAMILIES.items():
        if id.lower().startswith(start.lower()):
            if importlib.util.find_spec(module) is None:
                raise ValueError(f"{id} comes with the package {package}; run `pip install {package}`")
            import_named(module, f"register {id!r}")


class WrapperCall(NamedTuple):
    """A wrapper by name: `module`, the dotted `path` to it inside, and what it takes beside the env."""

    module: str
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def split_wrappers(given: str | Sequence[Any]) -> tuple[Any, ...]:
    """Return wrappers one by one: words may hold several, "a.b:One,c.d:Two(1, 2)". What is no word stays as it is.

    Raises ValueError for a word of another form.
    """
    found: list[Any] = []
    for one in [given] if isinstance(given, str) else given:
        words = re.split(rf",\s*(?={_MODULE}:)", one) if isinstance(one, str) else [one]
        found += [word.strip() if isinstance(word, str) else word for word in words]
    for word in found:
        if isinstance(word, str):
            read_wrapper(word)
    return tuple(found)


def read_wrapper(name: str) -> WrapperCall:
    """Take a name apart without importing anything. Raises ValueError for a name of another form."""
    module, _, call = name.partition(":")
    try:
        node = ast.parse(call.strip(), mode="eval").body
        inner = node.func if isinstance(node, ast.Call) else node
        path = ast.unparse(inner)
        if not re.fullmatch(_MODULE, module) or not re.fullmatch(_MODULE, path):
            raise ValueError
        if not isinstance(node, ast.Call):
            return WrapperCall(module, path, (), {})
        kwargs = {part.arg: ast.literal_eval(part.value) for part in node.keywords if part.arg is not None}
        if len(kwargs) != len(node.keywords):  # a ** among them
            raise ValueError
        return WrapperCall(module, path, tuple(map(ast.literal_eval, node.args)), kwargs)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"a wrapper is named module:Name, or module:Name(2, x='a') with numbers and words, got {name!r}; write it so, "
            "several with commas between"
        ) from None


def wrap(env: gymnasium.Env, wrappers: Sequence[Wrapper]) -> gymnasium.Env:
    """Return the env with wrappers around it, the first innermost.

    Raises ValueError naming a wrapper that does not import, cannot be called, raises, or returns no gymnasium.Env; the env
    is closed then.
    """
    for wrapper in wrappers:
        try:
            env = _wrapped(env, wrapper)
        except ValueError:
            env.close()
            raise
    return env


def make_wrapped(make: Callable[[], gymnasium.Env], wrappers: Sequence[Wrapper]) -> gymnasium.Env:
    """Make an env and wrap it, as `wrap` does."""
    return wrap(make(), wrappers)


def _wrapped(env: gymnasium.Env, wrapper: Wrapper) -> gymnasium.Env:
    apply = _found(wrapper) if isinstance(wrapper, str) else wrapper
    name = wrapper if isinstance(wrapper, str) else getattr(wrapper, "__qualname__", repr(wrapper))
    if not callable(apply):
        raise ValueError(
            f"a wrapper is a class or a function that takes an env, got {described(apply)} for {name!r}; name one that is"
        )
    around = env.spec.id if env.spec else type(env.unwrapped).__name__
    try:
        made = apply(env)
    except Exception as error:
        raise ValueError(
            f"the wrapper {name!r} around {around} {raised(error, 'mend it, or give it other options')}"
        ) from error
    if not isinstance(made, gymnasium.Env):
        raise ValueError(
            f"a wrapper must return a gymnasium.Env, got {described(made)} from {name!r} around {around}; derive it from "
            "gymnasium.Wrapper"
        )
    return made


def _found(name: str) -> Any:
    """Return what a name calls, waiting for the env."""
    call = read_wrapper(name)
    place: Any = import_named(call.module, f"hold the wrapper {name!r}")
    for part in call.path.split("."):
        if not hasattr(place, part):
            raise ValueError(f"module {call.module!r} has no wrapper {call.path!r}, got {name!r}; name one that it has")
        place = getattr(place, part)
    if not callable(place) or not (call.args or call.kwargs):
        return place
    return lambda env: place(env, *call.args, **call.kwargs)


def one_line(error: Exception) -> str:
    """Return what an error says in one line, without a stop at its end."""
    return " ".join(str(error).split()).rstrip(".")


def raised(error: Exception, move: str) -> str:
    """Return in one line that somebody's code raises this, with the next move, unless the error names one itself."""
    said = f"raises {type(error).__name__}: {one_line(error)}".rstrip(": ")
    return said if "; " in said else f"{said}; {move}"
