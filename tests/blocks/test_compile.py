"""A core inside torch.compile, torch.export and torch.func gives what it gives without."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

import mru_rl

SPECS = ["bmru", "carry-bmru+mingru", "bmru,lru", "mamba", "gru", "bmru+lstm"]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(core, B=3, T=9):
    is_init = torch.rand(B, T) < 0.2
    return torch.randn(B, T, core.input_size), 0.5 * torch.randn_like(core.initial_state(B)), is_init


def gradients(core, run, *given):
    core.zero_grad()
    y, state = run(*given)
    (y.square().sum() + state.sum()).backward()
    return y.detach(), state.detach(), {n: p.grad.clone() for n, p in core.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", SPECS)
def test_a_compiled_sequence_gives_the_same_values_and_gradients_in_one_graph(spec):
    core = mru_rl.make_core(spec, 5, 16)
    given = inputs(core)
    want = gradients(core, core, *given)
    got = gradients(core, torch.compile(core, fullgraph=True, backend="aot_eager"), *given)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", SPECS)
def test_a_compiled_step_gives_the_same_values_in_one_graph(spec):
    core = mru_rl.make_core(spec, 5, 16)
    x, state, is_init = inputs(core)
    step = torch.compile(core.step, fullgraph=True, backend="aot_eager")
    for t in range(4):
        with torch.no_grad():
            want_y, want_state = core.step(x[:, t], state, is_init[:, t])
            y, state = step(x[:, t], state, is_init[:, t])
        torch.testing.assert_close((y, state), (want_y, want_state))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inductor_compiles_a_sequence():
    core = mru_rl.make_core("bmru+mingru", 5, 16)
    given = inputs(core)
    want = gradients(core, core, *given)
    got = gradients(core, torch.compile(core, fullgraph=True), *given)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_core_can_be_exported_as_a_torch_program():
    core = mru_rl.make_core("bmru+mingru", 5, 16)
    given = inputs(core)
    program = torch.export.export(core, given)
    torch.testing.assert_close(program.module()(*given), core(*given))


@pytest.mark.parametrize("spec", ["bmru", "mingru", "bmru,lru", "gru"])
def test_gradients_per_row_by_torch_func_are_those_of_single_rows(spec):
    core = mru_rl.make_core(spec, 5, 16).double()
    x, state, is_init = inputs(core)
    x = x.double()
    parameters = {n: p.detach() for n, p in core.named_parameters()}
    buffers = dict(core.named_buffers())

    def loss(parameters, x, state, is_init):
        y, _ = functional_call(core, (parameters, buffers), (x[None], state[None], is_init[None]))
        return y.square().sum()

    rows = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, x, state, is_init)
    for b in range(len(x)):
        core.zero_grad()
        core(x[b : b + 1], state[b : b + 1], is_init[b : b + 1])[0].square().sum().backward()
        for name, parameter in core.named_parameters():
            want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(rows[name][b], want)
