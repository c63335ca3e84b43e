"""The hold's Triton kernels against gate, then scan by definition: on a GPU, else in Triton's interpreter on a CPU.

Part of the suite that `tests/scan/test_triton.py` starts in a process of its own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mru_rl.cells.mru.bmru import BMRU
from mru_rl.cells.mru.surrogate import SURROGATES
from mru_rl.scan import ops
from mru_rl.scan.triton_kernels import INTERPRETED
from mru_rl.scan.triton_launch import Plan

_spec = importlib.util.spec_from_file_location("hold_cases", Path(__file__).with_name("test_hold_operator.py"))
assert _spec is not None
assert _spec.loader is not None
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
assert_same, by_gate_and_scan, values_and_grads = cases.assert_same, cases.by_gate_and_scan, cases.values_and_grads
_scratch_memory_is_filled_with_nan = cases._scratch_memory_is_filled_with_nan
by_kernel = cases.by_operator("triton")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of numbers that are meant to be bad
DEVICE = "cpu" if INTERPRETED else "cuda"
LAYOUTS = [(4, 0), (8, 1), (4, 2)]  # backward halves the group: one program, chunks of 4 steps, of 2 rows of 2


def random_inputs(*arguments, **options):
    made = cases.random_inputs(*arguments, **options)
    return {
        name: None if x is None else x.detach().to(DEVICE).requires_grad_(x.requires_grad) for name, x in made.items()
    }


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def laid_out(monkeypatch):
    """Set how the work is laid out: steps a group and rows of groups a chunk; 0 rows: time is not cut."""

    def laid_out(group, rows):
        monkeypatch.setattr("mru_rl.scan.triton_hold.plan_for", lambda *_: Plan(32, group, rows))

    return laid_out


@pytest.mark.parametrize(
    ("T", "group", "rows"),
    [(1, 8, 0), (1, 8, 1), (7, 8, 0), (7, 4, 1), (7, 4, 2), slow(128, 8, 0), slow(129, 8, 0), (128, 16, 4), (129, 16, 2),
     slow(150, 4, 1)],
)  # fmt: skip
def test_values_and_gradients_are_those_of_gate_and_scan(T, group, rows, laid_out):
    laid_out(group, rows)
    x = random_inputs(1 if T > 50 else 2, T, 33 if T < 50 else 3, torch.float32)
    assert_same(values_and_grads(by_kernel, x), values_and_grads(by_gate_and_scan, x), torch.float32)


@pytest.mark.parametrize(
    ("surrogate", "group", "rows"),
    [("tanh", 4, 0), ("triangle", 8, 1), ("atan", 4, 2), *(slow(s, *layout) for s in SURROGATES for layout in LAYOUTS)],
)
def test_every_surrogate_with_a_level_per_row_or_for_all(surrogate, group, rows, laid_out):
    laid_out(group, rows)
    chosen = {"slope": 1.7, "sign_slope": 0.6, "surrogate": surrogate}
    for per_row in (False, True):
        x = random_inputs(2, 11, 5, restart=not per_row, per_row=per_row)
        want = values_and_grads(by_gate_and_scan, x, **chosen)
        assert_same(values_and_grads(by_kernel, x, **chosen), want, torch.float64)


@pytest.mark.parametrize(("group", "rows"), LAYOUTS)
def test_bfloat16_inputs_have_a_float32_state(group, rows, laid_out):
    laid_out(group, rows)
    x = random_inputs(2, 11, 5, torch.bfloat16)
    if INTERPRETED:
        x["h0"] = x["h0"].detach().bfloat16().float().requires_grad_()  # the interpreter truncates where a GPU rounds
        x["restart"] = x["restart"].detach().bfloat16().float().requires_grad_()
    got, want = values_and_grads(by_kernel, x), values_and_grads(by_gate_and_scan, x)
    assert got["last"].dtype == torch.float32
    assert_same(got, want, torch.bfloat16)


@pytest.mark.parametrize("through", ["h", "h_last"])
def test_gradients_are_right_through_each_output_alone(through, laid_out):
    laid_out(4, 2)
    x = random_inputs(2, 10, 3)
    want = values_and_grads(by_gate_and_scan, x, through)
    assert_same(values_and_grads(by_kernel, x, through), want, torch.float64)


@pytest.mark.slow
@settings(derandomize=True, max_examples=20, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 12),
    H=st.integers(1, 40),
    reset_rate=st.sampled_from([0.0, 0.1, 1.0]),
    restart=st.booleans(),
    group=st.sampled_from([1, 3, 8]),
    rows=st.sampled_from([0, 1, 2, 4]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_reset_pattern_matches(B, T, H, reset_rate, restart, group, rows, seed):
    x = random_inputs(B, T, H, torch.float64, reset_rate, restart, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mru_rl.scan.triton_hold.plan_for", lambda *_: Plan(32, group, rows))
        assert_same(values_and_grads(by_kernel, x), values_and_grads(by_gate_and_scan, x), torch.float64)


@pytest.mark.parametrize(("group", "rows"), [(4, 0), (4, 2)])
def test_inputs_may_be_expanded_or_of_any_memory_layout(group, rows, laid_out):
    laid_out(group, rows)
    x = random_inputs(2, 8, 70)
    for name, order in {"u": (1, 0, 2), "restart": (2, 1, 0)}.items():
        back = [order.index(d) for d in range(3)]
        x[name] = x[name].detach().permute(order).contiguous().permute(back).requires_grad_()
    x["beta"] = x["beta"].detach()[:, :1, :1].expand(2, 8, 70).requires_grad_()
    x["is_init"] = x["is_init"].t().contiguous().t()
    x["weight_h"] = x["weight_h"][:1, :1, :1].expand(2, 8, 70)
    assert_same(values_and_grads(by_kernel, x), values_and_grads(by_gate_and_scan, x), torch.float64)


@pytest.mark.parametrize(("group", "rows"), [(8, 0), (8, 4)])
def test_a_hold_keeps_every_bit_of_any_number(group, rows, laid_out):
    laid_out(group, rows)
    T, write = 200, 41
    h0 = torch.tensor([[0.1, -7.7, 1e-40, float("inf"), float("nan"), 1e38]], device=DEVICE)
    u, beta = torch.zeros(1, T, 6, device=DEVICE), torch.ones(1, T, 6, device=DEVICE)
    u[0, write, 1] = -3.0
    level, never = torch.full((6,), 0.3, device=DEVICE), torch.zeros(1, T, dtype=torch.bool, device=DEVICE)
    h, last = by_kernel(u, beta, level, h0, never, None)
    want = h0.expand(T, 6).clone()
    want[write:, 1] = -level[1]
    assert torch.equal(h[0].view(torch.int32), want.view(torch.int32))
    assert torch.equal(last[0].view(torch.int32), want[-1].view(torch.int32))


@pytest.mark.parametrize(("group", "rows"), LAYOUTS)
def test_a_write_and_a_reset_block_a_broken_state_forward_and_backward(group, rows, laid_out):
    laid_out(group, rows)
    x = random_inputs(1, 12, 3, reset_rate=0.0, restart=False)
    with torch.no_grad():
        x["h0"].fill_(float("nan"))
        x["u"][0, 5, 0] = 9.0
        x["u"][0, :, 1] = 0.0
        x["u"][0, :5, 0] = 0.0
    x["is_init"][0, 7] = True
    got = values_and_grads(by_kernel, x)
    assert got["h"][0, :5, 0].isnan().all()
    assert got["h"][0, 5:, 0].isfinite().all()
    assert got["h"][0, :7, 1].isnan().all()
    assert got["h"][0, 7:].isfinite().all()
    x = random_inputs(1, 12, 3, reset_rate=0.0, restart=False)
    x["is_init"][0, 7] = True
    x["weight_h"][0, 9] = float("nan")
    got = values_and_grads(by_kernel, x)
    assert got["grad_u"][0, :7].isfinite().all()
    assert got["grad_h0"].isfinite().all()


@pytest.mark.slow
def test_compiled_exported_and_mapped_calls_go_through(laid_out):
    laid_out(4, 2)
    cases.check_compiled_exported_and_mapped("triton")


def test_an_empty_batch_gives_an_empty_result():
    x = random_inputs(0, 5, 3)
    got = values_and_grads(by_kernel, x)
    assert got["h"].shape == (0, 5, 3)
    assert got["grad_level"].tolist() == [0.0, 0.0, 0.0]


def test_a_bmru_trains_through_the_kernel(laid_out, monkeypatch):
    """Where Triton is chosen, as on a GPU, without asking."""
    laid_out(4, 2)
    cell, x, is_init = BMRU(3, 5).to(DEVICE), torch.randn(2, 11, 3).to(DEVICE), (torch.rand(2, 11) < 0.2).to(DEVICE)
    state = torch.randn(2, 5).to(DEVICE)

    def outputs_and_gradients():
        out = cell(x, state, is_init)
        return *out, *torch.autograd.grad(out.features.square().sum() + out.last.sum(), list(cell.parameters()))

    monkeypatch.setattr(ops, "fastest", lambda device: "chunked")
    want = outputs_and_gradients()
    monkeypatch.setattr(ops, "fastest", lambda device: "triton")
    torch.testing.assert_close(outputs_and_gradients(), want, rtol=2e-5, atol=2e-5)
