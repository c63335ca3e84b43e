"""BMRU's state by a running maximum and a gather, the second exact implementation, against the scan; packed signs."""

from __future__ import annotations

import json

import pytest
import torch

from mru_rl import linear_scan
from mru_rl.cells.bmru import BMRU
from mru_rl.cells.last_write import last_write, main


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


def test_the_measurement_against_the_scan_runs_and_says_what_made_it(capsys):
    main(["--threads", "1", "--shapes", "1,3,2", "2,4,3"])
    made, table = capsys.readouterr().out.split("\n\n")
    assert json.loads(made)["command"] == "python -m mru_rl.cells.last_write --threads 1 --shapes 1,3,2 2,4,3"
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[3:]]
    assert [row[0] for row in rows] == ["[1, 3, 2]", "[2, 4, 3]"]
    assert all(float(number) > 0 for row in rows for number in row[1:])


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
