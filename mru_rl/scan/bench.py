"""How long and how much memory a scan takes, forward and backward, against torch.nn.GRU and torch.nn.LSTM.

    python -m mru_rl.scan.bench [--out DIR] [--threads N] [--max-steps N] [--max-sequential-steps N]

Every point runs in a process of its own, one after the other: its time is the least over some repeats, its memory the
high-water mark of the process above what it held after its imports (inputs, outputs and gradients included). The RNNs
get H inputs and H hidden units and learn their weights, as they do in use; backends that loop over time in Python, and
the RNNs, stop at --max-sequential-steps. --out writes scan.json and scan.png into DIR.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mru_rl.scan.dispatch import linear_scan, list_backends

STEPS = [128, 1024, 10_000, 100_000, 1_000_000]
LONG = (1, 64)  # B, H of the sequences whose T grows
WIDE = (16, 1024, 128)
COPIED = [(1, 2**17, 64), (64, 2**11, 64)]  # 2^23 numbers a tensor
RNNS = {"torch.nn.GRU": torch.nn.GRU, "torch.nn.LSTM": torch.nn.LSTM}
RESET_RATE = 0.01


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables and, with --out, write them."""
    parser = argparse.ArgumentParser(prog="python -m mru_rl.scan.bench", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, help="folder for scan.json and scan.png")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--max-steps", type=int, default=STEPS[-1], help="longest T")
    parser.add_argument("--max-sequential-steps", type=int, default=10_000, help="longest T of loops over time")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.point:
        print(json.dumps(measure(**json.loads(options.point))))
        return

    def run(name: str, B: int, T: int, H: int, reset_rate: float = RESET_RATE) -> dict[str, Any]:
        point = {"name": name, "B": B, "T": T, "H": H, "reset_rate": reset_rate, "threads": options.threads}
        command = [sys.executable, "-m", "mru_rl.scan.bench", "--point", json.dumps(point)]
        return point | json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    report = {"provenance": provenance(options.threads), "growth": [], "wide": [], "copy": []}
    print(json.dumps(report["provenance"], indent=1))

    names = [*list_backends(), *RNNS]
    B, H = LONG
    print(f"\nforward + backward, B = {B}, H = {H}, float32, resets at {RESET_RATE:.0%} of the steps")
    print(f"{'T':>9} {'backend':<14} {'ms':>10} {'MiB':>8} {'ns/step':>10} {'of GRU':>9}")
    for T in (T for T in STEPS if options.max_steps >= T):
        points = [run(n, B, T, H) for n in names if n == "chunked" or options.max_sequential_steps >= T]
        gru = next((p["seconds"] for p in points if p["name"] == "torch.nn.GRU"), None)
        for p in points:
            share = f"1/{gru / p['seconds']:.3g}" if gru else "-"
            per_step = p["seconds"] / T * 1e9
            line = (
                f"{T:>9} {p['name']:<14} {p['seconds'] * 1e3:>10.2f} {p['peak_mib']:>8.0f} {per_step:>10.0f} {share:>9}"
            )
            print(line, flush=True)
        report["growth"] += points
    report["slopes"] = {name: slopes(report["growth"], name) for name in names}
    print("\ngrowth: time ~ T^slope and memory ~ T^slope, over T >= 1024")
    for name, slope in report["slopes"].items():
        print(f"{name:<14} time {slope['seconds']:.2f}, memory {slope['peak_mib']:.2f}")

    B, T, H = WIDE
    report["wide"] = [run(name, B, T, H) for name in names]
    times = {p["name"]: p["seconds"] for p in report["wide"]}
    print(f"\nforward + backward, B = {B}, T = {T}, H = {H}")
    for name, seconds in times.items():
        print(f"{name:<14} {seconds * 1e3:>10.2f} ms, GRU takes {times['torch.nn.GRU'] / seconds:.1f} times as long")

    print("\nagainst copying 8 tensors' worth (4 read, 4 written) of 2^23 float32")
    for B, T, H in COPIED:
        for rate in (0.0, RESET_RATE):
            p = run("chunked", B, T, H, rate)
            report["copy"].append(p)
            print(
                f"[{B}, {T}, {H}] resets {rate:.0%}: scan {p['seconds'] * 1e3:.1f} ms; "
                f"{p['seconds'] / p['copy_new_seconds']:.2f}x copies into new memory ({p['copy_new_seconds'] * 1e3:.1f} ms), "
                f"{p['seconds'] / p['copy_held_seconds']:.2f}x copies into memory held ({p['copy_held_seconds'] * 1e3:.1f} ms)"
            )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scan.json").write_text(json.dumps(report, indent=1) + "\n")
        plot(report, options.out / "scan.png")
        print(f"\nwrote {options.out / 'scan.json'} and {options.out / 'scan.png'}")


def measure(name: str, B: int, T: int, H: int, reset_rate: float, threads: int) -> dict[str, float]:
    """Least time and peak memory of one forward and backward pass, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    held = _memory("VmRSS")
    forward_backward = rnn_pass(name, B, T, H) if name in RNNS else scan_pass(name, B, T, H, reset_rate)
    result = {"seconds": least_time(forward_backward), "peak_mib": (_memory("VmHWM") - held) / 1024}
    if name == "chunked" and B * T * H == 2**23:
        x, y = torch.rand(B, T, H), [torch.rand(B, T, H) for _ in range(4)]
        result["copy_held_seconds"] = least_time(lambda: [to.copy_(x) for to in y])
        y.clear()
        result["copy_new_seconds"] = least_time(lambda: [x.clone() for _ in range(4)])
    return result


def scan_pass(backend: str, B: int, T: int, H: int, reset_rate: float) -> Callable[[], Any]:
    """Gradients to a, b and h0 through h."""
    a, b, h0 = (x.requires_grad_() for x in (torch.rand(B, T, H), torch.randn(B, T, H), torch.zeros(B, H)))
    is_init, weight = torch.rand(B, T) < reset_rate, torch.randn(B, T, H)
    return lambda: torch.autograd.grad(linear_scan(a, b, h0, is_init, backend=backend)[0], [a, b, h0], weight)


def rnn_pass(name: str, B: int, T: int, H: int) -> Callable[[], Any]:
    """Gradients to the input and the weights through the output."""
    rnn = RNNS[name](H, H, batch_first=True)
    x, weight = torch.randn(B, T, H, requires_grad=True), torch.randn(B, T, H)
    return lambda: torch.autograd.grad(rnn(x)[0], [x, *rnn.parameters()], weight)


def least_time(work: Callable[[], Any], budget: float = 3.0) -> float:
    """Seconds of the fastest of 2 to 200 runs, as many as the budget allows."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 200 and sum(times) < budget):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def slopes(points: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Exponent of growth in T, by least squares on logarithms, for times and for memory."""
    points = [p for p in points if p["name"] == name and p["T"] >= 1024]
    if len(points) < 2:
        return {"seconds": math.nan, "peak_mib": math.nan}
    x = [math.log(p["T"]) for p in points]
    mean_x = sum(x) / len(x)
    result = {}
    for what in ("seconds", "peak_mib"):
        y = [math.log(max(p[what], 1e-3)) for p in points]
        mean_y = sum(y) / len(y)
        slope = sum((i - mean_x) * (j - mean_y) for i, j in zip(x, y, strict=True))
        result[what] = slope / sum((i - mean_x) ** 2 for i in x)
    return result


def plot(report: dict[str, Any], path: Path) -> None:
    """Time and memory against T, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    made = report["provenance"]
    figure.suptitle(f"Linear scan and RNNs, forward + backward, B = {LONG[0]}, H = {LONG[1]}, float32")
    panels = [("seconds", "time (s)"), ("peak_mib", "peak memory (MiB)")]
    for axes, (what, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in dict.fromkeys(p["name"] for p in report["growth"]):
            points = [p for p in report["growth"] if p["name"] == name]
            legend = f"{name} (slope {report['slopes'][name][what]:.2f})"
            axes.loglog([p["T"] for p in points], [max(p[what], 1e-3) for p in points], marker="o", label=legend)
        axes.set(xlabel="T (steps)", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    machine = f"{made['cpu']}, {made['threads']} threads, torch {made['torch']}, commit {made['commit'][:12]}"
    figure.supxlabel(machine, fontsize=8)
    figure.savefig(path, dpi=150)


def provenance(threads: int) -> dict[str, Any]:
    """What made the numbers: command, commit, versions, machine."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return {
        "command": shlex.join(["python", "-m", "mru_rl.scan.bench", *sys.argv[1:]]),
        "commit": (commit.stdout.strip() if commit.returncode == 0 else "none")
        + ("+changes" if changed.stdout else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "dtype": "float32",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory(field: str) -> float:
    """Resident memory of this process, now (VmRSS) or at most so far (VmHWM), in KiB; nan where Linux's /proc is not."""
    try:
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next((float(line.split()[1]) for line in status if line.startswith(field)), math.nan)


if __name__ == "__main__":
    main()
