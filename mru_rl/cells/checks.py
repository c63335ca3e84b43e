"""Checks of what a cell or a core is given: messages say the rule, what arrived and the next move."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor


def check_call(
    what: tuple[Literal["core", "cell"], str],
    x: Tensor,
    state: Tensor,
    is_init: Tensor,
    restart: Tensor | None = None,
    *,
    steps: bool,
    input_size: int,
    state_shape: tuple[int, ...],
    parameter: Tensor,
) -> None:
    """Raise if inputs do not fit; looks at types, shapes, dtypes and devices only, never at values.

    what: kind and name of what is called, for messages. steps: x is a sequence [B, T, D], else one step [B, D].
    state_shape: of one row's state. parameter: one of the module's, whose dtype and device decide.
    Raises ValueError, and TypeError if an argument is not a tensor.
    """
    kind, name = what
    check_tensor("x", x)
    if not (isinstance(state, Tensor) and isinstance(is_init, Tensor)):
        raise TypeError(
            f"state and is_init must be tensors, got {type(state).__name__} and {type(is_init).__name__}; start from "
            f"{kind}.initial_state(batch_size), and give zeros of dtype torch.bool as is_init if no episode starts"
        )
    shape, dtype, device = x.shape, parameter.dtype, parameter.device
    if len(shape) != (3 if steps else 2) or shape[-1] != input_size:
        other = f"use {kind}.step for a single step" if steps else f"call the {kind} itself for a sequence"
        raise ValueError(
            f"x must be {'[B, T, input_size]' if steps else '[B, input_size]'} with input_size {input_size}, got "
            f"{list(shape)}; {other}, and build a new {kind} for inputs of another width"
        )
    if steps and shape[1] == 0:
        raise ValueError(
            f"x must have at least one step, got {list(shape)}; without steps the state stays the same: skip the call"
        )
    if x.dtype != dtype and not torch.is_autocast_enabled(device.type):
        raise ValueError(f"x must be {dtype}, as the {kind}'s parameters are, got {x.dtype}; call x.to({dtype})")
    if steps and shape[0] != shape[1] and (is_init.shape == (shape[1], shape[0]) or state.shape[:1] == (shape[1],)):
        raise ValueError(
            f"batch first: x is [B, T, D], got {list(shape)} beside state {list(state.shape)} and is_init "
            f"{list(is_init.shape)}; if your data is [T, B, D], call x.transpose(0, 1), and likewise is_init"
        )
    wide = dtype if dtype.itemsize >= 4 else torch.float32
    if state.shape != (shape[0], *state_shape) or state.dtype != wide:
        _refuse_state("state", state, (shape[0], *state_shape), wide, kind, name)
    if is_init.dtype != torch.bool or is_init.shape != shape[:-1]:
        raise ValueError(
            f"is_init must be bool {list(shape[:-1])}, True on an episode's first step, got {is_init.dtype} "
            f"{list(is_init.shape)}; call is_init.bool(), without a trailing axis"
        )
    if restart is not None:
        if not isinstance(restart, Tensor):
            raise TypeError(f"restart must be a tensor, or None for zeros, got {type(restart).__name__}; leave it out")
        if restart.shape != (*shape[:-1], *state_shape) or restart.dtype != wide:
            _refuse_state("restart", restart, (*shape[:-1], *state_shape), wide, kind, name)
    if not (x.device == state.device == is_init.device == device) or (restart is not None and restart.device != device):
        found = ", ".join(
            f"{label} on {value.device}"
            for label, value in (("x", x), ("state", state), ("is_init", is_init), ("restart", restart))
            if value is not None
        )
        raise ValueError(
            f"the {kind}'s parameters are on {device}, and its inputs must be too; got {found}; "
            f"call .to({str(device)!r}) on the tensors or move the {kind}"
        )


def _refuse_state(
    label: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, kind: str, name: str
) -> NoReturn:
    layout = ["batch", *(["time"] if label == "restart" else []), *(["layers"] if kind == "core" else []), "S"]
    if value.shape == shape:
        move = f"call {label}.to({dtype})"
    elif label == "restart":
        move = "give one state per step (those where is_init is True are read), or leave it out for zeros"
    else:
        move = f"call {kind}.initial_state(batch_size) when the number of envs or the {kind} changes"
    raise ValueError(
        f"{label} must be {list(shape)} ({', '.join(layout)}) and {dtype} for {kind} {name!r}, got {list(value.shape)} "
        f"and {value.dtype}; {move}"
    )


def step_fits(x: Tensor, state: Tensor, is_init: Tensor, input_size: int, state_shape: tuple[int, ...]) -> bool:
    """The quick look before a step, a microsecond: True if all is well, in float32. If not, `check_call` says what."""
    if not (isinstance(x, Tensor) and isinstance(state, Tensor) and isinstance(is_init, Tensor)):
        return False
    shape = x.shape
    return (
        len(shape) == 2
        and shape[1] == input_size
        and state.shape == (shape[0], *state_shape)
        and is_init.shape == (shape[0],)
        and is_init.dtype == torch.bool
        and x.dtype == state.dtype == torch.float32
        and x.device == state.device == is_init.device
    )


def check_tensor(name: str, value: Any) -> None:
    """Raise TypeError if value is not a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; call torch.as_tensor({name})")


def check_batch_size(batch_size: Any) -> None:
    """Raise ValueError if batch_size is not a whole number of rows."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral | torch.SymInt) or batch_size < 0:
        raise ValueError(
            f"batch_size must be a whole number of rows, 0 or more, got {batch_size!r}; it is the number of envs"
        )


def check_size(name: str, value: Any) -> None:
    """Raise ValueError if value is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless value is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_horizon(horizon: Any) -> None:
    """Raise ValueError if horizon is not a number of steps, at least 1."""
    if isinstance(horizon, bool) or not isinstance(horizon, int | float) or not 1 <= horizon < float("inf"):
        raise ValueError(f"a horizon is the number of steps a unit should hold, at least 1, got {horizon!r}")


def check_width(x: Tensor, width: int) -> None:
    """Raise TypeError or ValueError if x is not a tensor [..., width]."""
    if not isinstance(x, Tensor):
        raise TypeError(f"expected a tensor [..., {width}], got {type(x).__name__}; call torch.as_tensor")
    if x.shape[-1:] != (width,):
        raise ValueError(
            f"expected {width} numbers in the last dimension, got {list(x.shape)}; was it made for another cell?"
        )


def check_warm_up(x: Tensor, horizon: float, input_size: int) -> None:
    """Raise if horizon is not a number of steps, or no threshold can be set from inputs x [..., input_size]."""
    check_horizon(horizon)
    check_width(x, input_size)
    if x.numel() == 0 or not x.isfinite().all():
        raise ValueError(
            f"warming up needs finite inputs of one step at least, got {list(x.shape)}, of which "
            f"{int((~x.isfinite()).sum())} numbers are not finite; give observations from the envs"
        )
