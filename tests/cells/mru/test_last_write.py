"""BMRU's state by a running maximum and a gather, the second exact implementation, against the scan; packed signs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mru_rl import linear_scan
from mru_rl.cells.mru.bmru import BMRU
from mru_rl.scan.first_order import first_order


def last_write(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] h[t-1] + b[t] for a[t] in {0, 1} and b[t] = 0 where a[t] = 1: a unit that replaces or holds.

    Arguments, results and gradients as in `mru_rl.linear_scan`, exactly where that is exact: h[t] is b at the last
    write at or before t, or the restart state of its episode, or h0.
    """
    return _LastWrite.apply(a, b, h0, is_init, restart)


class _LastWrite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        T = b.shape[1]
        wide = torch.promote_types(b.dtype, torch.float32)
        write, start = a == 0, is_init.unsqueeze(-1)
        fresh = torch.zeros((), dtype=wide, device=b.device) if restart is None else restart.to(wide)
        source = torch.cat([h0.to(wide).unsqueeze(1), torch.where(write, b.to(wide), fresh)], dim=1)  # [B, 1 + T, H]
        step = torch.arange(1, T + 1, device=b.device)[:, None]
        last = torch.where(write | start, step, 0).cummax(dim=1).values  # 0 is h0
        h = source.gather(1, last)
        ctx.save_for_backward(write, start, last, h, h0, restart)
        ctx.dtypes = a.dtype, b.dtype, h0.dtype, None if restart is None else restart.dtype
        return h.to(b.dtype), h[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b, grad_h0, grad_restart = first_order(
            _gradients, grad_h, grad_last, ctx.dtypes, *ctx.saved_tensors
        )
        return grad_a, grad_b, grad_h0, None, grad_restart


def _gradients(
    grad_h: Tensor, grad_last: Tensor, dtypes: tuple[torch.dtype, ...],
    write: Tensor, start: Tensor, last: Tensor, h: Tensor, h0: Tensor, restart: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients to a, b, h0 and restart."""
    a_dtype, b_dtype, h0_dtype, restart_dtype = dtypes
    grad = grad_h.to(h.dtype).clone()
    grad[:, -1] += grad_last
    # g[t]: the sum of grad from t to the last step that still holds what stood at t
    grad = grad.double()  # sums over a hold are differences of running sums: wide, or they lose digits
    passed = torch.nn.functional.pad(grad.cumsum(1)[:, :-1], (0, 0, 1, 0))  # all before t
    source = torch.nn.functional.pad(torch.zeros_like(grad), (0, 0, 1, 0)).scatter_add(1, last, grad)
    g = source.gather(1, last) - (passed - passed.gather(1, last.clamp(min=1) - 1))
    before = torch.cat([h0.to(h.dtype).unsqueeze(1), h[:, :-1]], dim=1)
    before = torch.where(start, 0.0 if restart is None else restart.to(h.dtype), before)
    grad_restart = None
    if restart is not None:
        grad_restart = torch.where(start & ~write, g, 0.0).to(restart_dtype)
    return (g * before).to(a_dtype), g.to(b_dtype), source[:, 0].to(h0_dtype), grad_restart


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("with_restart", [False, True])
@pytest.mark.parametrize("T", [1, 7, 128, 129, 700])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_the_last_write_is_the_state_that_the_scan_finds(T, with_restart, backend):
    a = (torch.rand(3, T, 5) > 0.1).double()
    b = torch.where(a == 0, torch.randn(3, T, 5).double(), 0.0)
    h0, restart = torch.randn(3, 5).double(), torch.randn(3, T, 5).double() if with_restart else None
    is_init = torch.rand(3, T) < 0.05
    weight, weight_last = torch.randn(3, T, 5).double(), torch.randn(3, 5).double()

    def values_and_gradients(function):
        inputs = [None if x is None else x.clone().requires_grad_() for x in (a, b, h0, restart)]
        h, last = function(*inputs[:3], is_init, inputs[3])
        loss = (h * weight).sum() + (last * weight_last).sum()
        return h.detach(), last.detach(), torch.autograd.grad(loss, [x for x in inputs if x is not None])

    h, last, grads = values_and_gradients(last_write)
    want_h, want_last, want_grads = values_and_gradients(lambda *args: linear_scan(*args, backend=backend))
    assert torch.equal(h, want_h)
    assert torch.equal(last, want_last)
    for got, want in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_a_broken_state_cannot_pass_a_reset_by_the_gather_either():
    a, b = torch.ones(1, 3, 2), torch.zeros(1, 3, 2)
    h, last = last_write(a, b, torch.full((1, 2), float("nan")), torch.tensor([[False, True, False]]))
    assert h[0, 0].isnan().all()
    assert not h[0, 1:].any()
    assert not last.any()


# packed signs


def bmru_states(units: int):
    cell = BMRU(3, units, init_horizon=10)
    with torch.no_grad():
        cell.alpha += 0.3 * torch.randn(units)
    return cell, cell(torch.randn(4, 30, 3), cell.initial_state(4), torch.rand(4, 30) < 0.1).states.detach()


@pytest.mark.parametrize("two_bit", [False, True], ids=["int8", "two-bit"])
@pytest.mark.parametrize("units", [1, 4, 7, 64])
def test_a_bmru_state_survives_packing_as_signs_to_the_bit(units, two_bit):
    cell, states = bmru_states(units)
    codes = cell.pack_signs(states, two_bit=two_bit)
    assert codes.nbytes == 4 * 30 * (-(-units // 4) if two_bit else units)
    assert torch.equal(cell.unpack_signs(codes), states)


def test_unpacking_takes_the_level_the_unit_has_now():
    cell, states = bmru_states(5)
    codes = cell.pack_signs(states)
    with torch.no_grad():
        cell.alpha *= 3.0
    torch.testing.assert_close(cell.unpack_signs(codes), 3 * states)


def test_codes_of_another_cell_are_refused():
    cell, states = bmru_states(5)
    with pytest.raises(ValueError, match="expected 5 numbers"):
        cell.pack_signs(states[..., :3])
    with pytest.raises(ValueError, match="expected 2 numbers in the last dimension"):
        cell.unpack_signs(torch.zeros(3, 3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="int8 or, two bits each, uint8"):
        cell.unpack_signs(states)
