"""Every cell that runs on the scan gives the same on every backend: values, states and all gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import pytest
import torch

from mru_rl import list_cells
from mru_rl.cells import base
from mru_rl.cells.base import ScanCell
from mru_rl.cells.registry import get_cell
from mru_rl.scan.dispatch import linear_scan, list_backends

SCAN_CELLS = [name for name in list_cells() if issubclass(get_cell(name), ScanCell)]
OTHERS = [name for name in list_backends("cpu") if name != "reference"]  # Triton too where its interpreter is on


def run(name: str, T: int, monkeypatch, **options) -> tuple[torch.Tensor, ...]:
    """Features, states, last state and the gradients to input, state and parameters, from the same weights."""
    monkeypatch.setattr(base, "linear_scan", partial(linear_scan, **options))
    torch.manual_seed(1)
    cell = get_cell(name)(5, 16)
    x, state = torch.randn(3, T, 5, requires_grad=True), torch.randn(3, 16, requires_grad=True)
    out = cell(x, state, torch.rand(3, T) < 0.2)
    loss = out.features.square().sum() + out.last.sin().sum()
    gradients = torch.autograd.grad(loss, [x, state, *cell.parameters()], allow_unused=True, materialize_grads=True)
    return (*(part.detach() for part in out), *gradients)


@pytest.mark.parametrize("T", [1, 7, 128, 129])
@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("name", SCAN_CELLS)
def test_a_scan_cell_gives_the_same_on_every_backend(name, backend, T, monkeypatch):
    want = run(name, T, monkeypatch, backend="reference")
    got = run(name, T, monkeypatch, backend=backend)
    torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", SCAN_CELLS)
def test_a_scan_cell_gives_the_same_when_its_states_are_computed_again(name, monkeypatch):
    want = run(name, 129, monkeypatch)
    got = run(name, 129, monkeypatch, recompute=16)
    torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_scan_cells_give_the_same_on_the_triton_kernels_under_their_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}  # read when triton is imported
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "triton and not interpreter and (7 or 129)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
