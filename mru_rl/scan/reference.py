"""The scan as its equation reads: the definition every other backend is tested against."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_scan(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Solve h[t] = a[t] * h[t-1] + b[t], reading h[t-1] as restart[t] where is_init[t].

    a, b: [B, T, H], real or complex; h0: [B, H]; is_init: bool [B, T], True on the first step of an episode;
    restart: [B, T, H], zero when None. Returns h [B, T, H] in b's dtype and the last state [B, H] in float32 or
    wider, always correct to carry on from. Gradients reach a, b, h0 and restart through both outputs.
    """
    wide = torch.promote_types(b.dtype, torch.float32)
    h, steps = h0.to(wide), []
    befores = [torch.zeros_like(h)] * b.shape[1] if restart is None else restart.unbind(1)
    for a_t, b_t, first, before in zip(a.unbind(1), b.unbind(1), is_init.unbind(1), befores, strict=True):
        h = torch.where(first[:, None], before.to(wide), h)  # a select: NaN cannot leak over
        h = a_t.to(wide) * h + b_t.to(wide)
        steps.append(h)
    return torch.stack(steps, dim=1).to(b.dtype), h
