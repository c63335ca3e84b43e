"""Torch's recurrent loops with episodes laid out as rows give what the plain loop over the transition gives."""

from __future__ import annotations

import pytest
import torch

from mru_rl.cells import torch_rnn
from mru_rl.cells.registry import get_cell


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("with_restart", [False, True])
@pytest.mark.parametrize("reset_rate", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_rows_and_loop_agree_in_values_states_and_gradients(name, reset_rate, with_restart, monkeypatch):
    cell = get_cell(name)(3, 6).double()
    x, state = torch.randn(4, 20, 3).double(), torch.randn(4, 6).double()
    restart = torch.randn(4, 20, 6).double() if with_restart else None
    is_init = torch.rand(4, 20) < reset_rate
    is_init[0, 0] = True
    weights = [torch.randn(4, 20, 6).double(), torch.randn(4, 6).double()]

    def everything(most_padding):
        monkeypatch.setattr(torch_rnn, "MOST_PADDING", most_padding)
        inputs = [t.clone().requires_grad_() for t in (x, state, restart) if t is not None]
        out = cell(inputs[0], inputs[1], is_init, inputs[2] if with_restart else None)
        loss = (out.states * weights[0]).sum() + (out.last * weights[1]).sum() + out.features.square().sum()
        return [out.features, out.states, out.last, *torch.autograd.grad(loss, [*inputs, *cell.parameters()])]

    for got, want in zip(everything(float("inf")), everything(-1.0), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_the_rows_of_a_batch_are_its_episodes():
    is_init = torch.tensor([[False, False, True, False], [True, False, False, False]])
    (row, step), index, back = torch_rnn.split_at_resets(is_init)
    assert list(zip(row.tolist(), step.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 0)]
    assert index.tolist() == [[0, 1, 1, 1], [2, 3, 3, 3], [4, 5, 6, 7]]
    assert index.flatten()[back].tolist() == list(range(8))


def test_one_long_episode_beside_many_short_ones_is_left_to_the_loop():
    is_init = torch.zeros(2, 100, dtype=torch.bool)
    is_init[0] = True
    assert torch_rnn.split_at_resets(is_init) is None
