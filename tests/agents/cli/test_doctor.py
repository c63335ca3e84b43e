from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mru_rl.agents.cli import doctor
from mru_rl.agents.cli.main import main


def problems(findings) -> dict[str, str]:
    return {finding.name: finding.advice for finding in findings if finding.advice is not None}


def test_the_report_names_versions_devices_threads_triton_scans_and_disk(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SELF_TEST_SECONDS", 0.05)
    main(["doctor"])  # this machine runs the tests: it has no problems
    printed = capsys.readouterr().out
    for name in (
        "python",
        "mru_rl",
        "torch",
        "torchrl",
        "cpu",
        "cuda",
        "threads",
        "load",
        "triton",
        "scan chunked cpu",
        "disk",
    ):
        assert f"ok  {name}" in printed
    assert printed.endswith("no problems found\n")


def test_every_problem_comes_with_what_to_do_and_exit_status_1(capsys, monkeypatch):
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda _: ["numpy<1", "no-such-package>=1", "nor-this; extra == 'x'"]
    )
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    found = problems([*doctor.versions(), *doctor.threads()])
    assert found["numpy"].startswith("runs are tested with <1")
    assert "pip install -c constraints.txt 'no-such-package>=1'" in found["no-such-package"]
    assert "export OMP_NUM_THREADS=1" in found["threads"]
    assert len(found) == 3
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 1
    assert "3 problem(s) found" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["values", "gradients", "raises"])
def test_a_scan_that_is_wrong_or_fails_is_a_problem(broken, monkeypatch):
    real = doctor.linear_scan

    def scan(a, b, *rest, backend):
        if backend == "reference":
            return real(a, b, *rest, backend=backend)
        if broken == "raises":
            raise RuntimeError("no compiler")
        h, last = real(a, b, *rest, backend=backend)
        return (h * 1.01, last) if broken == "values" else (h.detach() + (h - h.detach()) * 1.01, last)

    monkeypatch.setattr(doctor, "linear_scan", scan)
    finding = doctor.scan("chunked", "cpu", 0.0)
    assert "--device cpu" in finding.advice
    assert ("no compiler" if broken == "raises" else "differ") in finding.found


def test_a_directory_that_cannot_be_written_and_a_full_disk_are_problems(tmp_path, monkeypatch):
    assert doctor.disk(tmp_path / "not" / "there").advice is None

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(doctor.tempfile, "TemporaryFile", refuse)
        assert "--run-dir" in doctor.disk(tmp_path).advice
    full = type("Stat", (), {"f_bavail": 10, "f_frsize": 4096})
    monkeypatch.setattr(doctor.os, "statvfs", lambda _: full)
    assert "make room" in doctor.disk(tmp_path).advice


@pytest.mark.slow
def test_the_doctor_of_a_fresh_process_tries_triton_where_its_interpreter_is_asked_for():
    pytest.importorskip("triton", reason="the Triton backend needs triton")
    if torch.cuda.is_available():
        pytest.skip("the kernels run on the GPU here")
    code = "from mru_rl.agents.cli import doctor; print(doctor.triton()); print(doctor.scan('triton', 'cpu', 0.0))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert "runs in Triton's interpreter" in first
    assert second.startswith("ok  scan triton cpu")
