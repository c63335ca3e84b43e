"""A memory recurrent unit's hold for GPUs: from candidate and threshold to the states, and back, in one pass each.

    z[t] = 1 if |u[t]| > beta[t] else 0                                    write
    h[t] = level sign(u[t]) where z[t], else h[t-1], or at an episode's first step restart[t]

    g[t] = dL/dh[t] + r[t+1],  r[t] = 0 where z[t] or at an episode's first step, else g[t]
    dz       = g level sign(u) - g h[t-1]
    dL/du    = dz step'(|u| - beta) sign(u) + g z level sign'(u)           step', sign': the surrogate derivatives
    dL/dbeta = -dz step'(|u| - beta),  dL/dlevel = sum of g z sign(u),  dL/dh0 = r[0]
    dL/drestart = g where a first step does not write

The same as the scan of a = 1 - z, b = z level sign(u) with the derivatives of `mru_rl.cells.mru.surrogate.write`, without
a, b and their gradients in memory: forward reads u and beta and writes h; backward reads u, beta, dL/dh and h and writes
dL/du and dL/dbeta. dL/dlevel is summed per program, then over programs. States only move: a hold keeps every bit, and a
write blocks what was before it even where that is NaN. Units that keep a share of the old value through a write
(carry > 0) need the scan.

Programs are laid out as in triton_kernels.py. A chunk's summary is whether it wrote or reset a unit, and the value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mru_rl.scan.triton_chain import enter, place
from mru_rl.scan.triton_kernels import read_before
from mru_rl.scan.triton_launch import Plan, launch, plan_for, strides


@triton.jit
def _read(
    u, beta, level, is_init, restart, u_step, beta_step, is_init_step, restart_step, time, T, mask,
    RESTART: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Of GROUP steps from `time` on, pointers at the first: there, whether the state is set, to what."""
    there, is_set, values, lanes = (), (), (), tl.full([ROWS, SIZE], 0, tl.int32)
    for i in tl.static_range(GROUP):  # a step past the end is read as a hold
        now = mask & (lanes + time + i < T)
        starts = tl.load(is_init + lanes, now, other=0) != 0
        u_i = tl.load(u, now, other=0.0).to(WIDE)
        writes = tl.abs(u_i) - tl.load(beta, now, other=0.0).to(WIDE) > 0
        before = tl.full([ROWS, SIZE], 0.0, WIDE)
        if RESTART:
            before = tl.load(restart, starts & ~writes, other=0.0).to(WIDE)
            restart += restart_step
        value = tl.where(writes, tl.where(u_i > 0, level, tl.where(u_i < 0, -level, 0.0)), before)
        there, is_set, values = there + (now,), is_set + (writes | starts,), values + (value,)  # noqa: RUF005
        u, beta, is_init = u + u_step, beta + beta_step, is_init + is_init_step
    return there, is_set, values


@triton.jit
def _take(state, read, h, h_step, GROUP: tl.constexpr):
    """Take these steps, store h and return the state after them."""
    there, is_set, values = read
    for i in tl.static_range(GROUP):
        state = tl.where(is_set[i], values[i], state)
        tl.store(h, state.to(h.dtype.element_ty), there[i])
        h += h_step
    return state


@triton.jit
def _forward(
    u, beta, level, is_init, restart, h, h0, h_last, control, products, ends, states, B, T, H,
    u_row, u_step, u_col, beta_row, beta_step, beta_col, level_row, is_init_row, is_init_step,
    restart_row, restart_step, restart_col,
    ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, WARPS: tl.constexpr,
    RESTART: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """h and h_last. ROWS 0: a program walks all of time. Else it takes one chunk of ROWS * GROUP steps."""
    chunk, block, row, col, mask = place(control, B, H, ROWS, SIZE)
    at, blocks = row * H + col, B * tl.cdiv(H, SIZE)
    u += row * u_row + col * u_col
    beta += row * beta_row + col * beta_col
    is_init += row * is_init_row
    h += row * T * H + col
    if RESTART:
        restart += row * restart_row + col * restart_col
    alpha = tl.load(level + row * level_row + col, mask, other=0.0).to(WIDE)
    state = tl.load(h0 + at, mask, other=0.0).to(WIDE)
    if ROWS == 0:
        for first in range(0, T, GROUP):
            read = _read(
                u, beta, alpha, is_init, restart, u_step, beta_step, is_init_step, restart_step, first, T, mask,
                RESTART, WIDE, 1, SIZE, GROUP,
            )  # fmt: skip
            state = _take(state, read, h, H, GROUP)
            u, beta, is_init = u + GROUP * u_step, beta + GROUP * beta_step, is_init + GROUP * is_init_step
            h += GROUP * H
            if RESTART:
                restart += GROUP * restart_step
        tl.store(h_last + at, state, mask)
    else:
        begin = chunk * (ROWS * GROUP)
        time = begin + tl.arange(0, ROWS)[:, None] * GROUP
        far = time.to(tl.int64)
        read = _read(
            u + far * u_step, beta + far * beta_step, alpha, is_init + far * is_init_step,
            restart + far * restart_step if RESTART else restart,
            u_step, beta_step, is_init_step, restart_step, time, T, mask,
            RESTART, WIDE, ROWS, SIZE, GROUP,
        )  # fmt: skip
        keeps, end = tl.full([ROWS, SIZE], 1.0, WIDE), tl.full([ROWS, SIZE], 0.0, WIDE)
        for i in tl.static_range(GROUP):
            keeps, end = tl.where(read[1][i], 0.0, keeps), tl.where(read[1][i], read[2][i], end)
        _, before, _ = enter(
            (keeps,), (end,), False, (state,), control, products, ends, states, chunk, block, blocks, at,
            tl.full([], 0, tl.int64) + B * H, mask, "hold", False, WIDE, ROWS, SIZE, WARPS,
        )  # fmt: skip
        after = _take(before[0], read, h + far * H, H, GROUP)
        if begin + ROWS * GROUP >= T:
            last = tl.arange(0, ROWS)[:, None] == ROWS - 1
            tl.store(h_last + at + tl.full([ROWS, SIZE], 0, tl.int32), after, mask & last)


@triton.jit
def _read_back(
    u, beta, grad, is_init, u_step, beta_step, grad_step, is_init_step, time, mask,
    GRAD: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """there, starts, u, beta, dL/dh of GROUP steps from `time` back, pointers at the first."""
    there, at_start, all_u, all_beta, all_grad, lanes = (), (), (), (), (), tl.full([ROWS, SIZE], 0, tl.int32)
    for i in tl.static_range(GROUP):
        now = mask & (lanes + time - i >= 0)
        starts = tl.load(is_init + lanes, now, other=0) != 0
        u_i, beta_i = tl.load(u, now, other=0.0).to(WIDE), tl.load(beta, now, other=0.0).to(WIDE)
        grad_i = tl.full([ROWS, SIZE], 0.0, WIDE)
        if GRAD:
            grad_i = tl.load(grad, now, other=0.0).to(WIDE)
            grad -= grad_step
        there, at_start = there + (now,), at_start + (starts,)  # noqa: RUF005
        all_u, all_beta, all_grad = all_u + (u_i,), all_beta + (beta_i,), all_grad + (grad_i,)  # noqa: RUF005
        u, beta, is_init = u - u_step, beta - beta_step, is_init - is_init_step
    return there, at_start, all_u, all_beta, all_grad


@triton.jit
def _take_back(
    r, total, read, found, level, grad_u, grad_beta, grad_restart, h_step,
    SLOPE: tl.constexpr, SIGN_SLOPE: tl.constexpr, SURROGATE: tl.constexpr, RESTART: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Take these steps from r and store their gradients. Returns r before them and total with dL/dlevel added."""
    there, at_start, all_u, all_beta, all_grad = read
    for i in tl.static_range(GROUP):
        now, starts, u = there[i], at_start[i], all_u[i]
        g, v = all_grad[i] + r, tl.abs(u) - all_beta[i]
        writes = v > 0
        sign = tl.where(u >= 0, 1.0, -1.0).to(g.dtype)
        signed = g * sign
        written = tl.where(writes, signed, 0.0)
        dv = (signed * level - g * found[i]) * _bump(v, SLOPE, 0.5 * SLOPE, SURROGATE)
        du = (dv + written * level * _bump(u, SIGN_SLOPE, SIGN_SLOPE, SURROGATE)) * sign
        tl.store(grad_u, du.to(grad_u.dtype.element_ty), now)
        tl.store(grad_beta, (-dv).to(grad_beta.dtype.element_ty), now)
        grad_u, grad_beta = grad_u - h_step, grad_beta - h_step
        if RESTART:
            passed = tl.where(starts & ~writes, g, 0.0)
            tl.store(grad_restart, passed.to(grad_restart.dtype.element_ty), now)
            grad_restart -= h_step
        r, total = tl.where(writes | starts, 0.0, g), total + written
    return r, total


@triton.jit
def _bump(v, slope: tl.constexpr, height: tl.constexpr, SURROGATE: tl.constexpr):
    """`mru_rl.cells.mru.surrogate.bump`."""
    if SURROGATE == "tanh":
        s = 1.0 / (1.0 + tl.exp(v * (-2.0 * slope)))
        return (4.0 * height) * s * (1.0 - s)
    elif SURROGATE == "triangle":
        left = height - tl.abs(v * (slope * height))
        return tl.where(left < 0, 0.0, left)
    else:
        return height / (1.0 + (v * slope) * (v * slope))


@triton.jit
def _backward(
    u, beta, level, grad, is_init, restart, h, h0, grad_last, grad_u, grad_beta, grad_level, grad_h0, grad_restart,
    control, products, ends, states, B, T, H,
    u_row, u_step, u_col, beta_row, beta_step, beta_col, level_row, grad_row, grad_step, grad_col,
    is_init_row, is_init_step, restart_row, restart_step, restart_col,
    ROWS: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, WARPS: tl.constexpr,
    SLOPE: tl.constexpr, SIGN_SLOPE: tl.constexpr, SURROGATE: tl.constexpr,
    GRAD: tl.constexpr, RESTART: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Every gradient, from the last step to the first; grad_level: [chunks, B, H], a part of the sum per program."""
    chunk, block, row, col, mask = place(control, B, H, ROWS, SIZE)
    at, in_h, blocks = row * H + col, row * T * H + col, B * tl.cdiv(H, SIZE)
    u += row * u_row + col * u_col
    beta += row * beta_row + col * beta_col
    is_init += row * is_init_row
    h0, h, grad_u, grad_beta = h0 + at, h + in_h, grad_u + in_h, grad_beta + in_h
    if GRAD:
        grad += row * grad_row + col * grad_col
    if RESTART:
        restart += row * restart_row + col * restart_col
        grad_restart += in_h
    alpha = tl.load(level + row * level_row + col, mask, other=0.0).to(WIDE)
    r = tl.load(grad_last + at, mask, other=0.0).to(WIDE)
    if ROWS == 0:
        far = row * 0 + T - 1
        time = far.to(tl.int32)
    else:
        time = T - 1 - chunk * (ROWS * GROUP) - tl.arange(0, ROWS)[:, None] * GROUP
        far = time.to(tl.int64)
    u, beta, is_init = u + far * u_step, beta + far * beta_step, is_init + far * is_init_step
    h, grad_u, grad_beta = h + far * H, grad_u + far * H, grad_beta + far * H
    if GRAD:
        grad += far * grad_step
    if RESTART:
        restart += far * restart_step
        grad_restart += far * H
    if ROWS == 0:
        total = tl.full([1, SIZE], 0.0, WIDE)
        for first in range(0, T, GROUP):
            read = _read_back(
                u, beta, grad, is_init, u_step, beta_step, grad_step, is_init_step, time - first, mask,
                GRAD, WIDE, 1, SIZE, GROUP,
            )  # fmt: skip
            found = read_before(
                read[0], read[1], h, h0, restart, H, restart_step, time - first, RESTART, False, WIDE, 1, SIZE, GROUP
            )
            r, total = _take_back(
                r, total, read, found, alpha, grad_u, grad_beta, grad_restart, H,
                SLOPE, SIGN_SLOPE, SURROGATE, RESTART, GROUP,
            )  # fmt: skip
            u, beta, is_init = u - GROUP * u_step, beta - GROUP * beta_step, is_init - GROUP * is_init_step
            h, grad_u, grad_beta = h - GROUP * H, grad_u - GROUP * H, grad_beta - GROUP * H
            if GRAD:
                grad -= GROUP * grad_step
            if RESTART:
                restart -= GROUP * restart_step
                grad_restart -= GROUP * H
        tl.store(grad_level + at, total, mask)
        tl.store(grad_h0 + at, r, mask)
    else:
        read = _read_back(
            u, beta, grad, is_init, u_step, beta_step, grad_step, is_init_step, time, mask,
            GRAD, WIDE, ROWS, SIZE, GROUP,
        )  # fmt: skip
        keeps, end = tl.full([ROWS, SIZE], 1.0, WIDE), tl.full([ROWS, SIZE], 0.0, WIDE)
        for i in tl.static_range(GROUP):
            is_set = (tl.abs(read[2][i]) - read[3][i] > 0) | read[1][i]
            keeps, end = tl.where(is_set, 0.0, keeps), tl.where(is_set, 0.0, read[4][i] + end)
        _, before, _ = enter(
            (keeps,), (end,), False, (r,), control, products, ends, states, chunk, block, blocks, at,
            tl.full([], 0, tl.int64) + B * H, mask, "sum", False, WIDE, ROWS, SIZE, WARPS,
        )  # fmt: skip
        found = read_before(
            read[0], read[1], h, h0, restart, H, restart_step, time, RESTART, False, WIDE, ROWS, SIZE, GROUP
        )
        first, total = _take_back(
            before[0], tl.full([ROWS, SIZE], 0.0, WIDE), read, found, alpha, grad_u, grad_beta, grad_restart, H,
            SLOPE, SIGN_SLOPE, SURROGATE, RESTART, GROUP,
        )  # fmt: skip
        tl.store(grad_level + chunk.to(tl.int64) * B * H + at, tl.sum(total, 0)[None, :], mask)
        if (chunk + 1) * (ROWS * GROUP) >= T:
            last = tl.arange(0, ROWS)[:, None] == ROWS - 1
            tl.store(grad_h0 + at + tl.full([ROWS, SIZE], 0, tl.int32), first, mask & last)


def forward(
    u: Tensor, beta: Tensor, level: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None, *,
    settings: Plan | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """h [B, T, H] in u's dtype and the last state [B, H] in float32 or wider, without autograd.

    u, beta: [B, T, H], real; level: [H] or [B, H]; h0: [B, H]; is_init: bool [B, T]; restart: [B, T, H], or None for zeros.
    """
    (B, T, H), wide = u.shape, torch.promote_types(u.dtype, torch.float32)
    h = torch.empty((B, T, H), dtype=u.dtype, device=u.device)
    h_last = torch.empty((B, H), dtype=wide, device=u.device)
    if h.numel():
        level = level.contiguous()
        arguments = [u, beta, level, is_init.view(torch.uint8), restart, h, h0.to(wide).contiguous(), h_last]
        row = H if level.dim() == 2 else 0
        steps = (*u.stride(), *beta.stride(), row, *is_init.stride(), *strides(restart))
        launch(_forward, settings or plan_for(u, wide), u, wide, arguments, steps, RESTART=restart is not None)
    return h, h_last


def backward(
    grad_h: Tensor | None, grad_last: Tensor | None, u: Tensor, beta: Tensor, level: Tensor, h: Tensor, h0: Tensor,
    is_init: Tensor, restart: Tensor | None, *, slope: float, sign_slope: float, surrogate: str,
    settings: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients to u, beta, level, h0 and, if given, restart, from those to h and h_last (None: zero)."""
    (B, T, H), wide = h.shape, torch.promote_types(h.dtype, torch.float32)
    grad_u, grad_beta = torch.empty_like(h), torch.empty_like(h)
    grad_restart = None if restart is None else torch.empty((B, T, H), dtype=restart.dtype, device=h.device)
    if h.numel() == 0:
        return grad_u, grad_beta, torch.zeros_like(level), torch.zeros_like(h0), grad_restart
    settings, level = settings or plan_for(h, wide), level.contiguous()
    settings = settings._replace(group=max(settings.group // 2, 1))  # it reads more a step: registers
    chunks = triton.cdiv(T, settings.rows * settings.group) if settings.rows else 1
    grad_level = torch.empty((chunks, B, H), dtype=wide, device=h.device)
    first = torch.zeros((B, H), dtype=wide, device=h.device) if grad_last is None else grad_last.to(wide)
    grad_h0 = torch.empty_like(first, memory_format=torch.contiguous_format)
    arguments = [
        u, beta, level, grad_h, is_init.view(torch.uint8), restart, h, h0.to(wide).contiguous(), first.contiguous(),
        grad_u, grad_beta, grad_level, grad_h0, grad_restart,
    ]  # fmt: skip
    row = H if level.dim() == 2 else 0
    steps = (
        *u.stride(), *beta.stride(), row, *strides(grad_h), *is_init.stride(), *strides(restart)
    )  # fmt: skip
    launch(
        _backward, settings, h, wide, arguments, steps, GRAD=grad_h is not None, RESTART=restart is not None,
        SLOPE=slope, SIGN_SLOPE=sign_slope, SURROGATE=surrogate,
    )  # fmt: skip
    total = grad_level.sum(0) if level.dim() == 2 else grad_level.sum((0, 1))
    return grad_u, grad_beta, total.to(level.dtype), grad_h0.to(h0.dtype), grad_restart
