"""The scan as an operator of torch, `mru_rl::linear_scan`: opaque to torch.compile and torch.export, known to vmap.

`dispatch.linear_scan` uses it if the call is traced, for the Triton kernels, and for recomputation; otherwise it calls the
chunked backend directly, since an operator costs some 40 microseconds a call. A program that loads an exported model
imports mru_rl.scan.ops first, which registers the operator.

backend: "chunked", "triton" or "auto", by device when it runs. segment: 0 keeps h for the backward pass; otherwise the
states at every segment-th step are kept, and the backward pass recomputes the h of one segment after the other.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mru_rl.scan import chunked
from mru_rl.scan.first_order import first_order

HAS_TRITON = importlib.util.find_spec("triton") is not None

torch.library.define(
    "mru_rl::linear_scan",
    "(Tensor a, Tensor b, Tensor h0, Tensor is_init, Tensor? restart, str backend, SymInt segment) "
    "-> (Tensor h, Tensor h_last, Tensor starts)",
)
torch.library.define(
    "mru_rl::linear_scan_backward",
    "(Tensor? grad_h, Tensor? grad_last, Tensor a, Tensor? b, Tensor? h, Tensor h0, Tensor starts, Tensor is_init, "
    "Tensor? restart, str backend, SymInt segment) -> (Tensor, Tensor, Tensor, Tensor)",
)


def linear_scan(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None, *, backend: str, segment: int = 0
) -> tuple[Tensor, Tensor]:
    """Arguments and results as in `reference.linear_scan`. Gradients of first order only."""
    inside = not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    scan = _InsideTorchFunc.apply if inside else torch.ops.mru_rl.linear_scan
    h, h_last, _ = scan(a, b, h0, is_init, restart, backend, segment)
    return h, h_last


def fastest(device: torch.device) -> str:
    """The backend that "auto" stands for on a device."""
    return "triton" if device.type == "cuda" and HAS_TRITON else "chunked"


def chosen(backend: str, device: torch.device) -> str:
    """The backend that runs: the named one, or for "auto" the fastest."""
    return fastest(device) if backend == "auto" else backend


def _on_device(backend: str, device: torch.device) -> ModuleType:
    """The module whose `forward` and `backward` run."""
    if chosen(backend, device) == "triton":
        from mru_rl.scan import triton_kernels

        return triton_kernels
    return chunked


@torch.library.impl("mru_rl::linear_scan", "default")
def _forward(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None, backend: str, segment: int
) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, H), wide, module = b.shape, torch.promote_types(b.dtype, torch.float32), _on_device(backend, b.device)
    if segment == 0 or T == 0:
        h, h_last = module.forward(a, b, h0, is_init, restart)
        return h, h_last, h_last.new_empty((0, B, H))
    h = torch.empty((B, T, H), dtype=b.dtype, device=b.device)
    starts = torch.empty((-(-T // segment), B, H), dtype=wide, device=b.device)
    state = h0.to(wide)
    for start, at in zip(starts, _segments(T, segment), strict=True):
        start.copy_(state)
        h[:, at], state = module.forward(a[:, at], b[:, at], state, is_init[:, at], _cut(restart, at))
    return h, state, starts


@torch.library.impl("mru_rl::linear_scan_backward", "default")
def _backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    b: Tensor | None,
    h: Tensor | None,
    h0: Tensor,
    starts: Tensor,
    is_init: Tensor,
    restart: Tensor | None,
    backend: str,
    segment: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    module, T = _on_device(backend, a.device), a.shape[1]
    if h is not None:
        grad_a, grad_b, grad_h0, grad_restart = module.backward(grad_h, grad_last, a, h, h0, is_init, restart)
        return grad_a, grad_b, grad_h0, grad_h0.new_empty(0) if grad_restart is None else grad_restart
    assert b is not None
    grad_a, grad_b = torch.empty(a.shape, dtype=a.dtype, device=a.device), torch.empty_like(a, memory_format=_PLAIN)
    grad_restart = h0.new_empty(0) if restart is None else torch.empty_like(restart, memory_format=_PLAIN)
    for start, at in reversed(list(zip(starts, _segments(T, segment), strict=True))):
        cut = _cut(restart, at)
        h, _ = module.forward(a[:, at], b[:, at], start, is_init[:, at], cut)
        grad_a[:, at], grad_b[:, at], grad_last, part = module.backward(
            _cut(grad_h, at), grad_last, a[:, at], h, start, is_init[:, at], cut
        )
        if part is not None:
            grad_restart[:, at] = part
    assert grad_last is not None
    return grad_a, grad_b, grad_last.to(h0.dtype, copy=True), grad_restart


_PLAIN = torch.contiguous_format


def _segments(T: int, segment: int) -> list[slice]:
    return [slice(t, min(t + segment, T)) for t in range(0, T, segment)]


def _cut(x: Tensor | None, at: slice) -> Tensor | None:
    return None if x is None else x[:, at]


@torch.library.register_fake("mru_rl::linear_scan")
def _forward_fake(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None, backend: str, segment: int
) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, H), wide = b.shape, torch.promote_types(b.dtype, torch.float32)
    starts = 0 if segment == 0 else -(-T // segment)
    return b.new_empty(B, T, H), b.new_empty(B, H, dtype=wide), b.new_empty(starts, B, H, dtype=wide)


@torch.library.register_fake("mru_rl::linear_scan_backward")
def _backward_fake(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    b: Tensor | None,
    h: Tensor | None,
    h0: Tensor,
    starts: Tensor,
    is_init: Tensor,
    restart: Tensor | None,
    backend: str,
    segment: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_restart = h0.new_empty(0) if restart is None else restart.new_empty(restart.shape)
    return a.new_empty(a.shape), a.new_empty(a.shape), h0.new_empty(h0.shape), grad_restart


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    a, b, h0, is_init, restart, ctx.backend, ctx.segment = inputs
    h, _, starts = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(a, b if ctx.segment else None, None if ctx.segment else h, h0, starts, is_init, restart)


def _differentiate(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad_h is None and grad_last is None:
        return (None,) * 7
    grad_a, grad_b, grad_h0, grad_restart = first_order(
        torch.ops.mru_rl.linear_scan_backward, grad_h, grad_last, *ctx.saved_tensors, ctx.backend, ctx.segment
    )
    needs_restart = ctx.needs_input_grad[4]
    return grad_a, grad_b, grad_h0, None, grad_restart if needs_restart else None, None, None


class _InsideTorchFunc(torch.autograd.Function):
    """torch.func.grad looks through autograd functions, not through an operator's registered derivative."""

    generate_vmap_rule = True
    setup_context = staticmethod(_keep)

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.mru_rl.linear_scan(*arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return _differentiate(ctx, *grads)


torch.library.register_autograd("mru_rl::linear_scan", _differentiate, setup_context=_keep)


def fold(size: int, x: Any, dim: int | None) -> Any:
    """x with the mapped axis (or size copies) as part of its batch axis: [V * B, ...]."""
    if not isinstance(x, Tensor):
        return x
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _vmap_forward(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    h, h_last, starts = torch.ops.mru_rl.linear_scan(
        *(fold(info.batch_size, x, dim) for x, dim in zip(arguments, dims, strict=True))
    )
    unfold = (info.batch_size, -1)
    return (h.unflatten(0, unfold), h_last.unflatten(0, unfold), starts.unflatten(1, unfold)), (0, 0, 1)


def _vmap_backward(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size, starts = info.batch_size, arguments[6]
    folded = [fold(size, x, dim) for x, dim in zip(arguments, dims, strict=True)]
    folded[6] = starts.unsqueeze(1).expand(-1, size, -1, -1) if dims[6] is None else starts.movedim(dims[6], 1)
    folded[6] = folded[6].flatten(1, 2)
    grads = torch.ops.mru_rl.linear_scan_backward(*folded)
    empty = arguments[8] is None
    parts = [g.unflatten(0, (size, -1)) for g in grads[:3]]
    parts.append(grads[3].new_empty(size, 0) if empty else grads[3].unflatten(0, (size, -1)))
    return tuple(parts), (0, 0, 0, 0)


torch.library.register_vmap("mru_rl::linear_scan", _vmap_forward)
torch.library.register_vmap("mru_rl::linear_scan_backward", _vmap_backward)
