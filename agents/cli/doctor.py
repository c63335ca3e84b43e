"""`mru-rl doctor`: what this machine has, what works on it, and what to do about what does not."""

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
"""for all backends of a device together, compiling apart"""
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Finding:
    """One line of the report. advice: what to do, where it is a problem; None where all is well."""

    name: str
    found: str
    advice: str | None = None

    def __str__(self) -> str:
        line = f"{'ok' if self.advice is None else '!!'}  {self.name:<18} {self.found}"
        return line if self.advice is None else f"{line}\n    {'':<18} -> {self.advice}"


def examine() -> list[Finding]:
    """Everything the command prints, in its order."""
    return [*versions(), *devices(), *threads(), triton(), *scans(), disk(Path("runs"))]


def versions(distribution: str = "mru_rl") -> Iterator[Finding]:
    """What runs need, installed or not, inside the bounds of this package's requirements or not."""
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
        known = requirement.specifier.contains(version, prereleases=True)
        yield Finding(
            requirement.name, version,
            None if known else f"outside {requirement.specifier}, which runs are tested with: "
            f"pip install -c constraints.txt '{requirement}'",
        )  # fmt: skip


def devices() -> Iterator[Finding]:
    """Processor and GPUs."""
    yield Finding("cpu", f"{cpu_name()}, {usable_cores()} of {os.cpu_count()} cores usable by this process")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield Finding(f"cuda:{i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
                          f"compute capability {properties.major}.{properties.minor}")  # fmt: skip
    elif Path("/proc/driver/nvidia/version").is_file():
        yield Finding(
            "cuda", f"there is an NVIDIA driver, torch {torch.__version__} sees no GPU",
            "install a torch built for CUDA (https://pytorch.org/get-started/locally), or train with --device cpu",
        )  # fmt: skip
    else:
        yield Finding("cuda", "no GPU; --device auto trains on the CPU")


def threads() -> Iterator[Finding]:
    """Thread settings, and whether the cores are free for them."""
    cores = usable_cores()
    named = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    told = ", ".join(f"{name}={value or 'unset'}" for name, value in named.items())
    yield Finding(
        "threads", f"torch {torch.get_num_threads()}, {told}; a run takes --threads (1 where not given)",
        None if torch.get_num_threads() <= cores else f"more threads than the {cores} usable cores make everything many "
        f"times slower: export OMP_NUM_THREADS={cores} or fewer",
    )  # fmt: skip
    load = os.getloadavg()[0]
    busy = "" if load <= cores + 0.5 else f", more than {cores} cores can do: runs end later; do not measure speed now"
    yield Finding("load", f"{load:.1f} over the last minute{busy}")


def triton() -> Finding:
    """Whether the Triton kernels run here."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not HAS_TRITON:
        slower = "pip install triton, or scans on the GPU take the slower chunked backend"
        return Finding("triton", "not installed", slower if device == "cuda" else None)
    version = metadata.version("triton")
    if not _runs("triton", device):
        return Finding("triton", f"{version}, does not run here: it needs a GPU; the CPU has the chunked backend")
    where = "on the GPU" if device == "cuda" else "in Triton's interpreter, which is slow and for tests"
    return Finding("triton", f"{version}, runs {where}")


def scans(seconds: float = SELF_TEST_SECONDS) -> Iterator[Finding]:
    """Every backend on every device against the definition of the scan, values and gradients, again and again for a while."""
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        able = [name for name in BACKENDS if name != "reference" and _runs(name, device)]
        for backend in able:
            yield scan(backend, device, seconds / len(able))


def scan(backend: str, device: str, seconds: float) -> Finding:
    """Compare one backend with the definition on random scans, a new one each time, for so many seconds and at least once."""
    name, advice = f"scan {backend} {device}", "train on --device cpu, and report this line with the versions above"
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
    """Whether runs can be written where they go by default, and how much room is left there."""
    while not folder.exists():
        folder = folder.absolute().parent
    stat = os.statvfs(folder)
    free = f"{stat.f_bavail * stat.f_frsize / 2**30:.1f} GiB free in {folder}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("disk", free, f"it cannot be written ({error.strerror}): give runs a --run-dir that can")
    scarce = stat.f_bavail * stat.f_frsize < 2**30
    return Finding(
        "disk", free, "make room: a full disk ends a run, with its last checkpoint intact" if scarce else None
    )


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runs(backend: str, device: str) -> bool:
    with contextlib.suppress(RuntimeError):
        return resolve(backend, device) == backend
    return False


def _random_scan(generator: torch.Generator, device: str) -> list[Tensor]:
    """a, b, h0, is_init, restart of a scan with some resets, long enough to be cut into chunks."""
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
    """The greatest difference, relative where numbers are above 1; infinite where one is NaN."""
    worst = max(
        ((f - e).abs() / e.abs().clamp(min=1)).nan_to_num(nan=float("inf")).max().item()
        for f, e in zip(found, expected, strict=True)
    )
    return worst if len(found) == 6 else float("inf")
