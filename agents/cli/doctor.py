"""`mru-rl doctor`: what this machine has, what works on it, and how to mend what does not."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from torch import Tensor

from mru_rl.agents.records.run import cpu_name
from mru_rl.scan.dispatch import BACKENDS, linear_scan, resolve
from mru_rl.scan.ops import HAS_TRITON

SELF_TEST_SECONDS = 1.0
"""of scans, for all backends of a device together, without compiling"""
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Finding:
    """One line of the report. advice: what to do about a problem; None if there is none."""

    name: str
    found: str
    advice: str | None = None

    def __str__(self) -> str:
        line = f"{'ok' if self.advice is None else '!!'}  {self.name:<18} {self.found}"
        return line if self.advice is None else f"{line}\n    {'':<18} -> {self.advice}"


def examine() -> list[Finding]:
    """Return all that the command prints, in its order."""
    return [*versions(), *devices(), *threads(), triton(), *scans(), disk(Path("runs"))]


def versions(distribution: str = "mru_rl") -> Iterator[Finding]:
    """Yield the version of each package that runs need; missing or outside the bounds of our requirements is a problem."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding(distribution, metadata.version(distribution))
    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "not installed", f"pip install -c constraints.txt '{requirement}'")
            continue
        advice = f"runs are tested with {requirement.specifier}: pip install -c constraints.txt '{requirement}'"
        known = requirement.specifier.contains(version, prereleases=True)
        yield Finding(requirement.name, version, None if known else advice)


def devices() -> Iterator[Finding]:
    """Yield the processor and each GPU."""
    yield Finding("cpu", f"{cpu_name()}, {usable_cores()} of {os.cpu_count()} cores usable by this process")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            memory, capability = f"{properties.total_memory / 2**30:.0f} GiB", f"{properties.major}.{properties.minor}"
            yield Finding(f"cuda:{i}", f"{properties.name}, {memory}, compute capability {capability}")
    elif Path("/proc/driver/nvidia/version").is_file():
        yield Finding(
            "cuda",
            f"an NVIDIA driver is installed, but torch {torch.__version__} sees no GPU",
            "install a torch built for CUDA (https://pytorch.org/get-started/locally), or train with --device cpu",
        )
    else:
        yield Finding("cuda", "no GPU; --device auto trains on the CPU")


def threads() -> Iterator[Finding]:
    """Yield the thread settings, and how busy the cores are."""
    cores = usable_cores()
    named = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    told = ", ".join(f"{name}={value or 'unset'}" for name, value in named.items())
    used = torch.get_num_threads()
    advice = f"{used} threads on {cores} usable cores make everything many times slower: export OMP_NUM_THREADS={cores}, or fewer"
    yield Finding(
        "threads", f"torch {used}, {told}; a run uses --threads (default 1)", None if used <= cores else advice
    )
    load = os.getloadavg()[0]
    busy = (
        ""
        if load <= cores + 0.5
        else f", more than the {cores} cores can do: runs take longer; do not measure speed now"
    )
    yield Finding("load", f"{load:.1f} over the last minute{busy}")


def triton() -> Finding:
    """Return if the Triton kernels run here, and on what."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not HAS_TRITON:
        slower = "pip install triton; without it scans on the GPU use the slower chunked backend"
        return Finding("triton", "not installed", slower if device == "cuda" else None)
    version = metadata.version("triton")
    if not _runs("triton", device):
        return Finding("triton", f"{version}, does not run here: it needs a GPU; the CPU uses the chunked backend")
    where = "on the GPU" if device == "cuda" else "in Triton's interpreter, which is slow and for tests"
    return Finding("triton", f"{version}, runs {where}")


def scans(seconds: float = SELF_TEST_SECONDS) -> Iterator[Finding]:
    """Yield for each backend and device how far its values and gradients are from the definition of the scan.

    seconds: for all backends of a device together.
    """
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        able = [name for name in BACKENDS if name != "reference" and _runs(name, device)]
        for backend in able:
            yield scan(backend, device, seconds / len(able))


def scan(backend: str, device: str, seconds: float) -> Finding:
    """Compare one backend with the definition on random scans, at least one and as many as `seconds` allow."""
    name, advice = f"scan {backend} {device}", "train with --device cpu, and report this line with the versions above"
    generator = torch.Generator().manual_seed(0)
    worst, scans_done, started = 0.0, 0, time.monotonic()
    while scans_done < 1 or time.monotonic() - started < seconds:
        inputs = _random_scan(generator, device)
        try:
            worst = max(worst, _difference(_with_gradients(inputs, backend), _with_gradients(inputs, "reference")))
        except Exception as error:  # whatever a broken compiler or driver raises is the finding
            return Finding(name, f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}", advice)
        scans_done += 1
    found = f"{scans_done} scan(s), forward and backward, differ from the definition by at most {worst:.1e}"
    return Finding(name, found, None if worst <= _TOLERANCE else advice)


def disk(folder: Path) -> Finding:
    """Return how much room there is in the folder where runs go by default; a read-only or full disk is a problem."""
    while not folder.exists():
        folder = folder.absolute().parent
    stat = os.statvfs(folder)
    free = f"{stat.f_bavail * stat.f_frsize / 2**30:.1f} GiB free in {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("disk", free, f"it cannot be written ({error.strerror}): choose another place with --run-dir")
    scarce = stat.f_bavail * stat.f_frsize < 2**30
    return Finding(
        "disk", free, "make room: a full disk ends a run, with its last checkpoint intact" if scarce else None
    )


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runs(backend: str, device: str) -> bool:
    with contextlib.suppress(RuntimeError):
        return resolve(backend, device) == backend
    return False


def _random_scan(generator: torch.Generator, device: str) -> list[Tensor]:
    """Return a, b, h0, is_init and restart of a scan with some resets, long enough to be cut into chunks."""
    shape = (2, 600, 5)
    a, b, restart = (torch.randn(shape, generator=generator) for _ in range(3))
    h0, is_init = torch.randn(2, 5, generator=generator), torch.rand(2, 600, generator=generator) < 0.02
    return [x.to(device) for x in (a.sigmoid(), b, h0, is_init, restart)]


def _with_gradients(inputs: list[Tensor], backend: str) -> list[Tensor]:
    a, b, h0, restart = (inputs[i].clone().requires_grad_() for i in (0, 1, 2, 4))
    h, last = linear_scan(a, b, h0, inputs[3], restart, backend=backend)
    (h.square().sum() + last.sum()).backward()
    gradients = [x.grad for x in (a, b, h0, restart) if x.grad is not None]
    return [h.detach(), last.detach(), *gradients]


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference, relative to numbers above 1; infinite if one is NaN."""
    worst = max(
        ((f - e).abs() / e.abs().clamp(min=1)).nan_to_num(nan=float("inf")).max().item()
        for f, e in zip(found, expected, strict=True)
    )
    return worst if len(found) == 6 else float("inf")
