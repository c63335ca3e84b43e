"""Real and complex numbers in Triton kernels, and the recurrence's maps: a number is a tuple (re,) or (re, im).

Each part is a block [ROWS, SIZE]: pieces of time beside each other, states across; COMPLEX says which kind it is.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(at, mask, other: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr):
    if COMPLEX:
        return (tl.load(at, mask, other=other).to(WIDE), tl.load(at + 1, mask, other=0.0).to(WIDE))
    else:
        return (tl.load(at, mask, other=other).to(WIDE),)


@triton.jit
def store(at, x, mask, COMPLEX: tl.constexpr):
    tl.store(at, x[0].to(at.dtype.element_ty), mask)
    if COMPLEX:
        tl.store(at + 1, x[1].to(at.dtype.element_ty), mask)


@triton.jit
def full(value: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr):
    if COMPLEX:
        return (tl.full([ROWS, SIZE], value, WIDE), tl.full([ROWS, SIZE], 0.0, WIDE))
    else:
        return (tl.full([ROWS, SIZE], value, WIDE),)


@triton.jit
def pick(numbers, i: tl.constexpr, COMPLEX: tl.constexpr):
    """The i-th of several numbers laid end to end (older Tritons return no tuples of tuples of tuples)."""
    if COMPLEX:
        return (numbers[2 * i], numbers[2 * i + 1])
    else:
        return (numbers[i],)


@triton.jit
def times(x, y, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0])
    else:
        return (x[0] * y[0],)


@triton.jit
def plus(x, y, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0] + y[0], x[1] + y[1])
    else:
        return (x[0] + y[0],)


@triton.jit
def conj(x, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (x[0], -x[1])
    else:
        return x


@triton.jit
def where(condition, x, y, COMPLEX: tl.constexpr):
    if COMPLEX:
        return (tl.where(condition, x[0], y[0]), tl.where(condition, x[1], y[1]))
    else:
        return (tl.where(condition, x[0], y[0]),)


@triton.jit
def infinite(x, COMPLEX: tl.constexpr):
    """Which are not finite; x - x is 0 for all others."""
    bad = x[0] - x[0] != 0
    if COMPLEX:
        bad = bad | (x[1] - x[1] != 0)
    return bad


@triton.jit
def any_of(condition):
    """One truth value of a block."""
    return tl.max(tl.max(condition.to(tl.int32), 1), 0) != 0


@triton.jit
def last_row(x, ROWS: tl.constexpr, COMPLEX: tl.constexpr):
    """[ROWS, SIZE] -> [1, SIZE]."""
    last = tl.arange(0, ROWS)[:, None] == ROWS - 1
    if COMPLEX:
        return (
            tl.sum(tl.where(last, x[0], 0.0), 0)[None, :],
            tl.sum(tl.where(last, x[1], 0.0), 0)[None, :],
        )
    else:
        return (tl.sum(tl.where(last, x[0], 0.0), 0)[None, :],)
