"""The Triton kernels against the definition: on a GPU where there is one, else in Triton's interpreter on a CPU.

Not collected by itself: `test_triton.py` runs it in a process of its own, since the interpreter has to be chosen before
Triton is imported. By hand: TRITON_INTERPRET=1 python -m pytest tests/scan/triton_suite.py
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mru_rl
from mru_rl.scan import dispatch, reference
from mru_rl.scan.triton_kernels import INTERPRETED
from mru_rl.scan.triton_launch import Plan, plan

_spec = importlib.util.spec_from_file_location("scan_cases", Path(__file__).with_name("test_scan.py"))
assert _spec is not None
assert _spec.loader is not None
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
TOLERANCE, assert_same, values_and_grads = cases.TOLERANCE, cases.assert_same, cases.values_and_grads

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of numbers that are meant to be bad
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _scratch_memory_is_filled_with_nan():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns, and NaN is what floats get
    yield
    torch.use_deterministic_algorithms(False)


def random_inputs(*arguments, **options):
    made = cases.random_inputs(*arguments, **options)
    return {
        name: None if x is None else x.detach().to(DEVICE).requires_grad_(x.requires_grad) for name, x in made.items()
    }


@pytest.fixture
def laid_out(monkeypatch):
    """Set how the work is laid out: steps a group and rows of groups a chunk; 0 rows: time is not cut."""

    def laid_out(group=4, rows=0):
        monkeypatch.setattr("mru_rl.scan.triton_kernels.plan_for", lambda *_: Plan(32, group, rows))

    return laid_out


def triton(*arguments, **options):
    return mru_rl.linear_scan(*arguments, backend="triton", **options)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


WALK, CHUNKS, ROWS = {"group": 4}, {"group": 4, "rows": 1}, {"group": 2, "rows": 2}  # one program, or chunks of 4 steps
LAYOUTS = [WALK, CHUNKS, ROWS]


@pytest.mark.parametrize(
    ("T", "group", "rows"),
    [(1, 8, 0), (1, 8, 1), (7, 8, 0), (7, 2, 1), (7, 2, 2), slow(128, 8, 0), slow(129, 8, 0), (128, 16, 4), (129, 16, 2),
     slow(150, 2, 1)],
)  # fmt: skip
def test_values_and_gradients_match_reference(T, group, rows, laid_out):
    laid_out(group, rows)
    x = random_inputs(B=1 if T > 50 else 2, T=T, H=33 if T < 50 else 3)
    assert_same(values_and_grads(triton, x), values_and_grads(reference.linear_scan, x), torch.float32)


@pytest.mark.parametrize(("restart", "layout"), [(True, WALK), (True, ROWS), (False, CHUNKS)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128, torch.bfloat16, torch.float16])
def test_every_dtype_matches_reference(dtype, restart, layout, laid_out):
    laid_out(**layout)
    x = random_inputs(B=2, T=11, H=5, dtype=dtype, restart=restart)
    assert_same(values_and_grads(triton, x), values_and_grads(reference.linear_scan, x), dtype)


@pytest.mark.parametrize("through", ["h", "h_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_are_right_through_each_output_alone(dtype, through, laid_out):
    laid_out(**ROWS)
    x = random_inputs(B=2, T=10, H=3, dtype=dtype, reset_rate=0.1)
    want = values_and_grads(reference.linear_scan, x, through)
    assert_same(values_and_grads(triton, x, through), want, dtype)


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
    dtype=st.sampled_from([torch.float64, torch.complex128]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_reset_pattern_matches_reference(B, T, H, reset_rate, restart, group, rows, dtype, seed):
    x = random_inputs(B, T, H, dtype, reset_rate, restart, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mru_rl.scan.triton_kernels.plan_for", lambda *_: Plan(32, group, rows))
        assert_same(values_and_grads(triton, x), values_and_grads(reference.linear_scan, x), dtype)


@pytest.mark.parametrize("layout", [WALK, ROWS])
def test_inputs_may_be_expanded_or_of_any_memory_layout(layout, laid_out):
    laid_out(**layout)
    x = random_inputs(2, 8, 70, torch.float64)
    for name, order in {"b": (1, 0, 2), "restart": (2, 1, 0)}.items():
        back = [order.index(d) for d in range(3)]
        x[name] = x[name].detach().permute(order).contiguous().permute(back).requires_grad_()
    x["a"] = x["a"].detach()[:, :1, :1].expand(2, 8, 70).requires_grad_()
    x["is_init"] = x["is_init"].t().contiguous().t()
    x["weight_h"] = x["weight_h"][:1, :1, :1].expand(2, 8, 70)
    assert_same(values_and_grads(triton, x), values_and_grads(reference.linear_scan, x), torch.float64)


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_holds_keep_the_same_bits_and_writes_are_exact(dtype, rows, laid_out):
    laid_out(8, rows)
    T, H, write = (200 if dtype == torch.float32 else 60), 3, 41
    a, b = torch.ones(1, T, H, dtype=dtype, device=DEVICE), torch.zeros(1, T, H, dtype=dtype, device=DEVICE)
    a[:, write, 1], b[:, write, 1] = 0, 0.3
    h0 = torch.tensor([[0.1, 0.2, -7.7]], device=DEVICE).to(torch.promote_types(dtype, torch.float32))
    if INTERPRETED and dtype == torch.bfloat16:
        h0 = h0.to(dtype).float()  # the interpreter truncates where a GPU rounds
    h, h_last = triton(a, b, h0, torch.zeros(1, T, dtype=torch.bool, device=DEVICE))
    want = h0.expand(T, H).clone()
    want[write:, 1] = b[0, write, 1].to(want.dtype)
    assert torch.equal(h[0], want.to(dtype))
    assert torch.equal(h_last[0], want[-1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("start", [0, 4, 7])
def test_a_bad_number_just_before_a_reset_stays_there_forward_and_backward(start, bad, layout, laid_out):
    laid_out(**layout)
    x = random_inputs(2, 8, 3, torch.float64, reset_rate=0.0, restart=start % 2 == 0)
    x["is_init"][0, start] = True
    with torch.no_grad():
        (x["b"][0, start - 1] if start else x["h0"][0]).fill_(bad)
    x["weight_h"][0, start] = float("nan")
    want, got = (values_and_grads(scan, x) for scan in (reference.linear_scan, triton))
    for name in want:
        torch.testing.assert_close(got[name], want[name], **TOLERANCE[torch.float64], equal_nan=True)
    assert got["h"][0, start:].isfinite().all()
    assert got["grad_b"][0, :start].isfinite().all() or start == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_a_product_that_overflows_inside_a_chunk_does_not_spoil_a_finite_state(rows, laid_out):
    laid_out(4, rows)
    a = torch.full((1, 16, 1), 1e30, device=DEVICE)
    a[:, ::4] = 1e-30
    a[:, 3::4] = 1e-30  # over a chunk of four steps the product overflows, then comes back too late
    b, none = torch.zeros(1, 16, 1, device=DEVICE), torch.zeros(1, 16, dtype=torch.bool, device=DEVICE)
    a.requires_grad_()
    for first in (0.0, 1e-20):
        h0 = torch.full((1, 1), first, device=DEVICE, requires_grad=True)
        got, want = triton(a, b, h0, none), reference.linear_scan(a, b, h0, none)
        torch.testing.assert_close(got, want)
        weight = torch.zeros_like(want[0])
        weight[:, 5] = 1e-30
        grads = (torch.autograd.grad(h, [h0, a], weight) for h in (got[0], want[0]))
        torch.testing.assert_close(next(grads), next(grads))


def test_splitting_a_sequence_and_carrying_the_state_changes_nothing(laid_out):
    laid_out(**ROWS)
    x = random_inputs(2, 12, 3, torch.float64)
    whole, last = reference.linear_scan(x["a"], x["b"], x["h0"], x["is_init"], x["restart"])
    state, parts = x["h0"], []
    for piece in (slice(0, 1), slice(1, 6), slice(6, 12)):
        part = [x[name][:, piece] for name in ("a", "b", "is_init", "restart")]
        h, state = triton(*part[:2], state, *part[2:])
        parts.append(h)
    torch.testing.assert_close(torch.cat(parts, 1), whole, **TOLERANCE[torch.float64])
    torch.testing.assert_close(state, last, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("segment", [4, 50])
def test_recomputation_gives_the_same_gradients(segment, laid_out):
    laid_out(**CHUNKS)
    x = random_inputs(2, 10, 3, torch.float64)
    got = values_and_grads(lambda *inputs: triton(*inputs, recompute=segment), x)
    assert_same(got, values_and_grads(reference.linear_scan, x), torch.float64)


def test_compiled_exported_and_mapped_calls_go_through(laid_out):
    laid_out(**ROWS)
    x = random_inputs(2, 5, 3, torch.float64)
    want = values_and_grads(reference.linear_scan, x)
    compiled = torch.compile(triton, fullgraph=True, backend="aot_eager")
    assert_same(values_and_grads(compiled, x), want, torch.float64)
    a, b, h0, is_init, restart = (x[n].detach() for n in ("a", "b", "h0", "is_init", "restart"))
    mapped = torch.func.vmap(triton, in_dims=(0, None, None, None, None))(
        torch.stack([a, a / 2]), b, h0, is_init, restart
    )
    torch.testing.assert_close(mapped[0][1], reference.linear_scan(a / 2, b, h0, is_init, restart)[0])


def test_an_empty_batch_gives_an_empty_result():
    b, none = torch.zeros(0, 5, 3, device=DEVICE), torch.zeros(0, 5, dtype=torch.bool, device=DEVICE)
    h0 = torch.zeros(0, 3, device=DEVICE, requires_grad=True)
    h, h_last = triton(b, b, h0, none)
    assert h.shape == (0, 5, 3)
    assert h_last.shape == (0, 3)
    h.sum().backward()
    assert h0.grad.shape == (0, 3)


def test_the_backend_is_offered_where_it_runs():
    assert "triton" in dispatch.list_backends(DEVICE)
    assert dispatch.resolve("auto", "cuda") == "triton"
    assert dispatch.resolve("triton", DEVICE) == "triton"


@given(st.integers(1, 4096), st.integers(1, 2_000_000), st.integers(1, 5000), st.sampled_from([4, 8, 16]))
def test_every_plan_fills_the_gpu_where_it_can(B, T, H, element_size):
    processors = 132
    settings = plan(B, T, H, processors, element_size)
    assert settings.size in (32, 64, 128)
    assert settings.warps <= 8
    blocks = B * -(-H // settings.size)
    if settings.rows:
        assert T >= 256
        assert settings.size == 32 * settings.warps // settings.rows
        blocks *= -(-T // (settings.rows * settings.group))
    assert blocks >= 4 * processors or settings.rows == 1 or T < 256
