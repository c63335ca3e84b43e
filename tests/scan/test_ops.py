"""The scan as an operator: compiled, exported, mapped, recomputed; and scans of a million steps."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mru_rl
from mru_rl.scan import chunked, dispatch, ops, reference

_spec = importlib.util.spec_from_file_location("scan_cases", Path(__file__).with_name("test_scan.py"))
assert _spec is not None
assert _spec.loader is not None
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
TOLERANCE, assert_same = cases.TOLERANCE, cases.assert_same
random_inputs, values_and_grads = cases.random_inputs, cases.values_and_grads

NAMES = ("a", "b", "h0", "is_init", "restart")
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bfloat16]


@pytest.fixture
def scratch_filled_with_nan():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns, and NaN is what floats get
    yield
    torch.use_deterministic_algorithms(False)


def operator(segment):
    return lambda *inputs: ops.linear_scan(*inputs, backend="chunked", segment=segment)


@pytest.mark.usefixtures("scratch_filled_with_nan")
@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("segment", [0, 5, 1000])
@pytest.mark.parametrize("T", [1, 7, 128, 129, 700])
def test_the_operator_matches_reference_in_values_and_gradients(T, segment, restart):
    x = random_inputs(3, T, 9, torch.float64, restart=restart)
    assert_same(values_and_grads(operator(segment), x), values_and_grads(reference.linear_scan, x), torch.float64)


@pytest.mark.usefixtures("scratch_filled_with_nan")
@pytest.mark.parametrize("T", [1, 7, 128, 129, 1000])
def test_no_backend_reads_memory_that_nothing_wrote(T):
    for dtype in DTYPES:
        x = random_inputs(2, T, 5, dtype)
        want = values_and_grads(reference.linear_scan, x)
        for chunks in (None, 1, 4):
            scan = cases.fast(chunks)
            assert_same(values_and_grads(scan, x), want, dtype)


@pytest.mark.parametrize("through", ["h", "h_last"])
@pytest.mark.parametrize("segment", [0, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_is_right_in_every_dtype_and_through_each_output(dtype, segment, through):
    x = random_inputs(2, 13, 3, dtype)
    want = values_and_grads(reference.linear_scan, x, through)
    assert_same(values_and_grads(operator(segment), x, through), want, dtype)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    B=st.integers(1, 4),
    T=st.integers(1, 70),
    H=st.integers(1, 20),
    reset_rate=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    restart=st.booleans(),
    segment=st.integers(0, 80),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
    seed=st.integers(0, 1000),
)
def test_recomputation_gives_the_same_numbers_for_any_shape(B, T, H, reset_rate, restart, segment, dtype, seed):
    x = random_inputs(B, T, H, dtype, reset_rate, restart, seed)
    scan = lambda *inputs: mru_rl.linear_scan(*inputs, recompute=segment)  # noqa: E731
    assert_same(values_and_grads(scan, x), values_and_grads(reference.linear_scan, x), dtype)


def test_recomputation_keeps_the_inputs_and_few_states():
    x = random_inputs(2, 1000, 8, reset_rate=0.01, restart=False)
    kept = {}
    for recompute in (False, True, 100):
        tensors = {}

        def pack(t, tensors=tensors):
            tensors[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            h, _ = mru_rl.linear_scan(x["a"], x["b"], x["h0"], x["is_init"], recompute=recompute)
        own = {name: x[name].untyped_storage().data_ptr() for name in ("a", "b", "h0", "is_init")}
        kept[recompute] = sum(n for at, n in tensors.items() if at not in own.values())
        assert (h.untyped_storage().data_ptr() in tensors) <= (not recompute)
    whole = x["b"].numel() * 4
    assert kept[False] >= whole
    assert kept[100] == whole // 100
    assert kept[True] == x["h0"].numel() * 4


@pytest.mark.parametrize("segment", [0, 6])
@pytest.mark.parametrize("restart", [True, False])
def test_the_operator_passes_torch_s_own_checks(segment, restart):
    x = random_inputs(3, 20, 4, torch.float64, restart=restart)
    arguments = [x[name] for name in NAMES]
    torch.library.opcheck(torch.ops.mru_rl.linear_scan.default, (*arguments, "auto", segment))
    h, h_last, starts = torch.ops.mru_rl.linear_scan(*arguments, "auto", segment)
    saved = (None, h.detach()) if segment == 0 else (x["b"].detach(), None)
    a, _, h0, is_init, start = (None if v is None else v.detach() for v in arguments)
    torch.library.opcheck(
        torch.ops.mru_rl.linear_scan_backward.default,
        (x["weight_h"], x["weight_last"], a, *saved, h0, starts.detach(), is_init, start, "auto", segment),
        test_utils=("test_schema", "test_faketensor"),
    )
    assert h_last.shape == h0.shape


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_scan_is_one_graph_with_the_same_gradients(dynamic, recompute):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if "linear_scan" in str(node.target)])
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    scan = torch.compile(
        lambda *inputs: mru_rl.linear_scan(*inputs, recompute=recompute),
        fullgraph=True, backend=backend, dynamic=dynamic,
    )  # fmt: skip
    for T in (9, 14):
        x = random_inputs(3, T, 4, torch.float64)
        assert_same(values_and_grads(scan, x), values_and_grads(reference.linear_scan, x), torch.float64)
    assert [len(targets) for targets in graphs] == [1] * (1 if dynamic else 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when inductor is first imported
def test_inductor_compiles_what_surrounds_the_scan():
    torch._dynamo.reset()

    def cell(z, b, h0, is_init):
        h, last = mru_rl.linear_scan(1 - z.sigmoid(), z.sigmoid() * b, h0, is_init)
        return h.tanh(), last

    x = random_inputs(3, 20, 4, restart=False)
    inputs = (x["a"], x["b"], x["h0"], x["is_init"])
    want, got = cell(*inputs), torch.compile(cell, fullgraph=True)(*inputs)
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(h.square().sum() + last.sum(), inputs[:3]) for h, last in (got, want)]
    torch.testing.assert_close(*grads, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_scan_is_saved_loaded_and_run_at_other_sizes(strict):
    class Scan(torch.nn.Module):
        def forward(self, a, b, h0, is_init, restart):
            return mru_rl.linear_scan(a, b, h0, is_init, restart)

    def inputs(B, T):
        x = random_inputs(B, T, 4, torch.float64)
        return tuple(x[name].detach() for name in NAMES)

    B, T = torch.export.Dim("B", min=2), torch.export.Dim("T", min=2)
    sizes = ({0: B, 1: T}, {0: B, 1: T}, {0: B}, {0: B, 1: T}, {0: B, 1: T})
    exported = torch.export.export(Scan(), inputs(3, 20), dynamic_shapes=sizes, strict=strict)
    assert any("linear_scan" in str(node.target) for node in exported.graph.nodes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    other = inputs(5, 33)
    got, want = torch.export.load(file).module()(*other), reference.linear_scan(*other)
    torch.testing.assert_close(got, want, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("recompute", [False, 6])
def test_grad_and_vmap_of_torch_func_work_on_a_named_backend(recompute):
    x = random_inputs(3, 20, 4, torch.float64)
    a, b, h0, is_init, restart = (x[name].detach() for name in NAMES)
    many_a, many_init = torch.stack([a, a / 2]), torch.stack([is_init, ~is_init], 1)

    def results(**options):
        def loss(a, b, h0, is_init, restart):
            h, last = mru_rl.linear_scan(a, b, h0, is_init, restart, **options)
            return h.square().sum() + last.sum()

        grad = torch.func.grad(loss, argnums=(0, 1, 2, 4))
        mapped = torch.func.vmap(grad, in_dims=(0, None, None, 1, None))(many_a, b, h0, many_init, restart)
        jacobian = torch.func.jacrev(lambda h0: mru_rl.linear_scan(a, b, h0, is_init, None, **options)[1])(h0)
        return *grad(a, b, h0, is_init, restart), *mapped, jacobian

    got = results(backend="chunked", recompute=recompute)
    torch.testing.assert_close(got, results(backend="reference"), **TOLERANCE[torch.float64])
    assert dispatch.resolve("auto") == "chunked"


def test_torch_func_works_inside_a_compiled_function():
    torch._dynamo.reset()
    x = random_inputs(2, 5, 3, torch.float64)
    a, *others = (x[name].detach() for name in NAMES)

    def grad(a):
        return torch.func.grad(lambda a: mru_rl.linear_scan(a, *others)[0].square().sum())(a)

    torch.testing.assert_close(torch.compile(grad, fullgraph=True, backend="aot_eager")(a), grad(a))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hold_keeps_the_same_bits_over_a_million_steps(dtype, recompute):
    T, H, write = 1_000_000, 3, 654_321
    a, b = torch.ones(1, T, H, dtype=dtype), torch.zeros(1, T, H, dtype=dtype)
    a[:, write, 1], b[:, write, 1] = 0, 0.3
    h0 = torch.tensor([[0.1, 0.2, -7.7]])
    h, h_last = mru_rl.linear_scan(a, b, h0, torch.zeros(1, T, dtype=torch.bool), recompute=recompute)
    written = b[0, write, 1].float()
    assert (h[0, :write] == h0.to(dtype)).all()
    assert (h[0, write:, 1] == written).all()
    assert (h[0, write:, ::2] == h0[0, ::2].to(dtype)).all()
    assert h_last.tolist() == [[h0[0, 0].item(), written.item(), h0[0, 2].item()]]


def test_credit_passes_a_million_silent_steps_at_full_strength():
    T = 1_000_000
    a, b = torch.ones(1, T, 1, requires_grad=True), torch.zeros(1, T, 1)
    h0 = torch.tensor([[0.3]], requires_grad=True)
    for recompute in (False, True):
        _, last = mru_rl.linear_scan(a, b, h0, torch.zeros(1, T, dtype=torch.bool), recompute=recompute)
        grad_a, grad_h0 = torch.autograd.grad(last.sum(), [a, h0])
        assert grad_h0.item() == 1
        assert (grad_a == h0).all()


def test_the_reference_refuses_to_recompute():
    x = random_inputs(1, 2, 3, restart=False)
    with pytest.raises(ValueError, match="cannot recompute; take backend='auto'"):
        mru_rl.linear_scan(x["a"], x["b"], x["h0"], x["is_init"], backend="reference", recompute=True)


def test_forward_and_backward_as_plain_functions_match_autograd():
    x = random_inputs(2, 30, 5, torch.complex128)
    want = values_and_grads(reference.linear_scan, x)
    inputs = [x[name].detach() for name in NAMES]
    h, _ = chunked.forward(*inputs)
    a, _, h0, is_init, restart = inputs
    weights = x["weight_h"].conj(), x["weight_last"].conj()
    got = dict(zip(("a", "b", "h0", "restart"), chunked.backward(*weights, a, h, h0, is_init, restart), strict=True))
    for name, grad in got.items():
        torch.testing.assert_close(grad, want[f"grad_{name}"], **TOLERANCE[torch.float64])
