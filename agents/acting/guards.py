"""Numbers that are not finite and memories that explode: named where they appear; then the run stops or does without them."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from mru_rl.envs.base import NonFiniteError

STATE_BOUND = 1e6
"""A memory state larger than this has exploded: float32 is down to steps of 1/16 there, and finer writes are lost."""


class Guard:
    """What is done about a bad number, and how often it was.

    stop: NonFiniteError is raised before any parameter has changed because of it. drop: rows of a rollout that hold one
    are left out of learning and begin a fresh episode, gradient steps that hold one are skipped; both are counted.
    """

    def __init__(self, policy: Literal["stop", "drop"] = "stop") -> None:
        self.drops = policy == "drop"
        self.dropped_rows = self.skipped_steps = 0
        self.state_max = 0.0
        """Size of the largest number in any row's memory at the end of the last segment."""

    def row(self, env_id: str, what: str, bad: Tensor, step: int) -> None:
        """Rows (bool [B]) where a segment's step showed a bad number. Raises NonFiniteError naming the first, unless they
        are to be dropped."""
        if not self.drops:
            raise NonFiniteError(
                f"env {env_id}: {what} in row {int(bad.nonzero()[0])}, step {step} of the segment; mend the env or clip what it "
                "returns, or have such rows left out with --on-nonfinite drop"
            )

    def clip(self, policy: nn.Module, max_norm: float, parts: dict[str, Tensor]) -> Tensor | None:
        """Scale a network's gradients down to max_norm; their norm before that, None where the step is to be skipped.

        parts: what the loss was made of, [rows, steps] each. Raises NonFiniteError naming what was not finite first, unless
        such steps are to be skipped.
        """
        norm = nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
        if norm.isfinite():
            nn.utils.clip_grads_with_norm_(policy.parameters(), max_norm, norm)
            return norm
        if not self.drops:
            raise NonFiniteError(
                f"{_first_bad(parts) or _bad_gradient(policy)}; no parameter was changed by it: lower --learning-rate, clip the "
                "env's rewards and observations, or have such steps skipped with --on-nonfinite drop"
            )
        self.skipped_steps += 1
        return None

    def state_dict(self) -> dict[str, int]:
        return {"dropped_rows": self.dropped_rows, "skipped_steps": self.skipped_steps}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        self.dropped_rows, self.skipped_steps = saved["dropped_rows"], saved["skipped_steps"]


def all_finite(*tensors: Tensor) -> bool:
    """Whether all numbers are finite. A sum is the quickest look there is; one that overflows is looked at again."""
    if math.isfinite(sum(tensor.sum().item() for tensor in tensors)):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def bad_rows(values: Tensor) -> Tensor:
    """bool [B], the rows of values [B, ...] with a number that is not finite."""
    return ~values.reshape(values.shape[0], -1).isfinite().all(1)


def require_finite_parameters(policy: nn.Module) -> None:
    """Raises NonFiniteError naming the first parameter with a number that is not finite."""
    parameters = dict(policy.named_parameters())
    if nn.utils.get_total_norm(parameters.values()).isfinite():
        return
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise NonFiniteError(
                f"parameter {name} is no longer finite after an update; lower --learning-rate or --max-grad-norm, and go on "
                "from a checkpoint"
            )


def _first_bad(parts: dict[str, Tensor]) -> str | None:
    """The first of the parts [rows, steps] with a number that is not finite, and where; None where all are finite."""
    for what, values in parts.items():
        bad = ~values.isfinite()
        if bad.any():
            row, step = bad.nonzero()[0].tolist()
            return f"{what} is {values[row, step].item()} in row {row} of the minibatch, step {step}"
    return None


def _bad_gradient(policy: nn.Module) -> str:
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name} is not finite"
    return "the norm of the gradient is not finite"
