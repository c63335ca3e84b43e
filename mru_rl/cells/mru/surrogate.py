"""Write gates of memory recurrent units: exact steps forward, surrogate derivatives backward."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Surrogate = Literal["tanh", "triangle", "atan"]
SURROGATES: tuple[Surrogate, ...] = ("tanh", "triangle", "atan")


def bump(v: Tensor, slope: float, height: float, shape: Surrogate) -> Tensor:
    """A bump of the given height at v = 0, steeper flanks for a larger slope.

    With height = slope it stands in for the derivative of sign(v), with height = slope / 2 for that of step(v):
    tanh:     height / cosh(slope v)^2, as if sign(v) were tanh(slope v)
    triangle: height max(0, 1 - |slope v|)
    atan:     height / (1 + (slope v)^2)
    """
    if shape == "tanh":
        s = torch.sigmoid(v * (2.0 * slope))  # 1 / cosh(x)^2 = 4 s (1 - s), s = sigmoid(2 x): cheaper than tanh
        return torch.addcmul(s, s, s, value=-1.0).mul_(4.0 * height)
    if shape == "triangle":
        return (height - (v * (slope * height)).abs()).clamp(min=0.0)
    if shape == "atan":
        return height / (1.0 + (v * slope).square())
    raise ValueError(f"a surrogate is one of {', '.join(SURROGATES)}, got {shape!r}")


class _Write(torch.autograd.Function):
    """(u, beta, level) -> (a, b) of a memory recurrent unit, in one node of the graph.

    z = 1 if |u| > beta else 0;  a = 1 - (1 - carry) z;  b = z level sign(u);  sign(0) = +1
    Backward, with step' and sign' the surrogate derivatives (derivation, memory-units):
        dz     = db level sign(u) - (1 - carry) da
        du     = dz step'(|u| - beta) sign(u) + db z level sign'(u)
        dbeta  = -dz step'(|u| - beta)
        dlevel = db z sign(u)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        u: Tensor, beta: Tensor, level: Tensor, carry: float, slope: float, sign_slope: float, shape: Surrogate
    ) -> tuple[Tensor, Tensor]:
        return coefficients(u, beta, level, carry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        u, beta, level, *ctx.settings = inputs
        ctx.save_for_backward(u, beta, level)

    @staticmethod
    def backward(ctx: Any, da: Tensor, db: Tensor) -> tuple:
        u, beta, level = ctx.saved_tensors
        du, dbeta, written = write_backward(da, db, u, beta, level, *ctx.settings)
        return du, dbeta, written.sum_to_size(level.shape), None, None, None, None


def write_backward(
    da: Tensor,
    db: Tensor,
    u: Tensor,
    beta: Tensor,
    level: Tensor,
    carry: float,
    slope: float,
    sign_slope: float,
    shape: Surrogate,
) -> tuple[Tensor, Tensor, Tensor]:
    """du, dbeta and, not yet summed to the level's shape, dlevel, as `_Write` says."""
    sign, v = torch.copysign(u.new_ones(()), u), u.abs().sub_(beta)
    signed = db * sign
    written = signed * _gate(v)
    dz = torch.addcmul(da * (carry - 1.0), signed, level)
    dv = dz.mul_(bump(v, slope, 0.5 * slope, shape))
    du = torch.addcmul(dv, written * level, bump(u, sign_slope, sign_slope, shape)).mul_(sign)
    return du, -dv, written


def _gate(v: Tensor) -> Tensor:
    """1 where v > 0 else 0, as floats: bool masks are slow on a CPU."""
    return v.sign().clamp(min=0.0)


def coefficients(u: Tensor, beta: Tensor, level: Tensor, carry: float) -> tuple[Tensor, Tensor]:
    """a, b without a graph."""
    z = _gate(u.abs() - beta)
    return 1.0 - (1.0 - carry) * z if carry else 1.0 - z, u.sign() * level * z  # where u is 0 nothing is written


def write(
    u: Tensor,
    beta: Tensor,
    level: Tensor,
    *,
    carry: float = 0.0,
    slope: float = 4.0,
    sign_slope: float = 1.0,
    surrogate: Surrogate = "tanh",
) -> tuple[Tensor, Tensor]:
    """Scan coefficients of a memory recurrent unit.

    u: [..., H] candidate; beta: [..., H] half-width of the bistable region, >= 0; level: [H] or [..., H].
    carry: share of the old value kept through a write; 0 replaces (BMRU), 1 accumulates (CMRU).
    slope, sign_slope: steepness of the surrogate derivatives of the gate and of the sign, in 1 / units of u.
    Returns a, b: [..., H].
    """
    if not torch.is_grad_enabled():  # acting: a node of the graph costs more than the arithmetic
        return coefficients(u, beta, level, carry)
    return _Write.apply(u, beta, level, carry, slope, sign_slope, surrogate)
