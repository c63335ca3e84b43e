"""The state of a BMRU without a scan: what the last write left, found by a running maximum and a gather.

    python -m mru_rl.cells.last_write [--device cpu|cuda] [--threads N] [--shapes B,T,H ...]

measures it against the scan (and, on a GPU, against the kernel that a BMRU takes there), gate included.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mru_rl.cells.hold import hold
from mru_rl.cells.surrogate import write
from mru_rl.scan.bench import least_time, provenance
from mru_rl.scan.dispatch import linear_scan
from mru_rl.scan.first_order import first_order

SHAPES = ["16,128,64", "64,128,64", "1,1024,64", "16,1024,128", "1,100000,64"]
RESET_RATE = 0.01


def last_write(
    a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] h[t-1] + b[t] for a[t] in {0, 1} and b[t] = 0 where a[t] = 1: a unit that replaces or holds.

    Arguments, results and gradients as in `mru_rl.linear_scan`, exactly where that is exact: h[t] is b at the last
    write at or before t, or the restart state of its episode, or h0.

    Slower than the scan wherever it was measured, so the cells use the scan and the tests use this to check it: with
    the gate, forward and backward, it takes 1.4 times as long at [1, 1024, 64], 2.6 to 2.8 times at [16, 128, 64] and
    [64, 128, 64], 2.9 to 3.5 times at [16, 1024, 128], 3.6 to 6.7 times at [1, 100000, 64] (three runs of
    `python -m mru_rl.cells.last_write --threads 1` on an EPYC processor that did other work too). On a GPU not measured.
    """
    return _LastWrite.apply(a, b, h0, is_init, restart)


class _LastWrite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, h0: Tensor, is_init: Tensor, restart: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        T = b.shape[1]
        wide = torch.promote_types(b.dtype, torch.float32)
        write, start = a == 0, is_init.unsqueeze(-1)
        fresh = torch.zeros((), dtype=wide, device=b.device) if restart is None else restart.to(wide)
        source = torch.cat([h0.to(wide).unsqueeze(1), torch.where(write, b.to(wide), fresh)], dim=1)  # [B, 1 + T, H]
        step = torch.arange(1, T + 1, device=b.device)[:, None]
        last = torch.where(write | start, step, 0).cummax(dim=1).values  # 0 is h0
        h = source.gather(1, last)
        ctx.save_for_backward(write, start, last, h, h0, restart)
        ctx.dtypes = a.dtype, b.dtype, h0.dtype, None if restart is None else restart.dtype
        return h.to(b.dtype), h[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b, grad_h0, grad_restart = first_order(
            _gradients, grad_h, grad_last, ctx.dtypes, *ctx.saved_tensors
        )
        return grad_a, grad_b, grad_h0, None, grad_restart


def _gradients(
    grad_h: Tensor, grad_last: Tensor, dtypes: tuple[torch.dtype, ...],
    write: Tensor, start: Tensor, last: Tensor, h: Tensor, h0: Tensor, restart: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients to a, b, h0 and restart."""
    a_dtype, b_dtype, h0_dtype, restart_dtype = dtypes
    grad = grad_h.to(h.dtype).clone()
    grad[:, -1] += grad_last
    # g[t]: the sum of grad from t to the last step that still holds what stood at t
    grad = grad.double()  # sums over a hold are differences of running sums: wide, or they lose digits
    passed = torch.nn.functional.pad(grad.cumsum(1)[:, :-1], (0, 0, 1, 0))  # all before t
    source = torch.nn.functional.pad(torch.zeros_like(grad), (0, 0, 1, 0)).scatter_add(1, last, grad)
    g = source.gather(1, last) - (passed - passed.gather(1, last.clamp(min=1) - 1))
    before = torch.cat([h0.to(h.dtype).unsqueeze(1), h[:, :-1]], dim=1)
    before = torch.where(start, 0.0 if restart is None else restart.to(h.dtype), before)
    grad_restart = None
    if restart is not None:
        grad_restart = torch.where(start & ~write, g, 0.0).to(restart_dtype)
    return (g * before).to(a_dtype), g.to(b_dtype), source[:, 0].to(h0_dtype), grad_restart


def main(argv: list[str] | None = None) -> None:
    """Print, for every shape, how many times as long as gate and scan the other ways take."""
    parser = argparse.ArgumentParser(prog="python -m mru_rl.cells.last_write", description="Last write against scan.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="B,T,H", help="sequences, steps, units")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    command = ["python", "-m", "mru_rl.cells.last_write", *(sys.argv[1:] if argv is None else argv)]
    made = provenance(options.threads, options.device) | {"command": shlex.join(command), "reset_rate": RESET_RATE}
    print(json.dumps(made, indent=1))
    ways: dict[str, Callable[..., Any]] = {
        "scan": lambda u, beta, level, *rest: linear_scan(*write(u, beta, level), *rest),
        "last write": lambda u, beta, level, *rest: last_write(*write(u, beta, level), *rest),
    }
    if options.device != "cpu":
        ways["hold"] = hold
    print(f"\nforward + backward, against the scan's time\n| [B, T, H] | scan (ms) | {' | '.join([*ways][1:])} |")
    print("|---" * (len(ways) + 1) + "|")
    for shape in options.shapes:
        B, T, H = map(int, shape.split(","))
        scan, *others = (measure(way, B, T, H, options.device) for way in ways.values())
        print(f"| [{B}, {T}, {H}] | {scan * 1e3:.2f} |", " | ".join(f"{t / scan:.1f}" for t in others), "|", flush=True)


def measure(way: Callable[..., Any], B: int, T: int, H: int, device: str) -> float:
    """Seconds of the fastest of some forward and backward passes of a unit that writes at a tenth of the steps."""
    torch.manual_seed(0)
    u, beta = torch.randn(B, T, H), torch.full((B, T, H), 1.645)
    made = (u, beta, torch.ones(H), torch.zeros(B, H))
    inputs = [x.to(device).requires_grad_() for x in made]
    weight, is_init = torch.randn(B, T, H).to(device), (torch.rand(B, T) < RESET_RATE).to(device)
    return least_time(lambda: torch.autograd.grad(way(*inputs, is_init)[0], inputs, weight), device)


if __name__ == "__main__":
    main()
