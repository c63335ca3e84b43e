"""The contract of every env here: many copies of one task, stepped together, tensors in and tensors out."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mru_rl.envs.actions import ActionCheck, simple_action_space
from mru_rl.envs.encoding import Encoding, pack


class NonFiniteError(ValueError):
    """An env returned an observation or a reward that is NaN or infinite."""


class Step(NamedTuple):
    """What one step gives back; every field has one row per env.

    Rows whose episode ended have restarted already: `obs` is the first obs of the new episode and `final_obs` the last
    one of the old. In all other rows the two are equal, and where no episode ended they are one and the same tensor.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Tensor


class Stretch(NamedTuple):
    """What `unroll` gives back: n steps of all rows, none of them past the end of an episode.

    obs         [B, n, ...], what every step shows before its action
    asked       bool [B, n], True where the action earns or costs anything; elsewhere any action is as good
    pay         from actions [B, n, ...] to the rewards [B, n] they earn; may be called more than once or not at all
    started     True if an episode begins with the first of these steps
    ended       True if it ends with the last of them; all rows have restarted then
    """

    obs: Tensor
    asked: Tensor
    pay: Callable[[Tensor], Tensor]
    started: bool
    ended: bool


class BatchedEnv(ABC):
    """A batch of B independent copies of one task.

    obs         one tensor: the leaves of `observation_space` flattened and laid side by side, [B, columns]; int64 when
                all leaves count (Discrete, MultiDiscrete, MultiBinary), float32 otherwise. A lone Discrete is [B].
                Where leaves are bytes (a Box of uint8, such as an image; a Text, as the places of its characters) it is
                uint8 [B, bytes]: the float32 of all other leaves, 4 bytes each, then the bytes. A lone image [H, W, C] is
                thus uint8 [B, H * W * C]
    action      one tensor: Discrete int64 [B], MultiDiscrete int64 [B, n], Box float32 [B, *shape]; numbers start at 0.
                A Tuple of several of these is float32 [B, n], its parts side by side, numbers as floats
    reward      float32 [B];  terminated, truncated: bool [B]
    spaces      `observation_space` and `action_space` are gymnasium spaces of a single env; whichever action space an env
                is made with, `action_space` is what `simple_action_space` of mru_rl.envs.actions makes of it
    randomness  all of it comes from `seed`; nothing global is read or changed
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    horizon: int | None = None
    """Most steps an episode can take; None: unknown or unbounded."""
    credit_horizon: int | None = None
    """Most steps between an action and the last reward that depends on it; 0: paid at once; None: unknown."""
    open_loop: bool = False
    """True where neither the observations nor the ends of episodes depend on the actions."""
    success_return: float | None = None
    """An episode is a success when its return is at least this; None: the task names no such return."""
    saves_state: bool = False
    """True where `state_dict` and `load_state_dict` work."""
    can_unroll: bool = False
    """True where `unroll` works."""
    can_render: bool = False
    """True where `render` works."""
    final_frame: np.ndarray | None = None
    """Last picture of the episode of row 0 that the last step ended; None: it ended none, or the env draws none."""
    refuse_nonfinite: bool = True
    """True if an env from elsewhere raises NonFiniteError; False if the caller checks for such numbers itself."""
    worker_restarts: int = 0
    """Number of worker processes of the env that were replaced so far."""
    perfect_return: float | None = None
    """Exact return of perfect memory in an episode; None: not known."""
    memoryless_return: float | None = None
    """Exact mean return of the best policy that sees only the obs; None: not known."""
    sources: Mapping[str, str] = MappingProxyType({})
    """Where an env from elsewhere has its `horizon`, `credit_horizon` and so on from, in words, by name."""
    metrics: tuple[str, ...] = ()
    """Names of the numbers that `ended` may hold; "success" is one of them where an env can tell by itself."""
    ended: Mapping[str, Tensor] = MappingProxyType({})
    """What the episodes that the last step ended say of themselves beside their return, float32 [B] by name: NaN in rows
    that ended none or do not say; names that no row says may be missing."""

    def __init__(
        self,
        *,
        id: str,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        seed: int = 0,
        device: str | torch.device = "cpu",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.id, self.options = id, dict(options or {})
        self.num_envs = check_count(num_envs, name="num_envs", least=1)
        self.device = concrete_device(device)
        self.observation_space, self.action_space = observation_space, simple_action_space(action_space)
        self.generator = torch.Generator(device=self.device)
        BatchedEnv.reseed(self, seed)
        self._encoding = Encoding(observation_space, device=self.device)
        self._check_action = ActionCheck(self.action_space, num_envs=self.num_envs, device=self.device)

    @abstractmethod
    def reset(self) -> Tensor:
        """Start a fresh episode in every row and return its first obs."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Advance every row by one action; rows whose episode ends restart in the same step."""

    def unroll(self, steps: int) -> Stretch:
        """Advance all rows by `steps` steps at once, or to the end of their episode where that comes first.

        For envs whose actions are paid but never seen. The rows must stand at the same step of their episodes.
        On a CPU the observations, and all that follows, are to the bit those of as many single steps.
        """
        raise RuntimeError(f"{self.id} cannot be unrolled; check `env.can_unroll` first and call env.step() instead")

    @property
    def native_observation_space(self) -> gymnasium.Space:
        """The observation space as the env inside has it: its Discrete and MultiDiscrete may start elsewhere than at 0."""
        return self.observation_space

    @property
    def native_action_space(self) -> gymnasium.Space:
        """The action space as the env inside has it: any that `native_action` of mru_rl.envs.native goes back to."""
        return self.action_space

    def render(self) -> np.ndarray:
        """Return a picture of row 0, uint8 [height, width, 3]."""
        raise RuntimeError(
            f"{self.id} draws no pictures; check `env.can_render` first, and make a gymnasium id with render_mode='rgb_array' "
            "and workers='sync'"
        )

    def reset_rows(self, mask: Tensor) -> Tensor:
        """Start a fresh episode where mask (bool [B]) is True, leave all other rows; return the first obs of those."""
        raise RuntimeError(f"{self.id} cannot restart single rows; call env.reset() to restart all of them")

    def reseed(self, seed: int) -> None:
        """Seed the env anew: from the next reset on it draws what an env made with this seed draws."""
        self.generator.manual_seed(int(derive_seeds(seed, 2).view(np.uint64)[0]))

    def _require_finite(self, values: Tensor, what: str, rows: Sequence[int]) -> None:
        """Raise NonFiniteError naming the first of the rows (one per value) that holds NaN or infinity."""
        if not self.refuse_nonfinite or values.isfinite().all():
            return
        row = rows[int((~values.isfinite()).reshape(values.shape[0], -1).any(1).nonzero()[0])]
        raise NonFiniteError(
            f"env {self.id} returned {what} values that are NaN or infinite in row {row}; mend the env or wrap it: an agent "
            "cannot learn from it"
        )

    def _check_mask(self, mask: Any) -> None:
        if isinstance(mask, Tensor):
            arrived = f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)} on {mask.device}"
        else:
            arrived = type(mask).__name__
        wanted = f"bool {[self.num_envs]} on {self.device}"
        if arrived != wanted:
            raise ValueError(f"a mask of rows to reset must be a tensor {wanted}, got {arrived}; one flag per env")

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue identically: plain values, and tensors that alias nothing."""
        raise RuntimeError(f"{self.id} cannot save its state; check `env.saves_state` first and start fresh episodes")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` of an env with the same id, options and num_envs gave."""
        raise RuntimeError(f"{self.id} cannot load a state; check `env.saves_state` first and call reset() instead")

    @property
    def obs_size(self) -> int:
        """Width of an encoded obs."""
        return self._encoding.width

    def encode(self, obs: Tensor) -> Tensor:
        """Turn an obs (any leading dimensions) into float32 [..., obs_size]: numbers one-hot, floats as they are.

        Numbers of over 512 values stay one column. An obs of bytes stays one, uint8 [..., obs_size]: the float32 of what
        is no bytes, encoded in this way, then the bytes as they are.
        Raises TypeError if it is not a tensor, ValueError if it is not an obs of this env.
        """
        self._encoding.check(obs, self.id)
        try:
            numbers, rest = self._encoding.split(obs)
            encoded = self._encoding(numbers)
            return encoded if rest is None else pack(encoded, rest)
        except (IndexError, RuntimeError) as error:
            raise ValueError(
                f"an obs of {self.id} is on {self.device} and holds numbers of {self.observation_space}, got another ({error}); "
                "give what reset() and step() return"
            ) from error

    def floats(self, obs: Tensor) -> Tensor:
        """Return the columns of an obs that are no bytes, as they are or float32 [..., n]: those that may be NaN."""
        return self._encoding.split(obs)[0]

    def close(self) -> None:  # noqa: B027 (most envs have nothing to close)
        """Free what the env holds outside this process; nothing to do for most."""

    def __enter__(self) -> BatchedEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({self.id!r}, num_envs={self.num_envs}{options})"


def check_count(value: Any, *, name: str, least: int, most: int = 2**53) -> int:
    """Return a whole number from `least` to `most`. Raises TypeError or ValueError for anything else."""
    try:
        count = operator.index(value) if not isinstance(value, bool) else None
    except (TypeError, RuntimeError):  # the latter from a tensor without data
        count = None
    if count is None:
        raise TypeError(f"{name} must be a whole number, got {value!r}; pass an int of at least {least}")
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}; pass a larger number")
    if count > most:
        raise ValueError(f"{name} must be at most {most}, got {count}; pass a smaller number")
    return count


def derive_seeds(seed: int, count: int) -> np.ndarray:
    """Derive `count` 32-bit seeds. Hashed, so that an env and a policy given the same seed share no random stream."""
    entropy = check_count(seed, name="seed", least=0, most=2**128)
    return np.random.SeedSequence([entropy, 0x656E76]).generate_state(count)


def concrete_device(device: str | torch.device) -> torch.device:
    """Return the device with its index, so that it compares equal to the `device` of a tensor that lives there."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
