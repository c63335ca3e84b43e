"""MemoryModule inside torch.func, torch.compile and the parameter swaps of torchrl's losses."""

from __future__ import annotations

import pytest
import torch
from tensordict import from_module
from torchrl.modules import GRUModule, set_recurrent_mode

from mru_rl import MemoryModule, list_cells

STATE, NEXT_STATE = "recurrent_state", ("next", "recurrent_state")
SPECS = ["bmru", "carry-bmru+mingru", "bmru,lru", "gru"]


def build(spec: str) -> MemoryModule:
    return MemoryModule(spec, 3, 8, in_key="observation", out_key="y")


def random_weights(module: MemoryModule, seed: int):
    torch.manual_seed(seed)
    return from_module(module).data.apply(lambda p: p + 0.3 * torch.randn_like(p))


def run(module, weights, data):
    with weights.to_module(module):
        out = module(data.copy())
    return out["y"], out[NEXT_STATE]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_swapped_parameters_are_those_of_a_module_that_has_them(spec, mode, random_data):
    module, other = build(spec), build(spec)
    weights, data = random_weights(module, 1), random_data(module, 2, 5)
    with set_recurrent_mode(mode):
        before = module(data.copy())
        got = run(module, weights, data)
        weights.clone().to_module(other)
        want = other(data.copy())
        assert torch.equal(got[0], want["y"])
        assert torch.equal(got[1], want[NEXT_STATE])
        assert not torch.equal(got[0], before["y"])
        assert torch.equal(module(data.copy())["y"], before["y"])


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", list_cells())
def test_every_cell_runs_on_a_loss_s_target_weights_which_are_no_parameters(name, mode, random_data):
    module = build(name)
    target = from_module(module).data.clone()
    data = random_data(module, 2, 5)
    with set_recurrent_mode(mode), torch.no_grad():
        want = module(data.copy())
        for p in module.parameters():
            p.zero_()
        with target.to_module(module, preserve_module_state=False):  # as losses do
            assert not list(module.parameters())
            got = module(data.copy())
        torch.testing.assert_close(got["y"], want["y"])
        torch.testing.assert_close(got[NEXT_STATE], want[NEXT_STATE])
        assert not torch.equal(module(data.copy())["y"], want["y"])


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_vmap_over_stacked_parameters_gives_what_a_loop_does(spec, mode, random_data):
    module = build(spec)
    many = [random_weights(module, seed) for seed in range(3)]
    data = random_data(module, 2, 7)
    with set_recurrent_mode(mode):
        got = torch.vmap(lambda weights: run(module, weights, data))(torch.stack(many))
        want = [run(module, weights, data) for weights in many]
    torch.testing.assert_close(got, tuple(torch.stack(part) for part in zip(*want, strict=True)))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_vmap_over_data_gives_what_a_loop_does(spec, mode, random_data):
    module = build(spec)
    data = random_data(module, 3, 2, 7)
    with set_recurrent_mode(mode):
        got = torch.vmap(module)(data.copy())
        want = torch.stack([module(part.copy()) for part in data.unbind(0)])
    torch.testing.assert_close(got["y"], want["y"])
    torch.testing.assert_close(got[NEXT_STATE], want[NEXT_STATE])


def test_vmap_over_data_with_resets_is_what_grumodule_cannot(random_data):
    gru = GRUModule(3, 8, in_key="observation", out_key="y")
    with set_recurrent_mode(True), pytest.raises(RuntimeError, match="data-dependent control flow"):
        torch.vmap(gru)(random_data(build("bmru"), 3, 2, 7))


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spec", ["bmru,lru", "gru"])
def test_compiled_in_one_graph_it_gives_the_same_values_and_gradients(spec, mode, random_data):
    torch._dynamo.reset()
    module = build(spec)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    data = random_data(module, 2, 6)

    def values_and_gradients(call):
        module.zero_grad()
        out = call(data.copy())
        (out["y"].square().sum() + out[NEXT_STATE].square().sum()).backward()
        return out["y"].detach(), out[NEXT_STATE].detach(), {n: p.grad for n, p in module.named_parameters()}

    with set_recurrent_mode(mode):
        want = values_and_gradients(module)
        torch.testing.assert_close(values_and_gradients(compiled), want, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()
