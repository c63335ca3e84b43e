"""Few long sequences in one pass: chunks of time are handed out in order, and each passes its state on to the next.

The single-pass scan with decoupled look-back of Merrill & Garland 2016 (NVIDIA technical report NVR-2016-002), for
h[t] = a[t] h[t-1] + b[t]. A program takes a ticket, reads its chunk, and while the chunk stays in its registers

    1. finds the chunk's summary, state after = product * state before + end, and publishes it;
    2. looks back for the nearest chunk whose state after it is published, all chunks between having published their
       summaries, and applies these in the order of time: that is the state before its own chunk;
    3. publishes the state after its own chunk; then the program walks through the chunk.

*No deadlock.* Tickets come from an atomic counter, chunk by chunk: when a program has one, all chunks it may wait for
belong to programs that run already, and a running program is never put off for one that has not started. The first of
them waits for none. What a scheduler does with the order of a grid does not matter.

*What is read was written.* A flag is set with release semantics behind a barrier of the whole program, and read with
acquire semantics before one: what any thread wrote before the flag, every thread of the reader sees.

*The same bits every time.* Which chunk the look-back finds is a matter of timing, but a chunk's published state is
always its summary applied to the published state before it, so every way there gives the same numbers.

*Numbers that are not finite.* A product or an end may overflow where the state itself does not, and a reset has product
0, which lets NaN through. So a state found that is not finite is taken from the chunk before, which publishes it only
when it is right: a summary that leads to one is not trusted, and its chunk is walked step by step before it publishes.

KIND: "scan" is the above. For memory recurrent units products are 0 or 1, and 0 is a select (a write blocks even NaN):
"hold" is state after = end if product == 0 else state before, and "sum" has state before + end there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mru_rl.scan.triton_numbers import any_of, full, infinite, load, plus, store, times, where

NOTHING, SUMMARY, STATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # what a chunk has published


@triton.jit
def place(control, B, H, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """What a program works on: chunk of time, block of states, and the block's sequence, states [1, SIZE] and mask.

    By ticket: all blocks of a chunk before the chunk after it. ROWS 0: time is not cut, chunk is 0.
    """
    per_row = tl.cdiv(H, SIZE)
    if ROWS == 0:
        ticket = tl.program_id(0)
    else:
        ticket = tl.atomic_add(control, 1, sem="relaxed")
    chunk, block = ticket // (B * per_row), ticket % (B * per_row)
    col = (block % per_row) * SIZE + tl.arange(0, SIZE)[None, :]
    return chunk, block, (block // per_row).to(tl.int64), col, col < H


@triton.jit
def enter(
    product, end, cut, first, control, products, ends, states, chunk, block, blocks, at, per_chunk, mask,
    KIND: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    WARPS: tl.constexpr,
):  # fmt: skip
    """From the summaries of a chunk's rows, [ROWS, SIZE], to the states before them.

    cut: no state before the chunk reaches the one after it. first: [1, SIZE], the state before chunk 0.
    products, ends: [chunks, 1 + ROWS, B, H], the chunk's own and those of its rows; states: [chunks, B, H].
    at: where the block's states lie in [B, H]; per_chunk: numbers in [B, H].
    Returns the state before the chunk [1, SIZE], those before its rows [ROWS, SIZE], and whether the state after the
    chunk is published; if not, the program has to walk and then to call `leave`.
    """
    row, rows = tl.arange(0, ROWS)[:, None], ()
    summary = at + chunk.to(tl.int64) * per_chunk * (1 + ROWS)
    if ROWS > 1:
        store(products + summary + (1 + row) * per_chunk, product, mask, COMPLEX)
        store(ends + summary + (1 + row) * per_chunk, end, mask, COMPLEX)
        tl.debug_barrier()
        product, end = full(1.0, 1, SIZE, COMPLEX, WIDE), full(0.0, 1, SIZE, COMPLEX, WIDE)
        for i in tl.static_range(ROWS):
            place = summary + (1 + i) * per_chunk
            rows = rows + (  # noqa: RUF005
                (load(products + place, mask, 1.0, COMPLEX, WIDE), load(ends + place, mask, 0.0, COMPLEX, WIDE)),
            )
        for i in tl.static_range(ROWS):
            end = _after(rows[i][0], rows[i][1], end, KIND, COMPLEX)
            product = times(rows[i][0], product, COMPLEX)
    if KIND != "scan":
        known = ~any_of(mask & (product[0] != 0))
    else:
        known = cut & ~any_of(mask & infinite(end, COMPLEX))
    start = first
    if chunk > 0:
        if known:
            leave(end, control, states, chunk, block, blocks, at, per_chunk, mask, COMPLEX)
        else:
            store(products + summary, product, mask, COMPLEX)
            store(ends + summary, end, mask, COMPLEX)
            _announce(control + 1 + chunk * blocks + block, SUMMARY)
        start = _look_back(
            control + 1 + block, products + at, ends + at, states + at, chunk, blocks, per_chunk,
            per_chunk * (1 + ROWS), mask, KIND, COMPLEX, WIDE, SIZE, WARPS,
        )  # fmt: skip
    published = known & (chunk > 0)
    if not published:
        after = _after(product, end, start, KIND, COMPLEX)
        if KIND != "scan" or not any_of(mask & infinite(after, COMPLEX)):
            leave(after, control, states, chunk, block, blocks, at, per_chunk, mask, COMPLEX)
            published = True
    state, before = start, full(0.0, ROWS, SIZE, COMPLEX, WIDE)
    if ROWS > 1:
        for i in tl.static_range(ROWS):
            before = where(row == i, state, before, COMPLEX)
            state = _after(rows[i][0], rows[i][1], state, KIND, COMPLEX)
    else:
        before = start
    return start, before, published


@triton.jit
def leave(state, control, states, chunk, block, blocks, at, per_chunk, mask, COMPLEX: tl.constexpr):
    """Publish the state after a chunk."""
    store(states + at + chunk.to(tl.int64) * per_chunk, state, mask, COMPLEX)
    _announce(control + 1 + chunk * blocks + block, STATE)


@triton.jit
def _announce(flag, what: tl.constexpr):
    tl.debug_barrier()  # what the other threads of this program wrote comes before the release as well
    tl.atomic_xchg(flag, what, sem="release")


@triton.jit
def _look_back(
    flags, products, ends, states, chunk, blocks, per_chunk, per_summary, mask,
    KIND: tl.constexpr, COMPLEX: tl.constexpr, WIDE: tl.constexpr, SIZE: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """The state before a chunk, [1, SIZE]. Pointers at chunk 0 of this block."""
    back = tl.arange(0, 32 * WARPS)  # as many chunks as there are threads: each looks at one flag
    inside, at = back < chunk, flags + (chunk - 1 - back) * blocks
    nearest, unknown = tl.full([], 32 * WARPS, tl.int32), tl.full([], 0, tl.int32)
    while nearest >= unknown:
        seen = tl.where(inside, tl.load(at, inside, other=0, volatile=True), NOTHING)
        nearest = tl.min(tl.where(seen == STATE, back, 32 * WARPS), 0)
        unknown = tl.min(tl.where(seen == NOTHING, back, 32 * WARPS), 0)
    wanted = back <= nearest  # once more, with acquire semantics; a state may have come nearer meanwhile
    seen = tl.atomic_add(at, 0, mask=wanted, sem="acquire")
    nearest = tl.min(tl.where(wanted & (seen == STATE), back, 32 * WARPS), 0)
    tl.debug_barrier()  # what one thread acquired, the others may read
    found = chunk - 1 - nearest
    state = load(states + found.to(tl.int64) * per_chunk, mask, 0.0, COMPLEX, WIDE)
    for passed in range(0, nearest, 8):
        read = ()
        for i in tl.static_range(8):  # a chunk past the end is read as a hold
            between = tl.full([1, SIZE], 1, tl.int32) + found + passed + i
            there, now = between.to(tl.int64) * per_summary, mask & (between < chunk)
            summary = (load(products + there, now, 1.0, COMPLEX, WIDE), load(ends + there, now, 0.0, COMPLEX, WIDE))
            read = read + (summary,)  # noqa: RUF005
        for i in tl.static_range(8):
            state = _after(read[i][0], read[i][1], state, KIND, COMPLEX)
    if KIND == "scan":  # noqa: SIM102  known when compiled, the other is not
        if nearest > 0 and any_of(mask & infinite(state, COMPLEX)):
            while tl.atomic_add(flags + (chunk - 1) * blocks, 0, sem="acquire") != STATE:
                pass
            tl.debug_barrier()
            state = load(states + (chunk - 1).to(tl.int64) * per_chunk, mask, 0.0, COMPLEX, WIDE)
    return state


@triton.jit
def _after(product, end, state, KIND: tl.constexpr, COMPLEX: tl.constexpr):
    if KIND == "hold":
        return (tl.where(product[0] == 0, end[0], state[0]),)
    elif KIND == "sum":
        return (tl.where(product[0] == 0, end[0], state[0] + end[0]),)
    else:
        return plus(times(product, state, COMPLEX), end, COMPLEX)
