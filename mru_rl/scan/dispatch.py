"""`linear_scan`, the one entrance to every backend: checks the inputs and chooses the backend."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from mru_rl.scan import chunked, ops, reference

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, "Tensor | None"], tuple[Tensor, Tensor]]
BACKENDS = ("chunked", "reference", "triton")
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it once, when it is imported
_STATE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}  # if it is wider than the inputs
_SEGMENT = {"cpu": 2**18, "cuda": 2**24}  # numbers recomputed at a time: few for the cache, many to fill a GPU


def list_backends(device: torch.device | str | None = None) -> list[str]:
    """Names that `linear_scan(..., backend=...)` takes, besides "auto"; with a device, those that run there."""
    if device is None:
        return sorted(BACKENDS)
    return [name for name in sorted(BACKENDS) if name != "triton" or not _why_no_triton(torch.device(device))]


def linear_scan(
    a: Tensor,
    b: Tensor,
    h0: Tensor,
    is_init: Tensor,
    restart: Tensor | None = None,
    *,
    backend: str = "auto",
    recompute: bool | int = False,
) -> tuple[Tensor, Tensor]:
    """Solve h[t] = a[t] * h[t-1] + b[t], reading h[t-1] as restart[t] where is_init[t].

    a, b: [B, T, H], T >= 1, real or complex; h0: [B, H]; is_init: bool [B, T], True on the first step of an episode;
    restart: [B, T, H] or None for zeros. Returns h [B, T, H] in b's dtype and the last state [B, H] in float32 or
    wider, always correct to carry on from. Gradients reach a, b, h0 and restart through both outputs; second
    derivatives and batched gradients (is_grads_batched) need the reference backend. Inside torch.func "auto" takes
    it; under vmap the others work too.

    If |a| > 1 for many steps, the chunked backend can lose digits that the reference, step by step, keeps.
    A step with a = 1 and b = 0 keeps the state's bits, a step with a = 0 sets it to b, on every backend.

    recompute: keep a, b and the states at some steps for the backward pass instead of h, and recompute h segment by
    segment (a number: the steps of a segment). Saves memory if nothing else keeps h, and working memory if T is very
    long. The reference backend keeps every step.

    Raises ValueError or TypeError if the inputs do not fit each other or the backend, RuntimeError if backend is
    "triton" and it cannot run there.
    """
    check_scan_inputs(a, b, h0, is_init, restart)
    if not isinstance(recompute, int) or recompute < 0:
        raise ValueError(
            f"recompute must be True, False or the number of steps of a segment, got {recompute!r}; True chooses by size"
        )
    if recompute and backend == "reference":
        raise ValueError("the reference backend cannot recompute; take backend='auto' or leave recompute out")
    name = resolve(backend, b.device)
    if name == "reference":
        return reference.linear_scan(a, b, h0, is_init, restart)
    if name == "chunked" and not recompute and not _operator_needed(b):
        return chunked.linear_scan(a, b, h0, is_init, restart)
    segment = 0
    if recompute:
        numbers = _SEGMENT.get(b.device.type, _SEGMENT["cuda"])
        segment = max(numbers // (b.shape[0] * b.shape[2] + 1), 128) if recompute is True else int(recompute)
    return ops.linear_scan(a, b, h0, is_init, restart, backend=backend, segment=segment)


def resolve(backend: str, device: torch.device | str = "cpu") -> str:
    """The backend that runs on a device: the named one, or for "auto" the fastest."""
    if backend == "auto":
        traced_otherwise = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
        if _inside_torch_func() and not traced_otherwise:  # torch.export works inside a layer of torch.func of its own
            return "reference"
        return ops.fastest(torch.device(device))
    if backend not in BACKENDS:
        raise ValueError(f"scan backend must be one of auto, {', '.join(list_backends())}; got {backend!r}")
    if backend == "triton" and (why := _why_no_triton(torch.device(device))):
        raise RuntimeError(why)
    return backend


def _why_no_triton(device: torch.device) -> str:
    if not ops.HAS_TRITON:
        return (
            "scan backend 'triton' needs the package triton, which is not installed; "
            "install it (pip install triton, on Linux) or take backend='auto'"
        )
    if device.type != "cuda" and not (_INTERPRETED and device.type == "cpu"):
        return (
            f"scan backend 'triton' runs on a GPU, but b is on {device}; move the tensors with .to('cuda') or take "
            "backend='auto' (to test its kernels on a CPU, slowly, set TRITON_INTERPRET=1 before Python starts)"
        )
    return ""


def _operator_needed(b: Tensor) -> bool:
    """True if the call is traced, by torch.compile, torch.export or a kind of tensor that records what is done to it."""
    return (
        torch.compiler.is_compiling()
        or type(b) not in (Tensor, torch.nn.Parameter)
        or b.device.type == "meta"
        or _inside_torch_func()
    )


@torch.compiler.assume_constant_result  # torch.compile asks once, while it traces
def _inside_torch_func() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def check_scan_inputs(a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None) -> None:
    """Raise ValueError or TypeError for inputs that no backend can take. Looks at types, shapes, dtypes and devices only, never at values."""
    for name, x in (("a", a), ("b", b), ("h0", h0), ("is_init", is_init), ("restart", restart)):
        if not isinstance(x, Tensor) and (x is not None or name != "restart"):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}; call torch.as_tensor({name})")
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
    state = _STATE.get(b.dtype, b.dtype)
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
    for name, x in (("h0", h0), *([] if restart is None else [("restart", restart)])):
        if x.dtype not in (b.dtype, state):
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
