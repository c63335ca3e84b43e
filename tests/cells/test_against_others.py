"""Same weights in, same numbers out: cells against implementations by others.

torch and scipy are always there; the rest comes with the extra `compare`. Where that is installed (the environment
variable MRU_RL_COMPARE=1 says so, as CI does) a missing package fails; elsewhere its tests are skipped.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

import pytest
import scipy.linalg
import scipy.signal
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mru_rl.cells.base import Cell
from mru_rl.cells.registry import get_cell
from mru_rl.cells.s5 import hippo_frequencies

B, T, D = 3, 9, 5


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def package(name: str):
    """The module of that name; skips where it is not installed and need not be."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        return missing(error)


def source_file(package_name: str, path: str):
    """One file of an installed package, without the package's own imports (fla's need a GPU compiler)."""
    spec = importlib.util.find_spec(package_name)
    if spec is None:
        return missing(ModuleNotFoundError(package_name))
    file = Path(next(iter(spec.submodule_search_locations))) / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def missing(error: ModuleNotFoundError):
    if os.environ.get("MRU_RL_COMPARE") == "1":
        raise error
    pytest.skip(f'{error}; pip install "mru_rl[compare]"')


def cell_and_input(name: str, state_size: int, **options) -> tuple[Cell, Tensor]:
    cell = get_cell(name)(D, state_size, read_before_write=False, **options).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return cell, torch.randn(B, T, D, dtype=torch.float64)


def unroll(cell: Cell, x: Tensor, state: Tensor | None = None):
    state = cell.initial_state(B) if state is None else state
    return cell(x, state, torch.zeros(x.shape[:2], dtype=torch.bool))


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-9) -> None:
    assert want.abs().mean() > 1e-3
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


# torch


@pytest.mark.parametrize(("name", "other"), [("gru", nn.GRU), ("elman", nn.RNN), ("lstm", nn.LSTM)])
def test_gru_elman_and_lstm_are_torchs_in_values_and_gradients(name, other):
    units = 4
    cell, x = cell_and_input(name, 2 * units if name == "lstm" else units)
    theirs = other(D, units, batch_first=True).double()
    with torch.no_grad():
        for attribute, module in (("ih", cell.input), ("hh", cell.recurrent)):
            getattr(theirs, f"weight_{attribute}_l0").copy_(module.weight)
            getattr(theirs, f"bias_{attribute}_l0").copy_(module.bias)
    state = torch.randn(B, cell.state_size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(B, T, units, dtype=torch.float64)
    h0 = state.unsqueeze(0) if name != "lstm" else tuple(s.contiguous() for s in state.unsqueeze(0).chunk(2, dim=-1))
    want, last = theirs(x, h0)
    out = unroll(cell, x, state)
    assert_same(out.features, want)
    assert_same(out.last, torch.cat(last, dim=-1)[0] if name == "lstm" else last[0])
    ours = torch.autograd.grad((out.features * weight).sum(), [state, *cell.parameters()])
    others = torch.autograd.grad((want * weight).sum(), [state, *theirs.parameters()])
    order = [0, 1, 3, 2, 4]  # theirs: both weights, then both biases
    for mine, yours in zip(ours, (others[i] for i in order), strict=True):
        assert_same(mine, yours)


# torchrecurrent


@pytest.mark.parametrize(("name", "other"), [("brc", "BRCell"), ("nbrc", "NBRCell")])
def test_brc_and_nbrc_are_torchrecurrents(name, other):
    cell, x = cell_and_input(name, 4)
    theirs = getattr(package("torchrecurrent"), other)(D, 4).double()
    with torch.no_grad():
        theirs.weight_ih.copy_(cell.input.weight)
        theirs.bias_ih.copy_(cell.input.bias)
        theirs.weight_hh.copy_(cell.recurrent.weight)
        theirs.bias_hh.zero_()
    h, want = torch.randn(B, 4, dtype=torch.float64), []
    state = h
    for t in range(T):
        h = theirs(x[:, t], h)
        want.append(h)
    assert_same(unroll(cell, x, state).features, torch.stack(want, 1))


# minGRU-pytorch


@pytest.mark.parametrize(
    ("name", "module", "other"), [("mingru", "minGRU", "minGRU"), ("minlstm", "minLSTM", "minLSTM")]
)
def test_mingru_and_minlstm_are_mingru_pytorchs(name, module, other, monkeypatch):
    theirs_module = package(f"minGRU_pytorch.{module}")
    monkeypatch.setattr(theirs_module, "g", lambda x: x)  # the linear candidate, our departure; one step at a time
    cell, x = cell_and_input(name, D)
    theirs = getattr(theirs_module, other)(D).double()
    ours = cell.input.weight.chunk(2 if name == "mingru" else 3)
    with torch.no_grad():
        cell.input.bias.zero_()
        linear = theirs.to_hidden_and_gate if name == "mingru" else theirs.to_hidden_and_f_i_gate
        linear.weight.copy_(torch.cat([ours[1], ours[0]] if name == "mingru" else ours))
    h, want = torch.randn(B, 1, D, dtype=torch.float64), []
    state = h[:, 0]
    for t in range(T):
        out, h = theirs(x[:, t : t + 1], prev_hidden=h, return_next_prev_hidden=True)
        want.append(out[:, 0])
    assert_same(unroll(cell, x, state).features, torch.stack(want, 1))


# mambapy


def test_mamba_is_mambapys_selective_scan():
    mamba = package("mambapy.mamba")
    cell, x = cell_and_input("mamba", 24, modes=4)
    theirs = mamba.MambaBlock(mamba.MambaConfig(d_model=6, n_layers=1, expand_factor=1, d_state=4, dt_rank=1)).double()
    with torch.no_grad():
        theirs.x_proj.weight.copy_(cell.select.weight)
        theirs.dt_proj.weight.copy_(cell.delta.weight)
        theirs.dt_proj.bias.copy_(cell.delta.bias)
        theirs.A_log.copy_(cell.log_a)
        theirs.D.zero_()
        u = F.silu(cell.input(x))
        want = theirs.ssm(u, None)
    assert_same(unroll(cell, x).features, want, tolerance=1e-5)  # theirs passes A through float32


# flash-linear-attention


def test_linear_attention_is_flas_gated_linear_attention():
    naive = source_file("fla", "ops/gla/naive.py")
    cell, x = cell_and_input("linear-attention", 12, key_size=4)
    state = torch.randn(B, 12, dtype=torch.float64)
    v, k = cell.input(x).split([3, 4], dim=-1)
    gate = F.logsigmoid(cell.gate(x)) / 16
    want, last = naive.naive_recurrent_gla(
        *(part.unsqueeze(2) for part in (cell.query(x), k, v, gate)),
        initial_state=state.reshape(B, 1, 4, 3), output_final_state=True,
    )  # fmt: skip
    out = unroll(cell, x, state)
    assert_same(out.features, want[:, :, 0], tolerance=1e-5)  # theirs computes in float32
    assert_same(out.last, last.reshape(B, 12), tolerance=1e-5)


def test_tied_linear_attention_is_flas_gated_linear_attention_as_its_hgrn2_calls_it():
    """fla-core has the recurrence; the call, k = 1 - exp(g), v = i, is read in flash-linear-attention's layers/hgrn2.py."""
    naive = source_file("fla", "ops/gla/naive.py")
    cell, x = cell_and_input("linear-attention", 12, key_size=4, tied=True)
    state = torch.randn(B, 12, dtype=torch.float64)
    g = F.logsigmoid(cell.gate(x))
    want, last = naive.naive_recurrent_gla(
        *(part.unsqueeze(2) for part in (cell.query(x), 1 - g.exp(), cell.input(x), g)),
        initial_state=state.reshape(B, 1, 4, 3), output_final_state=True,
    )  # fmt: skip
    out = unroll(cell, x, state)
    assert_same(out.features, want[:, :, 0], tolerance=1e-5)
    assert_same(out.last, last.reshape(B, 12), tolerance=1e-5)


def test_hgrn_is_flas_hgrn():
    naive = source_file("fla", "ops/hgrn/naive.py")
    cell, x = cell_and_input("hgrn", 6, lower_bound=0.3)
    f, i = cell.input(x).chunk(2, dim=-1)
    log_gate = torch.logaddexp(torch.tensor(0.3).log(), torch.log1p(torch.tensor(-0.3)) + F.logsigmoid(f))
    state = torch.randn(B, 6, dtype=torch.float64)
    want, last = naive.naive_recurrent_hgrn(F.silu(i) * (1 - log_gate.exp()), log_gate, state, output_final_state=True)
    out = unroll(cell, x, state)
    assert_same(out.features, want, tolerance=1e-5)
    assert_same(out.last, last, tolerance=1e-5)


@pytest.mark.parametrize("negative", [False, True])
def test_deltanet_is_flas_delta_rule(negative):
    naive = source_file("fla", "ops/delta_rule/naive.py")
    cell, x = cell_and_input("deltanet", 12, key_size=4, negative_eigenvalues=negative)
    k, v, beta = cell.drive(x)[:, :, 0].split([4, 3, 1], dim=-1)
    assert negative == (beta.max() > 1).item()
    torch.testing.assert_close(k.norm(dim=-1), torch.ones_like(k[..., 0]), rtol=1e-3, atol=1e-3)
    state = torch.randn(B, 12, dtype=torch.float64)
    want, last = naive.delta_rule_recurrence(
        *(part.unsqueeze(1) for part in (cell.query(x), k, v, beta[..., 0])), initial_state=state.reshape(B, 1, 4, 3)
    )
    out = unroll(cell, x, state)
    assert_same(out.features, want[:, 0], tolerance=1e-5)
    assert_same(out.last, last.reshape(B, 12), tolerance=1e-5)


@pytest.mark.parametrize("steps", [2, 3])
def test_deltaproduct_is_flas_with_the_same_number_of_householder_steps(steps):
    naive = source_file("fla", "ops/gated_delta_product/naive.py")
    cell, x = cell_and_input("deltanet", 12, key_size=4, steps=steps, negative_eigenvalues=True)
    k, v, beta = (part.flatten(1, 2).unsqueeze(2) for part in cell.drive(x).split([4, 3, 1], dim=-1))
    out = unroll(cell, x)
    want, _ = naive.naive_recurrent_gated_delta_product(
        cell.query(x).unsqueeze(2), k, v, None, beta[..., 0], 4**-0.5, num_householder=steps
    )
    assert_same(out.features, want[:, :, 0], tolerance=1e-5)


# state spaces


def test_s4d_is_the_convolution_with_the_kernel_of_state_spaces_s4():
    """K[l] = 2 Re(sum_n C_n (exp(dt A_n) - 1) / A_n exp(l dt A_n)), read from state-spaces/s4."""
    cell, x = cell_and_input("s4d", 24, modes=4)
    c = torch.randn(3, 4, dtype=torch.complex128)
    a = torch.complex(-cell.log_decay.exp(), cell.frequency)
    dt_a = a * cell.log_dt.exp()
    kernel = 2 * ((c * (dt_a.exp() - 1) / a)[..., None] * torch.exp(dt_a[..., None] * torch.arange(T))).sum(1).real
    u = cell.input(x)
    want = torch.stack([sum(u[:, t - lag] * kernel[:, lag] for lag in range(t + 1)) for t in range(T)], 1)
    states = torch.view_as_complex(unroll(cell, x).features.unflatten(-1, (3, 4, 2)))
    assert_same(2 * (states * c).sum(-1).real, want)


def test_s5_is_scipys_zero_order_hold():
    cell, x = cell_and_input("s5", 8)
    rate = torch.complex(-cell.log_decay.exp(), cell.frequency).detach()
    b = torch.complex(*cell.input.weight.detach().chunk(2))
    h, want = torch.zeros(B, 4, dtype=torch.complex128), []
    steps = [
        scipy.signal.cont2discrete((rate[n].reshape(1, 1).numpy(), b[n : n + 1].numpy(), [[1]], [[0] * D]), dt.item())
        for n, dt in enumerate(cell.log_dt.exp())
    ]
    keep = torch.tensor([s[0][0, 0] for s in steps])
    enter = torch.stack([torch.as_tensor(s[1][0]) for s in steps])
    for t in range(T):
        h = keep * h + x[:, t].to(h.dtype) @ enter.T
        want.append(torch.view_as_real(h).flatten(-2))
    assert_same(unroll(cell, x).features, torch.stack(want, 1))


def test_s5_starts_from_the_eigenvalues_of_the_normal_hippo_matrix():
    n = torch.arange(12, dtype=torch.float64)
    hippo = -torch.where(n[:, None] > n, ((2 * n[:, None] + 1) * (2 * n + 1)).sqrt(), torch.diag(n + 1))
    p = (n + 0.5).sqrt()
    eigenvalues = torch.as_tensor(scipy.linalg.eigvals((hippo + p[:, None] * p).numpy()))
    torch.testing.assert_close(eigenvalues.real, torch.full((12,), -0.5, dtype=torch.float64))
    positive = eigenvalues.imag[eigenvalues.imag > 0].sort().values
    torch.testing.assert_close(hippo_frequencies(6).double(), positive, rtol=1e-5, atol=1e-5)


# formulas read in public code, in other words than ours, one step at a time


def test_rglru_is_recurrentgemmas_formula():
    cell, x = cell_and_input("rglru", 4)
    h, want = torch.randn(B, 4, dtype=torch.float64), []
    state = h
    for t in range(T):
        u = cell.input(x[:, t])
        gate_a, gate_x = torch.sigmoid(cell.gate(u)).split(4, dim=-1)
        a = torch.exp(-8.0 * gate_a * torch.log1p(cell.decay.exp()))
        h = a * h + (1 - a**2) ** 0.5 * u * gate_x
        want.append(h)
    assert_same(unroll(cell, x, state).features, torch.stack(want, 1))
    fresh = get_cell("rglru")(D, 100)
    radius = torch.exp(-F.softplus(fresh.decay))
    assert radius.min() >= 0.9
    assert radius.max() <= 0.999


def test_slstm_is_xlstms_formula_without_the_stabiliser():
    cell, x = cell_and_input("slstm", 12)
    h = c = n = torch.zeros(B, 3, dtype=torch.float64)
    want = []
    for t in range(T):
        i, f, z, o = (cell.input(x[:, t]) + cell.recurrent(h)).split(3, dim=-1)
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        want.append(h)
    assert_same(unroll(cell, x).features, torch.stack(want, 1))


def test_slstm_stays_finite_where_the_plain_exponential_overflows():
    cell, x = cell_and_input("slstm", 12)
    out = unroll(cell.float(), 1e4 * x.float())
    assert out.features.isfinite().all()
    assert (out.features.abs() <= 1.0 + 1e-6).all()


def test_gateloop_is_the_gate_loop_operator_of_its_public_ports():
    cell, x = cell_and_input("gateloop", 8)
    k, v, real, imag = cell.input(x).split(4, dim=-1)
    w = torch.complex(real, imag)
    a = torch.polar(torch.sigmoid(w.abs()), w.angle())
    q, h, want = cell.query(x), torch.zeros(B, 4, dtype=torch.complex128), []
    for t in range(T):
        h = a[:, t] * h + k[:, t] * v[:, t]
        want.append(q[:, t] * h.real)
    assert_same(unroll(cell, x).features, torch.stack(want, 1))


def test_ffm_is_the_closed_form_of_memory_monoids():
    """S[t] = sum_j gamma^(t - j) u[j] with gamma = exp(-|alpha| + i omega), read from proroklab/memory-monoids."""
    cell, x = cell_and_input("ffm", 24, contexts=4)
    value, gate = cell.input(x).split(3, dim=-1)
    u = value * torch.sigmoid(gate)
    rate = torch.complex(-cell.alpha.abs()[:, None].expand(3, 4), cell.omega.expand(3, 4))
    want = torch.stack([sum(torch.exp(rate * (t - j)) * u[:, j, :, None] for j in range(t + 1)) for t in range(T)], 1)
    assert_same(unroll(cell, x).features, torch.view_as_real(want).flatten(2))


def test_a_frame_stack_shows_the_last_inputs_newest_first_and_nothing_from_before_the_episode():
    cell, x = cell_and_input("framestack", 6, frames=3)
    is_init = torch.zeros(B, T, dtype=torch.bool)
    is_init[:, 5] = True
    states = cell(x, cell.initial_state(B), is_init).states.unflatten(-1, (3, 2))
    frames = cell.input(x)
    assert torch.equal(states[:, 4], frames[:, [4, 3, 2]])
    assert torch.equal(states[:, 6, :2], frames[:, [6, 5]])
    assert not states[:, 6, 2].any()
