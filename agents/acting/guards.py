"""Numbers that are not finite and memories that explode: named where they appear; then the run stops or does without them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from mru_rl.agents.acting.rollout import Rollout
from mru_rl.agents.console.errors import OptionError
from mru_rl.agents.nets.networks import PolicyOutput
from mru_rl.envs.base import NonFiniteError, Step

if TYPE_CHECKING:
    from mru_rl.agents.acting.loop import ActingLoop

STATE_BOUND = 1e6
"""A memory state larger than this has exploded: float32 is down to steps of 1/16 there, and finer writes are lost."""


class BadNumberError(OptionError, NonFiniteError):
    """A NonFiniteError whose message names options, as an OptionError does."""


class Guard:
    """Looks for numbers that are not finite while an agent acts and learns; decides what is done, and counts.

    stop: NonFiniteError is raised before any parameter has changed because of one. drop: rows of a rollout that hold one
    are left out of learning and begin a fresh episode, gradient steps that hold one are skipped.
    """

    def __init__(self, mode: Literal["stop", "drop"] = "stop") -> None:
        self.drops = mode == "drop"
        self.dropped_rows = self.skipped_steps = 0
        self.state_max = 0.0
        """Size of the largest number in any row's memory at the end of the last segment."""
        self._dropped: Tensor | None = None
        """bool [B], the rows of this segment that were dropped; None for none."""

    def ask(self, ask: Callable[[], PolicyOutput], loop: ActingLoop, step: int) -> PolicyOutput:
        """What the network says, once more in fresh episodes for rows where that is not finite.

        Raises NonFiniteError naming a parameter, or row, step and what was lost there.
        """
        out = ask()
        if all_finite(out.params):
            return out
        require_finite_parameters(loop.policy)
        bad = bad_rows(out.params)
        if bad_rows(loop.env.floats(loop.obs)).any():
            what = "observation values that are NaN or infinite"
        else:
            lost = "memory state" if bad_rows(out.state).any() else "outputs of the policy"
            what = f"{lost} no longer finite, after inputs of up to {loop.env.floats(loop.obs)[bad].abs().amax().item():.3g},"
        self._row(loop.env.id, what, bad, step)
        self.drop(bad, loop)
        out = ask()
        if not all_finite(out.params):
            raise NonFiniteError(
                f"env {loop.env.id}: {what} even in a fresh episode; mend the env or scale its observations"
            )
        return out

    def look_at(self, after: Step, loop: ActingLoop, step: int) -> tuple[Step, Tensor | None]:
        """What the envs returned, with zeros in rows (bool [B], None for none) that are to be dropped.

        Raises NonFiniteError naming row, step and quantity.
        """
        obs, reward, terminated, truncated, final_obs = after
        seen = loop.env.floats(obs)
        last = seen if final_obs is obs else loop.env.floats(final_obs)
        if all_finite(reward, seen) if final_obs is obs else all_finite(reward, seen, last):
            return after, None
        bad_obs = bad_rows(seen) | bad_rows(last)
        bad = bad_rows(reward) | bad_obs
        what = "observation" if bad_obs.any() else "reward"
        self._row(loop.env.id, f"{what} values that are NaN or infinite", bad, step)
        columns = bad.unsqueeze(1)
        blanked = Step(
            obs.masked_fill(columns, 0.0),
            reward.masked_fill(bad, 0.0),
            terminated & ~bad,
            truncated & ~bad,
            final_obs.masked_fill(columns, 0.0),
        )
        return blanked, bad

    def drop(self, bad: Tensor, loop: ActingLoop) -> None:
        """Begin fresh episodes in rows (bool [B]) that are left out of this segment."""
        self._dropped = bad if self._dropped is None else self._dropped | bad
        fresh = loop.env.reset_rows(bad)
        hopeless = bad_rows(loop.env.floats(fresh))
        if hopeless.any():
            raise NonFiniteError(
                f"env {loop.env.id}: observation values that are NaN or infinite in row "
                f"{int(bad.nonzero().flatten()[hopeless][0])} even at the start of a fresh episode; mend the env"
            )
        loop.begin_again(bad, fresh)

    def finish(self, rollout: Rollout, loop: ActingLoop) -> Rollout:
        """The rollout of a segment, rows that were dropped marked in it; the memory at its end is looked at first."""
        sizes = loop.state.abs().amax(dim=(1, 2))
        self.state_max = sizes.max().item()
        if not self.state_max <= STATE_BOUND:
            exploded = ~(sizes <= STATE_BOUND)
            what = f"the memory state has grown to {self.state_max:.3g}, beyond {STATE_BOUND:.0e},"
            self._row(loop.env.id, what, exploded, rollout.data.shape[1] - 1)
            self.drop(exploded, loop)
        if self._dropped is not None:
            self.dropped_rows += int(self._dropped.sum())
            rollout.data["finite_rows"] = ~self._dropped.unsqueeze(1).expand(rollout.data.batch_size)
            self._dropped = None
        return rollout

    def _row(self, env_id: str, what: str, bad: Tensor, step: int) -> None:
        """Rows (bool [B]) where a segment's step showed a bad number. Raises NonFiniteError naming the first, unless they
        are to be dropped."""
        if not self.drops:
            raise BadNumberError(
                f"env {env_id}: {what} in row {int(bad.nonzero()[0])}, step {step} of the segment; mend the env or clip what it "
                "returns, or have such rows left out with {on_nonfinite} drop"
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
            raise BadNumberError(
                f"{_first_bad(parts) or _bad_gradient(policy)}; no parameter was changed by it: lower {{learning_rate}}, clip the "
                "env's rewards and observations, or have such steps skipped with {on_nonfinite} drop"
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
            raise BadNumberError(
                f"parameter {name} is no longer finite after an update; lower {{learning_rate}} or {{max_grad_norm}}, and go on "
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
