"""Single gymnasium envs side by side: what each returns is checked against its own spaces and laid out flat.

Light on imports: a worker process reads this file and needs no torch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from gymnasium import spaces


class EnvError(RuntimeError):
    """An env raised, died, hung, or returned what its own spaces do not allow. `traceback` is the env's own, "" for none."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class RowStep(NamedTuple):
    """One step of one env. final_obs: what it saw last where its episode ended, and has restarted; None elsewhere."""

    obs: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    final_obs: np.ndarray | None


class Row:
    """One env. obs: [columns], int64 where the whole space counts, else float32; restarts in the step that ends an episode.

    Raises EnvError naming the row where the env raises, where what it returns is not what gymnasium.Env says, and where
    an obs has another shape than its space or holds a number that a Discrete, MultiDiscrete or MultiBinary does not
    have. Floats outside the bounds of a Box are taken as they are.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], row: int) -> None:
        self.row, self.steps = row, 0
        self.id = "an env"
        self.env = self._call("the making of", make)
        self.id = self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__
        self.space = self.env.observation_space
        self.dtype = np.int64 if counts(self.space) else np.float32

    def reset(self, seed: int | None = None) -> np.ndarray:
        self.steps = 0
        result = self._call("reset()", self.env.reset, seed=seed)
        if not (isinstance(result, tuple) and len(result) == 2):
            self._refuse("reset() must return (obs, info)", described(result))
        return self._lay_out(result[0])

    def step(self, action: Any) -> RowStep:
        self.steps += 1
        result = self._call("step()", self.env.step, action)
        if not (isinstance(result, tuple) and len(result) == 5):
            self._refuse("step() must return (obs, reward, terminated, truncated, info)", described(result))
        obs = self._lay_out(result[0])
        reward = self._number(result[1])
        terminated, truncated = (self._flag(value) for value in result[2:4])
        if not (terminated or truncated):
            return RowStep(obs, reward, terminated, truncated, None)
        return RowStep(self.reset(), reward, terminated, truncated, obs)

    def close(self) -> None:
        self.env.close()

    def _call(self, what: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            raise EnvError(
                f"{what} {self.id} raised {type(error).__name__} in row {self.row}, step {self.steps} of its episode: {error}; "
                "mend the env",
                traceback.format_exc(),
            ) from error

    def _lay_out(self, obs: Any) -> np.ndarray:
        try:
            parts = columns(self.space, obs)
        except ValueError as error:
            self._refuse(f"an obs must fit observation_space {self.space}", str(error))
        with np.errstate(over="ignore"):  # float64 that float32 cannot hold becomes infinite, which is looked for later
            return np.concatenate(parts, dtype=self.dtype, casting="unsafe")

    def _number(self, reward: Any) -> float:
        if type(reward) is float:
            return reward
        number = _scalar(reward, "biuf")
        return self._refuse("a reward must be one number", described(reward)) if number is None else float(number)

    def _flag(self, value: Any) -> bool:
        if type(value) is bool:
            return value
        flag = _scalar(value, "biu")
        if flag is None:
            self._refuse("terminated and truncated must be one truth value each", described(value))
        return bool(flag)

    def _refuse(self, rule: str, arrived: str) -> Any:
        raise EnvError(
            f"{self.id}: {rule}, got {arrived} in row {self.row}, step {self.steps} of its episode; mend the env or wrap it"
        )


class Rows:
    """Envs stepped one after the other in this process."""

    restarts = 0

    def __init__(self, make: Callable[[], gymnasium.Env], count: int) -> None:
        self.rows = [Row(make, i) for i in range(count)]

    def reset(self, rows: Sequence[int], seeds: Sequence[int | None]) -> list[np.ndarray]:
        """Start fresh episodes in some rows; the obs [columns] of each."""
        return [self.rows[i].reset(seed) for i, seed in zip(rows, seeds, strict=True)]

    def step(self, actions: np.ndarray) -> list[RowStep]:
        """Advance every row by one of the actions [rows, ...]."""
        return [row.step(action) for row, action in zip(self.rows, actions, strict=True)]

    def close(self) -> None:
        for row in self.rows:
            row.close()


def counts(space: spaces.Space) -> bool:
    """Whether everything in an obs of this space is a whole number."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return all(counts(part) for part in (space.values() if isinstance(space, spaces.Dict) else space.spaces))
    return not isinstance(space, spaces.Box)


def columns(space: spaces.Space, value: Any) -> list[np.ndarray]:
    """The arrays inside an obs, each flat, in the order of the space; numbers count from 0.

    Raises ValueError saying what arrived where it does not fit.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            raise ValueError(described(value))
        return [leaf for name, part in space.spaces.items() for leaf in columns(part, value[name])]
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise ValueError(described(value))
        return [leaf for part, inner in zip(space.spaces, value, strict=True) for leaf in columns(part, inner)]
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths, tensors without data
        raise ValueError(described(value)) from None
    if array.shape != space.shape or array.dtype.kind not in "biuf":
        raise ValueError(described(value))
    if isinstance(space, spaces.Box):
        return [array.reshape(-1)]
    start = getattr(space, "start", 0)
    several = (
        2
        if isinstance(space, spaces.MultiBinary)
        else getattr(space, "n", None) or cast("spaces.MultiDiscrete", space).nvec
    )
    if array.dtype.kind == "f" or not ((array >= start) & (array < start + several)).all():
        raise ValueError(f"{array.tolist()} ({array.dtype})")
    return [(array - start).reshape(-1)]


def _scalar(value: Any, kinds: str) -> Any:
    """The one number in a value, where it is of one of numpy's kinds; None for everything else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths, tensors without data
        return None
    return array.reshape(()) if array.size == 1 and array.dtype.kind in kinds else None


def described(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
