"""A memory recurrent unit's gate and scan as one operator of torch, `mru_rl::hold`, for units that replace or hold.

On a GPU the Triton kernels of `mru_rl.scan.triton_hold` run; elsewhere, say for a program that was exported on a GPU,
the gate and the scan do, one after the other. Opaque to torch.compile and torch.export, known to vmap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mru_rl.cells.mru.surrogate import Surrogate, coefficients, write_backward
from mru_rl.scan import chunked, ops
from mru_rl.scan.dispatch import check_scan_inputs
from mru_rl.scan.first_order import first_order

_SETTINGS = "float slope, float sign_slope, str surrogate, str backend"
torch.library.define(
    "mru_rl::hold",
    f"(Tensor u, Tensor beta, Tensor level, Tensor h0, Tensor is_init, Tensor? restart, {_SETTINGS}) "
    "-> (Tensor h, Tensor h_last)",
)
torch.library.define(
    "mru_rl::hold_backward",
    "(Tensor? grad_h, Tensor? grad_last, Tensor u, Tensor beta, Tensor level, Tensor h, Tensor h0, Tensor is_init, "
    f"Tensor? restart, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def hold(
    u: Tensor,
    beta: Tensor,
    level: Tensor,
    h0: Tensor,
    is_init: Tensor,
    restart: Tensor | None = None,
    *,
    slope: float = 4.0,
    sign_slope: float = 1.0,
    surrogate: Surrogate = "tanh",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`linear_scan(*write(u, beta, level, ...), h0, is_init, restart)`, with the same results, gradients and errors.

    u, beta: [B, T, H], real; level: [H] or [B, H]; all three of one dtype; the others as in `mru_rl.linear_scan`.
    Only for a carry of 0, a write that replaces. Gradients of first order.
    backend: "auto", by device when it runs, "triton" or "chunked".
    """
    check_scan_inputs(u, beta, h0, is_init, restart)
    inside = not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    run = _InsideTorchFunc.apply if inside else torch.ops.mru_rl.hold
    return run(u, beta, level, h0, is_init, restart, slope, sign_slope, surrogate, backend)


@torch.library.impl("mru_rl::hold", "default")
def _forward(
    u: Tensor,
    beta: Tensor,
    level: Tensor,
    h0: Tensor,
    is_init: Tensor,
    restart: Tensor | None,
    slope: float,
    sign_slope: float,
    surrogate: Surrogate,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if ops.chosen(backend, u.device) == "triton":
        from mru_rl.scan import triton_hold

        return triton_hold.forward(u, beta, level, h0, is_init, restart)
    return chunked.forward(*coefficients(u, beta, _with_time(level), 0.0), h0, is_init, restart)


@torch.library.impl("mru_rl::hold_backward", "default")
def _backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    beta: Tensor,
    level: Tensor,
    h: Tensor,
    h0: Tensor,
    is_init: Tensor,
    restart: Tensor | None,
    slope: float,
    sign_slope: float,
    surrogate: Surrogate,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if ops.chosen(backend, u.device) == "triton":
        from mru_rl.scan import triton_hold

        grads = triton_hold.backward(
            grad_h,
            grad_last,
            u,
            beta,
            level,
            h,
            h0,
            is_init,
            restart,
            slope=slope,
            sign_slope=sign_slope,
            surrogate=surrogate,
        )
        return *grads[:4], h0.new_empty(0) if grads[4] is None else grads[4]
    with torch.no_grad():
        over_time = _with_time(level)
        a, _ = coefficients(u, beta, over_time, 0.0)
        grad_a, grad_b, grad_h0, grad_restart = chunked.backward(grad_h, grad_last, a, h, h0, is_init, restart)
        grad_u, grad_beta, written = write_backward(
            grad_a, grad_b, u, beta, over_time, 0.0, slope, sign_slope, surrogate
        )
        grad_level = written.sum_to_size(over_time.shape).reshape(level.shape)
    return grad_u, grad_beta, grad_level, grad_h0, h0.new_empty(0) if grad_restart is None else grad_restart


def _with_time(level: Tensor) -> Tensor:
    """[H] or [B, H] so that it broadcasts over [B, T, H]."""
    return level.unsqueeze(-2)


@torch.library.register_fake("mru_rl::hold")
def _forward_fake(
    u: Tensor, beta: Tensor, level: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor]:
    B, T, H = u.shape
    return u.new_empty(B, T, H), u.new_empty(B, H, dtype=torch.promote_types(u.dtype, torch.float32))


@torch.library.register_fake("mru_rl::hold_backward")
def _backward_fake(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    beta: Tensor,
    level: Tensor,
    h: Tensor,
    h0: Tensor,
    is_init: Tensor,
    restart: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_u, grad_beta, grad_level, grad_h0 = (x.new_empty(x.shape) for x in (u, beta, level, h0))
    return (
        grad_u,
        grad_beta,
        grad_level,
        grad_h0,
        h0.new_empty(0) if restart is None else restart.new_empty(restart.shape),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, beta, level, h0, is_init, restart, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(u, beta, level, output[0], h0, is_init, restart)


def _differentiate(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
    if grad_h is None and grad_last is None:
        return (None,) * 10
    *grads, grad_restart = first_order(
        torch.ops.mru_rl.hold_backward, grad_h, grad_last, *ctx.saved_tensors, *ctx.settings
    )
    return *grads, None, grad_restart if ctx.needs_input_grad[5] else None, None, None, None, None


class _InsideTorchFunc(torch.autograd.Function):
    """torch.func.grad looks through autograd functions, not through an operator's registered derivative."""

    generate_vmap_rule = True
    setup_context = staticmethod(_keep)

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.mru_rl.hold(*arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return _differentiate(ctx, *grads)


torch.library.register_autograd("mru_rl::hold", _differentiate, setup_context=_keep)


def _fold(size: int, arguments: tuple[Any, ...], dims: tuple[Any, ...], at: int) -> list[Any]:
    """Every mapped axis as part of the batch axis; the level, arguments[at], as one row per sequence."""
    folded = [ops.fold(size, x, dim) for x, dim in zip(arguments, dims, strict=True)]
    level, dim = arguments[at], dims[at]
    level = level.unsqueeze(0) if dim is None else level.movedim(dim, 0)
    level = level if level.dim() == 3 else level.unsqueeze(1)  # [V or 1, B or 1, H]
    folded[at] = level.expand(size, len(folded[at - 1]) // size, -1).flatten(0, 1)
    return folded


def _vmap_forward(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    h, h_last = torch.ops.mru_rl.hold(*_fold(info.batch_size, arguments, dims, at=2))
    unfold = (info.batch_size, -1)
    return (h.unflatten(0, unfold), h_last.unflatten(0, unfold)), (0, 0)


def _vmap_backward(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size = info.batch_size
    *grads, grad_restart = torch.ops.mru_rl.hold_backward(*_fold(size, arguments, dims, at=4))
    parts = [g.unflatten(0, (size, -1)) for g in grads]
    if arguments[4].dim() - (dims[4] is not None) == 1:  # one level for all sequences
        parts[2] = parts[2].sum(1)
    unused = arguments[8] is None
    parts.append(grad_restart.new_empty(size, 0) if unused else grad_restart.unflatten(0, (size, -1)))
    return tuple(parts), (0,) * 5


torch.library.register_vmap("mru_rl::hold", _vmap_forward)
torch.library.register_vmap("mru_rl::hold_backward", _vmap_backward)
