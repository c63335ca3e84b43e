"""Experience for replay: exploration rates, and rollouts cut into sequences that never cross episodes."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from mru_rl.envs.frames import Frames


def epsilon_ladder(epsilon_max: float, epsilon_min: float, num_envs: int) -> Tensor:
    """Exploration rates [num_envs], from epsilon_max to epsilon_min, evenly spaced in the logarithm.

    As the actors of Horgan et al. 2018, arXiv:1803.00933, section 4.1, with the ends given instead of the exponents.
    """
    if epsilon_min == 0 or epsilon_max == 0:
        return torch.linspace(epsilon_max, epsilon_min, num_envs)
    return torch.logspace(torch.tensor(epsilon_max).log10().item(), torch.tensor(epsilon_min).log10().item(), num_envs)


class SequenceCutter:
    """Cuts rollouts of B envs into sequences of `burn_in + length` steps, each within one episode.

    Learned parts (the last `length` steps) begin at the episode's first step and follow each other every
    `length - overlap` steps; a last one ends with the episode. Where the episode is younger than a sequence the steps
    before its start are padding: zeros that are not `valid`, which is_init on the first step keeps out of the memory.
    frames: how the observations of rollouts are stacked. Each frame is then held once, and `stacked` makes the stacks again.
    """

    def __init__(self, length: int, burn_in: int, overlap: int, frames: Frames | None = None) -> None:
        self.length, self.burn_in, self.stride = length, burn_in, length - overlap
        self.frames = frames
        self.steps = burn_in + length
        self._tail: TensorDict | None = None
        """_KEPT of the last steps - 1 steps of every env; "age" is how many steps of its episode came before each."""

    def cut(self, data: TensorDict, finite_rows: Tensor | None = None) -> TensorDict:
        """Sequences [N] that ended in a rollout [B, T], which follows the one before it; in finite_rows, bool [B], alone.

        observation [N, steps + 1, D], the last one what the last action led to; action, reward, valid [N, steps];
        is_init [N, steps + 1]; terminated [N]; state [N, layers, S], the memory before the first step. With frames also
        older [N, count - 1, size], those before the first step.
        """
        age = self._ages(data["is_init"])
        after = data["next"]
        data = data.select(*_KEPT, strict=False).set("age", age)
        lived = age + 1
        ends = after["done"] | ((lived >= self.length) & ((lived - self.length) % self.stride == 0))
        if finite_rows is not None:
            ends = ends & finite_rows.unsqueeze(1)
        row, last = ends.nonzero().unbind(1)
        after = after.select("observation", "terminated")[row, last]
        if self.frames is not None:
            for shown in (data, after):
                shown["observation"] = self.frames.newest(shown["observation"])
        if self._tail is not None:
            data = torch.cat([self._tail, data], dim=1)
            last = last + self._tail.shape[1]
        kept = max(self.steps - 1, 1)  # one at least, for its age
        kept += 0 if self.frames is None else self.frames.count - 1
        self._tail = data[:, max(data.shape[1] - kept, 0) :].clone()
        return self._gather(data, row, last, after)

    def _ages(self, is_init: Tensor) -> Tensor:
        """How many steps of its episode came before each step, int64 [B, T]."""
        step = torch.arange(is_init.shape[1], device=is_init.device).expand_as(is_init)
        carried = -1 if self._tail is None else self._tail["age"][:, -1:]
        begun = torch.where(is_init, step, -1).cummax(1).values  # step of the last start in this rollout
        return torch.where(begun >= 0, step - begun, carried + 1 + step)

    def _gather(self, data: TensorDict, row: Tensor, last: Tensor, after: TensorDict) -> TensorDict:
        offset = torch.arange(-self.steps + 1, 1, device=last.device)
        step = last[:, None] + offset
        valid = data["age"][row, last][:, None] + offset >= 0
        step = torch.where(valid, step, last[:, None])  # padding reads a step that is there, and is blanked below
        chosen = data.exclude("state")[row[:, None], step]
        older = {}
        if self.frames is not None:
            back = torch.arange(1 - self.frames.count, 0, device=last.device)
            begun = last - data["age"][row, last]  # where the episode did
            before = torch.maximum(step[:, :1] + back, begun[:, None].clamp(min=0))
            found = self.frames.of(data["observation"][row[:, None], before])
            older = {"older": _blank(found, valid[:, :1].expand_as(before))}
        return TensorDict(
            {
                **older,
                "observation": torch.cat(
                    [_blank(chosen["observation"], valid), after["observation"].unsqueeze(1)], dim=1
                ),
                "action": _blank(chosen["action"], valid),
                "reward": _blank(chosen["next", "reward"], valid),
                "valid": valid,
                "is_init": torch.cat([chosen["is_init"] & valid, torch.zeros_like(valid[:, :1])], dim=1),
                "terminated": after["terminated"],
                "state": _blank(data["state"][row, step[:, 0]], valid[:, 0]),
            },
            batch_size=row.shape,
        )

    def state_dict(self) -> dict[str, Any]:
        """What the next cut needs of the rollouts before it."""
        return {"tail": None if self._tail is None else self._tail.flatten_keys().to_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a state_dict."""
        tail = saved["tail"]
        if tail is not None:
            tail = TensorDict(tail, batch_size=tail["is_init"].shape).unflatten_keys().select(*_KEPT)
        self._tail = tail


def stacked(sequences: TensorDict, frames: Frames) -> TensorDict:
    """Sequences [N] as they would be if whole stacks had been stored, from the frames that a SequenceCutter held once."""
    obs, is_init = sequences["observation"], sequences["is_init"]
    before = frames.count - 1
    shown = torch.cat([sequences["older"], frames.of(obs)], dim=1)  # [N, before + steps + 1, size]
    step = torch.arange(is_init.shape[1], device=obs.device)
    begun = torch.where(is_init, step, -before).cummax(1).values
    back = torch.arange(-before, 0, device=obs.device)
    places = torch.maximum(step[:, None] + back, begun[..., None]) + before
    rows = torch.arange(len(obs), device=obs.device)[:, None, None]
    return sequences.exclude("older").set("observation", frames(obs, shown[rows, places]))


_KEPT = ("observation", "action", "is_init", "state", ("next", "reward"), "age")


def _blank(values: Tensor, valid: Tensor) -> Tensor:
    """Zeros where not valid; values [..., *more], valid bool [...]."""
    return torch.where(valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim)), values, torch.zeros_like(values))
