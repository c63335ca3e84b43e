"""What makes a unit a memory recurrent unit: exact hold, writes by input alone, closed states, written derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mru_rl import list_cells, make_core
from mru_rl.cells.mru.base import MRU, spread_rates
from mru_rl.cells.mru.bmru import BMRU
from mru_rl.cells.mru.surrogate import SURROGATES, bump, write
from mru_rl.cells.registry import get_cell

MRUS = [name for name in list_cells() if issubclass(get_cell(name), MRU)]
SILENT_STEPS = 100_000


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=MRUS)
def unit(request) -> MRU:
    """A float64 unit of 6 numbers on 3 inputs, levels and biases away from their initial values."""
    cell = get_cell(request.param)(3, 6, init_horizon=4)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return cell.double()


def silence(cell: MRU) -> MRU:
    """Make candidates of tiny inputs stay far below the thresholds."""
    with torch.no_grad():
        n = cell.state_size
        cell.input.bias[:n] = 0.0
        cell.input.bias[n:] = cell.input.bias[n:].abs() + 0.5
    return cell


def no_reset(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bool)


# hold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_holds_its_state_exactly_over_100_000_silent_steps_of_a_sequence(unit, dtype):
    silence(unit).to(dtype)
    x = (0.05 * torch.rand(1, SILENT_STEPS, 3)).to(dtype)
    state = torch.tensor([[1 / 3, -0.7, 1e-30, 0.0, 1e30, -math.pi]], dtype=torch.promote_types(dtype, torch.float32))
    assert not unit.gates(x).any()
    with torch.no_grad():
        _, states, last = unit(x, state, no_reset(1, SILENT_STEPS))
    assert torch.equal(last, state)
    assert torch.equal(states, state.to(dtype).expand_as(states))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_holds_its_state_exactly_over_silent_steps_taken_one_by_one(unit, dtype):
    steps = SILENT_STEPS // 5 if (unit.name, dtype) == ("bmru", torch.float32) else 1_000
    silence(unit).to(dtype)
    x = (0.05 * torch.rand(steps, 1, 3)).to(dtype)
    state = torch.tensor([[1 / 3, -0.7, 1e-30, 0.0, 1e30, -math.pi]], dtype=torch.promote_types(dtype, torch.float32))
    after, flag = state, no_reset(1)
    with torch.inference_mode():
        for x_t in x.unbind():
            _, after = unit.step(x_t, after, flag)
    assert torch.equal(after, state)


def test_the_gradient_passes_a_long_hold_at_full_strength(unit):
    silence(unit)
    state = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    x = 0.05 * torch.rand(1, 10_000, 3, dtype=torch.float64)
    _, _, last = unit(x, state, no_reset(1, 10_000))
    (grad,) = torch.autograd.grad(last.sum(), state)
    assert torch.equal(grad, torch.ones_like(grad))


# writes


def test_writes_depend_on_the_input_alone(unit):
    x = torch.randn(4, 50, 3, dtype=torch.float64)
    gates = unit.gates(x).bool()
    assert gates.any()
    assert not gates.all()
    one, other = torch.randn(2, 4, 6, dtype=torch.float64).unbind()
    for state in (one, other):
        _, states, _ = unit(x, state, no_reset(4, 50))
        before = torch.cat([state[:, None], states[:, :-1]], 1)
        assert torch.equal(states != before, gates & (states != before))  # nothing but a write changes a state
        if unit.carry == 0:
            assert torch.equal(states[gates], unit.coefficients(x)[1][gates])  # and a write does not see the state


@pytest.mark.parametrize("name", [n for n in MRUS if get_cell(n).carry == 0 and n == "bmru"])
def test_a_bmru_state_is_plus_alpha_minus_alpha_or_nothing(name):
    cell = get_cell(name)(3, 6, init_horizon=10).double()
    with torch.no_grad():
        cell.alpha += torch.randn(6)
    alpha = cell.level(torch.zeros(3))
    _, states, _ = cell(torch.randn(8, 60, 3, dtype=torch.float64), cell.initial_state(8), torch.rand(8, 60) < 0.1)
    assert torch.stack([(states == value).any() for value in (alpha, -alpha)]).all()
    assert ((states == alpha) | (states == -alpha) | (states == 0)).all()
    assert (states == 0).any()


def test_flipping_the_sign_of_the_candidate_flips_the_state(unit):
    x, is_init = torch.randn(4, 50, 3, dtype=torch.float64), torch.rand(4, 50) < 0.1
    state = torch.randn(4, 6, dtype=torch.float64)
    _, states, _ = unit(x, state, is_init)
    with torch.no_grad():
        unit.input.weight[:6].neg_()
        unit.input.bias[:6].neg_()
    _, flipped, _ = unit(x, -state, is_init)
    assert torch.equal(flipped, -states)


@pytest.mark.parametrize("shape", SURROGATES)
def test_the_derivative_at_a_candidate_of_zero_is_that_of_a_positive_one(shape):
    def derivatives(u: float) -> list[Tensor]:
        u, beta, level = (torch.tensor([v], requires_grad=True) for v in (u, 0.1, 1.0))
        a, b = write(u, beta, level, surrogate=shape)
        return list(torch.autograd.grad(2 * a.sum() + 3 * b.sum(), [u, beta]))

    torch.testing.assert_close(derivatives(0.0), derivatives(1e-7), atol=1e-5, rtol=0)
    assert derivatives(0.0)[0].abs().item() > 0.1


def test_a_candidate_of_exactly_zero_writes_nothing_whatever_the_threshold():
    u, state = torch.tensor([0.0, -0.0]), torch.tensor([0.3, -0.3])
    a, b = write(u, torch.zeros(2), torch.ones(2))
    assert torch.equal(a * state + b, state)


# the dynamical system behind the gate


def test_the_closed_form_is_the_equilibrium_that_the_dynamical_system_reaches():
    """ds/dt = -s + alpha sign(u + (beta / alpha) s), integrated from both equilibria over a grid of (u, beta)."""
    alpha = 0.7
    u, beta, start = torch.meshgrid(
        torch.linspace(-2, 2, 41, dtype=torch.float64),
        torch.linspace(0, 1.5, 31, dtype=torch.float64),
        torch.tensor([alpha, -alpha], dtype=torch.float64),
        indexing="ij",
    )
    off_edge = (u.abs() - beta).abs() > 1e-6  # on the edge itself one of the two equilibria is not attracting
    s = start.clone()
    for _ in range(600):
        drive = u + beta / alpha * s
        s = s + 0.05 * (-s + alpha * torch.where(drive < 0, -1.0, 1.0).double())
    a, b = write(u, beta, torch.tensor(alpha, dtype=torch.float64))
    torch.testing.assert_close((a * start + b)[off_edge], s[off_edge], rtol=1e-9, atol=1e-9)


# gradients


class SlowStep(torch.autograd.Function):
    """step(v) = 1 if v > 0 else 0, with half the surrogate derivative of sign."""

    @staticmethod
    def forward(ctx, v, slope, shape):
        ctx.save_for_backward(v)
        ctx.settings = slope, shape
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * surrogate(ctx.saved_tensors[0], *ctx.settings) / 2, None, None


class SlowSign(torch.autograd.Function):
    """sign(v) with sign(0) = +1 and the surrogate derivative."""

    @staticmethod
    def forward(ctx, v, slope, shape):
        ctx.save_for_backward(v)
        ctx.settings = slope, shape
        return torch.where(v < 0, -1.0, 1.0).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * surrogate(ctx.saved_tensors[0], *ctx.settings), None, None


def surrogate(v: Tensor, slope: float, shape: str) -> Tensor:
    if shape == "tanh":
        return slope / torch.cosh(slope * v) ** 2
    if shape == "triangle":
        return slope * torch.clamp(1 - (slope * v).abs(), min=0)
    return slope / (1 + (slope * v) ** 2)


@pytest.mark.parametrize("shape", SURROGATES)
def test_a_surrogate_is_the_written_derivative_and_turns_sign_by_two(shape):
    v = torch.linspace(-300, 300, 2_000_001, dtype=torch.float64)
    for slope in (1.0, 4.0):
        got = bump(v, slope, slope, shape)
        torch.testing.assert_close(got, surrogate(v, slope, shape), rtol=1e-7, atol=1e-12)
        rise = {"tanh": 2.0, "triangle": 1.0, "atan": math.pi}[shape]
        assert torch.trapezoid(got, v).item() == pytest.approx(rise, rel=1e-2)


@pytest.mark.parametrize("shape", SURROGATES)
def test_gradients_are_the_written_derivatives(unit, shape):
    unit.surrogate, unit.slope, unit.sign_slope = shape, 1.7, 0.6
    x = torch.randn(3, 12, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    is_init = torch.rand(3, 12) < 0.2
    weight = torch.randn(3, 12, 6, dtype=torch.float64)

    def slowly() -> Tensor:
        h, states = state, []
        for t in range(12):
            h = torch.where(is_init[:, t, None], 0.0, h)
            u, beta = unit.candidate_and_threshold(x[:, t])
            z, sign = SlowStep.apply(u.abs() - beta, 1.7, shape), SlowSign.apply(u, 0.6, shape)
            h = (1 - (1 - unit.carry) * z) * h + z * unit.level(x[:, t]) * sign
            states.append(h)
        return torch.stack(states, 1)

    inputs = [x, state, *unit.parameters()]
    _, states, _ = unit(x, state, is_init)
    want = slowly()
    torch.testing.assert_close(states, want)
    got_grads = torch.autograd.grad((states * weight).sum(), inputs)
    want_grads = torch.autograd.grad((want * weight).sum(), inputs)
    for got, expected in zip(got_grads, want_grads, strict=True):
        assert expected.any()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"slope": 0.0}, "positive"), ({"sign_slope": -1.0}, "positive"), ({"surrogate": "relu"}, "tanh, triangle, atan")],
)
def test_settings_without_a_meaning_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        BMRU(3, 4, **options)


# warm-up


def write_rates(core, x: Tensor) -> list[Tensor]:
    """Per memory recurrent unit of each layer, the share of steps it writes at."""
    found = core.trace(x, core.initial_state(len(x)), no_reset(*x.shape[:2]))
    return [
        value.float().mean((0, 1))
        for key, value in found.items(include_nested=True, leaves_only=True)
        if key[-1] == "writes"
    ]


@pytest.mark.parametrize("spec", [*MRUS, "bmru+mingru", "mingru,bmru", "bmru,bmru"])
def test_warm_up_spreads_the_write_rates_log_uniformly(spec):
    core = make_core(spec, 5, 12, state_size=16)
    with torch.no_grad():
        for p in core.parameters():
            p += 0.1 * torch.randn_like(p)
    x = torch.randn(16, 250, 5).cumsum(1) * 0.2  # observations that resemble their neighbours in time
    core.warm_up(x, no_reset(16, 250), horizon=200.0)
    rates = write_rates(core, x)
    assert rates
    for rate in rates:
        torch.testing.assert_close(
            rate.sort(descending=True).values, spread_rates(len(rate), 200.0), rtol=0.15, atol=1e-3
        )


def test_warm_up_on_a_handful_of_distinct_inputs_leaves_no_unit_silent_and_none_always_writing():
    cell = BMRU(4, 32)
    x = torch.nn.functional.one_hot(torch.randint(0, 4, (8, 100)), 4).float()
    cell.warm_up(x, horizon=100.0)
    rate = cell.gates(x).mean((0, 1))
    assert (rate > 0).all()
    assert (rate < 1).float().mean() > 0.7
    assert len(rate.unique()) > 2


def test_without_a_batch_the_thresholds_are_spread_over_units_and_never_constant():
    cell = BMRU(16, 64, init_horizon=100.0)
    rate = cell.gates(torch.randn(64, 200, 16)).mean((0, 1))
    assert rate.max() > 0.3
    assert rate.min() < 0.03
    assert len(cell.input.bias[64:].unique()) == 64


# the family


def test_a_cmru_state_is_a_multiple_of_alpha_and_adds_up():
    cell = get_cell("cmru")(3, 6, init_horizon=4)
    _, states, _ = cell(torch.randn(4, 200, 3), cell.initial_state(4), no_reset(4, 200))
    alpha = cell.level(torch.zeros(3))
    assert torch.equal(states / alpha, (states / alpha).round())
    assert states.abs().max() > 2
    assert (states.diff(dim=1).abs() <= alpha).all()


@pytest.mark.parametrize(("eps", "name"), [(0.0, "bmru"), (1.0, "cmru")])
def test_carry_bmru_ends_in_bmru_and_in_cmru(eps, name):
    cell, other = get_cell("carry-bmru")(3, 6), get_cell(name)(3, 6)
    cell.set_carry(eps)
    other.load_state_dict({k: v for k, v in cell.state_dict().items() if k != "eps"})
    x, state = torch.randn(4, 50, 3), torch.randn(4, 6)
    for got, want in zip(cell(x, state, no_reset(4, 50)), other(x, state, no_reset(4, 50)), strict=True):
        assert torch.equal(got, want)


def test_the_carry_is_saved_with_the_parameters_and_kept_between_0_and_1():
    cell, other = get_cell("carry-bmru")(3, 6, carry=0.25), get_cell("carry-bmru")(3, 6)
    other.load_state_dict(cell.state_dict())
    assert other.carry == 0.25
    for eps in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            cell.set_carry(eps)


def test_the_level_of_an_acmru_write_is_read_from_the_input():
    cell = get_cell("acmru")(3, 6, init_horizon=2)
    with torch.no_grad():
        cell.level_map.weight.normal_()
    x = torch.randn(4, 50, 3)
    states = cell(x, cell.initial_state(4), no_reset(4, 50)).states
    written, level = cell.gates(x).bool(), cell.level_map(x)
    jumps = states.diff(dim=1, prepend=torch.zeros(4, 1, 6)).abs()
    torch.testing.assert_close(jumps[written], level.abs()[written], rtol=1e-4, atol=1e-4)
    assert not jumps[~written].any()
