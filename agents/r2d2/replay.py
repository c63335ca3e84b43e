"""Prioritized replay of sequences, on torchrl's buffer and storage."""

from __future__ import annotations

import errno
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler

from mru_rl.agents.console.errors import require

logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports every storage it lays out


class ProportionalSampler(Sampler):
    """Draws slots in proportion to priority ** exponent, Schaul et al. 2016, arXiv:1511.05952, section 3.3.

    Written here: torchrl's PrioritizedSampler needs a compiled extension, which 0.14.1 does not load beside torch 2.13,
    and its trees do not go into a checkpoint that runs no code. A draw costs one pass over all priorities.
    """

    def __init__(self, capacity: int, priority_exponent: float, importance_exponent: float) -> None:
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        self.priority = torch.zeros(capacity, dtype=torch.float64)
        self.greatest = 1.0

    def extend(self, index: Tensor) -> None:
        """New sequences have the greatest priority seen so far, so that each is soon replayed."""
        self.priority[index] = self.greatest

    def update_priority(self, index: Any, priority: Any, *, storage: Any = None) -> None:
        self.priority[index] = priority.to(self.priority)
        self.greatest = max(self.greatest, priority.max().item())

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Slots [batch_size] and their importance weights (N P)^-importance_exponent over the greatest among them."""
        mass = self.priority[: len(storage)] ** self.priority_exponent
        below = mass.cumsum(0)
        drawn = torch.rand(batch_size, dtype=torch.float64, generator=self._rng) * below[-1]
        slots = torch.searchsorted(below, drawn, right=True).clamp(max=len(storage) - 1)
        weight = (mass[slots] / mass[slots].min()) ** -self.importance_exponent
        return slots, {"priority_weight": weight.float()}

    def state_dict(self) -> dict[str, Any]:
        return {"priority": self.priority, "greatest": self.greatest}

    def load_state_dict(self, state_dict: dict[str, Any], count: int, oldest: int = 0) -> None:
        """The first `count` priorities of a state_dict, that of the slot `oldest` first."""
        self.priority.zero_()
        self.priority[:count] = state_dict["priority"][:count].roll(-oldest)
        self.greatest = state_dict["greatest"]

    def _empty(self) -> None:
        self.priority.zero_()

    def dumps(self, path: Any) -> None:
        raise NotImplementedError("replay goes into checkpoints through state_dict")

    loads = dumps


class SequenceReplay:
    """Keeps the newest sequences and draws batches of them by priority.

    What it takes grows as it fills, twofold each time, up to capacity; the priorities have all their slots from the start.
    folder: keeps them in memory-mapped files there.
    """

    def __init__(
        self,
        capacity: int,
        *,
        priority_exponent: float,
        importance_exponent: float,
        generator: torch.Generator,
        folder: Path | None = None,
    ) -> None:
        self.capacity, self.folder, self.generator = capacity, folder, generator
        self.sampler = ProportionalSampler(capacity, priority_exponent, importance_exponent)
        self._lay_out(capacity)

    def _lay_out(self, slots: int) -> None:
        """An empty buffer of so many slots, which takes nothing before its first sequence."""
        storage = (
            LazyTensorStorage(slots)
            if self.folder is None
            else LazyMemmapStorage(self.capacity, scratch_dir=str(self.folder), existsok=True)
        )
        self._buffer = ReplayBuffer(storage=storage, sampler=self.sampler)
        self._buffer.set_rng(self.generator)
        self._reserved = 0

    def __len__(self) -> int:
        return len(self._buffer)

    def extend(self, sequences: TensorDict) -> None:
        """Add sequences [N]; where replay is full they replace the oldest."""
        if len(sequences):
            self._add(sequences[-self.capacity :])

    def _add(self, sequences: TensorDict) -> None:
        slots = min(len(self) + len(sequences), self.capacity)
        try:
            if self.folder is None or len(self):
                self._reserve(slots)
            self._buffer.extend(sequences)
            self._reserve(slots)  # files are there from the first sequences on
        except RuntimeError as error:  # torch's only word for a file it cannot make, or memory it does not get
            if not re.search("unable to resize file|can't allocate memory", str(error)):
                raise
            number = errno.ENOMEM if self.folder is None else errno.ENOSPC
            raise OSError(number, f"no room for replay ({error})", str(self.folder or "memory")) from error

    def _reserve(self, slots: int) -> None:
        """Take what so many sequences need, or more: the capacity, halved as often as they fit."""
        if slots <= self._reserved:
            return
        reserved = self.capacity
        while reserved // 2 >= slots:
            reserved //= 2
        if self.folder is not None:
            preallocate(self.folder, reserved / self.capacity)
        else:
            count, before = len(self), self._buffer
            written = before.writer.state_dict()["_write_count"]
            self._lay_out(reserved)
            if count:  # not by extend, which would give them new priorities
                self._buffer.storage.set(slice(0, count), before[:count])
            self._buffer.writer.load_state_dict({"_cursor": count, "_write_count": written})
        self._reserved = reserved

    def sample(self, batch: int) -> tuple[TensorDict, Tensor, Tensor]:
        """Sequences [batch], their slots, and importance weights in (0, 1] [batch]."""
        drawn, info = self._buffer.sample(batch, return_info=True)
        return drawn, info["index"], info["priority_weight"]

    def column(self, name: str) -> Tensor:
        """What all sequences hold under a name, by slot."""
        return self._buffer[: len(self)][name]

    def update_priority(self, slots: Tensor, priority: Tensor) -> None:
        """Give the sequences in these slots new priorities, floats [N] not below 0."""
        self.sampler.update_priority(slots.cpu(), priority.cpu())

    def state_dict(self) -> dict[str, Any]:
        """All sequences by slot, their priorities, where the next one goes and the state of the generator.

        The sequences are not copied: save them, or load them elsewhere, before replay goes on.
        """
        count = len(self)
        held = self._buffer[:count].flatten_keys().to_dict() if count else {}
        return {
            # through numpy, so that what lies behind a tensor, and is saved with it, ends with the last sequence
            "sequences": {name: torch.from_numpy(column.numpy()) for name, column in held.items()},
            "count": count,
            "sampler": self.sampler.state_dict(),
            "writer": self._buffer.writer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, saved: dict[str, Any], like: TensorDict) -> None:
        """Go on from a state_dict.

        like: sequences [any] of the run that loads it. Raises ValueError where the saved ones have other shapes, as
        those of a core of another width, and where there are more than replay keeps. One that keeps more than the saved
        one did goes on from the oldest at slot 0.
        """
        count, kept = saved["count"], len(saved["sampler"]["priority"])
        require(
            count <= self.capacity,
            f"replay keeps {self.capacity} sequences, the saved one holds {count}; set {{replay_sequences}} to what it was",
        )
        expected = like.flatten_keys()
        for name in sorted({*expected.keys(), *saved["sequences"]} if count else ()):
            here = expected.get(name, None)
            there = saved["sequences"].get(name)
            shapes = [None if side is None else (list(side.shape[1:]), side.dtype) for side in (here, there)]
            require(
                shapes[0] == shapes[1],
                f"{name} of replayed sequences is {_said(shapes[0])} in this run and {_said(shapes[1])} in the saved replay: "
                "another core, sequence length or env filled it; resume with the config.json it was saved with, or drop it "
                "with save_replay=False (--no-save-replay)",
            )
        cursor = saved["writer"]["_cursor"] if count == kept else count % self.capacity
        oldest = 0
        if count == kept != self.capacity:
            oldest, cursor = cursor, count
        self._lay_out(self.capacity)
        if count:
            sequences = {name: v.roll(-oldest, 0) if oldest else v for name, v in saved["sequences"].items()}
            self._add(TensorDict(sequences, batch_size=[count]).unflatten_keys())
        self.sampler.load_state_dict(saved["sampler"], count, oldest)
        self._buffer.writer.load_state_dict(saved["writer"] | {"_cursor": cursor})
        self.generator.set_state(saved["generator"])


def bytes_per_sequence(sequences: TensorDict) -> int:
    """Bytes that one of these sequences [N] takes in replay."""
    return sum(v[:1].numel() * v.element_size() for v in sequences.flatten_keys().values())


def _said(shape: tuple[list[int], torch.dtype] | None) -> str:
    return "absent" if shape is None else f"{str(shape[1]).removeprefix('torch.')} {shape[0]}"


def preallocate(folder: Path, share: float = 1.0) -> None:
    """Have the disk hold the first part of each file in a folder. Raises OSError where it cannot: a hole that is written to
    would kill the process (SIGBUS) when the disk is full later."""
    if not hasattr(os, "posix_fallocate"):
        return
    for path in folder.rglob("*.memmap"):
        with path.open("rb+") as file:
            size = path.stat().st_size
            if size:
                try:
                    os.posix_fallocate(file.fileno(), 0, min(math.ceil(size * share), size))
                except OSError as error:
                    raise OSError(error.errno, f"no room for replay ({error.strerror})", str(folder)) from error
