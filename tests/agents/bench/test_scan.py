"""`mru-rl bench scan`: every point comes from a process of its own; what it writes, not how fast anything is."""

from __future__ import annotations

import json
import math

import pytest

from mru_rl.agents.bench import scan


def test_bench_scan_measures_in_other_processes_and_writes_what_made_its_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scan, "list_backends", lambda device: ["reference"])
    monkeypatch.setattr(scan, "RNNS", {"torch.nn.GRU": scan.RNNS["torch.nn.GRU"]})
    monkeypatch.setattr(scan, "STEPS", [16, 32])
    monkeypatch.setattr(scan, "WIDE", (2, 4, 3))
    monkeypatch.setattr(scan, "COPIED", [])
    scan.main(["--max-steps", "16", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "scan.json").read_text())
    points = [*report["growth"], *report["wide"]]
    assert [(p["name"], p["B"], p["T"], p["H"]) for p in points] == [
        ("reference", 1, 16, 64),
        ("torch.nn.GRU", 1, 16, 64),
        ("reference", 2, 4, 3),
        ("torch.nn.GRU", 2, 4, 3),
    ]
    assert all(p["seconds"] > 0 for p in points)
    assert report["provenance"]["command"] == f"mru-rl bench scan --max-steps 16 --out {tmp_path}"
    assert {"commit", "versions", "machine", "threads", "dtype"} <= set(report["provenance"])
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")
    assert "GRU takes" in capsys.readouterr().out


def test_slopes_are_those_of_powers_of_the_length():
    points = [
        {"name": "a", "T": T, "seconds": 1e-3 * T**2, "peak_mib": 5.0 * math.sqrt(T)} for T in (128, 1024, 4096, 65536)
    ]
    assert scan.slopes(points, "a") == pytest.approx({"seconds": 2.0, "peak_mib": 0.5})
    assert scan.slopes(points[:2], "a") == {}, "one length from 1,024 on is no slope"
