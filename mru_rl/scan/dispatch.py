"""`linear_scan`, the one entrance to every backend: checks what arrives, chooses who does it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mru_rl.scan import chunked, reference

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]
BACKENDS: dict[str, Scan] = {"chunked": chunked.linear_scan, "reference": reference.linear_scan}


def list_backends() -> list[str]:
    """Names that `linear_scan(..., backend=...)` takes, besides "auto"."""
    return sorted(BACKENDS)


def linear_scan(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Solve h[t] = a[t] * h[t-1] + b[t], reading h[t-1] as restart[t] where is_init[t].

    a, b: [B, T, H], T >= 1, real or complex; h0: [B, H]; is_init: bool [B, T], True on the first step of an episode;
    restart: [B, T, H], zero when None. Returns h [B, T, H] in b's dtype and the last state [B, H] in float32 or
    wider, always correct to carry on from. Gradients reach a, b, h0 and restart through both outputs; second
    derivatives, and torch.func's transforms, need the reference backend ("auto" takes it inside torch.func).

    A step with a = 1 and b = 0 keeps the state's bits, a step with a = 0 sets it to b, on every backend.
    """
    check_scan_inputs(a, b, h0, is_init, restart)
    return BACKENDS[resolve(backend)](a, b, h0, is_init, restart)


def resolve(backend: str) -> str:
    """The backend that does the work: a named one, or for "auto" the fastest that can."""
    if backend == "auto":
        return "reference" if _inside_torch_func() else "chunked"
    if backend not in BACKENDS:
        raise ValueError(f"scan backend is one of auto, {', '.join(list_backends())}; got {backend!r}")
    return backend


def _inside_torch_func() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def check_scan_inputs(a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None) -> None:
    """Raise for what no backend can take. Looks at shapes, dtypes and devices only, never at values."""
    if b.ndim != 3:
        raise ValueError(
            f"b must be [B, T, H], batch first and time second, but has shape {_shape(b)}; "
            "for a single step give it a time axis: b[:, None]"
        )
    B, T, H = b.shape
    if T == 0:
        raise ValueError(
            f"a scan needs at least one step, but b has shape {_shape(b)}; "
            "with no steps the last state is h0: skip the call"
        )
    if not (b.is_floating_point() or b.is_complex()):
        raise TypeError(f"b must be floating point or complex, but is {b.dtype}; call b.float()")
    state = torch.promote_types(b.dtype, torch.float32)
    shapes = {"a": (a, (B, T, H)), "h0": (h0, (B, H)), "is_init": (is_init, (B, T))}
    if restart is not None:
        shapes["restart"] = (restart, (B, T, H))
    for name, (x, shape) in shapes.items():
        if x.shape != shape:
            raise ValueError(
                f"{name} must have shape {list(shape)} to go with b of shape {_shape(b)}, "
                f"but has {_shape(x)}; {_NEXT[name]}"
            )
        if x.device != b.device:
            raise ValueError(f"{name} is on {x.device} but b is on {b.device}; move one of them with .to(device)")
    if a.dtype != b.dtype:
        raise TypeError(f"a and b must have the same dtype, but a is {a.dtype} and b is {b.dtype}; call a.to(b.dtype)")
    if is_init.dtype != torch.bool:
        raise TypeError(f"is_init must be bool, but is {is_init.dtype}; call is_init.bool()")
    for name, x in (("h0", h0), ("restart", restart)):
        if x is not None and x.dtype not in (b.dtype, state):
            raise TypeError(
                f"{name} must be {state} (the state's dtype) or b's {b.dtype}, but is {x.dtype}; "
                f"call {name}.to({state})"
            )


_NEXT = {
    "a": "expand it to b's shape",
    "h0": "call initial_state(batch_size) again when the number of envs changes",
    "is_init": "one flag per sequence and step, without a trailing axis: is_init.squeeze(-1)",
    "restart": "expand it to b's shape, or leave it out for zeros",
}


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
