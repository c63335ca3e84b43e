"""The fast scan against the definition: values, every gradient, resets, holds, what must not leak, what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mru_rl
from mru_rl.scan import chunked, dispatch, reference

# rtol, atol against the reference in the same dtype: rounding only (bfloat16: of the returned h and gradients)
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.complex64: {"rtol": 2e-5, "atol": 2e-5},
    torch.complex128: {"rtol": 1e-12, "atol": 1e-12},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1.6e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}
LENGTHS = [1, 7, 128, 129, 1000]
CHUNKS = [None, 1, 2, 5]


def random_inputs(B, T, H, dtype=torch.float32, reset_rate=0.2, restart=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)

    def normal(*shape, dtype=dtype):
        draw = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(*shape, dtype=draw, generator=g).to(dtype)

    a = normal(B, T, H)
    a = a / (1 + a.abs())  # |a| < 1, of both signs
    return {
        "a": a.detach().requires_grad_(),
        "b": normal(B, T, H).requires_grad_(),
        "h0": normal(B, H, dtype=wide).requires_grad_(),
        "is_init": torch.rand(B, T, generator=g) < reset_rate,
        "restart": normal(B, T, H, dtype=wide).requires_grad_() if restart else None,
        "weight_h": normal(B, T, H),
        "weight_last": normal(B, H, dtype=wide),
    }


def fast(chunks):
    return lambda *args: chunked.linear_scan(*args, chunks=chunks)


def values_and_grads(scan, x, through="both"):
    h, h_last = scan(x["a"], x["b"], x["h0"], x["is_init"], x["restart"])
    out = {"h": h.detach(), "h_last": h_last.detach()}
    real = h_last.real.dtype
    loss = torch.zeros((), dtype=real)
    if through in ("both", "h"):
        loss = loss + (h * x["weight_h"]).real.to(real).sum()
    if through in ("both", "h_last"):
        loss = loss + (h_last * x["weight_last"]).real.sum()
    names = [name for name in ("a", "b", "h0", "restart") if x[name] is not None]
    grads = torch.autograd.grad(loss, [x[name] for name in names])
    return out | {f"grad_{name}": grad for name, grad in zip(names, grads, strict=True)}


def assert_same(got, want, dtype):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        torch.testing.assert_close(got[name], want[name], **TOLERANCE[dtype], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("T", LENGTHS)
def test_chunked_scan_matches_reference_in_values_and_gradients(T, chunks):
    x = random_inputs(B=3, T=T, H=33)
    assert_same(values_and_grads(fast(chunks), x), values_and_grads(reference.linear_scan, x), torch.float32)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("T", [1, 7, 129])
def test_chunked_scan_matches_reference_in_every_dtype(T, dtype, chunks):
    for restart in (True, False):
        x = random_inputs(B=3, T=T, H=5, dtype=dtype, restart=restart)
        assert_same(values_and_grads(fast(chunks), x), values_and_grads(reference.linear_scan, x), dtype)


@pytest.mark.parametrize("through", ["h", "h_last"])
@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_gradients_are_right_through_each_output_alone(chunks, restart, through):
    x = random_inputs(B=2, T=37, H=3, dtype=torch.float64, reset_rate=0.1, restart=restart)
    want = values_and_grads(reference.linear_scan, x, through)
    assert_same(values_and_grads(fast(chunks), x, through), want, torch.float64)


@pytest.mark.parametrize("reset_rate", [0.0, 1.0])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_no_resets_and_a_reset_at_every_step_match_reference(chunks, reset_rate):
    for B, H in [(1, 1), (3, 17), (70, 67)]:  # the last is too large for NumPy's loop
        x = random_inputs(B=B, T=40, H=H, dtype=torch.float64, reset_rate=reset_rate)
        assert_same(values_and_grads(fast(chunks), x), values_and_grads(reference.linear_scan, x), torch.float64)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients_pass_gradcheck(dtype, chunks):
    x = random_inputs(B=2, T=7, H=2, dtype=dtype, reset_rate=0.3)
    inputs = (x["a"], x["b"], x["h0"], x["restart"])
    assert torch.autograd.gradcheck(lambda a, b, h0, r: fast(chunks)(a, b, h0, x["is_init"], r), inputs)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    B=st.integers(1, 4),
    T=st.integers(1, 70),
    H=st.integers(1, 20),
    reset_rate=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    restart=st.booleans(),
    chunks=st.one_of(st.none(), st.integers(1, 80)),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_reset_pattern_matches_reference(B, T, H, reset_rate, restart, chunks, dtype, seed):
    x = random_inputs(B, T, H, dtype, reset_rate, restart, seed)
    assert_same(values_and_grads(fast(chunks), x), values_and_grads(reference.linear_scan, x), dtype)


@pytest.mark.parametrize("scan", [reference.linear_scan, fast(None), fast(1), fast(4), fast(13)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["a", "b", "h0"])
def test_bad_numbers_in_a_finished_episode_leak_neither_into_values_nor_gradients(scan, bad, where):
    B, T, H, start = 3, 29, 4, 11
    x = random_inputs(B, T, H, torch.float64, reset_rate=0.0)
    x["is_init"][0, start] = True
    clean = values_and_grads(scan, x)
    with torch.no_grad():
        if where == "h0":
            x["h0"][0] = bad
        else:
            x[where][0, start - 6 : start - 4] = bad
    got = values_and_grads(scan, x)
    assert not got["h"][0, start - 1].isfinite().any()
    for name in ("h", "grad_a", "grad_b", "grad_restart"):
        torch.testing.assert_close(got[name][0, start:], clean[name][0, start:], **TOLERANCE[torch.float64])
        torch.testing.assert_close(got[name][1:], clean[name][1:], **TOLERANCE[torch.float64])
    torch.testing.assert_close(got["h_last"], clean["h_last"], **TOLERANCE[torch.float64])
    torch.testing.assert_close(got["grad_h0"][1:], clean["grad_h0"][1:], **TOLERANCE[torch.float64])


@pytest.mark.parametrize("chunks", CHUNKS)
def test_bad_gradients_of_a_later_episode_do_not_leak_into_an_earlier_one(chunks):
    x = random_inputs(2, 23, 3, torch.float64, reset_rate=0.0)
    x["is_init"][0, 9] = True
    clean = values_and_grads(reference.linear_scan, x)
    x["weight_h"][0, 15] = float("nan")
    got = values_and_grads(fast(chunks), x)
    assert got["grad_b"][0, 9].isnan().all()
    for name in ("grad_a", "grad_b"):
        torch.testing.assert_close(got[name][0, :9], clean[name][0, :9], **TOLERANCE[torch.float64])
        torch.testing.assert_close(got[name][1], clean[name][1], **TOLERANCE[torch.float64])
    torch.testing.assert_close(got["grad_h0"], clean["grad_h0"], **TOLERANCE[torch.float64])


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_bad_number_just_before_a_reset_at_any_step_stays_there(chunks):
    T = 23  # 5 chunks of 4 steps, 3 steps over
    for start in range(T):
        x = random_inputs(2, T, 3, torch.float64, reset_rate=0.0, restart=start % 2 == 0)
        x["is_init"][0, start] = True
        with torch.no_grad():
            (x["b"][0, start - 1] if start else x["h0"][0]).fill_(float("nan"))
        want, got = (values_and_grads(scan, x) for scan in (reference.linear_scan, fast(chunks)))
        for name in want:
            torch.testing.assert_close(got[name], want[name], **TOLERANCE[torch.float64], equal_nan=True)
        x["weight_h"][0, start] = float("nan")
        want, got = (values_and_grads(scan, x)["grad_h0"] for scan in (reference.linear_scan, fast(chunks)))
        torch.testing.assert_close(got, want, **TOLERANCE[torch.float64], equal_nan=True)
        assert got[1].isfinite().all()


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_bad_coefficient_at_the_first_step_of_an_episode_shows_there_and_not_before(chunks):
    for restart in (True, False):
        x = random_inputs(2, 23, 3, torch.float64, reset_rate=0.0, restart=restart)
        x["is_init"][0, 9] = True
        with torch.no_grad():
            x["a"][0, 9] = float("nan")
        want, got = (values_and_grads(scan, x) for scan in (reference.linear_scan, fast(chunks)))
        assert got["h"][0, 9].isnan().all()
        assert got["grad_b"].isfinite().all()
        for name in want:
            torch.testing.assert_close(got[name], want[name], **TOLERANCE[torch.float64], equal_nan=True)


def test_a_product_that_overflows_inside_a_chunk_does_not_spoil_a_finite_state():
    a = torch.full((1, 40, 1), 1e30)
    a[:, ::2] = 1e-30  # the state stays near 1, a product over three large steps would not
    a[:, 20:26] = 1e30
    h0, b = torch.zeros(1, 1), torch.zeros(1, 40, 1)
    none = torch.zeros(1, 40, dtype=torch.bool)
    h, h_last = chunked.linear_scan(a, b, h0, none, None, chunks=4)
    assert (h == 0).all()
    assert (h_last == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("chunks", [None, 7])
def test_a_hold_keeps_the_same_bits_over_100_000_steps(dtype, chunks):
    T, H, wrote = 100_000, 3, 1237
    a, b = torch.ones(1, T, H, dtype=dtype), torch.zeros(1, T, H, dtype=dtype)
    a[:, wrote, 1], b[:, wrote, 1] = 0, 0.3  # a write, then a hold again
    h0 = torch.tensor([[0.1, 0.2, -7.7]]).to(torch.promote_types(dtype, torch.float32))
    none = torch.zeros(1, T, dtype=torch.bool)
    h, h_last = chunked.linear_scan(a, b, h0, none, None, chunks=chunks)
    want = h0.expand(T, H).clone()
    want[wrote:, 1] = b[0, wrote, 1].to(want.dtype)
    assert torch.equal(h[0], want.to(dtype))
    assert torch.equal(h_last[0], want[-1])


@pytest.mark.parametrize("chunks", CHUNKS)
def test_holds_and_writes_in_any_order_are_the_last_value_written(chunks):
    g = torch.Generator().manual_seed(3)
    B, T, H = 3, 500, 19
    write = torch.rand(B, T, H, generator=g) < 0.02
    value = torch.randn(B, T, H, generator=g)
    is_init = torch.rand(B, T, generator=g) < 0.01
    h0 = torch.randn(B, H, generator=g)
    h, _ = chunked.linear_scan((~write).float(), write * value, h0, is_init, None, chunks=chunks)
    want = h0
    for t in range(T):
        want = torch.where(is_init[:, t, None], 0.0, want)
        want = torch.where(write[:, t], value[:, t], want)
        assert torch.equal(h[:, t], want)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_splitting_a_sequence_and_carrying_the_state_changes_nothing(chunks):
    x = random_inputs(3, 50, 6, torch.float64)
    whole, last = chunked.linear_scan(x["a"], x["b"], x["h0"], x["is_init"], x["restart"])
    state, parts = x["h0"], []
    for piece in (slice(0, 1), slice(1, 18), slice(18, 50)):
        cut = [x[name][:, piece] for name in ("a", "b", "is_init", "restart")]
        h, state = chunked.linear_scan(*cut[:2], state, *cut[2:], chunks=chunks)
        parts.append(h)
    torch.testing.assert_close(torch.cat(parts, 1), whole, **TOLERANCE[torch.float64])
    torch.testing.assert_close(state, last, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("chunks", CHUNKS)
def test_inputs_need_not_be_contiguous(chunks):
    x = random_inputs(4, 30, 18, torch.float64)
    want = values_and_grads(reference.linear_scan, x)
    for name, order in {"a": (2, 0, 1), "b": (1, 0, 2), "restart": (2, 1, 0)}.items():
        back = [order.index(d) for d in range(3)]
        x[name] = x[name].detach().permute(order).contiguous().permute(back).requires_grad_()
        assert not x[name].is_contiguous()
    x["is_init"] = x["is_init"].t().contiguous().t()
    x["h0"] = x["h0"].detach().t().contiguous().t().requires_grad_()
    assert_same(values_and_grads(fast(chunks), x), want, torch.float64)
    x["a"] = x["a"].detach()[:, :1, :1].expand(4, 30, 18).requires_grad_()
    want = values_and_grads(reference.linear_scan, x)
    assert_same(values_and_grads(fast(chunks), x), want, torch.float64)


def test_inputs_are_left_as_they_were():
    x = random_inputs(3, 20, 4)
    before = {name: v.detach().clone() for name, v in x.items()}
    for chunks in CHUNKS:
        values_and_grads(fast(chunks), x)
    assert all(torch.equal(x[name], before[name]) for name in before)


def test_a_long_sequence_is_cut_into_chunks_and_a_short_one_is_not():
    assert chunked.plan_chunks(128, 64 * 64, "cpu") == 1
    assert chunked.plan_chunks(100_000, 64, "cpu") > 100
    x = random_inputs(1, 5003, 16, torch.float64, reset_rate=0.001)
    assert_same(values_and_grads(chunked.linear_scan, x), values_and_grads(reference.linear_scan, x), torch.float64)


@pytest.mark.parametrize("options", [{"backend": "chunked"}, {"recompute": True}, {"backend": "reference"}])
def test_a_second_derivative_is_given_by_reference_and_refused_by_all_else_however_it_is_asked_for(options):
    def gradient_norm(power: int):
        x = random_inputs(2, 6, 3, torch.float64)
        h, _ = dispatch.linear_scan(x["a"], x["b"], x["h0"].detach(), x["is_init"], **options)
        (grad,) = torch.autograd.grad(h.pow(power).sum(), x["b"], create_graph=True)
        return x["a"], grad.square().sum() + h.sum()

    ways = (lambda a, loss: loss.backward(), lambda a, loss: torch.autograd.grad(loss, a))
    for derive, power in itertools.product(ways, (1, 2)):
        a, loss = gradient_norm(power)
        if options.get("backend") == "reference":
            derive(a, loss)
        else:
            with pytest.raises(NotImplementedError, match="gradients of first order.*backend='reference'"):
                derive(a, loss)


def test_gradients_reach_only_what_asks_for_them():
    x = random_inputs(2, 9, 3)
    h, _ = chunked.linear_scan(x["a"].detach(), x["b"], x["h0"].detach(), x["is_init"], None)
    (grad,) = torch.autograd.grad(h.sum(), x["b"])
    assert grad.shape == x["b"].shape
    with torch.no_grad():
        assert not chunked.linear_scan(x["a"], x["b"], x["h0"], x["is_init"], None)[0].requires_grad


def test_changing_h_in_place_before_backward_is_an_error_not_a_wrong_gradient():
    for B, H in [(2, 3), (70, 67)]:
        x = random_inputs(B, 9, H)
        h, _ = chunked.linear_scan(x["a"], x["b"], x["h0"], x["is_init"], None)
        want = torch.autograd.grad(h.sum(), x["a"], retain_graph=True)[0]
        with torch.no_grad():
            h.mul_(2)
        try:
            got = torch.autograd.grad(h.sum(), x["a"])[0]
        except RuntimeError as error:
            assert "inplace" in str(error)  # noqa: PT017  either refusing or being right will do
        else:
            torch.testing.assert_close(got, want)


def test_auto_takes_the_reference_inside_torch_func():
    x = random_inputs(3, 8, 2, torch.float64, restart=False)
    detached = [x[n].detach() for n in ("a", "b", "h0")]

    def loss(a, b, h0):
        h, h_last = mru_rl.linear_scan(a, b, h0, x["is_init"])
        return h.square().sum() + h_last.sum()

    got = torch.func.grad(loss, argnums=(0, 1, 2))(*detached)
    want = torch.autograd.grad(loss(x["a"], x["b"], x["h0"]), [x["a"], x["b"], x["h0"]])
    torch.testing.assert_close(got, want)
    stacked = torch.stack([detached[0], detached[0] / 2])
    many = torch.func.vmap(lambda a: mru_rl.linear_scan(a, detached[1], detached[2], x["is_init"])[0])(stacked)
    torch.testing.assert_close(many[1], mru_rl.linear_scan(stacked[1], detached[1], detached[2], x["is_init"])[0])


def test_every_backend_is_listed_and_gives_the_same_numbers_by_name():
    assert dispatch.list_backends() == sorted(dispatch.BACKENDS)
    x = random_inputs(2, 20, 3, torch.float64)
    want = values_and_grads(reference.linear_scan, x)
    for backend in ["auto", *dispatch.list_backends("cpu")]:
        assert_same(values_and_grads(lambda *i, k=backend: mru_rl.linear_scan(*i, backend=k), x), want, torch.float64)


def test_an_empty_batch_gives_an_empty_result():
    b, none = torch.zeros(0, 5, 3), torch.zeros(0, 5, dtype=torch.bool)
    h, h_last = mru_rl.linear_scan(b, b, torch.zeros(0, 3), none)
    assert h.shape == (0, 5, 3)
    assert h_last.shape == (0, 3)


B, T, H = 2, 4, 3
MISTAKES = {
    "a step without a time axis": ({"b": torch.zeros(B, H)}, ValueError, r"b\[:, None\]"),
    "no steps": ({"b": torch.zeros(B, 0, H)}, ValueError, "at least one step"),
    "whole numbers": ({"b": torch.zeros(B, T, H, dtype=torch.int64)}, TypeError, r"b\.float\(\)"),
    "a of another shape": ({"a": torch.zeros(B, T, 1)}, ValueError, r"a must have shape \[2, 4, 3\].*\[2, 4, 1\]"),
    "a of another dtype": ({"a": torch.zeros(B, T, H).double()}, TypeError, "same dtype"),
    "state of another batch": ({"h0": torch.zeros(B + 1, H)}, ValueError, "initial_state"),
    "state too wide": ({"h0": torch.zeros(B, H).double()}, TypeError, r"h0\.to\(torch\.float32\)"),
    "flags with a trailing axis": ({"is_init": torch.zeros(B, T, 1).bool()}, ValueError, r"squeeze\(-1\)"),
    "flags that are numbers": ({"is_init": torch.zeros(B, T)}, TypeError, r"is_init\.bool\(\)"),
    "restart per sequence": ({"restart": torch.zeros(B, H)}, ValueError, "expand it"),
    "restart of another dtype": ({"restart": torch.zeros(B, T, H).half()}, TypeError, "restart must be"),
    "another device": ({"h0": torch.zeros(B, H, device="meta")}, ValueError, "on meta but b is on cpu"),
    "no tensor": ({"is_init": None}, TypeError, r"is_init must be a tensor, got NoneType"),
    "an array of NumPy": ({"b": torch.zeros(B, T, H).numpy()}, TypeError, r"torch\.as_tensor\(b\)"),
    "segments of less than a step": ({"recompute": -3}, ValueError, "the number of steps of a segment, got -3"),
    "segments of half a step": ({"recompute": 0.5}, ValueError, "the number of steps of a segment, got 0.5"),
    "unknown backend": ({"backend": "cuda"}, ValueError, "one of auto, chunked, reference, triton; got 'cuda'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument_is_named_with_the_rule_and_the_next_move(mistake):
    changed, error, message = MISTAKES[mistake]
    good = {"a": torch.zeros(B, T, H), "b": torch.zeros(B, T, H), "h0": torch.zeros(B, H)}
    good["is_init"] = torch.zeros(B, T, dtype=torch.bool)
    with pytest.raises(error, match=message):
        mru_rl.linear_scan(**(good | changed))
