"""Watch a run from outside for what grows: `python tests/faults/rig/soak.py --minutes 30 --out DIR`.

Trains a small agent with `mru-rl train` in a process of its own until the time is up, and records the resident memory, open
files and threads of that process and all below it, and the size of metrics.jsonl. Writes samples.jsonl, soak.json and
soak.png. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from mru_rl.agents.console.errors import require
from mru_rl.agents.console.progress import Progress
from mru_rl.agents.records.plots import save_atomically
from mru_rl.agents.records.run import provenance, write_json

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # here `rig` is found
from rig.processes import descendants

_COMMAND = "python tests/faults/rig/soak.py"
_RUN = (
    "--env popgym-RepeatFirstEasy-v0 --core bmru+mingru --steps 1000000000000 --num-envs 8 --segment 32 --hidden-size 16 "
    "--checkpoint-seconds 2"
)
_LEARNING = {"ppo": "--minibatches 2 --epochs 1", "r2d2": "--replay-sequences 200 --learning-starts 50"}
_WARM_UP = 1 / 3
"""fraction of the time after which memory must be flat: libraries load, allocators fill, replay and logs reach their size"""


class Sample(NamedTuple):
    """What a run used at a moment.

    seconds                    since its start
    updates                    made so far
    resident                   bytes of memory of all its processes
    files, threads, processes  open files, threads, and processes, all its processes together
    metrics_bytes              size of metrics.jsonl
    """

    seconds: float
    updates: int
    resident: int
    files: int
    threads: int
    processes: int
    metrics_bytes: int


def sample(pid: int, run: Path, seconds: float) -> Sample:
    """Return what a run's processes use now."""
    resident = files = threads = processes = 0
    for process in {pid} | descendants(pid):
        place = Path(f"/proc/{process}")
        try:
            resident += int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            files += len(os.listdir(place / "fd"))
            threads += len(os.listdir(place / "task"))
            processes += 1
        except OSError:  # it has ended
            continue
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return Sample(
        seconds=round(seconds, 3),
        updates=json.loads(lines[-1])["updates"] if lines else 0,
        resident=resident,
        files=files,
        threads=threads,
        processes=processes,
        metrics_bytes=metrics.stat().st_size if lines else 0,
    )


def watch(out: Path, minutes: float, algorithm: str = "ppo", words: Sequence[str] = ()) -> list[Sample]:
    """Train until the time is up, then interrupt. words: options of `mru-rl train` beside those of the small run.

    Raises ValueError if the directory is not empty or the run ends by itself too early.
    """
    require(minutes > 0, f"--minutes must be positive, got {minutes}")
    require(not out.exists() or not any(out.iterdir()), f"--out {out} is not empty; give another directory")
    out.mkdir(parents=True, exist_ok=True)
    run = out / "run"
    options = [*_RUN.split(), *_LEARNING[algorithm].split(), *words, "--run-dir", str(run)]
    command = [sys.executable, "-m", "mru_rl.agents.cli", "train", algorithm, *options]
    every = max(min(10.0, minutes * 60 / 40), 0.25)
    samples: list[Sample] = []
    with (
        (out / "output.txt").open("w") as output,
        (out / "samples.jsonl").open("w") as kept,
        Progress("soak", round(minutes * 60), "seconds") as progress,
    ):
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            while not (run / "checkpoints").is_dir() and process.poll() is None:
                time.sleep(0.05)
            begun = time.monotonic()
            while (now := time.monotonic() - begun) < minutes * 60 and process.poll() is None:
                samples.append(sample(process.pid, run, now))
                kept.write(json.dumps(samples[-1]._asdict()) + "\n")
                kept.flush()
                progress.show(round(now), f"{samples[-1].updates:,} updates, {samples[-1].resident / 2**20:,.1f} MiB")
                time.sleep(every)
            if process.poll() is not None:
                said = (out / "output.txt").read_text().strip().splitlines()
                raise ValueError(f"the run ended before its time: {said[-1] if said else process.returncode}")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return samples


def summary(samples: list[Sample]) -> dict[str, float]:
    """Return what grew after warm-up. memory_slope: bytes per 1,000 updates, least squares; *_growth: last minus first.

    Raises ValueError if there are fewer than 9 samples, or no update after warm-up.
    """
    require(len(samples) >= 9, f"a soak needs at least 9 samples, got {len(samples)}; give more --minutes")
    kept = samples[int(len(samples) * _WARM_UP) :]
    first, last = kept[0], kept[-1]
    require(last.updates > first.updates, "the run made no update after warm-up; give more --minutes")
    slope = np.polyfit([s.updates for s in kept], [s.resident for s in kept], 1)[0] * 1000
    return {
        "minutes": round(samples[-1].seconds / 60, 2),
        "updates": last.updates,
        "memory_slope": float(slope),
        "memory_first": first.resident,
        "memory_last": last.resident,
        "files_growth": last.files - first.files,
        "files_most": max(s.files for s in kept),
        "threads_growth": last.threads - first.threads,
        "processes_growth": last.processes - first.processes,
        "metrics_bytes_per_hour": (last.metrics_bytes - first.metrics_bytes) / (last.seconds - first.seconds) * 3600,
    }


def report(found: dict[str, float]) -> str:
    """Return the summary in words."""
    mib = 2**20
    return (
        f"{found['updates']:,.0f} updates in {found['minutes']:g} minutes, after the first third:\n"
        f"  memory        {found['memory_first'] / mib:,.1f} -> {found['memory_last'] / mib:,.1f} MiB, "
        f"slope {found['memory_slope'] / mib:+.4f} MiB per 1,000 updates\n"
        f"  open files    {found['files_growth']:+.0f} (at most {found['files_most']:.0f})\n"
        f"  threads       {found['threads_growth']:+.0f}\n"
        f"  processes     {found['processes_growth']:+.0f}\n"
        f"  metrics.jsonl {found['metrics_bytes_per_hour'] / mib:.2f} MiB per hour"
    )


def draw(samples: list[Sample], path: Path, title: str) -> None:
    """Plot memory, and open files and threads, against updates, warm-up shaded. Writes a PNG."""
    figure, (memory, counts) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, layout="constrained")
    updates = [s.updates for s in samples]
    memory.plot(updates, [s.resident / 2**20 for s in samples], color="#0b6e99")
    memory.set(ylabel="resident memory (MiB)", title=title)
    for name, color in (("files", "#b3541e"), ("threads", "#4c7a34"), ("processes", "#777777")):
        counts.plot(updates, [getattr(s, name) for s in samples], color=color, label=name)
    counts.set(xlabel="updates", ylabel="open")
    counts.xaxis.set_major_formatter("{x:,.0f}")
    counts.legend(frameon=False, ncols=3, loc="upper right")
    for axes in (memory, counts):
        axes.axvspan(0, updates[int(len(samples) * _WARM_UP)], color="#eeeeee", lw=0)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
        axes.set_xlim(0, updates[-1])
        axes.spines[["top", "right"]].set_visible(False)
    save_atomically(figure, path, dpi=130)
    plt.close(figure)


def main(words: list[str] | None = None) -> None:
    """Entry point of `python tests/faults/rig/soak.py`."""
    parser = argparse.ArgumentParser(
        prog=_COMMAND,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other options go to `mru-rl train`.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="new directory for the run, its samples, soak.json and soak.png"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to train (default 30)")
    parser.add_argument("--algorithm", choices=tuple(_LEARNING), default="ppo", help="default ppo")
    args, rest = parser.parse_known_args(words)
    try:
        samples = watch(args.out, args.minutes, args.algorithm, rest)
        found = summary(samples)
    except ValueError as error:
        parser.error(str(error))
    made = provenance("cpu")
    made["command"] = f"{_COMMAND} {shlex.join(sys.argv[1:] if words is None else words)}"
    of_run = [*_RUN.split(), *_LEARNING[args.algorithm].split(), *rest]
    write_json(args.out / "soak.json", {"algorithm": args.algorithm, "options": of_run, **found} | made)
    draw(
        samples,
        args.out / "soak.png",
        f"{found['updates']:,.0f} updates of {args.algorithm} in {found['minutes']:g} minutes",
    )
    print(report(found))


if __name__ == "__main__":
    main()
