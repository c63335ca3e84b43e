"""A run of many segments grows in nothing: memory, open files, threads, processes."""

from __future__ import annotations

import json

import pytest
from matplotlib.image import imread

from rig.soak import Sample, main, summary, watch

MIB = 2**20


def line(i: int, **changes) -> Sample:
    level = {"resident": 100 * MIB, "files": 10, "threads": 3, "processes": 1, "metrics_bytes": 500 * i} | changes
    return Sample(seconds=float(i), updates=100 * i, **level)


def test_the_summary_finds_the_growth_it_was_given():
    flat = summary([line(i, resident=(150 if i < 5 else 100) * MIB) for i in range(30)])
    assert flat["memory_slope"] == pytest.approx(0, abs=1e-3), "what came before the end of warm-up does not count"
    assert (flat["files_growth"], flat["threads_growth"], flat["processes_growth"]) == (0, 0, 0)
    assert flat["metrics_bytes_per_hour"] == pytest.approx(500 * 3600)
    leak = summary(
        [line(i, resident=100 * MIB + i * MIB // 4, files=10 + i // 10, threads=3 + i // 20) for i in range(30)]
    )
    assert leak["memory_slope"] == pytest.approx(2.5 * MIB, rel=0.01)
    assert (leak["files_growth"], leak["threads_growth"]) == (1, 1)


def test_too_short_a_soak_says_so():
    with pytest.raises(ValueError, match="at least 9 samples, got 3; give more --minutes"):
        summary([line(i) for i in range(3)])


def test_a_run_that_cannot_start_is_named_and_a_used_directory_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="ended before its time: mru-rl: error: .*did you mean 'bmru'"):
        watch(tmp_path / "out", 1.0, words=["--core", "bmruu"])
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), "--minutes", "1"])
    assert "is not empty; give another directory" in capsys.readouterr().err


def soak(path, minutes: str, *words: str) -> dict:
    main(["--out", str(path), "--minutes", minutes, *words])
    return json.loads((path / "soak.json").read_text())


def assert_flat(found: dict, *, rise: float) -> None:
    """rise: MiB by which memory may grow after warm-up; one tensor of a rollout kept per update is far more."""
    assert found["updates"] > 100
    grown = found["memory_slope"] * found["updates"] / 1000
    assert grown < rise * MIB, found
    assert found["files_growth"] <= 2, "a checkpoint may be open at the moment of a sample"
    assert found["threads_growth"] == 0
    assert found["processes_growth"] == 0
    assert found["metrics_bytes_per_hour"] < 4 * MIB, "one record a second, whatever the speed"


def test_half_a_minute_of_training_is_flat_after_warm_up(tmp_path, capsys):
    assert_flat(soak(tmp_path / "soak", "0.4"), rise=16)
    printed = capsys.readouterr()
    assert "MiB per 1,000 updates" in printed.out
    assert "of 24 seconds" in printed.err
    assert imread(tmp_path / "soak" / "soak.png").shape[:2] == (650, 910)
    made = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert made["command"] == f"python tests/faults/rig/soak.py --out {tmp_path / 'soak'} --minutes 0.4"
    assert {"commit", "versions", "machine", "options"} <= made.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--algorithm", "r2d2"],
        ["--env", "CartPole-v1", "--workers", "process", "--num-envs", "2"],
        ["--env", "mru_rl/TMaze-v0", "--env-kwargs", "length=5..20"],
    ],
)
def test_minutes_of_training_are_flat_whatever_is_trained(tmp_path, words):
    assert_flat(soak(tmp_path / "soak", "3", *words), rise=24)
