"""Every cell that runs on the scan gives the same on every backend: values, states and all gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mru_rl import list_cells
from mru_rl.cells import base
from mru_rl.cells.base import ScanCell
from mru_rl.cells.registry import get_cell
from mru_rl.scan import ops
from mru_rl.scan.dispatch import linear_scan, list_backends

SCAN_CELLS = [name for name in list_cells() if issubclass(get_cell(name), ScanCell)]
OTHERS = [name for name in list_backends("cpu") if name != "reference"]  # Triton too where its interpreter is on


def run(name: str, T: int) -> tuple[torch.Tensor, ...]:
    """Features, states, last state and the gradients to input, state and parameters, from the same weights."""
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
    monkeypatch.setattr(ops, "fastest", lambda device: "reference")
    want = run(name, T)
    monkeypatch.setattr(ops, "fastest", lambda device: backend)
    torch.testing.assert_close(run(name, T), want, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", SCAN_CELLS)
def test_a_scan_cell_gives_the_same_when_its_states_are_computed_again(name, monkeypatch):
    want = run(name, 129)
    monkeypatch.setattr(base, "linear_scan", partial(linear_scan, recompute=16))
    torch.testing.assert_close(run(name, 129), want, atol=2e-4, rtol=2e-4)


def under_the_interpreter(*tests: str) -> None:
    """Run tests, slow ones too, on Triton's kernels."""
    pytest.importorskip("triton", reason="the Triton backend needs triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}  # read when triton is imported
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    command += ["-W", "ignore::RuntimeWarning", *tests]  # NumPy's, of numbers meant to be bad
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


LAWS = Path(__file__).with_name("test_laws.py")
SAMPLE = [
    "test_packed_episodes_equal_separate_episodes",
    "test_the_last_state_is_the_state_after_the_last_step",
    "test_a_broken_input_of_a_finished_episode_cannot_reach_the_next_one",
]


def test_a_sample_of_the_laws_holds_on_the_triton_kernels_under_their_interpreter():
    under_the_interpreter(*(f"{LAWS}::{law}[{name}-on-triton]" for law in SAMPLE for name in ("bmru", "lru")))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_law_holds_on_the_triton_kernels_under_their_interpreter():
    under_the_interpreter(str(LAWS), "-k", "on-triton and not 128")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_scan_cells_give_the_same_on_the_triton_kernels_under_their_interpreter():
    under_the_interpreter(__file__, "-k", "triton and not interpreter and (7 or 129)")
