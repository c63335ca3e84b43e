"""The scan for GPUs: one Triton program walks one chunk of time of one sequence, 32 to 128 states at once.

    h[t] = a[t] h[t-1] + b[t]                 forward
    g[t] = dL/dh[t] + r[t+1]                  backward, with r[t] = conj(a[t]) g[t], cut to 0 at an episode's first step
    dL/db[t] = g[t],  dL/da[t] = g[t] conj(h[t-1]),  dL/drestart[t] = conj(a[t]) g[t] at first steps,  dL/dh0 = r[0]

A program takes its steps one after the other, as the definition does, so that a hold is exact and a write is exact;
only products and sums may be fused, which rounds once instead of twice. Resets are selects: nothing leaks over them.
Loads do not wait for the recurrence: those of a few steps are issued before the first of these steps is computed.

Where sequences and states fill the GPU there is one launch, and every element is read once and written once: a and b
in, h out; and backward a, dL/dh and h in, dL/da and dL/db out. Few long sequences are cut in time, in three launches:
(1) each chunk's end from a zero start and its product of a, (2) a walk over the chunks from true start to true start,
(3) as above from these starts. That reads a and b (backward: a and dL/dh) a second time, out of the L2 cache as far as
they fit; the chunks of (3) come in the opposite order for that reason. No program ever waits for another.
A chunk whose product or end from zero is not finite, while its true end may be, is walked again step by step in (2).

a, b, restart, is_init and dL/dh may have any strides, expanded ones included. Complex numbers are pairs of real ones.
The state is float32 or float64; only the result is rounded to b's dtype, and that is what the backward pass reads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# In the kernels a number is a tuple (re,) or (re, im), each part a row of states; COMPLEX says which.


@triton.jit
def _load(at, mask, other: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr):
    if COMPLEX:
        return (tl.load(at, mask, other=other).to(WIDE), tl.load(at + 1, mask, other=0.0).to(WIDE))
    else:
        return (tl.load(at, mask, other=other).to(WIDE),)


@triton.jit
def _store(at, x, mask, COMPLEX: tl.constexpr):
    tl.store(at, x[0].to(at.dtype.element_ty), mask)
    if COMPLEX:
        tl.store(at + 1, x[1].to(at.dtype.element_ty), mask)


@triton.jit
def _full(value: tl.constexpr, SIZE: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr):
    if COMPLEX:
        return (tl.full([SIZE], value, WIDE), tl.full([SIZE], 0.0, WIDE))
    else:
        return (tl.full([SIZE], value, WIDE),)


@triton.jit
def _times(x, y, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0])
    else:
        return (x[0] * y[0],)


@triton.jit
def _plus(x, y, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0] + y[0], x[1] + y[1])
    else:
        return (x[0] + y[0],)


@triton.jit
def _conj(x, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0], -x[1])
    else:
        return x


@triton.jit
def _where(condition, x, y, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (tl.where(condition, x[0], y[0]), tl.where(condition, x[1], y[1]))
    else:
        return (tl.where(condition, x[0], y[0]),)


@triton.jit
def _infinite(x, COMPLEX: tl.constexpr):
    """Which are not finite; x - x is 0 for all others."""
    bad = x[0] - x[0] != 0
    if COMPLEX:
        bad = bad | (x[1] - x[1] != 0)
    return bad


@triton.jit
def _walk(
    state, a, b, is_init, restart, h, a_step, b_step, is_init_step, restart_step, h_step, steps, mask,
    RESTART: tl.constexpr, STORE: tl.constexpr, SIZE: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Take the steps of a chunk from state. Pointers at its first step.

    Returns the state after it, the product of a, and whether an episode starts in it.
    """
    product, cut = _full(1.0, SIZE, COMPLEX, WIDE), tl.full([SIZE], 0, tl.int1)
    zero, lanes = _full(0.0, SIZE, COMPLEX, WIDE), tl.full([SIZE], 0, tl.int32)
    for first in range(0, steps, GROUP):
        read = ()
        for i in tl.static_range(GROUP):  # a step past the end is read as a hold
            now = mask & (lanes + (first + i) < steps)
            starts = tl.load(is_init + i * is_init_step + lanes, now, other=0) != 0
            a_i = _load(a + i * a_step, now, 1.0, COMPLEX, WIDE)
            b_i = _load(b + i * b_step, now, 0.0, COMPLEX, WIDE)
            before = zero
            if RESTART:
                before = _load(restart + i * restart_step, starts, 0.0, COMPLEX, WIDE)
            read = read + ((now, starts, a_i, b_i, before),)  # noqa: RUF005
        for i in tl.static_range(GROUP):
            now, starts, a_i, b_i, before = read[i]
            state = _plus(_times(a_i, _where(starts, before, state, COMPLEX), COMPLEX), b_i, COMPLEX)
            if STORE:
                _store(h + i * h_step, state, now, COMPLEX)
            else:
                product, cut = _times(a_i, product, COMPLEX), cut | starts
        a += GROUP * a_step
        b += GROUP * b_step
        is_init += GROUP * is_init_step
        if RESTART:
            restart += GROUP * restart_step
        if STORE:
            h += GROUP * h_step
    return state, product, cut


@triton.jit
def _walk_back(
    r, a, grad, is_init, restart, h, h0, grad_a, grad_b, grad_restart,
    a_step, grad_step, is_init_step, restart_step, h_step, steps, begin, mask,
    GRAD: tl.constexpr, RESTART: tl.constexpr, STORE: tl.constexpr, SIZE: tl.constexpr, COMPLEX: tl.constexpr,
    WIDE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Take the steps of a chunk from its last to its first, from r. Pointers at its last step.

    begin: how many steps before its last step the sequence begins; h0 is what that step finds. -1: not in this chunk.
    Returns r before it, the product of conj(a), and whether an episode starts in it.
    """
    product, cut = _full(1.0, SIZE, COMPLEX, WIDE), tl.full([SIZE], 0, tl.int1)
    zero, lanes = _full(0.0, SIZE, COMPLEX, WIDE), tl.full([SIZE], 0, tl.int32)
    for first in range(0, steps, GROUP):
        read = ()
        for i in tl.static_range(GROUP):
            now = mask & (lanes + (first + i) < steps)
            starts = tl.load(is_init - i * is_init_step + lanes, now, other=0) != 0
            a_i = _conj(_load(a - i * a_step, now, 1.0, COMPLEX, WIDE), COMPLEX)
            grad_i = zero
            if GRAD:
                grad_i = _load(grad - i * grad_step, now, 0.0, COMPLEX, WIDE)
            before = zero
            if STORE:
                from_h0 = lanes + (first + i) == begin
                before = _load(h - (i + 1) * h_step, now & ~from_h0 & ~starts, 0.0, COMPLEX, WIDE)
                h0_i = _load(h0, now & from_h0 & ~starts, 0.0, COMPLEX, WIDE)
                before = _where(from_h0, h0_i, before, COMPLEX)
                if RESTART:
                    restart_i = _load(restart - i * restart_step, starts, 0.0, COMPLEX, WIDE)
                    before = _where(starts, restart_i, before, COMPLEX)
            read = read + ((now, starts, a_i, grad_i, before),)  # noqa: RUF005
        for i in tl.static_range(GROUP):
            now, starts, a_i, grad_i, before = read[i]
            g = _plus(grad_i, r, COMPLEX)
            r_i = _times(a_i, g, COMPLEX)
            r = _where(starts, zero, r_i, COMPLEX)
            if STORE:
                _store(grad_b - i * h_step, g, now, COMPLEX)
                _store(grad_a - i * h_step, _times(g, _conj(before, COMPLEX), COMPLEX), now, COMPLEX)
                if RESTART:
                    _store(grad_restart - i * h_step, _where(starts, r_i, zero, COMPLEX), now, COMPLEX)
            else:
                product, cut = _times(a_i, product, COMPLEX), cut | starts
        a -= GROUP * a_step
        is_init -= GROUP * is_init_step
        if GRAD:
            grad -= GROUP * grad_step
        if STORE:
            h -= GROUP * h_step
            grad_a -= GROUP * h_step
            grad_b -= GROUP * h_step
            if RESTART:
                restart -= GROUP * restart_step
                grad_restart -= GROUP * h_step
    return r, product, cut


@triton.jit
def _forward(
    a, b, is_init, restart, h, h0, h_last, starts, ends, products, cuts, B, T, H, length, chunks,
    a_row, a_step, a_col, b_row, b_step, b_col, is_init_row, is_init_step, restart_row, restart_step, restart_col,
    PHASE: tl.constexpr, RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """PHASE 1: ends, products and cuts of the chunks. 2: their starts. 3: h and h_last."""
    pair: tl.constexpr = 2 if COMPLEX else 1
    blocks = tl.cdiv(H, SIZE)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    col = (tl.program_id(0) % blocks) * SIZE + tl.arange(0, SIZE)
    mask, lanes = col < H, tl.full([SIZE], 0, tl.int32)
    at_row = (row * H + col) * pair  # in [B, H]; in [chunks, B, H] that many further: chunk * B * H * pair
    a += row * a_row + col * a_col
    b += row * b_row + col * b_col
    is_init += row * is_init_row
    h += row * T * H * pair + col * pair
    if RESTART:
        restart += row * restart_row + col * restart_col
    if PHASE == 2:
        state = _load(h0 + at_row, mask, 0.0, COMPLEX, WIDE)
        for first in range(0, chunks, GROUP):
            read, bad = (), tl.full([SIZE], 0, tl.int1)
            for i in tl.static_range(GROUP):
                chunk = (lanes + (first + i)).to(tl.int64)
                here, inside = at_row + chunk * B * H * pair, mask & (chunk < chunks - 1)
                end = _load(ends + here, inside, 0.0, COMPLEX, WIDE)
                product = _load(products + here, inside, 1.0, COMPLEX, WIDE)
                cut = tl.load(cuts + here // pair, inside, other=0) != 0
                bad = bad | (~cut & (_infinite(end, COMPLEX) | _infinite(product, COMPLEX)))
                read = read + ((end, product, cut),)  # noqa: RUF005
            trouble = tl.max(bad.to(tl.int32), 0) != 0
            for i in tl.static_range(GROUP):
                chunk = (lanes + (first + i)).to(tl.int64)
                _store(starts + at_row + chunk * B * H * pair, state, mask & (chunk < chunks), COMPLEX)
                end, product, cut = read[i]
                next_state = _where(cut, end, _plus(_times(product, state, COMPLEX), end, COMPLEX), COMPLEX)
                if trouble and first + i < chunks - 1:
                    begin = tl.max(chunk, 0) * length
                    state, _, _ = _walk(
                        state, a + begin * a_step, b + begin * b_step, is_init + begin * is_init_step,
                        restart + begin * restart_step if RESTART else restart, h, a_step, b_step, is_init_step,
                        restart_step, H * pair, length, mask,
                        RESTART, False, SIZE, COMPLEX, WIDE, GROUP,
                    )  # fmt: skip
                else:
                    state = next_state
    else:
        chunk = tl.program_id(1)
        if PHASE == 3:
            chunk = chunks - 1 - chunk
        begin = chunk.to(tl.int64) * length
        here = at_row + chunk.to(tl.int64) * B * H * pair
        if PHASE == 1:
            state = _full(0.0, SIZE, COMPLEX, WIDE)
        else:
            state = _load(starts + here, mask, 0.0, COMPLEX, WIDE)
        state, product, cut = _walk(
            state, a + begin * a_step, b + begin * b_step, is_init + begin * is_init_step,
            restart + begin * restart_step if RESTART else restart, h + begin * H * pair, a_step, b_step, is_init_step,
            restart_step, H * pair, tl.minimum(length, T - begin).to(tl.int32), mask,
            RESTART, PHASE == 3, SIZE, COMPLEX, WIDE, GROUP,
        )  # fmt: skip
        if PHASE == 1:
            _store(ends + here, state, mask, COMPLEX)
            _store(products + here, product, mask, COMPLEX)
            tl.store(cuts + here // pair, cut.to(tl.int8), mask)
        else:
            if chunk == chunks - 1:
                _store(h_last + at_row, state, mask, COMPLEX)


@triton.jit
def _backward(
    a, grad, is_init, restart, h, h0, grad_last, grad_a, grad_b, grad_h0, grad_restart, starts, ends, products, cuts,
    B, T, H, length, chunks,
    a_row, a_step, a_col, grad_row, grad_step, grad_col, is_init_row, is_init_step,
    restart_row, restart_step, restart_col,
    PHASE: tl.constexpr, GRAD: tl.constexpr, RESTART: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr,
    SIZE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """As _forward, from the last chunk to the first. PHASE 3: every gradient. starts: r after each chunk."""
    pair: tl.constexpr = 2 if COMPLEX else 1
    blocks = tl.cdiv(H, SIZE)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    col = (tl.program_id(0) % blocks) * SIZE + tl.arange(0, SIZE)
    mask, lanes = col < H, tl.full([SIZE], 0, tl.int32)
    at_row = (row * H + col) * pair
    in_h = row * T * H * pair + col * pair
    a += row * a_row + col * a_col
    is_init += row * is_init_row
    if GRAD:
        grad += row * grad_row + col * grad_col
    if RESTART:
        restart += row * restart_row + col * restart_col
    if PHASE == 2:
        state = _load(grad_last + at_row, mask, 0.0, COMPLEX, WIDE)
        for first in range(0, chunks, GROUP):
            read, bad = (), tl.full([SIZE], 0, tl.int1)
            for i in tl.static_range(GROUP):
                chunk = (chunks - 1 - lanes - (first + i)).to(tl.int64)
                here, inside = at_row + chunk * B * H * pair, mask & (chunk > 0)
                end = _load(ends + here, inside, 0.0, COMPLEX, WIDE)
                product = _load(products + here, inside, 1.0, COMPLEX, WIDE)
                cut = tl.load(cuts + here // pair, inside, other=0) != 0
                bad = bad | (~cut & (_infinite(end, COMPLEX) | _infinite(product, COMPLEX)))
                read = read + ((end, product, cut),)  # noqa: RUF005
            trouble = tl.max(bad.to(tl.int32), 0) != 0
            for i in tl.static_range(GROUP):
                chunk = (chunks - 1 - lanes - (first + i)).to(tl.int64)
                _store(starts + at_row + chunk * B * H * pair, state, mask & (chunk >= 0), COMPLEX)
                end, product, cut = read[i]
                next_state = _where(cut, end, _plus(_times(product, state, COMPLEX), end, COMPLEX), COMPLEX)
                if trouble and first + i < chunks - 1:
                    begin = tl.max(chunk, 0) * length
                    steps = tl.minimum(length, T - begin).to(tl.int32)
                    last = begin + steps - 1
                    state, _, _ = _walk_back(
                        state, a + last * a_step, grad + last * grad_step if GRAD else grad,
                        is_init + last * is_init_step, restart, h, h0, grad_a, grad_b, grad_restart,
                        a_step, grad_step, is_init_step, restart_step, H * pair, steps, -1, mask,
                        GRAD, RESTART, False, SIZE, COMPLEX, WIDE, GROUP,
                    )  # fmt: skip
                else:
                    state = next_state
    else:
        chunk = tl.program_id(1)
        if PHASE == 1:
            chunk = chunks - 1 - chunk  # nothing is wanted of chunk 0
        begin = chunk.to(tl.int64) * length
        steps = tl.minimum(length, T - begin).to(tl.int32)
        last = begin + steps - 1
        here = at_row + chunk.to(tl.int64) * B * H * pair
        if PHASE == 1:
            state = _full(0.0, SIZE, COMPLEX, WIDE)
        else:
            state = _load(starts + here, mask, 0.0, COMPLEX, WIDE)
        in_h += last * H * pair
        state, product, cut = _walk_back(
            state, a + last * a_step, grad + last * grad_step if GRAD else grad, is_init + last * is_init_step,
            restart + last * restart_step if RESTART else restart, h + in_h, h0 + at_row, grad_a + in_h, grad_b + in_h,
            grad_restart + in_h if RESTART else grad_restart,
            a_step, grad_step, is_init_step, restart_step, H * pair, steps, tl.where(chunk == 0, last, -1).to(tl.int32), mask,
            GRAD, RESTART, PHASE == 3, SIZE, COMPLEX, WIDE, GROUP,
        )  # fmt: skip
        if PHASE == 1:
            _store(ends + here, state, mask, COMPLEX)
            _store(products + here, product, mask, COMPLEX)
            tl.store(cuts + here // pair, cut.to(tl.int8), mask)
        else:
            if chunk == 0:
                _store(grad_h0 + at_row, state, mask, COMPLEX)


INTERPRETED = not isinstance(_forward, triton.JITFunction)  # TRITON_INTERPRET=1: runs on CPU tensors, slowly


class Plan(NamedTuple):
    """Launch settings: states a program, steps whose loads are issued together, chunks of time and their length."""

    size: int
    group: int
    chunks: int
    length: int


@lru_cache(maxsize=1024)
def plan(B: int, T: int, H: int, processors: int, element_size: int) -> Plan:
    """Settings by shape, for a GPU of that many multiprocessors; element_size of the state in bytes.

    One warp a program. A lane takes up to four neighbouring states (16 bytes a load) if enough programs remain for 8
    a multiprocessor; time is cut where even the smallest ones are fewer than 4, into pieces of at least 64 steps.
    These numbers follow from bytes in flight (8 steps x 2 inputs x 512 bytes a warp) and from what fits in registers
    (compiled for sm_90: 162 forward, no spills); they are not tuned on a GPU yet.
    """
    widest = max(32, 128 * 4 // element_size)
    size = 32
    while size * 2 <= widest and size < H and B * -(-H // (size * 2)) >= 8 * processors:
        size *= 2
    programs, chunks = B * -(-H // size), 1
    if T >= 512 and programs < 4 * processors:
        size = min(widest, max(32, triton.next_power_of_2(H)))  # chunks will fill the GPU: wide loads
        programs = B * -(-H // size)
        chunks = max(1, min(8 * processors // programs, T // 64))
    length = -(-T // chunks)
    return Plan(size, 8 if element_size <= 8 else 4, -(-T // length), length)


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
    settings = settings or _plan(b, wide)
    arguments = [_real(a), _real(b), is_init.view(torch.uint8), _real(restart), _real(h), _real(h0), _real(h_last)]
    strides = [*_strides(a), *_strides(b), *is_init.stride(), *_strides(restart)]
    _launch(_forward, settings, b.shape, wide, h0, arguments, strides, {"RESTART": restart is not None})
    return h, h_last


def backward(
    grad_h: Tensor | None, grad_last: Tensor | None, a: Tensor, h: Tensor, h0: Tensor, is_init: Tensor,
    restart: Tensor | None = None, *, settings: Plan | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients to a, b, h0 and, where it is given, restart, from those to h and h_last (None: zero)."""
    (B, T, H), wide = h.shape, torch.promote_types(h.dtype, torch.float32)
    grad_a, grad_b = torch.empty_like(h), torch.empty_like(h)
    grad_h0 = torch.empty((B, H), dtype=wide, device=h.device)
    grad_restart = None if restart is None else torch.empty((B, T, H), dtype=restart.dtype, device=h.device)
    if h.numel():
        first = torch.zeros((B, H), dtype=wide, device=h.device) if grad_last is None else grad_last.to(wide)
        first, wide_h0 = first.contiguous(), h0.to(wide).contiguous()
        settings = settings or _plan(h, wide)
        arguments = [
            _real(a), _real(grad_h), is_init.view(torch.uint8), _real(restart), _real(h), _real(wide_h0), _real(first),
            _real(grad_a), _real(grad_b), _real(grad_h0), _real(grad_restart),
        ]  # fmt: skip
        strides = [*_strides(a), *_strides(grad_h), *is_init.stride(), *_strides(restart)]
        flags = {"GRAD": grad_h is not None, "RESTART": restart is not None}
        settings = settings._replace(group=max(settings.group // 2, 1))  # it reads more a step: registers
        _launch(_backward, settings, h.shape, wide, first, arguments, strides, flags)
    return grad_a, grad_b, grad_h0.to(h0.dtype), grad_restart


def _launch(
    kernel: Any, settings: Plan, shape: torch.Size, wide: torch.dtype, first: Tensor, arguments: list[Tensor | None],
    strides: list[int], flags: dict[str, bool],
) -> None:  # fmt: skip
    """One launch, or three. first: [B, H], the state (or r) the walk begins with."""
    (B, T, H), (size, group, chunks, length) = shape, settings
    programs = B * triton.cdiv(H, size)
    starts, scratch = first, [_real(first)] * 3
    if chunks > 1:
        starts, ends, products = torch.empty((3, chunks, B, H), dtype=wide, device=first.device).unbind()
        cuts = torch.empty((chunks, B, H), dtype=torch.int8, device=first.device)
        scratch = [_real(ends), _real(products), cuts]
    constants = {
        **flags, "COMPLEX": wide.is_complex, "SIZE": size, "GROUP": group, "num_warps": 1,
        "enable_fp_fusion": True,
        "WIDE": tl.float64 if wide in (torch.float64, torch.complex128) else tl.float32,
    }  # fmt: skip
    grids = {1: (programs, chunks - 1), 2: (programs,), 3: (programs, chunks)}
    with torch.cuda.device_of(first):
        for phase in (1, 2, 3) if chunks > 1 else (3,):
            kernel[grids[phase]](
                *arguments, _real(starts), *scratch, B, T, H, length, chunks, *strides, PHASE=phase, **constants
            )


def _plan(x: Tensor, wide: torch.dtype) -> Plan:
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    return plan(*x.shape, processors, wide.itemsize)


def _real(x: Tensor | None) -> Tensor | None:
    """Complex numbers as pairs in the same memory."""
    return torch.view_as_real(x.resolve_conj()) if x is not None and x.is_complex() else x


def _strides(x: Tensor | None) -> tuple[int, ...]:
    """Of [B, T, H], counted in real numbers."""
    if x is None:
        return 0, 0, 0
    return tuple(2 * s for s in x.stride()) if x.is_complex() else x.stride()
