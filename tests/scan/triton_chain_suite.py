"""Chunks that pass their state on, run by several processes at once: they wait for each other, and agree to the bit.

Part of the suite that `test_triton.py` starts. Triton's interpreter runs one program after the other, so nothing there
ever waits. Here a launch is shared between processes on the same memory, each running a part of the programs: which
chunk a program gets is up to the ticket counter, and random pauses around the atomic operations change who is first.
"""

from __future__ import annotations

import os
import random
import sys
import time
import traceback

import pytest
import torch

from mru_rl.scan import reference, triton_hold, triton_kernels
from mru_rl.scan.triton_kernels import INTERPRETED
from mru_rl.scan.triton_launch import Plan

pytestmark = [
    pytest.mark.skipif(not INTERPRETED, reason="a GPU runs programs at once by itself"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning"),  # bad numbers; fork
]
WORKERS = 3
PATIENCE = 60.0  # seconds


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def _scratch_memory_is_filled_with_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Shared:
    """A kernel whose programs run in several processes; counts the flags that look-backs read behind the nearest."""

    def __init__(self, kernel, seed):
        self.kernel, self.seed = kernel, seed
        self.looked_further = torch.zeros(WORKERS, dtype=torch.int64).share_memory_()

    def __getitem__(self, grid):
        def run(*arguments, **constants):
            for x in arguments:
                if isinstance(x, torch.Tensor):
                    x.untyped_storage().share_memory_()
            shares = [grid[0] // WORKERS + (i < grid[0] % WORKERS) for i in range(WORKERS)]
            workers = []
            for i, share in enumerate(shares):
                worker = os.fork()
                if worker == 0:
                    self.work(i, share, arguments, constants)
                workers.append(worker)
            wait_for(workers)

        return run

    def work(self, i, share, arguments, constants):
        status = 1
        try:
            pause_at_random(random.Random(self.seed + i), self.looked_further, i)
            if share:
                self.kernel[(share,)](*arguments, **constants)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


def pause_at_random(draw, looked_further, i):
    """Slow atomic operations down in this process; much in the first one, so that the others have to wait for it."""
    from triton.runtime.interpreter import interpreter_builder

    plain = interpreter_builder.create_atomic_rmw

    def slow(operation, at, value, mask, *rest):
        looked_further[i] += int(mask.data.sum() > 1)
        result = plain(operation, at, value, mask, *rest)
        time.sleep(draw.choice([0.0, 0.3] if i == 0 else [0.0, 0.01]))
        return result

    interpreter_builder.create_atomic_rmw = slow


def wait_for(workers):
    """Every worker ends well; none waits for ever."""
    waiting, end = set(workers), time.monotonic() + PATIENCE
    failed = []
    while waiting and time.monotonic() < end:
        for worker in list(waiting):
            done, status = os.waitpid(worker, os.WNOHANG)
            if done:
                waiting.remove(worker)
                failed += [status] if status else []
        time.sleep(0.01)
    for worker in waiting:
        os.kill(worker, 9)
        os.waitpid(worker, 0)
    assert not waiting, "a program waited for ever"
    assert not failed


def share(monkeypatch, module, seed):
    kernels = {name: Shared(getattr(module, name), seed) for name in ("_forward", "_backward")}
    for name, kernel in kernels.items():
        monkeypatch.setattr(module, name, kernel)
    return kernels.values()


def scan_inputs(dtype, reset_rate):
    B, T, H = 1, 40, 3
    a = torch.randn(B, T, H, dtype=dtype)
    return {
        "a": a / (1 + a.abs()), "b": torch.randn(B, T, H, dtype=dtype), "h0": torch.randn(B, H, dtype=dtype),
        "is_init": torch.rand(B, T) < reset_rate, "restart": torch.randn(B, T, H, dtype=dtype),
    }  # fmt: skip


def assert_equal(got, want):
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0, equal_nan=True)


def scan_both_ways(x, settings):
    h, h_last = triton_kernels.forward(*x.values(), settings=settings)
    grads = triton_kernels.backward(
        torch.ones_like(h), h_last, x["a"], h, x["h0"], x["is_init"], x["restart"], settings=settings
    )
    return h, h_last, *grads


@pytest.mark.parametrize(
    ("dtype", "rows", "bad"),
    [(torch.float32, 1, False), slow(torch.float32, 2, True), slow(torch.complex64, 2, False)],
)
def test_scans_whose_chunks_run_at_once_give_the_same_bits(dtype, rows, bad, monkeypatch):
    settings = Plan(32, 4 // rows, rows)
    x = scan_inputs(dtype, reset_rate=0.02)
    if bad:
        x["h0"][0, 0] = float("nan")  # such a state is waited for, chunk after chunk
    want = scan_both_ways(x, settings)
    kernels = share(monkeypatch, triton_kernels, seed=rows)
    assert_equal(scan_both_ways(x, settings), want)
    for kernel in kernels:
        assert kernel.looked_further.sum() > 0, "no program found a chunk before it still at work"


def test_holds_whose_chunks_run_at_once_give_the_same_bits(monkeypatch):
    settings = Plan(32, 4, 1)
    x = scan_inputs(torch.float32, reset_rate=0.02)
    u, beta, level = x["b"], torch.full_like(x["b"], 2.0), torch.tensor([0.5, 1.0, 2.0])

    def both_ways():
        h, h_last = triton_hold.forward(u, beta, level, x["h0"], x["is_init"], x["restart"], settings=settings)
        assert h.diff(dim=1).count_nonzero() < h.numel() / 4, "most steps hold"
        grads = triton_hold.backward(
            torch.ones_like(h), h_last, u, beta, level, h, x["h0"], x["is_init"], x["restart"],
            slope=4.0, sign_slope=1.0, surrogate="tanh", settings=settings,
        )  # fmt: skip
        return h, h_last, *grads

    want = both_ways()
    kernels = share(monkeypatch, triton_hold, seed=7)
    assert_equal(both_ways(), want)
    for kernel in kernels:
        assert kernel.looked_further.sum() > 0


@pytest.mark.parametrize("rows", [slow(1), 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_stays_so_over_chunks_whose_product_underflows(bad, rows):
    a, b = torch.full((1, 24, 2), 1e-20), torch.zeros(1, 24, 2)
    h0, never = torch.tensor([[bad, 1.0]]), torch.zeros(1, 24, dtype=torch.bool)
    settings = Plan(32, 4 // rows, rows)
    want = reference.linear_scan(a, b, h0, never)
    assert not want[0][0, :, 0].isfinite().any()
    assert_equal(triton_kernels.forward(a, b, h0, never, settings=settings), want)
    weight = torch.zeros(1, 24, 2)
    weight[0, -1, 1] = bad
    got = triton_kernels.backward(weight, None, a, want[0], h0, never, settings=settings)
    a.requires_grad_()
    expected = torch.autograd.grad(reference.linear_scan(a, b, h0, never)[0], a, weight)
    assert_equal(got[:1], expected)
