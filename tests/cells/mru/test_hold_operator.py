"""Gate and hold as one operator against gate, then scan: values, every gradient, resets; compiled, exported, mapped."""

from __future__ import annotations

import io

import pytest
import torch

from mru_rl.cells.mru.bmru import BMRU
from mru_rl.cells.mru.hold import hold
from mru_rl.cells.mru.surrogate import SURROGATES, write
from mru_rl.scan import ops, reference

NAMES = ("u", "beta", "level", "h0", "restart")
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},  # the gate's own derivatives are rounded to bfloat16 there
}


def random_inputs(B, T, H, dtype=torch.float64, reset_rate=0.1, restart=True, per_row=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)

    def normal(*shape, dtype=dtype):
        return torch.randn(*shape, dtype=torch.float64, generator=g).to(dtype)

    return {
        "u": normal(B, T, H).requires_grad_(),
        "beta": (normal(B, T, H).abs() + 0.5).requires_grad_(),
        "level": (normal(B, H) if per_row else normal(H)).requires_grad_(),
        "h0": normal(B, H, dtype=wide).requires_grad_(),
        "is_init": torch.rand(B, T, generator=g) < reset_rate,
        "restart": normal(B, T, H, dtype=wide).requires_grad_() if restart else None,
        "weight_h": normal(B, T, H),
        "weight_last": normal(B, H, dtype=wide),
    }


def by_gate_and_scan(u, beta, level, h0, is_init, restart, **settings):
    over_time = level if level.dim() == 1 else level.unsqueeze(1)
    return reference.linear_scan(*write(u, beta, over_time, **settings), h0, is_init, restart)


def by_operator(backend):
    return lambda *inputs, **settings: hold(*inputs, backend=backend, **settings)


def values_and_grads(run, x, through="both", **settings):
    h, last = run(x["u"], x["beta"], x["level"], x["h0"], x["is_init"], x["restart"], **settings)
    loss = torch.zeros((), dtype=last.dtype)
    if through in ("both", "h"):
        loss = loss + (h * x["weight_h"]).to(last.dtype).sum()
    if through in ("both", "h_last"):
        loss = loss + (last * x["weight_last"]).sum()
    names = [name for name in NAMES if x[name] is not None]
    grads = torch.autograd.grad(loss, [x[name] for name in names])
    return {"h": h.detach(), "last": last.detach()} | {f"grad_{n}": g for n, g in zip(names, grads, strict=True)}


def assert_same(got, want, dtype):
    """The states to the bit, the gradients up to rounding."""
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        exact = {"rtol": 0, "atol": 0} if not name.startswith("grad") else TOLERANCE[dtype]
        torch.testing.assert_close(got[name], want[name], **exact, msg=lambda m, name=name: f"{name}: {m}")


@pytest.fixture(autouse=True)
def _scratch_memory_is_filled_with_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("T", [1, 7, 128, 129])
def test_without_a_gpu_the_operator_is_gate_and_scan(T, restart):
    for surrogate in SURROGATES:
        x = random_inputs(3, T, 5, restart=restart, per_row=T == 7)
        settings = {"slope": 1.7, "sign_slope": 0.6, "surrogate": surrogate}
        got = values_and_grads(by_operator("auto"), x, **settings)
        assert_same(got, values_and_grads(by_gate_and_scan, x, **settings), torch.float64)


@pytest.mark.parametrize("through", ["h", "h_last"])
def test_gradients_are_right_through_each_output_alone(through):
    x = random_inputs(2, 9, 3)
    want = values_and_grads(by_gate_and_scan, x, through)
    assert_same(values_and_grads(by_operator("auto"), x, through), want, torch.float64)


@pytest.mark.parametrize("restart", [True, False])
def test_the_operator_passes_torch_s_own_checks(restart):
    x = random_inputs(2, 6, 3, restart=restart)
    settings = (4.0, 1.0, "tanh", "auto")
    inputs = [x[name] for name in ("u", "beta", "level", "h0", "is_init", "restart")]
    torch.library.opcheck(torch.ops.mru_rl.hold.default, (*inputs, *settings))
    u, beta, level, h0, is_init, start = (None if i is None else i.detach() for i in inputs)
    h, _ = torch.ops.mru_rl.hold(u, beta, level, h0, is_init, start, *settings)
    torch.library.opcheck(
        torch.ops.mru_rl.hold_backward.default,
        (x["weight_h"], None, u, beta, level, h, h0, is_init, start, *settings),
        test_utils=("test_schema", "test_faketensor"),
    )


def check_compiled_exported_and_mapped(backend):
    """What both suites ask of the operator, on a backend."""
    torch._dynamo.reset()
    x = random_inputs(2, 6, 3)
    run, want = by_operator(backend), values_and_grads(by_gate_and_scan, x)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(values_and_grads(compiled, x), want, torch.float64)

    class Hold(torch.nn.Module):
        def forward(self, u, beta, level, h0, is_init, restart):
            return run(u, beta, level, h0, is_init, restart)

    names = ("u", "beta", "level", "h0", "is_init", "restart")
    inputs = tuple(x[name].detach() for name in names)
    program = torch.export.export(Hold(), inputs)
    assert any("mru_rl.hold" in str(node.target) for node in program.graph.nodes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(*inputs)[0], want["h"])

    def loss(u, beta, level, h0, is_init, restart):
        h, last = run(u, beta, level, h0, is_init, restart)
        return (h * x["weight_h"]).sum() + (last * x["weight_last"]).sum()

    grads = torch.func.grad(loss, argnums=(0, 1, 2, 3, 5))
    for got, name in zip(grads(*inputs), NAMES, strict=True):
        torch.testing.assert_close(got, want[f"grad_{name}"], rtol=1e-10, atol=1e-10)
    u, beta, level, *rest = inputs
    for many_levels in (torch.stack([level, 2 * level]), level):
        mapped = torch.func.vmap(grads, in_dims=(1, None, None if many_levels is level else 0, None, None, None))
        both = mapped(torch.stack([u, -u], dim=1), beta, many_levels, *rest)
        for i, row in enumerate((u, -u)):
            alone = grads(row, beta, level if many_levels is level else many_levels[i], *rest)
            for got, single in zip(both, alone, strict=True):
                torch.testing.assert_close(got[i], single, rtol=1e-10, atol=1e-10)


def test_compiled_exported_and_mapped_calls_go_through():
    check_compiled_exported_and_mapped("auto")


def test_a_bmru_takes_the_operator_where_triton_is_chosen_and_the_scan_elsewhere(monkeypatch):
    taken = []
    monkeypatch.setattr(
        "mru_rl.cells.mru.base.hold", lambda *i, **k: taken.append(k) or hold(*i, **k, backend="chunked")
    )
    cell, x, is_init = BMRU(3, 4, slope=2.0), torch.randn(2, 9, 3), torch.rand(2, 9) < 0.2
    on_the_cpu = cell(x, torch.randn(2, 4), is_init)
    assert not taken
    monkeypatch.setattr(ops, "fastest", lambda device: "triton")
    torch.manual_seed(0)
    state = torch.randn(2, 4)
    out = cell(x, state, is_init)
    assert taken == [{"slope": 2.0, "sign_slope": 1.0, "surrogate": "tanh"}]
    monkeypatch.undo()
    for got, want in zip(out, cell(x, state, is_init), strict=True):
        assert torch.equal(got, want)
    assert on_the_cpu.features.shape == out.features.shape


def test_a_level_or_coefficients_of_one_s_own_go_through_the_scan(monkeypatch):
    monkeypatch.setattr(
        "mru_rl.cells.mru.base.hold", lambda *_, **__: pytest.fail("the operator has not what this needs")
    )
    monkeypatch.setattr("mru_rl.cells.mru.base.resolve", lambda *_: "triton")

    class ByInput(BMRU):
        def level(self, x):
            return self.alpha * x.sum(-1, keepdim=True)

    class Halved(BMRU):
        def coefficients(self, x):
            a, b = super().coefficients(x)
            return a, b / 2

    class Cumulative(BMRU):
        carry = 1.0

    x, is_init = torch.randn(2, 9, 3), torch.rand(2, 9) < 0.2
    for unit in (ByInput, Halved, Cumulative):
        cell = unit(3, 4)
        state, states = torch.zeros(2, 4), []
        for t in range(9):
            state = cell.step(x[:, t], state, is_init[:, t])[1]
            states.append(state)
        torch.testing.assert_close(cell(x, cell.initial_state(2), is_init).states, torch.stack(states, 1))


def test_a_wrong_argument_is_named():
    x = random_inputs(2, 4, 3, restart=False)
    u, beta, level, h0, is_init = (x[n].detach() for n in ("u", "beta", "level", "h0", "is_init"))
    with pytest.raises(ValueError, match=r"h0 must have shape \[2, 3\].*initial_state"):
        hold(u, beta, level, h0[:1], is_init)
    with pytest.raises(TypeError, match="is_init must be bool"):
        hold(u, beta, level, h0, is_init.float())
