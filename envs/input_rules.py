"""What a memory agent is shown, from what its env shows: the obs, its last action, whether the episode began, its reward."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from torch import Tensor

from mru_rl.envs.actions import action_layout, null_action, simple_action_space
from mru_rl.envs.base import concrete_device
from mru_rl.envs.encoding import Encoding, Part, pack, unpack
from mru_rl.envs.spaces import space_from_json, space_to_json

_SPACES = ("observation_space", "action_space")
_SWITCHES = ("previous_action", "start_flag", "previous_reward")
ACTION_MASK = "action_mask"
"""Under this name an obs that is a Dict shows which actions there are: numbers that are not 0 where there is one."""


class InputRules:
    """From an obs to the input of an agent, without any env: one float32 vector, in this order, each part but the first a switch:

    obs               encoded: numbers one-hot, floats as they are
    previous_action   the action that led to this obs, encoded; in rows that start the null action: 0, or the lowest there is
    start_flag        (1, 0), and (0, 1) in rows that start
    previous_reward   the reward that came with this obs; 0 in rows that start

    Where the obs has bytes the input is uint8 [..., size]: all of the above as float32, 4 bytes each, then the bytes of the
    obs; `split` takes the two apart. `parts` says what the columns are.

    The spaces are those of a BatchedEnv: numbers count from 0, and any action space becomes a simple one. Nothing is kept
    between calls. `size` is the width.
    Raises ValueError for spaces that are not supported.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        previous_action: bool = False,
        start_flag: bool = False,
        previous_reward: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self.observation_space, self.action_space = observation_space, simple_action_space(action_space)
        self.previous_action, self.start_flag, self.previous_reward = previous_action, start_flag, previous_reward
        self.device = concrete_device(device)
        self._name = str(observation_space)
        self._obs = Encoding(observation_space, device=self.device)
        self._action = Encoding(self.action_space, device=self.device)
        self._action_ndim = len(action_layout(action_space)[1])
        self._is_flat = self._action_ndim == len(self._action.shape)
        null = self._action_part(null_action(action_space).to(self.device))
        self._going, starting = (self._flag_row(start) if start_flag else null[:0] for start in (False, True))
        zero = torch.zeros(int(previous_reward), dtype=null.dtype, device=self.device)
        self._at_start = torch.cat((null if previous_action else null[:0], starting, zero))
        self.floats = self._obs_size() + len(self._at_start)
        """How many floats an input has, its bytes not counted."""
        self.dtype = torch.uint8 if self._obs.packed else torch.float32
        self.packed, self.bytes = self._obs.packed, self._obs.bytes
        self.size = 4 * self.floats + self.bytes if self.packed else self.floats
        self.obs_parts = len(self._obs.parts)
        """How many of the parts are the obs itself: the first ones."""
        self.parts = self._parts()
        """What the columns of an input are, in order; the parts beside the obs by the names of their switches."""
        self._shape: torch.Size | None = None

    def _obs_size(self) -> int:
        return self._obs.size

    def _parts(self) -> list[Part]:
        parts, column = list(self._obs.parts), self._obs.size
        if self.previous_action:
            for part in self._action.parts:
                place = f"previous_action.{part.place}" if part.place else "previous_action"
                parts.append(part._replace(place=place, start=part.start + column, stop=part.stop + column))
            column += self._action.size
        if self.start_flag:
            parts.append(Part("start_flag", "one-hot", gymnasium.spaces.Discrete(2), column, column + 2))
            column += 2
        if self.previous_reward:
            reward = gymnasium.spaces.Box(-float("inf"), float("inf"), (1,))
            parts.append(Part("previous_reward", "numbers", reward, column, column + 1))
        return parts

    @property
    def mask(self) -> list[Part]:
        """The parts of an input that say which actions there are: what a Dict shows as "action_mask"; none for most."""
        if not isinstance(self.observation_space, gymnasium.spaces.Dict):
            return []
        return [part for part in self.parts if part.place.split(".")[0] == ACTION_MASK]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return inputs [..., size] in two: float32 [..., floats], and uint8 [..., bytes], None where there are no bytes."""
        return unpack(x, self.floats) if self.packed else (x, None)

    def encode(
        self,
        obs: Tensor,
        *,
        start: bool | Tensor,
        action: Tensor | None = None,
        reward: Tensor | None = None,
    ) -> Tensor:
        """Return the input of an agent, float32 [B, size], as a new tensor.

        obs       in the layout of BatchedEnv, [B] or [B, columns], on `device`; `layout` of mru_rl.envs.native gives it
        start     bool [B], True in rows whose obs is the first of an episode; True or False for all rows, which is faster
        action    what led to this obs, in the layout of BatchedEnv, and reward [B], what came with it. Only used where they
                  are switched on; they may be left out where all rows start

        More dimensions may follow B, the same in all: [B, T] for sequences. Raises ValueError for a part of another dtype
        or width, a number that its space does not have, and an action or a reward that is missing.
        """
        floats, rest = self.encode_apart(obs, start=start, action=action, reward=reward)
        return floats if rest is None else pack(floats, rest)

    def encode_apart(
        self,
        obs: Tensor | tuple[Tensor, Tensor],
        *,
        start: bool | Tensor,
        action: Tensor | None = None,
        reward: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `encode` does, its floats and its bytes apart, as `split` gives them; so may an obs of bytes be given."""
        if isinstance(obs, tuple):
            numbers, rest = obs
        else:
            self._obs.check(obs, self._name)
            numbers, rest = self._obs.split(obs)  # type: ignore[assignment]
        return self._encode_floats(numbers, start, action, reward), rest

    @property
    def obs_floats(self) -> int:
        """How many numbers an obs of bytes begins with, four bytes each; 0 where it has none or is no obs of bytes."""
        return self._obs.raw_floats if self.packed else 0

    def _encode_floats(self, obs: Tensor, start: bool | Tensor, action: Tensor | None, reward: Tensor | None) -> Tensor:
        try:
            shown = self._obs_part(obs)
            if torch.compiler.is_exporting():
                return self._in_a_graph(shown, start, action, reward)
            if obs.shape != self._shape:  # the same at nearly every step
                self._expand(obs.shape, shown.shape[:-1])
            if start is False:
                return torch.cat((shown, *self._beside(action, reward)), dim=-1)
            if start is not True:
                self._check_start(start, shown.shape[:-1])
                if not start.all():
                    parts = self._beside(action, reward)
                    rows = start.unsqueeze(-1)
                    beside = (
                        torch.where(rows, self._start_rows, torch.cat(parts, dim=-1)) if parts else self._start_rows
                    )
                    return torch.cat((shown, beside), dim=-1)
            return torch.cat((shown, self._start_rows), dim=-1)
        except (IndexError, RuntimeError) as error:
            raise ValueError(
                f"an obs of {self._name} comes with one action of {self.action_space} and one reward per row, all on "
                f"{self.device} and numbered from 0, got others ({error}); give what step() took and returned"
            ) from error

    def _in_a_graph(self, shown: Tensor, start: bool | Tensor, action: Tensor | None, reward: Tensor | None) -> Tensor:
        """Return what `encode` does, with nothing that is kept between calls or depends on values."""
        lead = shown.shape[:-1]
        parts = []
        if self.previous_action:
            parts.append(self._action_part(_given("action", action)))
        if self.start_flag:
            parts.append(self._going.expand(*lead, -1))
        if self.previous_reward:
            parts.append(_given("reward", reward).unsqueeze(-1).to(self._at_start.dtype))
        if not parts:
            return shown
        rows = torch.as_tensor(start).expand(lead).unsqueeze(-1)
        return torch.cat((shown, torch.where(rows, self._at_start.expand(*lead, -1), torch.cat(parts, dim=-1))), dim=-1)

    def _expand(self, shape: torch.Size, lead: torch.Size) -> None:
        """Make what stands beside an obs of this shape, [*lead, w]: the flags of rows that go on, all parts of rows that start."""
        self._shape = shape
        self._going_rows = self._going.expand(*lead, -1).contiguous()
        self._start_rows = self._at_start.expand(*lead, -1).contiguous()

    def _check_start(self, start: Any, lead: torch.Size) -> None:
        if isinstance(start, Tensor) and start.dtype == torch.bool and start.shape == lead:
            return
        arrived = f"{start.dtype} {list(start.shape)}" if isinstance(start, Tensor) else repr(start)
        raise ValueError(
            f"start must be bool {list(lead)}, one per row of the obs, got {arrived}; pass True for all rows"
        )

    def _beside(self, action: Tensor | None, reward: Tensor | None) -> list[Tensor]:
        """Return the parts beside the obs of rows that go on, [..., w] each."""
        parts = []
        if self.previous_action:
            parts.append(self._action_part(_given("action", action)))
        if self.start_flag:
            parts.append(self._going_rows)
        if self.previous_reward:
            parts.append(_given("reward", reward).unsqueeze(-1).to(self._at_start.dtype))
        return parts

    def to_json(self) -> dict[str, Any]:
        """Return the rules as a dict of plain values; the device is not a part of them."""
        spaces = {name: space_to_json(getattr(self, name)) for name in _SPACES}
        return spaces | {name: bool(getattr(self, name)) for name in _SWITCHES}

    @classmethod
    def from_json(cls, data: Any, *, device: str | torch.device = "cpu") -> InputRules:
        """Return the rules that `to_json` wrote. Raises ValueError for anything else."""
        if not isinstance(data, dict) or data.keys() != {*_SPACES, *_SWITCHES}:
            arrived = f"the keys {sorted(map(str, data))}" if isinstance(data, dict) else type(data).__name__
            raise ValueError(
                f"input rules are a dict of {', '.join([*_SPACES, *_SWITCHES])}, got {arrived}; pass what to_json gave"
            )
        for name in _SWITCHES:
            if not isinstance(data[name], bool):
                raise ValueError(f"{name} of input rules is true or false, got {data[name]!r}; pass what to_json gave")
        spaces = [space_from_json(data[name]) for name in _SPACES]
        return cls(*spaces, **{name: data[name] for name in _SWITCHES}, device=device)

    def __repr__(self) -> str:
        switches = "".join(f", {name}=True" for name in _SWITCHES if getattr(self, name))
        return f"{type(self).__name__}({self.observation_space}, {self.action_space}{switches})"

    def _obs_part(self, obs: Tensor) -> Tensor:
        """Return the columns of an obs that are no bytes, [..., w]."""
        return self._obs(obs)

    def _action_part(self, action: Tensor) -> Tensor:
        """Return an action as columns [..., w]."""
        return self._action(self._flat(action))

    def _flat(self, action: Tensor) -> Tensor:
        """Return an action with its own dimensions made one, as Encoding takes it."""
        if self._is_flat:
            return action
        return action.reshape(*action.shape[: action.ndim - self._action_ndim], *self._action.shape)

    def _flag_row(self, start: bool) -> Tensor:
        return torch.tensor([float(not start), float(start)], device=self.device)


def _given(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError(f"rows that do not start need the {name} that led to the obs, got None; pass {name}=")
    return value
