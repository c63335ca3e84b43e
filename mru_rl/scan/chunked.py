"""The scan for CPUs, many short sequences and few very long ones alike; correct on any device.

Three ideas, each exact:

1. *Resets become coefficients.* At the first step of an episode a is set to 0 and b to b + a * restart, so the loop
   needs no select. That is exact unless the state before it was NaN or infinite (0 * NaN is NaN). In h = a * h + b a
   state that is not finite never becomes finite again, so looking at the last state tells whether it happened; if so
   the scan is done again with a select at every step that starts an episode.
2. *One loop step works on a whole row of states.* Over [B, H]: by NumPy on a time-first copy while a step
   is small, since its calls cost half of torch's; by torch.addcmul on views, taken once, when it is large.
3. *A long sequence is cut into chunks that run side by side.* A first loop finds each chunk's end from a zero start
   and the product of its a; a scan over the chunks (this one again) gives each chunk's true start; a second loop runs
   the recurrence itself from there. Nothing is divided, no product is stored, and where a = 1 and b = 0 the product
   is exactly 1 and the end exactly 0, so a hold stays a hold, bit for bit. Where |a| > 1 over much of a chunk, a
   chunk's end from zero can be far larger than its true one and cancel badly; no cell here has such an a.

The gradient g[t] = dL/dh[t] + conj(a[t+1]) g[t+1] is the same scan backwards in time. Saved for it: a (with resets
set to 0) and h. On a GPU a call waits for the device: to find the resets, and to look at the last states.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mru_rl.scan.first_order import first_order

_NUMPY_STATES = 4096  # states a step up to which NumPy's cheaper calls beat torch's fused multiply-add and threads


def linear_scan(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None, *, chunks: int | None = None
) -> tuple[Tensor, Tensor]:
    """Solve h[t] = a[t] * h[t-1] + b[t] with resets; arguments and results as in `reference.linear_scan`.

    chunks: into how many pieces time is cut (1: none); None chooses by size. For tests and measurements.
    Gradients of first order only: a second derivative needs the reference backend.
    """
    return _LinearScan.apply(a, b, h0, is_init, restart, chunks)


def forward(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None, *, chunks: int | None = None
) -> tuple[Tensor, Tensor]:
    """h and the last state, without autograd."""
    with torch.no_grad():
        return _forward(a, b, h0, is_init, restart, chunks)[:2]


def backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor,
    is_init: Tensor,
    restart: Tensor | None = None,
    *,
    chunks: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients to a, b, h0 and, if given, restart, from those to h and h_last (None: zero)."""
    B, T, H = h.shape
    wide = torch.promote_types(h.dtype, torch.float32)
    with torch.no_grad():
        chunks = min(chunks or plan_chunks(T, B * H, h.device.type), T)
        copied = _copies(chunks, B * H, h)
        at = is_init.t().nonzero(as_tuple=True)
        restart_at = a_at = None
        if len(at[0]):
            a_at = a.transpose(0, 1)[at].to(wide)
            restart_at = None if restart is None else restart.transpose(0, 1)[at].to(wide)
        steps = _time_first(a, wide, copied or a_at is not None)
        if a_at is not None:
            steps[at] = 0
        grad_a, grad_b, grad_h0, grad_restart = _backward(
            grad_h,
            grad_last,
            steps,
            _time_first(h, wide, copied),
            h0.to(wide),
            is_init,
            at,
            restart_at,
            a_at,
            chunks,
            None if restart is None else (restart.shape, restart.dtype),
            (True, True, True, restart is not None),
        )
    return grad_a.to(a.dtype), grad_b.to(h.dtype).contiguous(), grad_h0.to(h0.dtype), grad_restart


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None, chunks: int | None
    ) -> tuple[Tensor, Tensor]:
        h, h_last, ctx.chunks, kept = _forward(a, b, h0, is_init, restart, chunks)
        ctx.dtypes = (a.dtype, b.dtype, h0.dtype)
        ctx.restart_like = restart if restart is None else (restart.shape, restart.dtype)
        ctx.save_for_backward(h_last, *kept)
        ctx.set_materialize_grads(False)
        return h, h_last

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_h is None and grad_last is None:
            return None, None, None, None, None, None
        h_last, a, h, h0, is_init, at_t, at_b, restart_at, a_at = ctx.saved_tensors
        a_dtype, b_dtype, h0_dtype = ctx.dtypes
        needs_a, needs_b, needs_h0, _, needs_restart, _ = ctx.needs_input_grad
        grad_a, grad_b, grad_h0, grad_restart = (
            first_order(  # h_last is the one of these that autograd knows to depend on the inputs
                lambda _, *rest: _backward(*rest),
                h_last,
                grad_h,
                grad_last,
                a,
                h,
                h0,
                is_init,
                (at_t, at_b),
                restart_at,
                a_at,
                ctx.chunks,
                ctx.restart_like,
                (needs_a, needs_b, needs_h0, needs_restart),
            )
        )
        grad_a = None if grad_a is None else grad_a.to(a_dtype)
        grad_b = None if grad_b is None else grad_b.to(b_dtype).contiguous()
        grad_h0 = None if grad_h0 is None else grad_h0.to(h0_dtype)
        return grad_a, grad_b, grad_h0, None, grad_restart, None


def _forward(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None, chunks: int | None
) -> tuple[Tensor, Tensor, int, tuple[Tensor | None, ...]]:
    """h, h_last, the number of chunks and what the backward pass needs, time first: [T, B, H], a view or a copy."""
    B, T, H = b.shape
    wide = torch.promote_types(b.dtype, torch.float32)
    chunks = min(chunks or plan_chunks(T, B * H, b.device.type), T)
    copied = _copies(chunks, B * H, b)
    at = is_init.t().nonzero(as_tuple=True)  # (t, b) of every first step
    resets = len(at[0]) > 0

    b_dtype, h0 = b.dtype, h0.to(wide)
    restart_at = a_at = None
    into_b = False
    if resets:
        a_at = a.transpose(0, 1)[at].to(wide)
        if restart is not None:
            restart_at = restart.transpose(0, 1)[at].to(wide)
        into_b = restart is not None or not _finite(a_at)  # a bad a must show in h, though 0 takes its place
    a = _time_first(a, wide, copied or resets)
    b = _time_first(b, wide, copied or into_b)
    if a_at is not None:
        if into_b:
            b[at] += a_at * (0 if restart_at is None else restart_at)
        a[at] = 0

    if copied:
        h = torch.empty((T, B, H), dtype=wide, device=b.device)
    else:
        h = torch.empty((B, T, H), dtype=wide, device=b.device).transpose(0, 1)
    cut = is_init.t() if resets else None
    _solve(a, b, h0, h, cut, chunks, reverse=False)
    out = h.transpose(0, 1)
    out = out.to(b_dtype, memory_format=torch.contiguous_format).contiguous()
    return out, h[-1].clone(), chunks, (a, h, h0, is_init, *at, restart_at, a_at)


def _backward(
    grad_h: Tensor | None,
    grad_last: Tensor | None,
    a: Tensor,
    h: Tensor,
    h0: Tensor,
    is_init: Tensor,
    at: tuple[Tensor, ...],
    restart_at: Tensor | None,
    a_at: Tensor | None,
    chunks: int,
    restart_like: tuple[torch.Size, torch.dtype] | None,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Any, Any, Any, Tensor | None]:
    """The gradients asked for, [B, T, H], as wide as the state. a (0 at first steps) and h are time first."""
    needs_a, needs_b, needs_h0, needs_restart = needs
    T, B, H = h.shape
    resets = len(at[0]) > 0
    a = _conj(a)
    copied = _copies(chunks, B * H, h)
    if copied:
        g = torch.empty((T, B, H), dtype=h.dtype, device=h.device)
    else:
        g = torch.empty((B, T, H), dtype=h.dtype, device=h.device).transpose(0, 1)
    if grad_h is None:
        grad_h = torch.zeros((), dtype=h.dtype, device=h.device).expand(B, T, H)
    grad_h = _time_first(grad_h, h.dtype, copied)
    g[-1] = grad_h[-1] if grad_last is None else grad_h[-1] + grad_last
    if T > 1:
        cut = is_init.t()[1:] if resets else None
        _solve(a[1:], grad_h[:-1], g[-1], g[:-1], cut, min(chunks, T - 1), reverse=True)

    grad_a = grad_b = grad_h0 = grad_restart = None
    if needs_a:
        grad_a = torch.empty((B, T, H), dtype=h.dtype, device=h.device)
        rows, h = grad_a.transpose(0, 1), _conj(h)
        torch.mul(g[0], _conj(h0), out=rows[0])
        torch.mul(g[1:], h[:-1], out=rows[1:])
        if resets:
            rows[at] = g[at] * (0 if restart_at is None else _conj(restart_at))
    if needs_h0:
        grad_h0 = a[0] * g[0]
        if resets:
            grad_h0 = grad_h0.masked_fill(is_init[:, 0, None], 0)
    if needs_restart and restart_like is not None:
        shape, dtype = restart_like
        grad_restart = torch.zeros(shape, dtype=dtype, device=h.device)
        if a_at is not None:
            grad_restart.transpose(0, 1)[at] = (_conj(a_at) * g[at]).to(dtype)
    if needs_b:
        grad_b = g.transpose(0, 1)
    return grad_a, grad_b, grad_h0, grad_restart


def _solve(a: Tensor, b: Tensor, h0: Tensor, out: Tensor, cut: Tensor | None, chunks: int, *, reverse: bool) -> None:
    """Write every state into out; a already carries 0 where cut. All [T, B, H] but h0 [B, H] and cut bool [T, B]."""
    if chunks == 1:
        _run(a, b, h0, out, reverse)
        exact = cut is None or _finite(out[0 if reverse else -1])
    else:
        exact = _run_chunks(a, b, h0, out, chunks, reverse)
    if not exact:
        _run_with_selects(a, b, h0, out, cut, reverse)


def _run_chunks(a: Tensor, b: Tensor, h0: Tensor, out: Tensor, chunks: int, reverse: bool) -> bool:
    """Run the chunks side by side; False if a state that is not finite may have crossed a cut or an overflow."""
    T = out.shape[0]
    length = _chunk_length(T, chunks)
    chunks = T // length
    whole = slice(T - chunks * length, T) if reverse else slice(0, chunks * length)
    rest = slice(0, whole.start) if reverse else slice(whole.stop, T)
    # [length, chunks, B, H]: step l of every chunk
    a_, b_, out_ = (x[whole].unflatten(0, (chunks, length)).transpose(0, 1) for x in (a, b, out))
    states = out_
    if out.shape[-1] * out.element_size() < 64:  # a step would use a part of each cache line it reads
        a_, b_, states = a_.contiguous(), b_.contiguous(), torch.empty_like(a_, memory_format=torch.contiguous_format)

    order = -1 if reverse else 1
    a_steps, b_steps = a_.unbind(0)[::order], b_.unbind(0)[::order]
    end, product = b_steps[0].clone(), a_steps[0].clone()
    for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
        torch.addcmul(b_t, a_t, end, out=end)
        product.mul_(a_t)

    start = torch.empty_like(end)
    if reverse:
        start[-1] = h0
        ends, starts = slice(1, None), start[:-1]
    else:
        start[0] = h0
        ends, starts = slice(None, -1), start[1:]
    if chunks > 1:
        _solve_starts(product[ends], end[ends], h0, starts, reverse)
    last = _run_torch(a_steps, b_steps, start, states.unbind(0)[::order])
    if states is not out_:
        out_.copy_(states)
    exact = _finite(last)
    if rest.stop > rest.start:
        _run(a[rest], b[rest], last[0 if reverse else -1], out[rest], reverse)
        exact = exact and _finite(out[0 if reverse else -1])
    return exact


def _solve_starts(a: Tensor, b: Tensor, h0: Tensor, out: Tensor, reverse: bool) -> None:
    """The scan over chunks. A start that is not finite shows in its chunk's end, so nothing is checked here."""
    chunks = plan_chunks(out.shape[0], out[0].numel(), out.device.type)
    if chunks > 1:
        _run_chunks(a, b, h0, out, chunks, reverse)
    else:
        _run(a, b, h0, out, reverse)


def _run(a: Tensor, b: Tensor, h0: Tensor, out: Tensor, reverse: bool) -> None:
    """One step after the other: [T, B, H], state [B, H]."""
    order = -1 if reverse else 1
    small = out.device.type == "cpu" and h0.numel() <= _NUMPY_STATES
    if small and a.is_contiguous() and b.is_contiguous() and out.is_contiguous():
        h = h0.numpy()
        with np.errstate(all="ignore"):
            for a_t, b_t, h_t in zip(a.numpy()[::order], b.numpy()[::order], out.numpy()[::order], strict=True):
                np.multiply(a_t, h, out=h_t)
                np.add(h_t, b_t, out=h_t)
                h = h_t
    else:
        _run_torch(a.unbind(0)[::order], b.unbind(0)[::order], h0, out.unbind(0)[::order])


def _run_torch(a: tuple[Tensor, ...], b: tuple[Tensor, ...], h: Tensor, out: tuple[Tensor, ...]) -> Tensor:
    """The loop on views taken once: indexing inside it would cost more than the arithmetic."""
    for a_t, b_t, h_t in zip(a, b, out, strict=True):
        torch.addcmul(b_t, a_t, h, out=h_t)
        h = h_t
    return h


def _run_with_selects(a: Tensor, b: Tensor, h: Tensor, out: Tensor, cut: Tensor | None, reverse: bool) -> None:
    """The slow, always right order: used when a state is not finite."""
    order = -1 if reverse else 1
    cuts: list[Tensor | None] = [None] * len(out)
    if cut is not None:
        cuts = [row if starts else None for row, starts in zip(cut, cut.any(1).tolist(), strict=True)]
    steps = zip(a.unbind(0)[::order], b.unbind(0)[::order], out.unbind(0)[::order], cuts[::order], strict=True)
    for a_t, b_t, h_t, cut_t in steps:
        torch.addcmul(b_t, a_t, h if cut_t is None else h.masked_fill(cut_t[:, None], 0), out=h_t)
        h = h_t


@lru_cache(maxsize=1024)
def plan_chunks(T: int, states: int, device_type: str) -> int:
    """How many chunks to cut T steps of that many states into: 1 when stepping through them costs less.

    Measured on two CPU cores: chunks read a and b twice, which pays from about 256 steps on; steps of 2^16 numbers
    are long enough to hide the cost of a call and short enough for the cache; a GPU wants them longer.
    """
    if T < 256:
        return 1
    row = 2**16 if device_type == "cpu" else 2**20
    chunks = min(T // 32 if T >= 512 else 16, max(row // max(states, 1), 16))
    return T // _chunk_length(T, chunks)


def _copies(chunks: int, states: int, x: Tensor) -> bool:
    """True if stepping goes through a time-first copy: for NumPy, or because a view would use a part of each cache line."""
    if chunks > 1 or x.device.type != "cpu":
        return False
    return states <= _NUMPY_STATES or x.shape[-1] * x.element_size() < 64


def _chunk_length(T: int, chunks: int) -> int:
    """A length near T / chunks that leaves few steps over."""
    length = max(T // chunks, 1)
    return min(range(length, length + length // 8 + 1), key=lambda n: T % n)


def _time_first(x: Tensor, dtype: torch.dtype, copy: bool) -> Tensor:
    """x [B, T, H] as [T, B, H]: a fresh contiguous copy, or a view if the dtype allows."""
    x = x.transpose(0, 1)
    if not copy:
        return x.to(dtype).resolve_conj()
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)


def _conj(x: Tensor) -> Tensor:
    return torch.conj_physical(x) if x.is_complex() else x


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
