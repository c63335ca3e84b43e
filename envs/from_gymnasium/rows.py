"""Single gymnasium envs side by side: what each returns is checked against its own spaces and laid out flat.

Light on imports: worker processes read this file and need no torch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from mru_rl.envs.columns import columns, described, shown_space, side_by_side
from mru_rl.envs.from_gymnasium.named import one_line
from mru_rl.envs.from_gymnasium.said import said_at_end, scalar

MISSING = (ImportError, gymnasium.error.DependencyNotInstalled)
"""What is raised for a package that is not installed."""


class EnvError(RuntimeError):
    """An env raised, died, hung, or returned what its spaces do not allow. `traceback` is the env's own, "" if it has none."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class MissingPackage(EnvError):
    """An env needs a package that is not installed; to start it again would not help."""


class RowStep(NamedTuple):
    """One step of one env. final_obs: the last obs of the episode that this step ended, None if it ended none; said: what
    its info said then, by name, see `said_at_end`."""

    obs: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    final_obs: np.ndarray | None
    said: dict[str, float] | None = None


class Row:
    """One env, restarted in the step that ends an episode. obs: [columns], laid out as BatchedEnv says.

    Raises EnvError naming the row if the env raises, if it returns what gymnasium.Env does not allow, and if an obs has
    another shape than its space or holds a number that a Discrete, MultiDiscrete or MultiBinary does not have. Floats
    outside the bounds of a Box are taken as they are. metrics: what else than success is read from info.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], row: int, metrics: Sequence[str] = ()) -> None:
        self.row, self.steps, self.metrics = row, 0, metrics
        self.id = "an env"
        self.env = self._call("the making of", make)
        self.id = name_of(self.env)
        self.draws = getattr(self.env, "render_mode", None) == "rgb_array"
        self.final_frame: np.ndarray | None = None
        self.space = shown_space(self.env.observation_space, self.env.action_space)
        self.masked = isinstance(self.space, gymnasium.spaces.Dict) and "action_mask" in self.space.spaces

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
        if isinstance(result[4], Mapping) and "action_mask" in result[4] and not self.masked:
            self._refuse(
                'an action mask in info must be there from reset() on, or in a Dict obs as "action_mask"',
                "the first one in step()",
            )
        obs = self._lay_out(result[0])
        reward = self._number(result[1])
        terminated, truncated = (self._flag(value) for value in result[2:4])
        if not (terminated or truncated):
            self.final_frame = None
            return RowStep(obs, reward, terminated, truncated, None)
        self.final_frame = self.draw() if self.draws else None
        said = self._said(result[4])
        return RowStep(self.reset(), reward, terminated, truncated, obs, said)

    def draw(self) -> np.ndarray:
        """Return a picture of the env, uint8 [height, width, 3]; it must have been made with render_mode "rgb_array"."""
        picture = self._call("render()", self.env.render)
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)):
            self._refuse("render() must return uint8 [height, width, 3]", described(picture))
        return picture

    def close(self) -> None:
        self.env.close()

    def _call(self, what: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except MISSING as error:
            raise MissingPackage(missing_package(self.id, error)) from error
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
        return side_by_side(self.space, parts)  # what is infinite now is refused later

    def _said(self, info: Any) -> dict[str, float]:
        try:
            return said_at_end(info, self.metrics, f"{self.id}, row {self.row}, step {self.steps} of its episode")
        except ValueError as error:
            raise EnvError(str(error)) from None

    def _number(self, reward: Any) -> float:
        if type(reward) is float:
            return reward
        number = scalar(reward, "biuf")
        return self._refuse("a reward must be one number", described(reward)) if number is None else float(number)

    def _flag(self, value: Any) -> bool:
        if type(value) is bool:
            return value
        flag = scalar(value, "biu")
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

    def __init__(self, make: Callable[[], gymnasium.Env], count: int, *, metrics: Sequence[str] = ()) -> None:
        self.rows = [Row(make, i, metrics) for i in range(count)]

    def reset(self, rows: Sequence[int], seeds: Sequence[int | None]) -> list[np.ndarray]:
        """Start fresh episodes in some rows; return the obs [columns] of each."""
        return [self.rows[i].reset(seed) for i, seed in zip(rows, seeds, strict=True)]

    def step(self, actions: Iterable[Any]) -> list[RowStep]:
        """Advance every row by one of the actions, one per row."""
        return [row.step(action) for row, action in zip(self.rows, actions, strict=True)]

    def close(self) -> None:
        for row in self.rows:
            row.close()


def missing_package(id: str, error: Exception) -> str:
    """Return that an env needs a package that is not installed, in one line; gymnasium's own words name the pip command."""
    said = one_line(error)
    move = "" if "pip install" in said else "; install the package that holds it"
    return f"{id} needs another package: {said}{move}"


def name_of(env: gymnasium.Env) -> str:
    """Return the id of an env, or the name of its class where it has none."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__
