"""How long and how much memory a scan takes, forward and backward, against torch.nn.GRU and torch.nn.LSTM.

Every point runs in a process of its own, one after the other: its time is the least over some repeats, its memory the
high-water mark above what was held after a tiny first pass (inputs, outputs and gradients included), of the process or,
on a GPU, of torch's allocator. Every backend that runs on the device takes part, "NAME+recompute" with recompute=True.
The RNNs get H inputs and H hidden units and learn their weights, as they do in use; backends that loop over time in
Python, and the RNNs, stop at --max-sequential-steps.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mru_rl.agents.bench.options import TimingOptions, command_line, read_options, require_positive
from mru_rl.agents.records.plots import save_atomically
from mru_rl.agents.records.run import provenance, write_json
from mru_rl.scan.dispatch import linear_scan, list_backends, resolve

STEPS = [128, 1024, 10_000, 100_000, 1_000_000]
LONG = (1, 64)  # B, H of the sequences whose T grows
WIDE = (16, 1024, 128)
COPIED = [(1, 2**17, 64), (64, 2**11, 64)]  # 2^23 numbers a tensor
RNNS = {"torch.nn.GRU": torch.nn.GRU, "torch.nn.LSTM": torch.nn.LSTM}
RESET_RATE = 0.01
LEAST = {"seconds": 1e-6, "peak_mib": 0.1}  # below it a number says nothing; logarithms need one above 0


@dataclass(frozen=True, kw_only=True)
class Options(TimingOptions):
    """Options of `mru-rl bench scan`."""

    device: Literal["cpu", "cuda"] = "cpu"
    """where the scans and RNNs run"""
    threads: int = 1
    """CPU threads of torch"""
    max_steps: int = STEPS[-1]
    """longest T"""
    max_sequential_steps: int = 10_000
    """longest T of loops over time"""
    out: Path | None = None
    """directory for scan.json and scan.png; nothing is written without it"""

    def __post_init__(self) -> None:
        require_positive(self, "threads", "max_steps", "max_sequential_steps")


def main(words: list[str], name: str = "scan") -> None:
    """Entry point of `mru-rl bench scan`."""
    options = read_options(Options, words, name, __doc__)

    def run(case: str, B: int, T: int, H: int, reset_rate: float = RESET_RATE) -> dict[str, Any]:
        point: dict[str, Any] = {"name": case, "B": B, "T": T, "H": H, "reset_rate": reset_rate}
        point |= {"threads": options.threads, "device": options.device}
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            return point | alone.submit(measure, **point).result()

    device = "cpu" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    made = {"command": command_line(name, words), "threads": options.threads, "dtype": "float32"}
    report: dict[str, Any] = {"provenance": provenance(device) | made, "growth": [], "wide": [], "copy": []}
    print(", ".join(f"{key} {value}" for key, value in report["provenance"].items()))

    backends = list_backends(options.device)
    fast = [name for backend in backends if backend != "reference" for name in (backend, f"{backend}+recompute")]
    names = [*fast, "reference", *RNNS]
    best = resolve("auto", options.device)
    B, H = LONG
    print(f"\nforward + backward, B = {B}, H = {H}, float32, resets at {RESET_RATE:.0%} of the steps")
    print(f"{'T':>9} {'backend':<17} {'ms':>10} {'MiB':>8} {'ns/step':>10} {'of GRU':>9}")
    for T in (T for T in STEPS if options.max_steps >= T):
        points = [run(n, B, T, H) for n in names if n in fast or options.max_sequential_steps >= T]
        gru = next((p["seconds"] for p in points if p["name"] == "torch.nn.GRU"), None)
        for p in points:
            share = f"1/{gru / p['seconds']:.3g}" if gru else "-"
            per_step = p["seconds"] / T * 1e9
            line = (
                f"{T:>9} {p['name']:<17} {p['seconds'] * 1e3:>10.2f} {p['peak_mib']:>8.0f} {per_step:>10.0f} {share:>9}"
            )
            print(line, flush=True)
        report["growth"] += points
    report["slopes"] = {name: slope for name in names if (slope := slopes(report["growth"], name))}
    print("\ngrowth: time ~ T^slope and memory ~ T^slope, over T >= 1024")
    for name, slope in report["slopes"].items():
        print(f"{name:<17} time {slope['seconds']:.2f}, memory {slope['peak_mib']:.2f}")

    B, T, H = WIDE
    report["wide"] = [run(name, B, T, H) for name in names]
    times = {p["name"]: p["seconds"] for p in report["wide"]}
    print(f"\nforward + backward, B = {B}, T = {T}, H = {H}")
    for name, seconds in times.items():
        print(f"{name:<17} {seconds * 1e3:>10.2f} ms, GRU takes {times['torch.nn.GRU'] / seconds:.1f} times as long")

    print("\nagainst copying 8 tensors' worth (4 read, 4 written) of 2^23 float32")
    for B, T, H in COPIED:
        for rate in (0.0, RESET_RATE):
            p = run(best, B, T, H, rate)
            report["copy"].append(p)
            line = f"[{B}, {T}, {H}] resets {rate:.0%}: {best} {p['seconds'] * 1e3:.1f} ms"
            for what, memory in (("copy_new_seconds", "new memory"), ("copy_held_seconds", "memory held")):
                line += f"; {p['seconds'] / p[what]:.2f}x copies into {memory} ({p[what] * 1e3:.1f} ms)"
            print(line, flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "scan.json", report)
        plot(report, options.out / "scan.png")
        print(f"\nwrote {options.out / 'scan.json'} and {options.out / 'scan.png'}")


def measure(name: str, B: int, T: int, H: int, reset_rate: float, threads: int, device: str) -> dict[str, float]:
    """Least time and peak memory of one forward and backward pass, in this process."""
    torch.set_num_threads(threads)
    torch.set_default_device(device)
    torch.manual_seed(0)

    def one_pass(B: int, T: int, H: int) -> Callable[[], Any]:
        return rnn_pass(name, B, T, H) if name in RNNS else scan_pass(name, B, T, H, reset_rate)

    one_pass(1, 8, 8)()  # what loads on first use is no part of the pass
    held = _memory("held", device)
    forward_backward = one_pass(B, T, H)
    result = {"seconds": least_time(forward_backward, device), "peak_mib": _memory("peak", device) - held}
    if B * T * H == 2**23:
        x, y = torch.rand(B, T, H), [torch.rand(B, T, H) for _ in range(4)]
        result["copy_held_seconds"] = least_time(lambda: [to.copy_(x) for to in y], device)
        y.clear()
        result["copy_new_seconds"] = least_time(lambda: [x.clone() for _ in range(4)], device)
    return result


def scan_pass(name: str, B: int, T: int, H: int, reset_rate: float) -> Callable[[], Any]:
    """Gradients to a, b and h0 through h. Where the whole of time is one segment, recomputing saves nothing."""
    backend, _, recompute = name.partition("+")
    a, b, h0 = (x.requires_grad_() for x in (torch.rand(B, T, H), torch.randn(B, T, H), torch.zeros(B, H)))
    is_init, weight = torch.rand(B, T) < reset_rate, torch.randn(B, T, H)

    def forward_backward() -> Any:
        h, _ = linear_scan(a, b, h0, is_init, backend=backend, recompute=bool(recompute))
        return torch.autograd.grad(h, [a, b, h0], weight)

    return forward_backward


def rnn_pass(name: str, B: int, T: int, H: int) -> Callable[[], Any]:
    """Gradients to the input and the weights through the output."""
    rnn = RNNS[name](H, H, batch_first=True)
    x, weight = torch.randn(B, T, H, requires_grad=True), torch.randn(B, T, H)
    return lambda: torch.autograd.grad(rnn(x)[0], [x, *rnn.parameters()], weight)


def least_time(work: Callable[[], Any], device: str, budget: float = 3.0) -> float:
    """Seconds of the fastest of 2 to 200 runs, as many as the budget allows; a GPU is waited for."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 200 and sum(times) < budget):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def slopes(points: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Exponent of growth in T, by least squares on logarithms, of time and of memory; empty with fewer than 2 points."""
    points = [p for p in points if p["name"] == name and p["T"] >= 1024]
    if len(points) < 2:
        return {}
    x = [math.log(p["T"]) for p in points]
    mean_x = sum(x) / len(x)
    result = {}
    for what in ("seconds", "peak_mib"):
        y = [math.log(max(p[what], LEAST[what])) for p in points]
        mean_y = sum(y) / len(y)
        slope = sum((i - mean_x) * (j - mean_y) for i, j in zip(x, y, strict=True))
        result[what] = slope / sum((i - mean_x) ** 2 for i in x)
    return result


def plot(report: dict[str, Any], path: Path) -> None:
    """Time and memory against T, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    made = report["provenance"]
    figure.suptitle(f"\nLinear scan and RNNs, forward + backward, B = {LONG[0]}, H = {LONG[1]}, float32")
    panels = [("seconds", "time (s)"), ("peak_mib", "peak memory (MiB)")]
    for axes, (what, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in dict.fromkeys(p["name"] for p in report["growth"]):
            points = [p for p in report["growth"] if p["name"] == name]
            slope = report["slopes"].get(name)
            legend = f"{name}: time T^{slope['seconds']:.2f}, memory T^{slope['peak_mib']:.2f}" if slope else name
            axes.loglog([p["T"] for p in points], [max(p[what], LEAST[what]) for p in points], marker="o", label=legend)
        axes.set(xlabel="T (steps)", ylabel=label)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    machine = made["machine"]
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    versions = f"torch {made['versions']['torch']}, commit {(made['commit'] or 'none')[:12]}"
    figure.text(0.995, 0.995, f"{where}, {made['threads']} threads, {versions}", fontsize=7, ha="right", va="top")
    save_atomically(figure, path, dpi=150)


def _memory(what: str, device: str) -> float:
    """MiB held now, or at most so far ("peak"): of torch's allocator, or of this process; nan where there is no /proc."""
    if device != "cpu":
        return (torch.cuda.max_memory_allocated() if what == "peak" else torch.cuda.memory_allocated()) / 2**20
    try:
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    field = "VmHWM" if what == "peak" else "VmRSS"
    return next((float(line.split()[1]) / 1024 for line in status if line.startswith(field)), math.nan)
