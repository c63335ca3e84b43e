"""The scan for GPUs, every input read once and every result written once.

    h[t] = a[t] h[t-1] + b[t]                 forward
    g[t] = dL/dh[t] + r[t+1]                  backward, with r[t] = conj(a[t]) g[t], cut to 0 at an episode's first step
    dL/db[t] = g[t],  dL/da[t] = g[t] conj(h[t-1]),  dL/drestart[t] = conj(a[t]) g[t] at first steps,  dL/dh0 = r[0]

Steps are taken one after the other, as the definition does, so that a hold is exact and a write is exact; only products
and sums may be fused, which rounds once instead of twice. Resets are selects: nothing leaks over them. Loads do not
wait for the recurrence: those of a group of steps are issued before the first of these steps is computed.

Two ways, by shape (triton_launch.py), one launch each. Where sequences and states fill the GPU a program walks the whole of time
for 32 to 128 states of one sequence. Few long sequences are cut in time: a program keeps a chunk in its registers and
gets the state before it from the chunks before (triton_chain.py); a chunk is several rows of steps, walked side by
side. A chunk whose states come out not finite is walked again from its start, row after row, which tells a NaN that
belongs there from a product that overflowed.

a, b, restart, is_init and dL/dh may have any strides, expanded ones included. Complex numbers are pairs of real ones.
The state is float32 or float64; only the result is rounded to b's dtype, and that is what the backward pass reads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mru_rl.scan.triton_chain import enter, leave, place
from mru_rl.scan.triton_launch import Plan, launch, plan_for, real, strides
from mru_rl.scan.triton_numbers import any_of, conj, full, infinite, last_row, load, pick, plus, store, times, where


@triton.jit
def _read(
    a, b, is_init, restart, a_step, b_step, is_init_step, restart_step, time, T, mask,
    RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """there, starts, a, b of GROUP steps from `time` on, pointers at the first; b with a * restart in it at a reset."""
    there, at_start, all_a, all_b, lanes = (), (), (), (), tl.full([ROWS, SIZE], 0, tl.int32)
    for i in tl.static_range(GROUP):  # a step past the end is read as a hold
        now = mask & (lanes + time + i < T)
        starts = tl.load(is_init + lanes, now, other=0) != 0
        a_i = load(a, now, 1.0, COMPLEX, WIDE)
        b_i = load(b, now, 0.0, COMPLEX, WIDE)
        before = full(0.0, ROWS, SIZE, COMPLEX, WIDE)
        if RESTART:
            before = load(restart, starts, 0.0, COMPLEX, WIDE)
        b_i = where(starts, plus(times(a_i, before, COMPLEX), b_i, COMPLEX), b_i, COMPLEX)
        there, at_start, all_a, all_b = there + (now,), at_start + (starts,), all_a + a_i, all_b + b_i  # noqa: RUF005
        a, b, is_init = a + a_step, b + b_step, is_init + is_init_step
        if RESTART:
            restart += restart_step
    return there, at_start, all_a, all_b


@triton.jit
def _take(state, read, h, h_step, COMPLEX: tl.constexpr, GROUP: tl.constexpr):
    """Take these steps and store h. Returns the state after them and where one of theirs was not finite."""
    there, starts, a, b = read
    bad = infinite(state, COMPLEX)
    for i in tl.static_range(GROUP):
        a_i, b_i = pick(a, i, COMPLEX), pick(b, i, COMPLEX)
        state = where(starts[i], b_i, plus(times(a_i, state, COMPLEX), b_i, COMPLEX), COMPLEX)
        store(h, state, there[i], COMPLEX)
        bad = bad | infinite(state, COMPLEX)
        h += h_step
    return state, bad


@triton.jit
def _walk(
    state, a, b, is_init, restart, h, a_step, b_step, is_init_step, restart_step, h_step, time, end, mask,
    RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """From `time` to `end`, one group after the other. Returns the state after the last step, [1, SIZE]."""
    for first in range(time, end, GROUP):
        read = _read(
            a, b, is_init, restart, a_step, b_step, is_init_step, restart_step, first, end, mask,
            RESTART, COMPLEX, WIDE, 1, SIZE, GROUP,
        )  # fmt: skip
        state, _ = _take(state, read, h, h_step, COMPLEX, GROUP)
        a += GROUP * a_step
        b += GROUP * b_step
        is_init += GROUP * is_init_step
        h += GROUP * h_step
        if RESTART:
            restart += GROUP * restart_step
    return state


@triton.jit
def _forward(
    a, b, is_init, restart, h, h0, h_last, control, products, ends, states, B, T, H,
    a_row, a_step, a_col, b_row, b_step, b_col, is_init_row, is_init_step, restart_row, restart_step, restart_col,
    ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, WARPS: tl.constexpr,
    RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """h and h_last. ROWS 0: a program walks all of time. Else it takes one chunk of ROWS * GROUP steps."""
    pair: tl.constexpr = 2 if COMPLEX else 1
    chunk, block, row, col, mask = place(control, B, H, ROWS, SIZE)
    h_step, blocks = H * pair, B * tl.cdiv(H, SIZE)
    at = (row * H + col) * pair  # in [B, H]
    a += row * a_row + col * a_col
    b += row * b_row + col * b_col
    is_init += row * is_init_row
    h += (row * T * H + col) * pair
    if RESTART:
        restart += row * restart_row + col * restart_col
    state = load(h0 + at, mask, 0.0, COMPLEX, WIDE)
    if ROWS == 0:
        state = _walk(
            state, a, b, is_init, restart, h, a_step, b_step, is_init_step, restart_step, h_step, 0, T, mask,
            RESTART, COMPLEX, WIDE, SIZE, GROUP,
        )  # fmt: skip
        store(h_last + at, state, mask, COMPLEX)
    else:
        begin = chunk * (ROWS * GROUP)
        time = begin + tl.arange(0, ROWS)[:, None] * GROUP
        far = time.to(tl.int64)
        read = _read(
            a + far * a_step, b + far * b_step, is_init + far * is_init_step,
            restart + far * restart_step if RESTART else restart,
            a_step, b_step, is_init_step, restart_step, time, T, mask,
            RESTART, COMPLEX, WIDE, ROWS, SIZE, GROUP,
        )  # fmt: skip
        zero, per_chunk = full(0.0, ROWS, SIZE, COMPLEX, WIDE), tl.full([], 0, tl.int64) + B * h_step
        product, end, cut = full(1.0, ROWS, SIZE, COMPLEX, WIDE), zero, tl.full([ROWS, SIZE], 0, tl.int1)
        for i in tl.static_range(GROUP):
            starts, a_i, b_i = read[1][i], pick(read[2], i, COMPLEX), pick(read[3], i, COMPLEX)
            end = where(starts, b_i, plus(times(a_i, end, COMPLEX), b_i, COMPLEX), COMPLEX)
            product = where(starts, zero, times(a_i, product, COMPLEX), COMPLEX)
            cut = cut | starts
        start, rows, published = enter(
            product, end, any_of(cut), state, control, products, ends, states, chunk, block, blocks, at,
            per_chunk, mask, "scan", COMPLEX, WIDE, ROWS, SIZE, WARPS,
        )  # fmt: skip
        after, bad = _take(rows, read, h + far * h_step, h_step, COMPLEX, GROUP)
        state = last_row(after, ROWS, COMPLEX)
        if any_of(mask & bad):
            tl.debug_barrier()  # the same places are written again, by other threads
            first = begin.to(tl.int64)
            state = _walk(
                start, a + first * a_step, b + first * b_step, is_init + first * is_init_step,
                restart + first * restart_step if RESTART else restart, h + first * h_step,
                a_step, b_step, is_init_step, restart_step, h_step, begin, tl.minimum(begin + ROWS * GROUP, T), mask,
                RESTART, COMPLEX, WIDE, SIZE, 4,
            )  # fmt: skip
        if not published:
            leave(state, control, states, chunk, block, blocks, at, per_chunk, mask, COMPLEX)
        if begin + ROWS * GROUP >= T:
            store(h_last + at, state, mask, COMPLEX)


@triton.jit
def _read_back(
    a, grad, is_init, a_step, grad_step, is_init_step, time, end, mask,
    GRAD: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """there, starts, conj(a), dL/dh of GROUP steps from `time` back to `end`, pointers at the first."""
    there, at_start, all_a, all_grad, lanes = (), (), (), (), tl.full([ROWS, SIZE], 0, tl.int32)
    for i in tl.static_range(GROUP):
        now = mask & (lanes + time - i >= end)
        starts = tl.load(is_init + lanes, now, other=0) != 0
        a_i = conj(load(a, now, 1.0, COMPLEX, WIDE), COMPLEX)
        grad_i = full(0.0, ROWS, SIZE, COMPLEX, WIDE)
        if GRAD:
            grad_i = load(grad, now, 0.0, COMPLEX, WIDE)
        there, at_start, all_a, all_grad = there + (now,), at_start + (starts,), all_a + a_i, all_grad + grad_i  # noqa: RUF005
        a, is_init = a - a_step, is_init - is_init_step
        if GRAD:
            grad -= grad_step
    return there, at_start, all_a, all_grad


@triton.jit
def read_before(
    there, at_start, h, h0, restart, h_step, restart_step, time,
    RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """The states that these steps found: h of the step before, h0 or the restart state."""
    found, lanes = (), tl.full([ROWS, SIZE], 0, tl.int32)
    for i in tl.static_range(GROUP):
        now, starts = there[i], at_start[i]
        from_h0 = lanes + time - i == 0
        h -= h_step
        before = load(h, now & ~from_h0 & ~starts, 0.0, COMPLEX, WIDE)
        before = where(from_h0, load(h0 + lanes, now & from_h0 & ~starts, 0.0, COMPLEX, WIDE), before, COMPLEX)
        if RESTART:
            before = where(starts, load(restart, starts, 0.0, COMPLEX, WIDE), before, COMPLEX)
            restart -= restart_step
        found = found + before
    return found


@triton.jit
def _take_back(
    r, read, found, grad_a, grad_b, grad_restart, h_step,
    RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Take these steps from r and store their gradients. Returns r before them and where one was not finite."""
    there, at_start, a, grad = read
    zero, bad = full(0.0, ROWS, SIZE, COMPLEX, WIDE), infinite(r, COMPLEX)
    for i in tl.static_range(GROUP):
        now, starts = there[i], at_start[i]
        a_i, g = pick(a, i, COMPLEX), plus(pick(grad, i, COMPLEX), r, COMPLEX)
        bad = bad | infinite(g, COMPLEX)
        r_i = times(a_i, g, COMPLEX)
        r = where(starts, zero, r_i, COMPLEX)
        store(grad_b, g, now, COMPLEX)
        store(grad_a, times(g, conj(pick(found, i, COMPLEX), COMPLEX), COMPLEX), now, COMPLEX)
        grad_a, grad_b = grad_a - h_step, grad_b - h_step
        if RESTART:
            store(grad_restart, where(starts, r_i, zero, COMPLEX), now, COMPLEX)
            grad_restart -= h_step
    return r, bad


@triton.jit
def _walk_back(
    r, a, grad, is_init, restart, h, h0, grad_a, grad_b, grad_restart,
    a_step, grad_step, is_init_step, restart_step, h_step, time, end, mask,
    GRAD: tl.constexpr, RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """From `time` back to `end`. Returns r before the last of these steps, [1, SIZE]."""
    for first in range(0, time - end + 1, GROUP):
        read = _read_back(
            a, grad, is_init, a_step, grad_step, is_init_step, time - first, end, mask,
            GRAD, COMPLEX, WIDE, 1, SIZE, GROUP,
        )  # fmt: skip
        found = read_before(
            read[0], read[1], h, h0, restart, h_step, restart_step, time - first,
            RESTART, COMPLEX, WIDE, 1, SIZE, GROUP,
        )  # fmt: skip
        r, _ = _take_back(r, read, found, grad_a, grad_b, grad_restart, h_step, RESTART, COMPLEX, WIDE, 1, SIZE, GROUP)
        a -= GROUP * a_step
        is_init -= GROUP * is_init_step
        h -= GROUP * h_step
        grad_a -= GROUP * h_step
        grad_b -= GROUP * h_step
        if GRAD:
            grad -= GROUP * grad_step
        if RESTART:
            restart -= GROUP * restart_step
            grad_restart -= GROUP * h_step
    return r


@triton.jit
def _backward(
    a, grad, is_init, restart, h, h0, grad_last, grad_a, grad_b, grad_h0, grad_restart, control, products, ends, states,
    B, T, H,
    a_row, a_step, a_col, grad_row, grad_step, grad_col, is_init_row, is_init_step,
    restart_row, restart_step, restart_col,
    ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, WARPS: tl.constexpr,
    GRAD: tl.constexpr, RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Every gradient: as _forward, from the last step to the first; the state is r, and chunks count from the end."""
    pair: tl.constexpr = 2 if COMPLEX else 1
    chunk, block, row, col, mask = place(control, B, H, ROWS, SIZE)
    h_step, blocks = H * pair, B * tl.cdiv(H, SIZE)
    at = (row * H + col) * pair
    in_h = (row * T * H + col) * pair
    a += row * a_row + col * a_col
    is_init += row * is_init_row
    if GRAD:
        grad += row * grad_row + col * grad_col
    if RESTART:
        restart += row * restart_row + col * restart_col
        grad_restart += in_h
    h0, h, grad_a, grad_b = h0 + at, h + in_h, grad_a + in_h, grad_b + in_h
    r = load(grad_last + at, mask, 0.0, COMPLEX, WIDE)
    if ROWS == 0:
        last = row * 0 + T - 1
        r = _walk_back(
            r, a + last * a_step, grad + last * grad_step if GRAD else grad, is_init + last * is_init_step,
            restart + last * restart_step if RESTART else restart, h + last * h_step, h0,
            grad_a + last * h_step, grad_b + last * h_step, grad_restart + last * h_step if RESTART else grad_restart,
            a_step, grad_step, is_init_step, restart_step, h_step, last.to(tl.int32), 0, mask,
            GRAD, RESTART, COMPLEX, WIDE, SIZE, GROUP,
        )  # fmt: skip
        store(grad_h0 + at, r, mask, COMPLEX)
    else:
        begin = T - 1 - chunk * (ROWS * GROUP)
        time = begin - tl.arange(0, ROWS)[:, None] * GROUP
        far = time.to(tl.int64)
        read = _read_back(
            a + far * a_step, grad + far * grad_step if GRAD else grad, is_init + far * is_init_step,
            a_step, grad_step, is_init_step, time, 0, mask, GRAD, COMPLEX, WIDE, ROWS, SIZE, GROUP,
        )  # fmt: skip
        zero, per_chunk = full(0.0, ROWS, SIZE, COMPLEX, WIDE), tl.full([], 0, tl.int64) + B * h_step
        product, end, cut = full(1.0, ROWS, SIZE, COMPLEX, WIDE), zero, tl.full([ROWS, SIZE], 0, tl.int1)
        for i in tl.static_range(GROUP):
            starts, a_i, grad_i = read[1][i], pick(read[2], i, COMPLEX), pick(read[3], i, COMPLEX)
            end = where(starts, zero, times(a_i, plus(grad_i, end, COMPLEX), COMPLEX), COMPLEX)
            product = where(starts, zero, times(a_i, product, COMPLEX), COMPLEX)
            cut = cut | starts
        start, rows, published = enter(
            product, end, any_of(cut), r, control, products, ends, states, chunk, block, blocks, at,
            per_chunk, mask, "scan", COMPLEX, WIDE, ROWS, SIZE, WARPS,
        )  # fmt: skip
        found = read_before(
            read[0], read[1], h + far * h_step, h0, restart + far * restart_step if RESTART else restart,
            h_step, restart_step, time, RESTART, COMPLEX, WIDE, ROWS, SIZE, GROUP,
        )  # fmt: skip
        before, bad = _take_back(
            rows, read, found, grad_a + far * h_step, grad_b + far * h_step,
            grad_restart + far * h_step if RESTART else grad_restart, h_step,
            RESTART, COMPLEX, WIDE, ROWS, SIZE, GROUP,
        )  # fmt: skip
        r = last_row(before, ROWS, COMPLEX)
        if any_of(mask & bad):
            tl.debug_barrier()
            first = begin.to(tl.int64)
            r = _walk_back(
                start, a + first * a_step, grad + first * grad_step if GRAD else grad, is_init + first * is_init_step,
                restart + first * restart_step if RESTART else restart, h + first * h_step, h0,
                grad_a + first * h_step, grad_b + first * h_step, grad_restart + first * h_step if RESTART else grad_restart,
                a_step, grad_step, is_init_step, restart_step, h_step, begin, tl.maximum(begin - ROWS * GROUP + 1, 0), mask,
                GRAD, RESTART, COMPLEX, WIDE, SIZE, 4,
            )  # fmt: skip
        if not published:
            leave(r, control, states, chunk, block, blocks, at, per_chunk, mask, COMPLEX)
        if begin < ROWS * GROUP:
            store(grad_h0 + at, r, mask, COMPLEX)


INTERPRETED = not isinstance(_forward, triton.JITFunction)  # TRITON_INTERPRET=1: runs on CPU tensors, slowly


def forward(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None, *, settings: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """h and the last state, without autograd; arguments as in `reference.linear_scan`."""
    (B, T, H), wide = b.shape, torch.promote_types(b.dtype, torch.float32)
    h = torch.empty((B, T, H), dtype=b.dtype, device=b.device)
    h_last = torch.empty((B, H), dtype=wide, device=b.device)
    if h.numel() == 0:
        return h, h_last
    h0 = h0.to(wide).contiguous()
    settings = settings or plan_for(b, wide)
    arguments = [real(a), real(b), is_init.view(torch.uint8), real(restart), real(h), real(h0), real(h_last)]
    steps = [*strides(a), *strides(b), *is_init.stride(), *strides(restart)]
    launch(_forward, settings, b, wide, arguments, steps, RESTART=restart is not None, COMPLEX=wide.is_complex)
    return h, h_last


def backward(
    grad_h: Tensor | None, grad_last: Tensor | None, a: Tensor, h: Tensor, h0: Tensor, is_init: Tensor,
    restart: Tensor | None = None, *, settings: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients to a, b, h0 and, if given, restart, from those to h and h_last (None: zero)."""
    (B, T, H), wide = h.shape, torch.promote_types(h.dtype, torch.float32)
    grad_a, grad_b = torch.empty_like(h), torch.empty_like(h)
    grad_h0 = torch.empty((B, H), dtype=wide, device=h.device)
    grad_restart = None if restart is None else torch.empty((B, T, H), dtype=restart.dtype, device=h.device)
    if h.numel():
        first = torch.zeros((B, H), dtype=wide, device=h.device) if grad_last is None else grad_last.to(wide)
        first, wide_h0 = first.contiguous(), h0.to(wide).contiguous()
        settings = settings or plan_for(h, wide)
        arguments = [
            real(a), real(grad_h), is_init.view(torch.uint8), real(restart), real(h), real(wide_h0), real(first),
            real(grad_a), real(grad_b), real(grad_h0), real(grad_restart),
        ]  # fmt: skip
        steps = [*strides(a), *strides(grad_h), *is_init.stride(), *strides(restart)]
        flags = {"GRAD": grad_h is not None, "RESTART": restart is not None, "COMPLEX": wide.is_complex}
        if not settings.rows:
            settings = settings._replace(group=max(settings.group // 2, 1))  # it reads more a step: registers
        launch(_backward, settings, h, wide, arguments, steps, **flags)
    return grad_a, grad_b, grad_h0.to(h0.dtype), grad_restart
