"""How the Triton kernels are laid out over a GPU, by shape, and their launch."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Plan(NamedTuple):
    """Launch settings: states a program, steps whose loads are issued together, and into how many rows of that many
    steps a chunk is laid out; rows 0: time is not cut."""

    size: int
    group: int
    rows: int = 0

    @property
    def warps(self) -> int:
        return max(self.rows * self.size // 32, 1)


@lru_cache(maxsize=1024)
def plan(B: int, T: int, H: int, processors: int, element_size: int) -> Plan:
    """Settings by shape, for a GPU of that many multiprocessors; element_size of the state in bytes.

    Time not cut: one warp a program; a lane takes up to four neighbouring states (16 bytes a load) if enough programs
    remain for 8 a multiprocessor. Time is cut where even the smallest ones are fewer than 4: 32 states, one to a lane,
    and rows of 16 float32 steps, up to 8 of them, one to a warp, as long as 4 chunks a multiprocessor remain.
    These numbers follow from bytes in flight (8 steps x 2 inputs x 512 bytes a warp) and from what fits in registers
    (tests/scan/test_triton.py compiles for sm_80 and sm_90 and reports); they are not tuned on a GPU yet.
    """
    widest = max(32, 128 * 4 // element_size)
    size = 32
    while size * 2 <= widest and size < H and B * -(-H // (size * 2)) >= 8 * processors:
        size *= 2
    blocks = B * -(-H // size)
    if T < 256 or blocks >= 4 * processors:
        return Plan(size, 8 if element_size <= 8 else 4)
    group, rows = 16 * 4 // element_size, 8
    while rows > 1 and blocks * -(-T // (rows * group)) < 4 * processors:
        rows //= 2
    return Plan(32, group, rows)


def launch(
    kernel: Any, settings: Plan, like: Tensor, wide: torch.dtype, arguments: list[Tensor | None],
    steps: tuple[int, ...], **flags: Any,
) -> None:  # fmt: skip
    """Run a kernel over like's shape [B, T, H]: whole sequences, or chunks of time with what they publish."""
    (B, T, H), (size, group, rows) = like.shape, settings
    blocks, control, maps = B * triton.cdiv(H, size), None, [None] * 3
    programs = blocks
    if rows:
        chunks = triton.cdiv(T, rows * group)
        programs *= chunks
        control = torch.zeros(1 + programs, dtype=torch.int32, device=like.device)  # the ticket, then the flags
        summaries = torch.empty((2, chunks, 1 + rows, B, H), dtype=wide, device=like.device)
        maps = [real(x) for x in (*summaries, torch.empty((chunks, B, H), dtype=wide, device=like.device))]
    with torch.cuda.device_of(like):
        kernel[(programs,)](
            *arguments, control, *maps, B, T, H, *steps, ROWS=rows, SIZE=size, GROUP=group, WARPS=settings.warps,
            WIDE=tl.float64 if wide in (torch.float64, torch.complex128) else tl.float32, **flags,
            num_warps=settings.warps, enable_fp_fusion=True,
        )  # fmt: skip


def plan_for(x: Tensor, wide: torch.dtype) -> Plan:
    """`plan` for a tensor [B, T, H] where it lies."""
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    return plan(*x.shape, processors, wide.itemsize)


def real(x: Tensor | None) -> Tensor | None:
    """Complex numbers as pairs in the same memory."""
    return torch.view_as_real(x.resolve_conj()) if x is not None and x.is_complex() else x


def strides(x: Tensor | None) -> tuple[int, ...]:
    """Of [B, T, H], counted in real numbers."""
    if x is None:
        return 0, 0, 0
    return tuple(2 * s for s in x.stride()) if x.is_complex() else x.stride()
